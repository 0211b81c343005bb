//! The contents of a file, as far as they are kept, in pieces as they were read. All files share a [`ContentBudget`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;

/// What a piece costs besides its bytes.
const PIECE: usize = 128;
/// Maximum number of pieces of a file.
const MAX_PIECES: usize = 256;
/// Pieces that follow each other are joined up to this size, since those that arrive over a slow path are small.
const MAX_JOINED: usize = 128 * 1024;

/// How much memory the contents of files may take. Several mounts may share one.
#[derive(Debug)]
pub struct ContentBudget {
    limit: AtomicUsize,
    used: AtomicUsize,
    /// Gives the pages of a buffer back to the system, which an allocator may not do when it is freed.
    release: fn(&mut [u8]),
    /// Whether what is dropped now is released before.
    releases: AtomicBool,
}

impl ContentBudget {
    /// With `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit: AtomicUsize::new(limit),
            used: AtomicUsize::new(0),
            release: |_| (),
            releases: AtomicBool::new(false),
        }
    }

    /// The same; what is given back is passed to `release` before it is freed. Its bytes do not count any more.
    #[must_use]
    pub fn releasing(self, release: fn(&mut [u8])) -> Self {
        Self { release, ..self }
    }

    /// Drops by `work` are to give memory back to the system.
    pub(super) fn release_during(&self, work: impl FnOnce()) {
        self.releases.store(true, Ordering::Relaxed);
        work();
        self.releases.store(false, Ordering::Relaxed);
    }

    /// From now on. What is above it stays until [`Relay::give_back`](super::super::Relay::give_back).
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// The largest file of which contents are kept.
    pub(super) fn max_file(&self) -> u64 {
        self.limit() as u64 / 4
    }

    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let used = self.used.load(Ordering::Relaxed);
        used.saturating_add(bytes) <= self.limit()
    }

    fn take(&self, bytes: usize) -> bool {
        let limit = self.limit();
        let add = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= limit);
        let relaxed = Ordering::Relaxed;
        self.used.fetch_update(relaxed, relaxed, add).is_ok()
    }

    /// The bytes that are in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Default for ContentBudget {
    /// 16 MiB.
    fn default() -> Self {
        Self::new(16 << 20)
    }
}

/// Bytes of a file.
struct Piece {
    bytes: Vec<u8>,
    budget: Arc<ContentBudget>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if self.budget.releases.load(Ordering::Relaxed) {
            (self.budget.release)(&mut self.bytes);
        }
    }
}

/// What is kept of a file.
#[derive(Debug)]
pub(super) struct Contents {
    size: u64,
    /// By offset. They do not overlap.
    pieces: BTreeMap<u64, Bytes>,
    /// What they cost.
    cost: usize,
    budget: Arc<ContentBudget>,
}

impl Drop for Contents {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.cost, Ordering::Relaxed);
    }
}

impl Contents {
    /// Of a file of `size` bytes, none of them.
    pub(super) fn new(size: u64, budget: Arc<ContentBudget>) -> Self {
        Self {
            size,
            pieces: BTreeMap::new(),
            cost: 0,
            budget,
        }
    }

    /// What `bytes` cost at most.
    pub(super) fn cost(bytes: usize) -> usize {
        bytes.saturating_add(PIECE)
    }

    /// Where the bytes end that are known from `offset` on.
    pub(super) fn known_end(&self, offset: u64) -> u64 {
        let mut end = offset;
        while let Some((start, piece)) = self.pieces.range(..=end).next_back()
            && start + piece.len() as u64 > end
        {
            end = start + piece.len() as u64;
        }
        end
    }

    /// How many bytes are known.
    pub(super) fn len(&self) -> u64 {
        self.pieces.values().map(|piece| piece.len() as u64).sum()
    }

    /// Whether all of the file is known.
    pub(super) fn is_whole(&self) -> bool {
        self.known_end(0) == self.size
    }

    /// Whether its beginning is known.
    pub(super) fn has_beginning(&self) -> bool {
        self.size == 0 || self.pieces.contains_key(&0)
    }

    /// What a read(2) of `count` bytes returns, if all of it is known.
    pub(super) fn read(&self, offset: u64, count: u32) -> Option<Vec<Bytes>> {
        let end = offset.saturating_add(count.into()).min(self.size);
        let mut at = offset;
        let mut all = Vec::new();
        while at < end {
            let (start, piece) = self.pieces.range(..=at).next_back()?;
            let from = usize::try_from(at - start).ok()?;
            let most = usize::try_from(end - start).ok()?.min(piece.len());
            if from >= most {
                return None;
            }
            all.push(piece.slice(from..most));
            at = start + most as u64;
        }
        Some(all)
    }

    /// Drops the pieces that end at `offset` or before.
    pub(super) fn drop_before(&mut self, offset: u64) {
        while let Some(first) = self.pieces.first_entry()
            && first.key() + first.get().len() as u64 <= offset
        {
            let cost = Self::cost(first.remove().len());
            self.cost -= cost;
            self.budget.used.fetch_sub(cost, Ordering::Relaxed);
        }
    }

