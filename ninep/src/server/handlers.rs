//! What each request does: turns fids into nodes, calls the file system, and turns its result into a reply.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::describe::{Description, fids_of};
use super::fids::{Fid, FidState, Fids};
use super::flock::{checked_flock, owner};
use super::learning::{Learning, Replay};
use super::xattr::{self, XattrWrite};
use crate::errno::Errno;
use crate::fs::{Attach, DirSink, FileSystem, OpenFlags, Told, Watcher};
use crate::msg::{Flock, Kind, MAX_FIRST, NO_FID, Reply, Request};
use crate::wire::{DATA_HEADER, Frame, HEADER, Name, Str, Wire};

/// The flag of unlinkat(2) that every architecture shares.
const AT_REMOVEDIR: u32 = 0x200;
/// What an Rlopenread has between its header and the size of its data.
const OPENREAD_FIXED: u32 = 13 + 4 + 4 + 8;

/// The file system and the fids on it.
pub(super) struct Handlers<'a, F: FileSystem> {
    pub(super) fs: &'a F,
    pub(super) fids: Fids<F>,
    watcher: OnceLock<Option<Arc<dyn Watcher<F::Node>>>>,
    pub(super) learning: Option<&'a Learning>,
    pub(super) replay: Mutex<Replay<F>>,
}

/// The number of bytes that a read, write or readdir has transferred.
pub(super) type Outcome = Result<Option<u32>, Errno>;

impl<'a, F: FileSystem> Handlers<'a, F> {
    pub(super) fn new(fs: &'a F, max_fids: usize, learning: Option<&'a Learning>) -> Self {
        Self {
            fs,
            fids: Fids::new(max_fids),
            watcher: OnceLock::new(),
            learning,
            replay: Mutex::default(),
        }
    }

    /// Starts to watch for this session, if the file system can.
    pub(super) fn start_watcher(&self) -> bool {
        self.watcher.get_or_init(|| self.fs.watcher()).is_some()
    }

    /// What watches for this session, if anything does.
    pub(super) fn watcher(&self) -> Option<&dyn Watcher<F::Node>> {
        self.watcher.get()?.as_deref()
    }

    /// Clunks every fid.
    pub(super) fn reset(&self) {
        self.fids.clear();
        *self.replay.lock().unwrap_or_else(PoisonError::into_inner) = Replay::default();
    }

    /// What the first fid of a request refers to.
    pub(super) fn subject(&self, request: &Request<'_>) -> Option<Arc<Fid<F>>> {
        self.fids.get(fids_of(request).0?).ok()
    }

    /// Clunks a fid, if it exists. Dropping the result closes its file.
    pub(super) fn forget(&self, fid: u32) -> Option<Arc<Fid<F>>> {
        self.fids.remove(fid).ok()
    }

    /// Makes requests for a fid fail that could not be bound. Dropping the result closes its file.
    pub(super) fn set_stale(&self, fid: u32) -> Option<Arc<Fid<F>>> {
        self.fids.set_stale(fid)
    }

