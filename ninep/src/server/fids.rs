//! The table of fids: what each number of the peer stands for.
//!
//! An entry is never changed, only replaced by another, and only if it is still the one that the
//! change began with. So no lock is held while the file system works, and two requests that a
//! careless peer sends for one fid at once can't leave it half one thing and half the other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::xattr::XattrWrite;
use crate::errno::Errno;
use crate::fs::FileSystem;
use crate::msg::NO_FID;

/// Fids that hold the bytes of an extended attribute, at most: each may hold 64 KiB.
const MAX_XATTRS: usize = 64;

/// What a fid stands for.
pub(super) struct Fid<F: FileSystem> {
    pub(super) node: F::Node,
    pub(super) state: FidState<F>,
}

pub(super) enum FidState<F: FileSystem> {
    /// A place to walk from.
    Path,
    /// Opened for I/O.
    Open(F::File),
    /// The value of an extended attribute, or the list of them, to be read.
    XattrRead(Vec<u8>),
    /// The value of an extended attribute as far as it has been written; set at the clunk.
    XattrWrite(XattrWrite),
}

impl<F: FileSystem> Fid<F> {
    pub(super) fn path(node: F::Node) -> Self {
        Self {
            node,
            state: FidState::Path,
        }
    }

    pub(super) fn file(&self) -> Option<&F::File> {
        match &self.state {
            FidState::Open(file) => Some(file),
            _ => None,
        }
    }

    fn is_xattr(&self) -> bool {
        matches!(self.state, FidState::XattrRead(_) | FidState::XattrWrite(_))
    }
}

pub(super) struct Fids<F: FileSystem> {
    table: Mutex<FidTable<F>>,
    limit: usize,
}

struct FidTable<F: FileSystem> {
    fids: HashMap<u32, Arc<Fid<F>>>,
    /// How many of them are extended attributes.
    xattrs: usize,
}

impl<F: FileSystem> FidTable<F> {
    /// Makes room for `new` in the count of extended attributes.
    fn count(&mut self, new: &Fid<F>) -> Result<(), Errno> {
        if new.is_xattr() {
            if self.xattrs >= MAX_XATTRS {
                return Err(Errno::EMFILE);
            }
            self.xattrs += 1;
        }
        Ok(())
    }

    fn uncount(&mut self, old: &Fid<F>) {
        self.xattrs -= usize::from(old.is_xattr());
    }
}

impl<F: FileSystem> Fids<F> {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            table: Mutex::new(FidTable {
                fids: HashMap::new(),
                xattrs: 0,
            }),
            limit,
        }
    }

    fn lock(&self) -> MutexGuard<'_, FidTable<F>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `fid` stands for now.
    pub(super) fn get(&self, fid: u32) -> Result<Arc<Fid<F>>, Errno> {
        self.lock().fids.get(&fid).cloned().ok_or(Errno::EBADF)
    }

    /// Whether a new fid may have this number; [`Fids::insert`] decides.
    pub(super) fn free(&self, fid: u32) -> Result<(), Errno> {
        let table = self.lock();
        if table.fids.contains_key(&fid) || fid == NO_FID {
            return Err(Errno::EBADF);
        }
        if table.fids.len() >= self.limit {
            return Err(Errno::EMFILE);
        }
        Ok(())
    }

    /// Gives the free number `fid` a meaning.
    pub(super) fn insert(&self, fid: u32, new: Fid<F>) -> Result<(), Errno> {
        self.free(fid)?;
        let mut table = self.lock();
        if table.fids.contains_key(&fid) {
            return Err(Errno::EBADF);
        }
        table.count(&new)?;
        table.fids.insert(fid, Arc::new(new));
        Ok(())
    }

    /// Gives `fid` a new meaning, if it still has the `old` one.
    pub(super) fn replace(&self, fid: u32, old: &Arc<Fid<F>>, new: Fid<F>) -> Result<(), Errno> {
        let mut table = self.lock();
        match table.fids.get(&fid) {
            Some(now) if Arc::ptr_eq(now, old) => {}
            _ => return Err(Errno::EBADF),
        }
        table.count(&new)?;
        table.uncount(old);
        table.fids.insert(fid, Arc::new(new));
        Ok(())
    }

    /// Forgets `fid` and gives what it stood for.
    pub(super) fn remove(&self, fid: u32) -> Result<Arc<Fid<F>>, Errno> {
        let mut table = self.lock();
        let old = table.fids.remove(&fid).ok_or(Errno::EBADF)?;
        table.uncount(&old);
        Ok(old)
    }

    /// Forgets all.
    pub(super) fn clear(&self) {
        let mut table = self.lock();
        table.xattrs = 0;
        let all = std::mem::take(&mut table.fids);
        drop(table);
        drop(all);
    }
}
