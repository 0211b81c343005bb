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
        // It is read here and there, as a database.
        if known.len() >= MAX_RANGES {
            return;
        }
        let bytes = self.bytes + FIXED + path.len();
        if self.items.len() >= MAX_ITEMS || bytes > MAX_TRACE - MAGIC.len() {
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
            let item = item(&mut rest).ok()??;
            if !is_path(&item.path) || item.unused >= MAX_UNUSED {
                return None;
            }
            trace.add_unused(&item.path, item.demand, item.unused);
        }
        (!trace.is_full).then_some(trace)
    }
}

fn item(from: &mut BodyReader<'_>) -> Result<Option<TraceItem>, Malformed> {
    let kind = Wire::get(from)?;
    let unused = Wire::get(from)?;
    let path = Str::get(from)?.bytes();
    let numbers = (kind, Wire::get(from)?, Wire::get(from)?);
    Ok(Demand::of_numbers(numbers).map(|demand| TraceItem {
        path: path.into(),
        demand,
        unused,
    }))
}

#[cfg(test)]
mod tests;
