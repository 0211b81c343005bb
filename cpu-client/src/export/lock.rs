//! Record locks, which exclude other sessions and the programs of this machine.
//!
//! POSIX locks belong to a process; a request names the process on the remote machine. Each such owner gets an open file
//! description of its own for each file that it locks, with open file description locks (`F_OFD_SETLK`, fcntl(2)). So two
//! descriptors of one process for the same file do not exclude each other, a child that closes its copy of a descriptor
//! does not drop its parent's locks, and the kernel excludes everybody else.
//!
//! A description and its locks exist as long as there is a fid through which its owner has locked. If the file cannot be
//! opened again because its mode has changed, the fid's own description is used, for one owner only.
//!
//! Requests for one file are carried out one after the other, so that the state of an owner is consistent. If the file
//! system of one file answers slowly, other files do not wait for it.

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

/// The longest client identifier, in bytes. Linux sends its node name, which has at most a quarter of this.
const MAX_CLIENT_ID: usize = 256;

#[derive(PartialEq, Eq, Hash)]
struct Owner {
    client_id: Box<[u8]>,
    proc_id: u32,
}

/// The owners of locks on one file, and their descriptions.
type Owners = HashMap<Owner, Weak<OwnedFd>>;

/// The owners of locks on all files.
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
    /// The owners of locks on one file. There may be none yet.
    fn of(&self, file: FileId) -> Arc<Mutex<Owners>> {
        let mut files = guard(&self.0);
        if let Some(owners) = files.get(&file) {
            return owners.clone();
        }
        // Drops files that nobody has locked or is about to lock. Does not wait for those in use.
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
        // Linux sends its node name.
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
            // The owner has no locks any more. If other fids keep the description, it is used again for the next lock.
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
        // The fid's own description has no locks, so it conflicts with every lock.
        let fd = self.locks.find(node.id(), &Owner::new(owner));
        let fd = fd.as_ref().unwrap_or(&file.fd);
        let mut asked = *lock;
        if asked.kind == Flock::UNLOCK {
            // Linux's client does not send the kind that it was asked for. Any lock conflicts with a write lock.
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
            // A process of this machine; 0 for an open file description lock, which belongs to no process.
            proc_id: u32::try_from(found.l_pid).unwrap_or(0),
        })
    }

    /// A description for another owner: open for reading and writing if possible, since each kind of lock needs one of
    /// them; else open as the fid is.
    fn description(&self, node: &Node, file: &File) -> Result<Arc<OwnedFd>> {
        let reopened = |flags| match self.reopen(node, flags) {
            Ok(fd) => Ok(Some(Arc::new(fd))),
            Err(errno @ (Os::MFILE | Os::NFILE)) => Err(os(errno)),
            Err(_) => Ok(None),
        };
        // What is read-only is not opened for writing: nobody could execute it meanwhile.
        if !node.access().is_read_only()
            && let Some(fd) = reopened(OFlags::RDWR)?
        {
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
    fn a_file_whose_locks_take_long_holds_up_no_other() {
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
        // Closed files are dropped.
        drop(export.locks.of(export.root.id()));
        assert_eq!(guard(&export.locks.0).len(), 2);
    }
}
