//! The files that the kernel knows by number, each with a fid; and the numbers of fids.

use std::collections::HashMap;

use crate::msg::Attr;

/// The kernel's number of the root (`FUSE_ROOT_ID`).
pub(super) const ROOT: u64 = 1;

/// A file that the kernel knows.
#[derive(Debug)]
pub(super) struct KernelNode {
    /// A fid that is not open.
    pub(super) fid: u32,
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
    /// How often fids have become doubtful.
    epoch: u64,
}

impl Nodes {
    pub(super) fn set_root(&mut self, fid: u32) {
        self.last = ROOT;
        self.insert(ROOT, fid, Attr::default());
    }

    pub(super) fn get(&self, number: u64) -> Option<&KernelNode> {
        self.all.get(&number)
    }

    fn insert(&mut self, number: u64, fid: u32, attr: Attr) {
        let (lookups, epoch) = (1, self.epoch);
        let node = KernelNode {
            fid,
            attr,
            lookups,
            epoch,
        };
        self.all.insert(number, node);
    }

    /// From now on, a look-up replaces the fid of the file that it finds: the server has no file for one.
    pub(super) fn distrust(&mut self) {
        self.epoch += 1;
    }

    /// The file that a look-up has found with this fid; and of two fids that it has then, the one that is not needed. A file has
    /// one number however many names it has; a number that the client's file system has used again is another file.
    pub(super) fn enter(&mut self, fid: u32, attr: Attr) -> (u64, Option<u32>) {
        let path = attr.qid.path;
        if let Some(&number) = self.numbers.get(&path)
            && let Some(node) = self.all.get_mut(&number)
            && is_same(&node.attr, &attr)
        {
            node.lookups += 1;
            node.attr = attr;
            if node.epoch == self.epoch {
                return (number, Some(fid));
            }
            node.epoch = self.epoch;
            let old = std::mem::replace(&mut node.fid, fid);
            return (number, Some(old));
        }
        self.last += 1;
        self.insert(self.last, fid, attr);
        self.numbers.insert(path, self.last);
        (self.last, None)
    }

    pub(super) fn update(&mut self, number: u64, attr: Attr) {
        if let Some(node) = self.all.get_mut(&number) {
            node.attr = attr;
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
        Some(node.fid)
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

    #[test]
    fn a_file_has_one_number_until_it_is_forgotten_as_often_as_it_was_found() {
        let mut nodes = Nodes::default();
        nodes.set_root(0);
        assert_eq!(nodes.enter(5, attr(77, 1)), (2, None));
        assert_eq!(nodes.enter(6, attr(77, 1)), (2, Some(6)));
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
        assert_eq!(nodes.enter(5, attr(77, 1)), (2, None));
        assert_eq!(nodes.enter(6, attr(77, 2)), (3, None));
        assert_eq!(nodes.forget(2, 1), Some(5));
        assert_eq!(nodes.enter(7, attr(77, 2)), (3, Some(7)));
    }

    #[test]
    fn a_fid_that_has_become_doubtful_is_replaced() {
        let mut nodes = Nodes::default();
        nodes.set_root(0);
        assert_eq!(nodes.enter(5, attr(77, 1)), (2, None));
        nodes.distrust();
        assert_eq!(nodes.enter(6, attr(77, 1)), (2, Some(5)));
        assert_eq!(nodes.enter(7, attr(77, 1)), (2, Some(7)));
    }
}
