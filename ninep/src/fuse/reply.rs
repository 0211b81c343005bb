//! What the server's replies lead to: the next request of 9P, or the reply that the kernel waits for.

use bytes::Bytes;

use super::abi;
use super::request::name;
use super::{FuseFront, LockRequest, Op, Pending, ROOT_FID, Step};
use crate::errno::Errno;
use crate::fs::LockStatus;
use crate::msg::{Attr, DirEntry, Flock, Header, NO_FID, NO_ID, NO_TAG, Reply, Request, SetAttr};
use crate::wire::{BodyReader, Data, HEADER, Str, Wire as _};

/// The part of a message of 9P that is not data, with some to spare (`P9_IOHDRSZ`).
const IO_HEADER: u32 = 24;
/// The pages in which the kernel reads and writes, at least.
const PAGE: u32 = 4096;
/// The latest `minor` that this front knows, of Linux 6.6.
const MINOR: u32 = 39;
/// How many reads ahead and writes behind the kernel may have under way.
const BACKGROUND: u16 = 64;

impl FuseFront {
    /// Takes one reply.
    pub(super) fn reply(&mut self, header: Header, message: &Bytes, kept: bool) {
        self.is_kept = false;
        let op = match header.tag {
            NO_TAG => self.init.take(),
            tag => {
                let place = self.pending.get_mut(usize::from(tag));
                let pending = place.and_then(Option::take);
                if pending.is_some() {
                    self.free_tags.push(tag);
                }
                pending.map(|Pending { op, is_kept, .. }| {
                    self.is_kept = is_kept && kept;
                    op
                })
            }
        };
        // Nobody waits for it.
        let Some(Op { unique, step }) = op else {
            return;
        };
        let body = message.get(HEADER..).unwrap_or_default();
        match Reply::decode(header.kind, body) {
            Ok(Reply::Error { ecode }) => {
                let errno = i32::try_from(ecode).map_or(Errno::EIO, Errno::from_raw);
                self.failed(unique, step, errno, false);
            }
            Ok(reply) => self.succeeded(unique, step, &reply, message),
            Err(_) => self.failed(unique, step, Errno::EIO, true),
        }
    }

    /// A step has failed. If it is `unsure` whether the server has done it, a fid that it would have made is ended.
    fn failed(&mut self, unique: u64, step: Step, errno: Errno, unsure: bool) {
        if matches!(errno, Errno::ESTALE | Errno::EBADF) {
            // A fid may be of a file that is not there any more.
            self.nodes.distrust();
        }
        match step {
            Step::Walk { fid, owner: None } if errno == Errno::ENOENT && !unsure => {
                self.fids.free(fid);
                let ttl = self.ttl();
                if !ttl.is_zero() {
                    let none = Attr::default();
                    return self.answer(unique, |out| out.entry_out(0, &none, ttl));
                }
            }
            // The fid that a walk would have made does not exist.
            Step::Walk { fid, .. }
            | Step::XattrWalk { fid, .. }
            | Step::CreateClone { fid, .. }
            | Step::OpenClone { fid, .. }
            | Step::XattrClone { fid, .. } => {
                if unsure {
                    self.clunk(0, fid);
                } else {
                    self.fids.free(fid);
                }
            }
            Step::CreateWalk { open, fid, .. } => {
                self.clunk(0, open);
                if unsure {
                    self.clunk(0, fid);
                } else {
                    self.fids.free(fid);
                }
            }
            Step::CreateAttr { open, fid, .. } | Step::CreateOwn { open, fid, .. } => {
                self.clunk(0, open);
                self.clunk(0, fid);
            }
            Step::Own { fid }
            | Step::EntryAttr { fid }
            | Step::Create { fid, .. }
            | Step::Open { fid, .. }
            | Step::XattrRead { fid, .. }
            | Step::XattrCreate { fid, .. }
            | Step::XattrWrite { fid } => self.clunk(0, fid),
            Step::Clunk { fid } => self.fids.free(fid),
            // The request that it was for has its own reply.
            Step::Flush { .. } => return,
            _ => {}
        }
        self.fail(unique, errno);
    }

