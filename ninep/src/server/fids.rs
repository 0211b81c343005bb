//! The table of fids: what each of the peer's numbers refers to.
//!
//! An entry is never changed, only replaced, and only if it is still the entry from which the change started. So
//! no lock is held while the file system works, and two requests that a careless peer sends for one fid at once
//! cannot leave it in a mixed state.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::xattr::XattrWrite;
use crate::errno::Errno;
use crate::fs::FileSystem;
use crate::msg::NO_FID;

/// Maximum number of fids that hold the value of an extended attribute, which may have 64 KiB.
const MAX_XATTRS: usize = 64;

/// What a fid refers to.
pub(super) struct Fid<F: FileSystem> {
    pub(super) node: F::Node,
    pub(super) state: FidState<F>,
}

pub(super) enum FidState<F: FileSystem> {
    /// Not open: can be walked from.
    Path,
    /// Opened for I/O.
    Open(F::File),
    /// The value of an extended attribute, or the list of names, to be read.
    XattrRead(Vec<u8>),
    /// The value of an extended attribute as far as it has been written. The clunk sets it.
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
    /// Fids whose file was not there any more when they were to be bound to it.
    stale: HashSet<u32>,
    /// How many of them are extended attributes.
    xattrs: usize,
}

impl<F: FileSystem> FidTable<F> {
    /// Adds `new` to the number of extended attributes.
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
                stale: HashSet::new(),
                xattrs: 0,
            }),
            limit,
        }
    }

    fn lock(&self) -> MutexGuard<'_, FidTable<F>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `fid` refers to now.
    pub(super) fn get(&self, fid: u32) -> Result<Arc<Fid<F>>, Errno> {
        let table = self.lock();
        table.fids.get(&fid).cloned().ok_or_else(|| {
            if table.stale.contains(&fid) {
                Errno::ESTALE
            } else {
                Errno::EBADF
            }
        })
    }

    /// Makes requests for `fid` fail with `ESTALE` until it is clunked. Returns what it referred to.
    pub(super) fn set_stale(&self, fid: u32) -> Option<Arc<Fid<F>>> {
        let old = self.remove(fid).ok();
        let mut table = self.lock();
        if table.fids.len() + table.stale.len() < self.limit {
            table.stale.insert(fid);
        }
        old
    }

    /// Fails if a new fid cannot have this number; so may [`Fids::insert`] later.
    pub(super) fn free(&self, fid: u32) -> Result<(), Errno> {
        let table = self.lock();
        if table.fids.contains_key(&fid) || table.stale.contains(&fid) || fid == NO_FID {
            return Err(Errno::EBADF);
        }
        if table.fids.len() + table.stale.len() >= self.limit {
            return Err(Errno::EMFILE);
        }
        Ok(())
    }

    /// Adds `fid`, which must not exist.
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

    /// Replaces what `fid` refers to, if that is still `old`.
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

    /// Removes `fid` and returns what it referred to. `ESTALE` if that was not there.
    pub(super) fn remove(&self, fid: u32) -> Result<Arc<Fid<F>>, Errno> {
        let mut table = self.lock();
        if table.stale.remove(&fid) {
            return Err(Errno::ESTALE);
        }
        let old = table.fids.remove(&fid).ok_or(Errno::EBADF)?;
        table.uncount(&old);
        Ok(old)
    }

    /// Removes every fid.
    pub(super) fn clear(&self) {
        let mut table = self.lock();
        table.xattrs = 0;
        table.stale.clear();
        let all = std::mem::take(&mut table.fids);
        drop(table);
        drop(all);
    }
}