    /// Adds what is not known yet of the bytes at `offset`. Nothing of what does not fit the file's size, and no more than
    /// the budget has room for.
    pub(super) fn add(&mut self, offset: u64, data: &[u8]) {
        let end = match offset.checked_add(data.len() as u64) {
            Some(end) if end <= self.size => end,
            _ => return,
        };
        let mut at = offset;
        loop {
            at = self.known_end(at);
            if at >= end {
                return;
            }
            let next = self.pieces.range(at..end).next();
            let to = next.map_or(end, |(start, _)| *start);
            let range = |offset: u64, at: u64| usize::try_from(at - offset).unwrap_or(usize::MAX);
            let Some(gap) = data.get(range(offset, at)..range(offset, to)) else {
                return;
            };
            let is_full = self.pieces.len() >= MAX_PIECES;
            let before = self.pieces.range_mut(..at).next_back();
            let before = before.filter(|(start, piece)| {
                **start + piece.len() as u64 == at && piece.len() + gap.len() <= MAX_JOINED
            });
            if before.is_none() && is_full {
                return;
            }
            let cost = match before {
                Some(_) => gap.len(),
                None => Self::cost(gap.len()),
            };
            if !self.budget.take(cost) {
                return;
            }
            self.cost += cost;
            let piece = |bytes| {
                let budget = self.budget.clone();
                Bytes::from_owner(Piece { bytes, budget })
            };
            match before {
                Some((_, before)) => *before = piece([before, gap].concat()),
                None => {
                    self.pieces.insert(at, piece(gap.to_vec()));
                }
            }
            at = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file that does not repeat itself soon.
    fn file(size: usize) -> Vec<u8> {
        (0..=250).cycle().take(size).collect()
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_added(
            size in 0..300_usize,
            limit in 0..4000_usize,
            adds in prop::collection::vec((0..320_usize, 0..120_usize), 0..20),
            reads in prop::collection::vec((0..320_usize, 0..320_u32), 1..40),
        ) {
            let file = file(size);
            let budget = Arc::new(ContentBudget::new(limit));
            let mut contents = Contents::new(size as u64, budget.clone());
            let mut known = vec![false; size];
            for (offset, n) in adds {
                let end = (offset + n).min(size);
                let data = file.get(offset..end).unwrap_or_default();
                contents.add(offset as u64, data);
                known.get_mut(offset..end).unwrap_or_default().fill(true);
                prop_assert!(budget.used() <= limit);
            }
            let is_roomy = budget.has_room(3 * Contents::cost(300));
            for (offset, count) in reads {
                let end = (offset + count as usize).min(size);
                let range = offset.min(end)..end;
                match contents.read(offset as u64, count) {
                    Some(pieces) => prop_assert_eq!(&pieces.concat(), &file[range]),
                    None => prop_assert!(!is_roomy || !known[range].iter().all(|is| *is)),
                }
            }
            let is_whole = known.iter().all(|is| *is);
            prop_assert!(!contents.is_whole() || is_whole);
            prop_assert!(!is_roomy || !is_whole || contents.is_whole());
            drop(contents);
            prop_assert_eq!(budget.used(), 0);
        }
    }

    #[test]
    fn pieces_that_were_read_make_room() {
        let file = file(4 * MAX_JOINED);
        let budget = Arc::new(ContentBudget::new(5 * MAX_JOINED));
        let mut contents = Contents::new(file.len() as u64, budget.clone());
        for (n, piece) in file.chunks(MAX_JOINED).enumerate() {
            contents.add((n * MAX_JOINED) as u64, piece);
        }
        let all = budget.used();
        contents.drop_before(MAX_JOINED as u64 - 1);
        assert_eq!(budget.used(), all);
        contents.drop_before(2 * MAX_JOINED as u64 + 1);
        assert_eq!(budget.used(), all / 2);
        assert!(contents.read(MAX_JOINED as u64, 1).is_none());
        let read = contents.read(2 * MAX_JOINED as u64, u32::MAX).unwrap();
        assert!(read.concat() == file[2 * MAX_JOINED..]);
        contents.drop_before(u64::MAX);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_does_not_fit_the_size_is_not_added() {
        let budget = Arc::new(ContentBudget::default());
        let mut contents = Contents::new(5, budget.clone());
        contents.add(0, b"123456");
        contents.add(3, b"456");
        contents.add(u64::MAX, b"1");
        assert_eq!(budget.used(), 0);
        contents.add(0, b"12345");
        assert!(contents.is_whole());
    }

    #[test]
    fn small_pieces_of_a_large_file_are_all_kept() {
        const PIECE: usize = 16 * 1024;
        let file = file(20 << 20);
        let mut contents = Contents::new(file.len() as u64, Arc::new(ContentBudget::new(21 << 20)));
        for (n, piece) in file.chunks(PIECE).enumerate() {
            contents.add((n * PIECE) as u64, piece);
        }
        assert!(contents.is_whole() && contents.pieces.len() == 160);
        let read = contents.read(0, u32::MAX).unwrap();
        assert!(read.concat() == file);
    }

    #[test]
    fn small_pieces_without_end_are_bounded() {
        let budget = Arc::new(ContentBudget::default());
        let mut contents = Contents::new(100_000, budget);
        (0..50_000).for_each(|n| contents.add(2 * n, b"x"));
        assert_eq!(contents.pieces.len(), MAX_PIECES);
    }
}