    fn succeeded(&mut self, unique: u64, step: Step, reply: &Reply<'_>, message: &Bytes) {
        match (step, *reply) {
            (
                Step::Version {
                    kernel_flags,
                    minor,
                    readahead,
                },
                Reply::Version { msize, version },
            ) => {
                let msize = msize.min(self.options.msize);
                self.payload = msize.saturating_sub(IO_HEADER) / PAGE * PAGE;
                if self.payload == 0 || version.bytes() != crate::msg::VERSION {
                    return self.fail(unique, Errno::EPROTO);
                }
                let uname = std::mem::take(&mut self.options.uname);
                let request = Request::Attach {
                    fid: ROOT_FID,
                    afid: NO_FID,
                    uname: Str::new(&uname).unwrap_or_default(),
                    aname: Str::default(),
                    n_uname: NO_ID,
                };
                let step = Step::Attach {
                    kernel_flags,
                    minor,
                    readahead,
                };
                self.send(unique, step, &request);
            }
            (
                Step::Attach {
                    kernel_flags,
                    minor,
                    readahead,
                },
                Reply::Attach { .. },
            ) => {
                self.nodes.set_root(ROOT_FID);
                self.initialized(unique, kernel_flags, minor, readahead);
            }
            (Step::Walk { fid, owner }, Reply::Walk { .. }) => match owner {
                None => self.entry_attr(unique, fid),
                Some(owner) => self.own(unique, Step::Own { fid }, fid, owner),
            },
            (Step::Own { fid }, Reply::Setattr {}) => self.entry_attr(unique, fid),
            (Step::EntryAttr { fid }, Reply::Getattr { attr }) => {
                let node = self.enter(fid, attr);
                let ttl = self.ttl();
                self.answer(unique, |out| out.entry_out(node, &attr, ttl));
            }
            (
                Step::Make { dir, name, owner },
                Reply::Mkdir { .. } | Reply::Mknod { .. } | Reply::Symlink { .. } | Reply::Link {},
            ) => {
                let walked = match self.node(dir).map(|dir| dir.fid) {
                    Ok(dir) => self.walk(unique, dir, &name, owner),
                    Err(errno) => Err(errno),
                };
                if let Err(errno) = walked {
                    self.fail(unique, errno);
                }
            }
            (
                Step::CreateClone {
                    dir,
                    name: called,
                    fid,
                    flags,
                    mode,
                    gid,
                    owner,
                },
                Reply::Walk { .. },
            ) => {
                let step = Step::Create {
                    dir,
                    name: called.clone(),
                    fid,
                    owner,
                };
                match name(&called) {
                    Ok(name) => {
                        let request = Request::Lcreate {
                            fid,
                            name,
                            flags,
                            mode,
                            gid,
                        };
                        self.send(unique, step, &request);
                    }
                    Err(errno) => self.failed(unique, step, errno, false),
                }
            }
            (
                Step::Create {
                    dir,
                    name: called,
                    fid: open,
                    owner,
                },
                Reply::Lcreate { qid, .. },
            ) => {
                let (Ok(name), Ok(dir)) = (name(&called), self.node(dir).map(|dir| dir.fid)) else {
                    self.clunk(0, open);
                    return self.fail(unique, Errno::ESTALE);
                };
                let fid = self.fids.take();
                let path = qid.path;
                let mut names = crate::wire::WalkVec::default();
                names.push(name);
                let request = Request::Walk {
                    fid: dir,
                    newfid: fid,
                    names,
                };
                let step = Step::CreateWalk {
                    open,
                    fid,
                    path,
                    owner,
                };
                self.send(unique, step, &request);
            }
            (
                Step::CreateWalk {
                    open,
                    fid,
                    path,
                    owner,
                },
                Reply::Walk { .. },
            ) => match owner {
                None => self.create_attr(unique, open, fid, path),
                Some(owner) => self.own(unique, Step::CreateOwn { open, fid, path }, fid, owner),
            },
            (Step::CreateOwn { open, fid, path }, Reply::Setattr {}) => {
                self.create_attr(unique, open, fid, path);
            }
            (Step::CreateAttr { open, fid, path }, Reply::Getattr { attr }) => {
                if attr.qid.path != path {
                    // Somebody has put another file in its place. The kernel looks the name up again.
                    self.clunk(0, open);
                    self.clunk(0, fid);
                    return self.fail(unique, Errno::ESTALE);
                }
                let node = self.enter(fid, attr);
                let (ttl, flags) = (self.ttl(), self.open_flags);
                self.answer(unique, |out| {
                    out.entry_out(node, &attr, ttl);
                    out.open_out(open.into(), flags);
                });
            }
            (Step::Getattr { node }, Reply::Getattr { attr }) => {
                self.nodes.update(node, attr);
                let ttl = self.ttl();
                self.answer(unique, |out| out.attr_out(&attr, ttl));
            }
            (Step::Setattr { node }, Reply::Setattr {}) => {
                match self.node(node).map(|node| node.fid) {
                    Ok(fid) => self.getattr(unique, node, fid),
                    Err(errno) => self.fail(unique, errno),
                }
            }
            (Step::OpenClone { fid, flags, is_dir }, Reply::Walk { .. }) => {
                let step = Step::Open { fid, is_dir };
                self.send(unique, step, &Request::Lopen { fid, flags });
            }
            (Step::Open { fid, is_dir }, Reply::Lopen { .. }) => {
                let flags = if is_dir { 0 } else { self.open_flags };
                self.answer(unique, |out| out.open_out(fid.into(), flags));
            }
            (
                Step::Read {
                    node,
                    fid,
                    offset,
                    size,
                    mut got,
                },
                Reply::Read { data: Data(data) },
            ) => {
                let so_far = got.len() + data.len();
                let end = offset.saturating_add(u64::try_from(so_far).unwrap_or(u64::MAX));
                // A server may return less. What the kernel gets less of is the end of the file to it.
                let known = self.nodes.get(node).map_or(0, |node| node.attr.size);
                let is_all = data.is_empty() || end >= known;
                if got.is_empty() && (is_all || so_far >= usize::try_from(size).unwrap_or(0)) {
                    let most = usize::try_from(size).unwrap_or(usize::MAX).min(data.len());
                    let data = data.get(..most).unwrap_or_default();
                    return self.answer_data(unique, message.slice_ref(data));
                }
                let missing = usize::try_from(size)
                    .unwrap_or(usize::MAX)
                    .saturating_sub(got.len());
                got.extend_from_slice(data.get(..missing.min(data.len())).unwrap_or_default());
                if is_all || got.len() >= usize::try_from(size).unwrap_or(usize::MAX) {
                    return self.answer_data(unique, got.freeze());
                }
                self.read(unique, node, fid, offset, size, got);
            }
            (Step::Write, Reply::Write { count }) => self.answer(unique, |out| {
                out.u32(count);
                out.u32(0);
            }),
            (Step::Readdir { max }, Reply::Readdir { data: Data(data) }) => {
                self.listing(unique, data, max);
            }
            (Step::Readlink, Reply::Readlink { target }) => {
                self.answer_data(unique, message.slice_ref(target.bytes()));
            }
            (Step::Statfs, Reply::Statfs { stat }) => {
                self.answer(unique, |out| out.statfs_out(&stat));
            }
            (Step::Done, Reply::Unlinkat {} | Reply::Renameat {} | Reply::Fsync {}) => {
                self.answer(unique, |_| {});
            }
            (Step::Clunk { fid }, Reply::Clunk {}) => {
                self.fids.free(fid);
                self.answer(unique, |_| {});
            }
            (Step::XattrWalk { fid, size }, Reply::Xattrwalk { size: length }) => {
                let length = u32::try_from(length).unwrap_or(u32::MAX);
                if size == 0 || length > size || length == 0 {
                    self.clunk(0, fid);
                    return match (size, length) {
                        (0, length) => self.answer(unique, |out| {
                            out.u32(length);
                            out.u32(0);
                        }),
                        (_, 0) => self.answer(unique, |_| {}),
                        _ => self.fail(unique, Errno::ERANGE),
                    };
                }
                self.read_xattr(unique, fid, length, bytes::BytesMut::new());
            }
            (
                Step::XattrRead {
                    fid,
                    length,
                    mut got,
                },
                Reply::Read { data: Data(data) },
            ) => {
                got.extend_from_slice(data);
                let all = usize::try_from(length).unwrap_or(usize::MAX);
                if got.len() < all && !data.is_empty() {
                    return self.read_xattr(unique, fid, length, got);
                }
                self.clunk(0, fid);
                got.truncate(all);
                self.answer_data(unique, got.freeze());
            }
            (
                Step::XattrClone {
                    fid,
                    name,
                    value,
                    flags,
                },
                Reply::Walk { .. },
            ) => {
                let size = u64::try_from(value.len()).unwrap_or(u64::MAX);
                let step = Step::XattrCreate { fid, value };
                match Str::new(&name) {
                    Some(name) => {
                        let request = Request::Xattrcreate {
                            fid,
                            name,
                            size,
                            flags,
                        };
                        self.send(unique, step, &request);
                    }
                    None => self.failed(unique, step, Errno::ERANGE, false),
                }
            }
            // The clunk sets or removes the attribute.
            (Step::XattrCreate { fid, value }, Reply::Xattrcreate {}) if value.is_empty() => {
                self.clunk(unique, fid);
            }
            (Step::XattrCreate { fid, value }, Reply::Xattrcreate {}) => {
                let data = Data(&value);
                let request = Request::Write {
                    fid,
                    offset: 0,
                    data,
                };
                self.send(unique, Step::XattrWrite { fid }, &request);
            }
            (Step::XattrWrite { fid }, Reply::Write { .. }) => self.clunk(unique, fid),
            (Step::Lock { lock, waits }, Reply::Lock { status }) => {
                self.locked(unique, lock, waits, status);
            }
            (Step::Getlock, Reply::Getlock { lock, .. }) => self.answer(unique, |out| {
                out.u64(lock.start);
                let end = match lock.length {
                    0 => i64::MAX.unsigned_abs(),
                    length => lock.start.saturating_add(length - 1),
                };
                out.u64(end);
                out.u32(lock.kind.into());
                out.u32(lock.proc_id);
            }),
            (Step::Flush { of, tag, sequence }, Reply::Flush {}) => self.flushed(of, tag, sequence),
            // Not what was asked for.
            (step, _) => self.failed(unique, step, Errno::EIO, true),
        }
    }

