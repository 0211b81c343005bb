//! The trace of a session: what a program asked for, so that it can be fetched ahead when the program runs again
//! ([`server::Learning`](crate::server::Learning)). It has names and ranges, and no contents. What is decoded may be damaged or
//! hostile, and so may be what is added.

use std::collections::HashMap;
use std::sync::Arc;

use crate::wire::{BodyReader, Frame, HEADER, Malformed, Str, Wire};

/// Maximum size of a trace in bytes.
pub const MAX_TRACE: usize = 256 * 1024;
/// Maximum number of items.
const MAX_ITEMS: usize = 8192;
/// Maximum number of ranges of one file, and so of items of one path.
const MAX_RANGES: usize = 256;
/// Longest path, and name in it.
const MAX_PATH: usize = 4096;
const MAX_NAME: usize = 255;
/// How a trace begins.
const MAGIC: &[u8] = b"cpu trace 2\n";
/// Bytes of an item besides its path.
const FIXED: usize = 1 + 1 + 2 + 8 + 8;
/// So many sessions in a row that did not open a file show that its contents are not needed any more.
const MAX_UNUSED: u8 = 3;

/// What was asked for of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Whether it is there, its attributes, or where it leads.
    Name,
    /// The names in a directory.
    List {
        /// Whether somebody opened it, and wants more than attributes.
        open: bool,
    },
    /// Contents.
    Range {
        /// The first byte.
        offset: u64,
        /// The number of bytes.
        length: u64,
    },
}

impl Demand {
    fn numbers(self) -> (u8, u64, u64) {
        match self {
            Self::Name => (0, 0, 0),
            Self::List { open } => (1, open.into(), 0),
            Self::Range { offset, length } => (2, offset, length),
        }
    }

    fn of_numbers(numbers: (u8, u64, u64)) -> Option<Self> {
        match numbers {
            (0, 0, 0) => Some(Self::Name),
            (1, open @ (0 | 1), 0) => Some(Self::List { open: open == 1 }),
            (2, offset, length) => Some(Self::Range { offset, length }),
            _ => None,
        }
    }

    /// Both in one, if that is possible.
    fn joined(self, other: Self) -> Option<Self> {
        match (self, other) {
            // Contents come with attributes.
            (Self::Range { .. } | Self::Name, Self::Name) => Some(self),
            (Self::List { open }, Self::List { open: other }) => {
                let open = open || other;
                Some(Self::List { open })
            }
            (
                Self::Range { offset, length },
                Self::Range {
                    offset: from,
                    length: more,
                },
            ) => {
                let (end, to) = (offset.checked_add(length)?, from.checked_add(more)?);
                let (first, last) = (offset.min(from), end.max(to));
                let touches = from <= end && offset <= to;
                touches.then_some(Self::Range {
                    offset: first,
                    length: last - first,
                })
            }
            _ => None,
        }
    }
}

/// Something that was asked for, of the file at a path without a slash at its beginning; the empty one is the root's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TraceItem {
    pub(crate) path: Arc<[u8]>,
    pub(crate) demand: Demand,
    /// How many sessions since have not used it.
    unused: u8,
}

/// What was asked for, in its order.
#[derive(Debug, Clone, Default)]
pub struct LearnedTrace {
    items: Vec<TraceItem>,
    by_path: HashMap<Arc<[u8]>, Vec<usize>>,
    /// Their size.
    bytes: usize,
    /// Whether something was left out.
    is_full: bool,
}

/// Whether a file beneath the root can have this path.
fn is_path(path: &[u8]) -> bool {
    let is_name = |name: &[u8]| {
        !matches!(name, b"" | b"." | b"..") && name.len() <= MAX_NAME && !name.contains(&0)
    };
    path.len() <= MAX_PATH && (path.is_empty() || path.split(|byte| *byte == b'/').all(is_name))
}

impl LearnedTrace {
    /// Adds what is new. What is too much is left out.
    pub fn add(&mut self, path: &[u8], demand: Demand) {
        self.add_unused(path, demand, 0);
    }

    fn add_unused(&mut self, path: &[u8], demand: Demand, unused: u8) {
        if !is_path(path) {
            return;
        }
        let known = self.by_path.get(path).map_or(&[][..], Vec::as_slice);
        for at in known {
            if let Some(item) = self.items.get_mut(*at)
                && let Some(joined) = item.demand.joined(demand)
            {
                item.demand = joined;
                item.unused = item.unused.min(unused);
                return;
            }
        }
        let bytes = self.bytes + FIXED + path.len();
        if self.items.len() >= MAX_ITEMS
            || known.len() >= MAX_RANGES
            || bytes > MAX_TRACE - MAGIC.len()
        {
            self.is_full = true;
            return;
        }
        self.bytes = bytes;
        let path: Arc<[u8]> = path.into();
        let all = self.by_path.entry(path.clone()).or_default();
        all.push(self.items.len());
        self.items.push(TraceItem {
            path,
            demand,
            unused,
        });
    }

