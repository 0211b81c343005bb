//! Record locks that exclude other sessions and the programs of this machine.
//!
//! POSIX locks belong to a process, and what arrives here is the process that asks on the remote
//! machine. Each such owner gets an open file description of its own for each file it locks, and on
//! it open-file-description locks (`F_OFD_SETLK`, fcntl(2)). So two files that one process
//! opened don't exclude each other, a child that closes its copy of a descriptor doesn't lose
//! its parent's locks, and everyone else is excluded by the kernel.
//!
//! A description lives as long as a fid through which its owner has locked, and its locks with it. Where the
//! file can't be opened again, since its mode forbids it by now, the fid's own serves one owner.
//!
//! The locks of one file are set one after the other, so what an owner has is never half known. A file system
//! that takes long to answer keeps no other file waiting.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ninep::errno::Errno;
use ninep::fs::{LockOwner, LockStatus, Result};
use ninep::msg::Flock;
use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::OFlags;
use rustix::io::Errno as Os;

use super::node::Node;
use super::stat::FileId;
use super::{Export, File, FileState, os};

/// Bytes of a machine's name, at most: four times Linux's.
const MAX_CLIENT_ID: usize = 256;

#[derive(PartialEq, Eq, Hash)]
struct Owner {
    client_id: Box<[u8]>,
    proc_id: u32,
}

/// The owners of one file's locks and their descriptions.
type Owners = HashMap<Owner, Weak<OwnedFd>>;

/// Of all files that are locked.
#[derive(Default)]
pub(super) struct Locks(Mutex<HashMap<FileId, Arc<Mutex<Owners>>>>);

/// The descriptions that a fid keeps alive.
#[derive(Default)]
pub(super) struct Held(Mutex<Vec<Arc<OwnedFd>>>);

impl Held {
    fn keep(&self, fd: &Arc<OwnedFd>) {
        let mut held = guard(&self.0);
        if !held.iter().any(|it| Arc::ptr_eq(it, fd)) {
            held.push(fd.clone());
        }
    }

    fn drop(&self, fd: &Arc<OwnedFd>) {
        guard(&self.0).retain(|it| !Arc::ptr_eq(it, fd));
    }
}

impl Owner {
    fn new(owner: LockOwner<'_>) -> Self {
        Self {
            client_id: owner.client_id.into(),
            proc_id: owner.proc_id,
        }
    }
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Locks {
    /// Those of one file, of which nobody may have a lock yet.
    fn of(&self, file: FileId) -> Arc<Mutex<Owners>> {
        let mut files = guard(&self.0);
        if let Some(owners) = files.get(&file) {
            return owners.clone();
        }
        // What nobody is about to lock, and nobody has locked. The rest is not waited for.
        files.retain(|_, owners| {
            Arc::strong_count(owners) > 1 || guard(owners).values().any(|fd| fd.strong_count() > 0)
        });
        files.entry(file).or_default().clone()
    }

    fn find(&self, file: FileId, owner: &Owner) -> Option<Arc<OwnedFd>> {
        let owners = guard(&self.0).get(&file)?.clone();
        guard(&owners).get(owner).and_then(Weak::upgrade)
    }
}

impl Export {
    pub(super) fn set_lock(
        &self,
        node: &Node,
        file: &File,
        owner: LockOwner<'_>,
        lock: &Flock,
    ) -> Result<LockStatus> {
        let FileState::Regular(held) = &file.state else {
            return Err(Errno::EBADF);
        };
        // Linux says its machine's name.
        if owner.client_id.len() > MAX_CLIENT_ID {
            return Err(Errno::EINVAL);
        }
        let owner = Owner::new(owner);
        let owners = self.locks.of(node.id());
        let mut owners = guard(&owners);
        let fd = match owners.get(&owner).and_then(Weak::upgrade) {
            Some(fd) => fd,
            None if lock.kind == Flock::UNLOCK => return Ok(LockStatus::Success),
            None => {
                owners.retain(|_, fd| fd.strong_count() > 0);
                let fd = self.description(node, file)?;
                // Two owners of one description would not exclude each other.
                let mut others = owners.values().filter_map(Weak::upgrade);
                if others.any(|other| Arc::ptr_eq(&other, &fd)) {
                    return Err(Errno::ENOLCK);
                }
                fd
            }
        };
        match fcntl(&*fd, FcntlArg::F_OFD_SETLK(&flock(lock)?)) {
            Ok(_) => {}
            Err(nix::Error::EAGAIN | nix::Error::EACCES) => return Ok(LockStatus::Blocked),
            Err(errno) => return Err(Errno::from_raw(errno as i32)),
        }
        if lock.kind != Flock::UNLOCK {
            held.keep(&fd);
            owners.insert(owner, Arc::downgrade(&fd));
        } else if (lock.start, lock.length) == (0, 0) {
            // All of the owner's locks are gone. Other fids through which it locked keep the description, which
            // then serves it again.
            held.drop(&fd);
            if Arc::strong_count(&fd) == 1 || Arc::ptr_eq(&fd, &file.fd) {
                owners.remove(&owner);
            }
        }
        Ok(LockStatus::Success)
    }