    fn initialized(&mut self, unique: u64, kernel_flags: u64, minor: u32, readahead: u32) {
        let mut wanted = abi::ASYNC_READ
            | abi::POSIX_LOCKS
            | abi::FLOCK_LOCKS
            | abi::ATOMIC_O_TRUNC
            | abi::BIG_WRITES
            | abi::AUTO_INVAL_DATA
            | abi::ASYNC_DIO
            | abi::PARALLEL_DIROPS
            | abi::MAX_PAGES
            | abi::INIT_EXT;
        let (mut flags, direct) = (abi::FOPEN_DIRECT_IO, abi::DIRECT_IO_ALLOW_MMAP);
        if self.options.pages {
            // Reads and writes come here, and mapped pages are kept. Kernels before 6.6 can't do both.
            flags = abi::FOPEN_KEEP_CACHE;
            if kernel_flags & direct != 0 {
                wanted |= direct;
                flags |= abi::FOPEN_DIRECT_IO;
            }
        }
        self.open_flags = flags;
        let agreed = wanted & kernel_flags;
        let low = |wide: u64| u32::try_from(wide & u64::from(u32::MAX)).unwrap_or_default();
        let payload = self.payload;
        self.answer(unique, |out| {
            // `fuse_init_out`: the last but one is the granularity of times in nanoseconds.
            out.u32(7);
            out.u32(minor.min(MINOR));
            out.u32(readahead);
            out.u32(low(agreed));
            out.u16(BACKGROUND);
            out.u16(BACKGROUND / 4 * 3);
            out.u32(payload);
            out.u32(1);
            out.u16(u16::try_from(payload / PAGE).unwrap_or(u16::MAX));
            out.u16(0);
            out.u32(low(agreed >> 32));
            out.bytes(&[0; 28]);
        });
    }