    /// With what a later session asked for, too, and without contents that the last sessions have not used; only what this one asked for
    /// if both are too much. It asks for nothing of a name that was told to it, but for files that it opens.
    #[must_use]
    pub fn with(&self, later: &Self) -> Self {
        let mut both = Self::default();
        for item in &self.items {
            let is_used = !matches!(item.demand, Demand::Range { .. }) || later.has(&item.path);
            let unused = if is_used { 0 } else { item.unused + 1 };
            if unused < MAX_UNUSED {
                both.add_unused(&item.path, item.demand, unused);
            }
        }
        for item in &later.items {
            both.add(&item.path, item.demand);
        }
        if both.is_full { later.clone() } else { both }
    }

    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether no more is added.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full
    }

    pub(crate) fn item(&self, at: usize) -> Option<&TraceItem> {
        self.items.get(at)
    }

    /// Whether anything of this file was asked for.
    pub(crate) fn has(&self, path: &[u8]) -> bool {
        self.by_path.contains_key(path)
    }

    /// Whether all of this was asked for.
    pub(crate) fn covers(&self, path: &[u8], demand: Demand) -> bool {
        self.of_path(path)
            .any(|known| known.joined(demand) == Some(known))
    }

    /// Up to where the file was asked for from this offset on.
    pub(crate) fn asked_until(&self, path: &[u8], offset: u64) -> u64 {
        let ends = self.of_path(path).filter_map(|known| match known {
            Demand::Range {
                offset: from,
                length,
            } if from <= offset => from.checked_add(length),
            _ => None,
        });
        ends.fold(offset, u64::max)
    }

    fn of_path(&self, path: &[u8]) -> impl Iterator<Item = Demand> {
        let items = self.by_path.get(path).into_iter().flatten();
        items
            .filter_map(|at| self.items.get(*at))
            .map(|item| item.demand)
    }

    /// For a file.
    pub fn encode(&self) -> Vec<u8> {
        let mut frame = Frame::default();
        frame.start(0, 0);
        frame.put(MAGIC);
        for item in &self.items {
            let (kind, offset, length) = item.demand.numbers();
            kind.put(&mut frame);
            item.unused.put(&mut frame);
            Str::new(&item.path).unwrap_or_default().put(&mut frame);
            offset.put(&mut frame);
            length.put(&mut frame);
        }
        frame.finish().get(HEADER..).unwrap_or_default().to_vec()
    }

    /// Of a file; `None` if it is no trace.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..).filter(|bytes| bytes.len() <= MAX_TRACE)?;
        let mut rest = BodyReader::new(bytes.strip_prefix(MAGIC)?);
        let mut trace = Self::default();
        while !rest.is_empty() {
            let (path, demand, unused) = item(&mut rest).ok()??;
            if !is_path(path) || unused >= MAX_UNUSED {
                return None;
            }
            trace.add_unused(path, demand, unused);
        }
        (!trace.is_full).then_some(trace)
    }
}

