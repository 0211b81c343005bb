//! Cuts a byte stream into messages. Those that matter are put together; the others pass as they come, uncopied.

use bytes::{Bytes, BytesMut};

use super::Error;
use crate::msg::Header;
use crate::wire::HEADER;

/// Largest message that is put together, unless it is a listing: a walk of many long names.
pub(super) const MAX_WHOLE: usize = 256 * 1024;

#[derive(Debug, Default)]
pub(crate) struct Framer {
    /// The beginning of a message that is still incomplete.
    partial: BytesMut,
    /// Bytes still to come of a message that passes as it comes.
    passing: usize,
}

#[derive(Debug)]
pub(crate) enum Segment {
    /// A whole message.
    Whole(Header, Bytes),
    /// The first bytes of a message that passes, at least its header.
    Begin(Header, Bytes),
    /// More bytes of that message.
    More(Bytes),
}

impl Framer {
    /// Takes the next segment off `chunk`; `None` when nothing is left of it. `whole` decides by the header
    /// whether a message is put together, and how large it may then be.
    pub(crate) fn next(
        &mut self,
        chunk: &mut Bytes,
        whole: impl Fn(Header) -> Option<usize>,
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
            if let Some(most) = whole(header) {
                if size > most {
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

    /// Whether the last segment did not complete its message.
    pub(super) fn is_within(&self) -> bool {
        self.passing > 0
    }

    /// Moves bytes from `chunk` to `partial`, up to `size` in all; false if there are none.
    fn keep(&mut self, chunk: &mut Bytes, size: usize) -> bool {
        let missing = size.saturating_sub(self.partial.len());
        let n = missing.min(chunk.len());
        self.partial.extend_from_slice(&chunk.split_to(n));
        n > 0
    }

    /// The first `n` bytes, which have arrived: all of `partial`, or the beginning of `chunk`.
    fn take(&mut self, chunk: &mut Bytes, joined: bool, n: usize) -> Bytes {
        if joined {
            self.partial.split().freeze()
        } else {
            chunk.split_to(n)
        }
    }
}