    /// The number of the file that has been found with this fid.
    fn enter(&mut self, fid: u32, attr: Attr) -> u64 {
        let (node, unneeded) = self.nodes.enter(fid, attr);
        if let Some(unneeded) = unneeded {
            self.clunk(0, unneeded);
        }
        node
    }

    fn entry_attr(&mut self, unique: u64, fid: u32) {
        let mask = Attr::ALL;
        let step = Step::EntryAttr { fid };
        self.send(unique, step, &Request::Getattr { fid, mask });
    }

    fn create_attr(&mut self, unique: u64, open: u32, fid: u32, path: u64) {
        let mask = Attr::ALL;
        let step = Step::CreateAttr { open, fid, path };
        self.send(unique, step, &Request::Getattr { fid, mask });
    }

    /// Gives a new file to who has made it.
    fn own(&mut self, unique: u64, step: Step, fid: u32, (uid, gid): (u32, u32)) {
        let attr = SetAttr {
            valid: SetAttr::UID | SetAttr::GID,
            uid,
            gid,
            ..SetAttr::default()
        };
        self.send(unique, step, &Request::Setattr { fid, attr });
    }

    fn read_xattr(&mut self, unique: u64, fid: u32, length: u32, got: bytes::BytesMut) {
        let offset = u64::try_from(got.len()).unwrap_or(u64::MAX);
        let count = length.saturating_sub(u32::try_from(got.len()).unwrap_or(u32::MAX));
        let step = Step::XattrRead { fid, length, got };
        self.send(unique, step, &Request::Read { fid, offset, count });
    }

