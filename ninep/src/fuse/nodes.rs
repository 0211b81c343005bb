//! The files that the kernel knows by number; and the numbers of fids.
//!
//! The kernel knows as many files as it has memory for, and the server has a descriptor for each fid. So only the files that were
//! used last have a fid; one of the others is walked to again when it is used (`place.rs`).

use std::collections::{HashMap, VecDeque};

use crate::msg::Attr;

/// The kernel's number of the root (`FUSE_ROOT_ID`).
pub(super) const ROOT: u64 = 1;
/// How many files have a fid, apart from those in use. Many systems let a process have 4096 descriptors.
pub(super) const MAX_IDLE: usize = 2048;

/// Where a file was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) dir: u64,
    pub(super) name: Box<[u8]>,
}

/// A file that the kernel knows.
#[derive(Debug)]
pub(super) struct KernelNode {
    /// A fid that is not open; none if it has not been used for long.
    pub(super) fid: Option<u32>,
    /// Where it was last found, or moved to.
    pub(super) place: Location,
    /// How many open files of it the kernel has.
    pub(super) opens: u32,
    /// Whether it has been used since it was last considered for the loss of its fid.
    is_used: bool,
    /// What was last told of it.
    pub(super) attr: Attr,
    /// How often the kernel has been told its number, less what it has forgotten.
    lookups: u64,
    /// [`Nodes::epoch`] when it got its fid.
    epoch: u64,
}

#[derive(Debug, Default)]
pub(super) struct Nodes {
    all: HashMap<u64, KernelNode>,
    /// By qid path.
    numbers: HashMap<u64, u64>,
    last: u64,
    /// Those that have a fid, in the order in which they are considered for the loss of it. Some are forgotten.
    queue: VecDeque<u64>,
    /// How often fids have become doubtful.
    epoch: u64,
}

impl Nodes {
    pub(super) fn set_root(&mut self, fid: u32) {
        self.last = ROOT;
        self.insert(ROOT, fid, Attr::default(), Location::default());
    }

    pub(super) fn get(&self, number: u64) -> Option<&KernelNode> {
        self.all.get(&number)
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut KernelNode> {
        self.all.get_mut(&number)
    }

    fn insert(&mut self, number: u64, fid: u32, attr: Attr, place: Location) {
        let (lookups, epoch) = (1, self.epoch);
        let node = KernelNode {
            fid: Some(fid),
            place,
            opens: 0,
            is_used: true,
            attr,
            lookups,
            epoch,
        };
        self.all.insert(number, node);
        if number != ROOT {
            self.queue.push_back(number);
        }
    }

    /// Notes that a file is used.
    pub(super) fn touch(&mut self, number: u64) {
        if let Some(node) = self.all.get_mut(&number) {
            node.is_used = true;
        }
    }

    /// Gives a file without a fid this one; the one that is not needed, if it has one or is forgotten.
    pub(super) fn refill(&mut self, number: u64, fid: u32) -> Option<u32> {
        match self.all.get_mut(&number) {
            Some(node) if node.fid.is_none() => {
                (node.fid, node.epoch, node.is_used) = (Some(fid), self.epoch, true);
                self.queue.push_back(number);
                None
            }
            _ => Some(fid),
        }
    }

    /// Takes the fid of a file that has not been used for long, and is not `busy`, if there are too many.
    pub(super) fn take_idle(&mut self, busy: impl Fn(u64) -> bool) -> Option<u32> {
        // As each new fid leads here once, a few suffice.
        for _ in 0..8 {
            if self.queue.len() <= MAX_IDLE {
                return None;
            }
            let number = self.queue.pop_front()?;
            let Some(node) = self.all.get_mut(&number) else {
                continue;
            };
            if std::mem::take(&mut node.is_used) || node.opens > 0 || busy(number) {
                self.queue.push_back(number);
            } else {
                return node.fid.take();
            }
        }
        None
    }

    /// A file has been given another name. As the kernel has just looked it up, it has a fid.
    pub(super) fn rename(&mut self, from: &Location, to: &Location) {
        for number in &self.queue {
            if let Some(node) = self.all.get_mut(number)
                && node.place == *from
            {
                node.place = to.clone();
            }
        }
    }

    /// From now on, a look-up replaces the fid of the file that it finds: the server has no file for one.
    pub(super) fn distrust(&mut self) {
        self.epoch += 1;
    }

    /// The file that a look-up has found with this fid; and of two fids that it has then, the one that is not needed. A file has
    /// one number however many names it has; a number that the client's file system has used again is another file.
    pub(super) fn enter(&mut self, fid: u32, attr: Attr, place: Location) -> (u64, Option<u32>) {
        let path = attr.qid.path;
        if let Some(&number) = self.numbers.get(&path)
            && let Some(node) = self.all.get_mut(&number)
            && is_same(&node.attr, &attr)
        {
            node.lookups += 1;
            (node.attr, node.place, node.is_used) = (attr, place, true);
            if node.fid.is_some() && node.epoch == self.epoch {
                return (number, Some(fid));
            }
            node.epoch = self.epoch;
            let old = node.fid.replace(fid);
            if old.is_none() {
                self.queue.push_back(number);
            }
            return (number, old);
        }
        self.last += 1;
        self.insert(self.last, fid, attr, place);
        self.numbers.insert(path, self.last);
        (self.last, None)
    }

    pub(super) fn update(&mut self, number: u64, attr: Attr) {
        if let Some(node) = self.all.get_mut(&number) {
            // It is known by its qid path.
            let qid = node.attr.qid;
            node.attr = Attr { qid, ..attr };
        }
    }

    /// Forgets so many look-ups. The fid that is not needed any more, if they were the last.
    pub(super) fn forget(&mut self, number: u64, lookups: u64) -> Option<u32> {
        if number == ROOT {
            return None;
        }
        let node = self.all.get_mut(&number)?;
        node.lookups = node.lookups.saturating_sub(lookups);
        if node.lookups > 0 {
            return None;
        }
        let node = self.all.remove(&number)?;
        let path = node.attr.qid.path;
        if self.numbers.get(&path) == Some(&number) {
            self.numbers.remove(&path);
        }
        node.fid
    }
}

/// Whether attributes with the same qid path are those of one file: type, and if both have it, time of creation.
fn is_same(old: &Attr, new: &Attr) -> bool {
    const S_IFMT: u32 = 0o170_000;
    let born = |attr: &Attr| (attr.valid & Attr::BTIME != 0).then_some(attr.btime);
    let same_birth = match (born(old), born(new)) {
        (Some(old), Some(new)) => old == new,
        _ => true,
    };
    old.mode & S_IFMT == new.mode & S_IFMT && same_birth
}

/// Numbers of fids that are not in use.
#[derive(Debug, Default)]
pub(super) struct FidPool {
    freed: Vec<u32>,
    next: u32,
}

impl FidPool {
    pub(super) fn take(&mut self) -> u32 {
        self.freed.pop().unwrap_or_else(|| {
            let fid = self.next;
            self.next = self.next.wrapping_add(1);
            fid
        })
    }

