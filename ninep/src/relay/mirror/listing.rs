//! The listing of a directory as it was when the server listed it. An open directory is read from it.

use crate::errno::Errno;
use crate::msg::{DirEntry, ListEntry};
use crate::wire::{Frame, HEADER, Wire};

/// The entries, encoded as in an Rreaddir. The offset of each is its number, from 1, as at our server.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listing {
    bytes: Box<[u8]>,
    /// Where each entry ends.
    ends: Box<[usize]>,
}

impl Listing {
    pub(super) fn new(entries: &[ListEntry<'_>]) -> Self {
        let mut frame = Frame::default();
        frame.start(0, 0);
        let mut ends = Vec::with_capacity(entries.len());
        for (offset, entry) in (1..).zip(entries) {
            let entry = DirEntry {
                qid: entry.qid,
                offset,
                kind: entry.kind,
                name: entry.name,
            };
            entry.put(&mut frame);
            ends.push(frame.len() - HEADER);
        }
        Self {
            bytes: frame.finish().get(HEADER..).unwrap_or_default().into(),
            ends: ends.into(),
        }
    }

    /// Up to `count` bytes of whole entries from `offset` on; `EINVAL` if not even one fits.
    pub(super) fn read(&self, offset: u64, count: u32) -> Result<&[u8], Errno> {
        let number = usize::try_from(offset).unwrap_or(usize::MAX);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let start = match number.checked_sub(1) {
            None => 0,
            Some(before) => self.ends.get(before).copied().unwrap_or(self.bytes.len()),
        };
        let rest = self.ends.get(number..).unwrap_or_default();
        let fitting = rest.partition_point(|end| end - start <= count);
        match fitting.checked_sub(1).and_then(|last| rest.get(last)) {
            Some(&end) => Ok(self.bytes.get(start..end).unwrap_or_default()),
            None if rest.is_empty() => Ok(&[]),
            None => Err(Errno::EINVAL),
        }
    }
}