fn item<'a>(from: &mut BodyReader<'a>) -> Result<Option<(&'a [u8], Demand, u8)>, Malformed> {
    let kind = Wire::get(from)?;
    let unused = Wire::get(from)?;
    let path = Str::get(from)?.bytes();
    let numbers = (kind, Wire::get(from)?, Wire::get(from)?);
    Ok(Demand::of_numbers(numbers).map(|demand| (path, demand, unused)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(offset: u64, length: u64) -> Demand {
        Demand::Range { offset, length }
    }

    fn demands(trace: &LearnedTrace) -> Vec<(String, Demand)> {
        let text = |item: &TraceItem| String::from_utf8_lossy(&item.path).into_owned();
        let items = trace.items.iter();
        items.map(|item| (text(item), item.demand)).collect()
    }

    #[test]
    fn what_touches_is_joined_in_its_first_place() {
        let mut trace = LearnedTrace::default();
        let list = |open| Demand::List { open };
        for (path, demand) in [
            ("d", list(false)),
            ("d/f", range(0, 10)),
            ("d/g", Demand::Name),
            ("d/f", range(10, 5)),
            ("d/f", Demand::Name),
            ("d/f", range(100, 1)),
            ("d", list(true)),
            ("d", list(false)),
            ("d/f", range(u64::MAX, 9)),
        ] {
            trace.add(path.as_bytes(), demand);
        }
        let expected = [
            ("d", list(true)),
            ("d/f", range(0, 15)),
            ("d/g", Demand::Name),
            ("d/f", range(100, 1)),
            ("d/f", range(u64::MAX, 9)),
        ];
        let expected = expected.map(|(path, demand)| (path.to_owned(), demand));
        assert_eq!(demands(&trace), expected);
        let again = LearnedTrace::decode(&trace.encode()).unwrap();
        assert_eq!(demands(&again), expected);
    }

    #[test]
    fn what_was_asked_for_is_known() {
        let mut trace = LearnedTrace::default();
        trace.add(b"f", range(10, 10));
        trace.add(b"f", range(40, 10));
        trace.add(b"d", Demand::List { open: false });
        for (offset, until) in [
            (0, 0),
            (9, 9),
            (10, 20),
            (15, 20),
            (20, 20),
            (45, 50),
            (60, 60),
        ] {
            assert_eq!(trace.asked_until(b"f", offset), until);
        }
        assert_eq!(trace.asked_until(b"other", 3), 3);
        assert!(trace.covers(b"f", range(11, 9)) && trace.covers(b"f", Demand::Name));
        assert!(trace.covers(b"d", Demand::List { open: false }));
        for (path, demand) in [
            ("f", range(11, 10)),
            ("f", range(0, 100)),
            ("d", Demand::List { open: true }),
            ("d", Demand::Name),
            ("other", Demand::Name),
        ] {
            assert!(!trace.covers(path.as_bytes(), demand), "{path} {demand:?}");
        }
    }

    #[test]
    fn only_paths_beneath_the_root_are_added_or_read() {
        let mut trace = LearnedTrace::default();
        let long = [b'x'; 256];
        let deep = [b"d/".repeat(3000), b"x".to_vec()].concat();
        let bad: [&[u8]; 9] = [
            b"/a", b"a/", b"a//b", b"..", b"a/../b", b".", b"a\0b", &long, &deep,
        ];
        for path in bad {
            trace.add(path, Demand::Name);
            assert!(trace.is_empty(), "{path:?}");
            let mut file = Frame::default();
            file.start(0, 0);
            file.put(MAGIC);
            0_u16.put(&mut file);
            Str::new(path).unwrap().put(&mut file);
            file.put(&[0; 16]);
            assert!(LearnedTrace::decode(&file.finish()[HEADER..]).is_none());
        }
    }

    #[test]
    fn a_trace_without_end_is_bounded_and_starts_over() {
        let mut trace = LearnedTrace::default();
        for n in 0..20_000_u64 {
            trace.add(format!("a/{n}").as_bytes(), Demand::Name);
            trace.add(b"large", range(2 * n, 1));
        }
        assert!(trace.encode().len() <= MAX_TRACE && trace.is_full());
        assert!(trace.items.len() <= MAX_ITEMS);
        let mut long = LearnedTrace::default();
        for n in 0..1000_u64 {
            let path = format!("{}{n}", "some-long-name/".repeat(200));
            long.add(path.as_bytes(), Demand::Name);
        }
        assert!(long.encode().len() <= MAX_TRACE && long.is_full());
        let mut later = LearnedTrace::default();
        later.add(b"new", Demand::Name);
        assert_eq!(demands(&trace.with(&later)), demands(&later));
        assert_eq!(
            demands(&LearnedTrace::default().with(&later)),
            demands(&later)
        );
        let mut two = later.clone();
        two.add(b"other", Demand::Name);
        assert_eq!(demands(&later.with(&two)), demands(&two));
    }

    #[test]
    fn contents_that_nobody_uses_any_more_go() {
        let mut first = LearnedTrace::default();
        for path in ["used", "large"] {
            first.add(path.as_bytes(), range(0, 10));
        }
        first.add(b"name", Demand::Name);
        let mut later = LearnedTrace::default();
        later.add(b"used", range(0, 1));
        let mut trace = first;
        for session in 0..6 {
            trace = LearnedTrace::decode(&trace.with(&later).encode()).unwrap();
            assert_eq!(trace.has(b"large"), session < 2, "{session}");
            assert!(trace.has(b"used") && trace.has(b"name"));
            assert!(trace.covers(b"used", range(0, 10)));
        }
        // Once in a while is enough.
        trace.add(b"large", range(0, 10));
        let mut large = later.clone();
        large.add(b"large", Demand::Name);
        for now in [&later, &later, &large, &later, &later] {
            trace = trace.with(now);
        }
        assert!(trace.has(b"large"));
        assert!(!trace.with(&later).has(b"large"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_damage_is_survived(
            items in prop::collection::vec(("[a-c]{1,3}(/[a-c]{1,2}){0,2}", 0..3_u8, any::<u32>(), any::<u16>()), 0..40),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut trace = LearnedTrace::default();
            for (path, kind, offset, length) in items {
                let demand = match kind {
                    0 => Demand::Name,
                    1 => Demand::List { open: byte % 2 == 0 },
                    _ => range(offset.into(), length.into()),
                };
                trace.add(path.as_bytes(), demand);
            }
            let mut bytes = trace.encode();
            prop_assert_eq!(bytes.len(), trace.bytes + MAGIC.len());
            let again = LearnedTrace::decode(&bytes).unwrap();
            // What was joined later may touch what came before.
            prop_assert!(again.items.len() <= trace.items.len());
            prop_assert!(trace.items.iter().all(|item| again.has(&item.path)));
            let _ = LearnedTrace::decode(&bytes[..cut.index(bytes.len())]);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Some(read) = LearnedTrace::decode(&bytes) {
                prop_assert!(read.items.iter().all(|item| is_path(&item.path)));
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = LearnedTrace::decode(&bytes);
            let _ = LearnedTrace::decode(&[MAGIC, &bytes].concat());
        }
    }
}