    pub(super) fn free(&mut self, fid: u32) {
        self.freed.push(fid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msg::{Qid, Time};

    fn attr(path: u64, born: u64) -> Attr {
        Attr {
            valid: Attr::ALL,
            qid: Qid {
                path,
                ..Qid::default()
            },
            btime: Time { sec: born, nsec: 0 },
            ..Attr::default()
        }
    }

    fn enter(nodes: &mut Nodes, fid: u32, attr: Attr) -> (u64, Option<u32>) {
        nodes.enter(fid, attr, Location::default())
    }

    #[test]
    fn a_file_has_one_number_until_it_is_forgotten_as_often_as_it_was_found() {
        let mut nodes = Nodes::default();
        nodes.set_root(0);
        assert_eq!(enter(&mut nodes, 5, attr(77, 1)), (2, None));
        assert_eq!(enter(&mut nodes, 6, attr(77, 1)), (2, Some(6)));
        assert_eq!(nodes.forget(2, 1), None);
        assert_eq!(nodes.forget(2, 1), Some(5));
        assert!(nodes.get(2).is_none());
        assert_eq!(nodes.forget(ROOT, 9), None);
        assert_eq!(nodes.forget(2, 1), None);
    }

    #[test]
    fn a_number_that_is_used_again_is_another_file() {
        let mut nodes = Nodes::default();
        nodes.set_root(0);
        assert_eq!(enter(&mut nodes, 5, attr(77, 1)), (2, None));
        assert_eq!(enter(&mut nodes, 6, attr(77, 2)), (3, None));
        assert_eq!(nodes.forget(2, 1), Some(5));
        assert_eq!(enter(&mut nodes, 7, attr(77, 2)), (3, Some(7)));
    }

    #[test]
    fn a_fid_that_has_become_doubtful_is_replaced() {
        let mut nodes = Nodes::default();
        nodes.set_root(0);
        assert_eq!(enter(&mut nodes, 5, attr(77, 1)), (2, None));
        nodes.distrust();
        assert_eq!(enter(&mut nodes, 6, attr(77, 1)), (2, Some(5)));
        assert_eq!(enter(&mut nodes, 7, attr(77, 1)), (2, Some(7)));
    }
}