    pub(super) fn find_lock(
        &self,
        node: &Node,
        file: &File,
        owner: LockOwner<'_>,
        lock: &Flock,
    ) -> Result<Flock> {
        let FileState::Regular(_) = &file.state else {
            return Err(Errno::EBADF);
        };
        // The fid's own description has no locks, so every lock is in its way.
        let fd = self.locks.find(node.id(), &Owner::new(owner));
        let fd = fd.as_ref().unwrap_or(&file.fd);
        let mut asked = *lock;
        if asked.kind == Flock::UNLOCK {
            // Linux's client forgets what kind it was asked for; any lock is in the way of this.
            asked.kind = Flock::WRITE;
        }
        let mut found = flock(&asked)?;
        fcntl(fd, FcntlArg::F_OFD_GETLK(&mut found)).map_err(|e| Errno::from_raw(e as i32))?;
        let kind = match i32::from(found.l_type) {
            libc::F_RDLCK => Flock::READ,
            libc::F_WRLCK => Flock::WRITE,
            _ => {
                return Ok(Flock {
                    kind: Flock::UNLOCK,
                    ..*lock
                });
            }
        };
        Ok(Flock {
            kind,
            start: found.l_start.cast_unsigned(),
            length: found.l_len.cast_unsigned(),
            // A process of this machine, or 0 for a description's lock, which has none.
            proc_id: u32::try_from(found.l_pid).unwrap_or(0),
        })
    }

    /// A description for one more owner: for both kinds of lock if that is possible, else for what the fid
    /// was opened for.
    fn description(&self, node: &Node, file: &File) -> Result<Arc<OwnedFd>> {
        let reopened = |flags| match self.reopen(node, flags) {
            Ok(fd) => Ok(Some(Arc::new(fd))),
            Err(errno @ (Os::MFILE | Os::NFILE)) => Err(os(errno)),
            Err(_) => Ok(None),
        };
        if let Some(fd) = reopened(OFlags::RDWR)? {
            return Ok(fd);
        }
        let flags = rustix::fs::fcntl_getfl(&file.fd).map_err(os)?;
        if flags.intersects(OFlags::RDWR | OFlags::WRONLY) {
            return Ok(file.fd.clone());
        }
        Ok(reopened(OFlags::RDONLY)?.unwrap_or_else(|| file.fd.clone()))
    }
}

fn flock(lock: &Flock) -> Result<libc::flock> {
    let offset = |n: u64| i64::try_from(n).map_err(|_| Errno::EINVAL);
    #[expect(clippy::cast_possible_truncation, reason = "small constants")]
    Ok(libc::flock {
        l_type: match lock.kind {
            Flock::READ => libc::F_RDLCK,
            Flock::WRITE => libc::F_WRLCK,
            _ => libc::F_UNLCK,
        } as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: offset(lock.start)?,
        l_len: offset(lock.length)?,
        l_pid: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ninep::fs::{FileSystem, OpenFlags};

    #[test]
    fn a_file_whose_locks_take_long_keeps_no_other_waiting() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["slow", "file", "other"] {
            std::fs::write(directory.path().join(name), name).unwrap();
        }
        let export = Export::new(directory.path()).unwrap();
        let node = |name: &str| export.step(&export.root, name.as_bytes()).unwrap().0;
        let slow = export.locks.of(node("slow").id());
        let _slow = guard(&slow);
        let owner = LockOwner {
            client_id: b"there",
            proc_id: 1,
        };
        let all = Flock {
            kind: Flock::WRITE,
            start: 0,
            length: 0,
            proc_id: 1,
        };
        for name in ["file", "other"] {
            let node = node(name);
            let (file, _) = export.open(&node, OpenFlags(OpenFlags::RDONLY)).unwrap();
            let status = export.set_lock(&node, &file, owner, &all);
            assert_eq!(status, Ok(LockStatus::Success));
            let found = export.find_lock(&node, &file, owner, &all).unwrap();
            assert_eq!(found.kind, Flock::UNLOCK);
        }
        // Of files that are closed nothing is left.
        drop(export.locks.of(export.root.id()));
        assert_eq!(guard(&export.locks.0).len(), 2);
    }
}