    pub(super) fn describe<'w>(&'w self, request: &'w Request<'w>) -> Description<'w, F> {
        let (fid, other) = fids_of(request);
        let get = |fid: Option<u32>| fid.and_then(|fid| self.fids.get(fid).ok());
        Description {
            fs: self.fs,
            request,
            fid: get(fid),
            other: get(other),
        }
    }

    /// Performs `request` and encodes its reply, unless it fails.
    pub(super) fn handle(
        &self,
        request: &Request<'_>,
        tag: u16,
        msize: u32,
        out: &mut Frame,
    ) -> Outcome {
        let fs = self.fs;
        match *request {
            Request::Read { fid, offset, count } => {
                let fid = self.fids.get(fid)?;
                data_reply(request.kind(), tag, out, |out| {
                    let buf = out.space(fitting(count, msize));
                    let n = match &fid.state {
                        FidState::Open(file) => fs.read(file, offset, buf)?.min(buf.len()),
                        FidState::XattrRead(value) => xattr::read(value, offset, buf),
                        _ => return Err(Errno::EBADF),
                    };
                    out.grow(n);
                    Ok(())
                })
            }
            Request::Readdir { fid, offset, count } => {
                let fid = self.fids.get(fid)?;
                let file = fid.file().ok_or(Errno::EBADF)?;
                data_reply(request.kind(), tag, out, |out| {
                    let mut sink = DirSink::new(out, fitting(count, msize));
                    fs.readdir(&fid.node, file, offset, &mut sink)
                })
            }
            Request::Lookup { fid, newfid, name } => {
                self.lookup(fid, newfid, plain(name)?, tag, out)
            }
            Request::List { fid, open } => self.list(fid, open != 0, tag, msize, out),
            Request::Lopenread { fid, flags, count } => {
                let count = fitting(count.min(MAX_FIRST), msize.saturating_sub(OPENREAD_FIXED));
                self.open_read(fid, OpenFlags(flags), count, tag, out)
            }
            Request::Fetch { fid, names } => self.fetch(fid, &names, tag, msize, out),
            Request::Replay { fid, count } => self.replay(fid, count, tag, msize, out),
            Request::Readlink { fid } => {
                let target = fs.readlink(&self.fids.get(fid)?.node)?;
                let target = Str::new(&target).filter(|target| {
                    // The reply must not exceed the session's message size.
                    HEADER + 2 + target.bytes().len()
                        <= usize::try_from(msize).unwrap_or(usize::MAX)
                });
                let target = target.ok_or(Errno::ENAMETOOLONG)?;
                Reply::Readlink { target }.encode(tag, out);
                Ok(None)
            }
            _ => {
                let reply = self.answer(request)?;
                reply.encode(tag, out);
                Ok(match reply {
                    Reply::Write { count } => Some(count),
                    _ => None,
                })
            }
        }
    }

    /// The requests whose reply contains no data of a file.
    fn answer<'r>(&self, request: &Request<'r>) -> Result<Reply<'r>, Errno> {
        use Request as R;
        let fs = self.fs;
        let node = |fid: u32| self.fids.get(fid);
        Ok(match *request {
            // The session answers it.
            R::Version { .. } => return Err(Errno::EPROTO),
            // A flush gets here if its request is no longer in flight.
            R::Flush { .. } => Reply::Flush {},
            // auth(5): an error means that no authentication is needed.
            // Only a server sends a forget.
            R::Auth { .. } | R::Forget {} | R::Tally { .. } | R::Sync {} => {
                return Err(Errno::EOPNOTSUPP);
            }
            R::Attach {
                fid,
                afid,
                uname,
                aname,
                n_uname,
            } => {
                if afid != NO_FID {
                    return Err(Errno::EINVAL);
                }
                self.fids.free(fid)?;
                let (node, qid) = fs.attach(&Attach {
                    uname: uname.bytes(),
                    aname: aname.bytes(),
                    n_uname,
                })?;
                self.fids.insert(fid, Fid::path(node))?;
                Reply::Attach { qid }
            }
            R::Walk { fid, newfid, names } => Reply::Walk {
                qids: self.walk(fid, newfid, &names)?,
            },
            R::Walkgetattr { fid, newfid, name } => {
                let from = self.walk_start(fid, newfid)?;
                let (node, attr) = fs.walk_getattr(&from.node, plain(name)?)?;
                self.walk_end(fid, &from, newfid, node)?;
                Reply::Walkgetattr { attr }
            }
            R::Clunk { fid } => {
                let old = match self.fids.remove(fid) {
                    Err(Errno::ESTALE) => return Ok(Reply::Clunk {}),
                    old => old?,
                };
                if let FidState::XattrWrite(xattr) = &old.state {
                    xattr.set(fs, &old.node)?;
                }
                Reply::Clunk {}
            }
            R::Remove { fid } => {
                // remove(5): the fid is clunked even if the remove fails.
                fs.remove(&self.fids.remove(fid)?.node)?;
                Reply::Remove {}
            }
            R::Lopen { fid, flags } => {
                let old = self.unopened(fid)?;
                let (file, qid) = fs.open(&old.node, OpenFlags(flags))?;
                let node = old.node.clone();
                let state = FidState::Open(file);
                self.fids.replace(fid, &old, Fid { node, state })?;
                Reply::Lopen { qid, iounit: 0 }
            }
            R::Lcreate {
                fid,
                name,
                flags,
                mode,
                gid,
            } => {
                let qid = self.create(fid, name, flags, mode, gid)?;
                Reply::Lcreate { qid, iounit: 0 }
            }
            R::Lcreategetattr {
                fid,
                name,
                flags,
                mode,
                gid,
            } => {
                let qid = self.create(fid, name, flags, mode, gid)?;
                let (iounit, attr) = (0, self.attr_after(fid));
                Reply::Lcreategetattr { qid, iounit, attr }
            }
            R::Write { fid, offset, data } => {
                let fid = self.fids.get(fid)?;
                let n = match &fid.state {
                    FidState::Open(file) => fs.write(file, offset, data.0)?,
                    FidState::XattrWrite(xattr) => xattr.write(offset, data.0)?,
                    _ => return Err(Errno::EBADF),
                };
                Reply::Write {
                    count: u32::try_from(n).map_err(|_| Errno::EIO)?,
                }
            }
            R::Getattr { fid, mask } => {
                let fid = node(fid)?;
                // The attributes of a directory are kept, if it is watched.
                self.watch(&fid.node, Told::Itself);
                let attr = fs.getattr(&fid.node, mask)?;
                Reply::Getattr { attr }
            }
            R::Setattr { fid, attr } => {
                let fid = node(fid)?;
                fs.setattr(&fid.node, fid.file(), &attr)?;
                Reply::Setattr {}
            }
            R::Setgetattr { fid: number, attr } => {
                let fid = node(number)?;
                fs.setattr(&fid.node, fid.file(), &attr)?;
                let attr = self.attr_after(number);
                Reply::Setgetattr { attr }
            }
            R::Statfs { fid } => Reply::Statfs {
                stat: fs.statfs(&node(fid)?.node)?,
            },
            R::Fsync { fid, datasync } => {
                fs.fsync(node(fid)?.file().ok_or(Errno::EBADF)?, datasync != 0)?;
                Reply::Fsync {}
            }
            R::Mkdir {
                dfid,
                name,
                mode,
                gid,
            } => Reply::Mkdir {
                qid: fs.mkdir(&node(dfid)?.node, plain(name)?, mode, gid)?,
            },
            R::Symlink {
                dfid,
                name,
                target,
                gid,
            } => Reply::Symlink {
                qid: fs.symlink(&node(dfid)?.node, plain(name)?, target.bytes(), gid)?,
            },
            R::Mknod {
                dfid,
                name,
                mode,
                major,
                minor,
                gid,
            } => Reply::Mknod {
                qid: fs.mknod(&node(dfid)?.node, plain(name)?, mode, (major, minor), gid)?,
            },
            R::Link { dfid, fid, name } => {
                fs.link(&node(dfid)?.node, plain(name)?, &node(fid)?.node)?;
                Reply::Link {}
            }
            R::Renameat {
                olddirfid,
                oldname,
                newdirfid,
                newname,
            } => {
                let (olddir, newdir) = (node(olddirfid)?, node(newdirfid)?);
                let (oldname, newname) = (plain(oldname)?, plain(newname)?);
                fs.renameat(&olddir.node, oldname, &newdir.node, newname)?;
                Reply::Renameat {}
            }
            R::Rename { fid, dfid, name } => {
                let old = node(fid)?;
                let moved = fs.rename(&old.node, &node(dfid)?.node, plain(name)?)?;
                if let FidState::Path = old.state {
                    self.fids.replace(fid, &old, Fid::path(moved))?;
                }
                Reply::Rename {}
            }
            R::Unlinkat { dfid, name, flags } => {
                if flags & !AT_REMOVEDIR != 0 {
                    return Err(Errno::EINVAL);
                }
                let directory = flags & AT_REMOVEDIR != 0;
                fs.unlinkat(&node(dfid)?.node, plain(name)?, directory)?;
                Reply::Unlinkat {}
            }
            R::Xattrwalk { fid, newfid, name } => {
                self.fids.free(newfid)?;
                let node = node(fid)?.node.clone();
                let name = Some(name.bytes()).filter(|name| !name.is_empty());
                let value = fs.xattr(&node, name)?;
                let size = value.len() as u64;
                let state = FidState::XattrRead(value);
                self.fids.insert(newfid, Fid { node, state })?;
                Reply::Xattrwalk { size }
            }
            R::Xattrcreate {
                fid,
                name,
                size,
                flags,
            } => {
                let old = self.unopened(fid)?;
                let xattr = XattrWrite::new(name.bytes(), size, flags)?;
                let node = old.node.clone();
                let state = FidState::XattrWrite(xattr);
                self.fids.replace(fid, &old, Fid { node, state })?;
                Reply::Xattrcreate {}
            }
            R::Lock {
                fid,
                kind,
                flags: _,
                start,
                length,
                proc_id,
                client_id,
            } => {
                let fid = node(fid)?;
                let file = fid.file().ok_or(Errno::EBADF)?;
                let lock = checked_flock(Flock {
                    kind,
                    start,
                    length,
                    proc_id,
                })?;
                let owner = owner(client_id, proc_id);
                Reply::Lock {
                    status: fs.lock(&fid.node, file, owner, &lock)? as u8,
                }
            }
            R::Getlock {
                fid,
                lock,
                client_id,
            } => {
                let fid = node(fid)?;
                let file = fid.file().ok_or(Errno::EBADF)?;
                let owner = owner(client_id, lock.proc_id);
                Reply::Getlock {
                    lock: fs.getlock(&fid.node, file, owner, &checked_flock(lock)?)?,
                    client_id,
                }
            }
            R::Bind {
                fid,
                newfid,
                name,
                path,
                btime,
            } => self.bind(fid, newfid, plain(name)?, (path, btime))?,
            R::Read { .. }
            | R::Readdir { .. }
            | R::Readlink { .. }
            | R::List { .. }
            | R::Lookup { .. }
            | R::Fetch { .. }
            | R::Replay { .. }
            | R::Lopenread { .. } => return Err(Errno::EIO),
        })
    }

    /// What `fid` refers to, if it can still be opened.
    pub(super) fn unopened(&self, fid: u32) -> Result<Arc<Fid<F>>, Errno> {
        let it = self.fids.get(fid)?;
        match it.state {
            FidState::Path => Ok(it),
            _ => Err(Errno::EBADF),
        }
    }
}

/// A reply of `count[4] data[count]` with the data that `fill` appends.
fn data_reply(
    kind: Kind,
    tag: u16,
    out: &mut Frame,
    fill: impl FnOnce(&mut Frame) -> Result<(), Errno>,
) -> Outcome {
    out.start(kind.number() + 1, tag);
    0_u32.put(out);
    fill(out)?;
    let count = u32::try_from(out.len() - DATA_HEADER).map_err(|_| Errno::EIO)?;
    out.patch(HEADER, count);
    Ok(Some(count))
}

/// The number of bytes that the peer asks for, as far as they fit into a reply.
fn fitting(count: u32, msize: u32) -> usize {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let msize = usize::try_from(msize).unwrap_or(usize::MAX);
    count.min(msize.saturating_sub(DATA_HEADER))
}

/// A name that can be created, renamed or removed.
pub(super) fn plain(name: Name<'_>) -> Result<&[u8], Errno> {
    match name.bytes() {
        b"." | b".." => Err(Errno::EINVAL),
        name => Ok(name),
    }
}
