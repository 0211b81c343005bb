//! Cuts a stream into messages: small ones that matter whole, the rest as they come, uncopied.

use bytes::{Bytes, BytesMut};

use super::Error;
use crate::msg::Header;
use crate::wire::HEADER;

/// Most bytes of a message that is wanted whole: a walk of many long names.
const MAX_WHOLE: usize = 256 * 1024;

#[derive(Debug, Default)]
pub(super) struct Framer {
    /// The beginning of a message, not enough of it yet.
    partial: BytesMut,
    /// Bytes to come of a message that isn't wanted whole.
    passing: usize,
}

#[derive(Debug)]
pub(super) enum Segment {
    /// A message that is wanted whole.
    Whole(Header, Bytes),
    /// The first bytes of another, at least its header.
    Begin(Header, Bytes),
    /// More of that one.
    More(Bytes),
}

impl Framer {
    /// Takes the next segment off `chunk`; `None` when all of it is taken. `whole` says of a type byte whether
    /// such messages are wanted whole.
    pub(super) fn next(
        &mut self,
        chunk: &mut Bytes,
        whole: impl Fn(u8) -> bool,
    ) -> Result<Option<Segment>, Error> {
        loop {
            if self.passing > 0 {
                if chunk.is_empty() {
                    return Ok(None);
                }
                let n = self.passing.min(chunk.len());
                self.passing -= n;
                return Ok(Some(Segment::More(chunk.split_to(n))));
            }
            let joined = !self.partial.is_empty();
            let bytes: &[u8] = if joined { &self.partial } else { chunk };
            let Some(header) = bytes.first_chunk::<HEADER>() else {
                if self.keep(chunk, HEADER) {
                    continue;
                }
                return Ok(None);
            };
            let header = Header::decode(header);
            let broken = Error::Size {
                kind: header.kind,
                size: header.size,
            };
            let size = match usize::try_from(header.size) {
                Ok(size) if size >= HEADER => size,
                _ => return Err(broken),
            };
            if whole(header.kind) {
                if size > MAX_WHOLE {
                    return Err(broken);
                }
                if bytes.len() < size {
                    if self.keep(chunk, size) {
                        continue;
                    }
                    return Ok(None);
                }
                let message = self.take(chunk, joined, size);
                return Ok(Some(Segment::Whole(header, message)));
            }
            let n = size.min(bytes.len());
            self.passing = size - n;
            let begin = self.take(chunk, joined, n);
            return Ok(Some(Segment::Begin(header, begin)));
        }
    }

    /// Whether the last segment did not end its message.
    pub(super) fn is_within(&self) -> bool {
        self.passing > 0
    }

    /// Moves bytes to `partial`, until it has `size`; false if there are none.
    fn keep(&mut self, chunk: &mut Bytes, size: usize) -> bool {
        let missing = size.saturating_sub(self.partial.len());
        let n = missing.min(chunk.len());
        self.partial.extend_from_slice(&chunk.split_to(n));
        n > 0
    }

    /// The first `n` bytes, which are there: of `partial`, which holds no more than that, or of `chunk`.
    fn take(&mut self, chunk: &mut Bytes, joined: bool, n: usize) -> Bytes {
        if joined {
            self.partial.split().freeze()
        } else {
            chunk.split_to(n)
        }
    }
}