    fn listing(&mut self, unique: u64, data: &[u8], max: usize) {
        let mut entries = BodyReader::new(data);
        let mut broken = false;
        let mut out = abi::Out::new(unique, 0);
        while !entries.is_empty() {
            let Ok(entry) = DirEntry::get(&mut entries) else {
                broken = true;
                break;
            };
            let name = entry.name.bytes();
            // The kernel would refuse the whole listing.
            if name.is_empty() || name.contains(&b'/') || name.len() > 1024 {
                continue;
            }
            let numbers = (entry.qid.path, entry.offset, entry.kind);
            if !out.dirent(numbers, name, max) {
                break;
            }
        }
        if broken && out.len() == 0 {
            return self.fail(unique, Errno::EIO);
        }
        let (head, data) = (out.finish(0), Bytes::new());
        self.replies.push(super::FuseReply { head, data });
    }

    fn locked(&mut self, unique: u64, lock: LockRequest, waits: bool, status: u8) {
        const BLOCKED: u8 = LockStatus::Blocked as u8;
        match status {
            0 => self.answer(unique, |_| {}),
            BLOCKED if waits => {
                let step = Step::Lock { lock, waits };
                self.blocked.push(Op { unique, step });
            }
            BLOCKED => self.fail(unique, Errno::EAGAIN),
            _ if lock.kind == Flock::UNLOCK => self.fail(unique, Errno::EIO),
            _ => self.fail(unique, Errno::ENOLCK),
        }
    }

    /// The server will not answer the request any more that had this tag, unless it has already.
    fn flushed(&mut self, of: u64, tag: u16, flushed: u64) {
        let place = self.pending.get_mut(usize::from(tag));
        let is_it = |pending: &mut Pending| pending.sequence == flushed;
        match place.and_then(|place| place.take_if(is_it)) {
            Some(Pending { op, .. }) => {
                self.free_tags.push(tag);
                self.failed(op.unique, op.step, Errno::EINTR, true);
            }
            // Meanwhile the operation has come to its next request, or to its end.
            None => self.interrupt(of),
        }
    }
}
