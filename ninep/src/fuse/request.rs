//! What the kernel asks for, as the first request of 9P that it leads to.

use bytes::Bytes;

use super::abi::{self, Fields, IN_HEADER, InHeader, Opcode};
use super::nodes::Node;
use super::{FuseFront, LockHolder, LockRequest, Op, Pending, Step};
use crate::errno::Errno;
use crate::fs::OpenFlags;
use crate::msg::{Attr, Flock, NO_TAG, Request, SetAttr, VERSION};
use crate::wire::{Data, Name, Str, WalkVec};

/// `AT_REMOVEDIR` of an unlinkat.
const REMOVE_DIRECTORY: u32 = 0x200;
/// `P9_LOCK_FLAGS_BLOCK`.
const LOCK_WAITS: u32 = 1;
/// `FUSE_FSYNC_FDATASYNC`.
const DATA_ONLY: u32 = 1;
/// The set-group-ID bit.
const S_ISGID: u32 = 0o2000;
/// The end of a lock that goes on however far the file grows (`OFFSET_MAX`).
const TO_THE_END: u64 = i64::MAX as u64;

impl FuseFront {
    /// Takes one request, as one read(2) of /dev/fuse returns it.
    pub fn from_kernel(&mut self, request: &[u8]) {
        if request.len() < IN_HEADER {
            return;
        }
        let mut fields = Fields(request);
        let header = fields.header();
        self.is_kept = true;
        let Some(operation) = header.operation() else {
            // The kernel does without, and does not ask again.
            return self.refuse(header.unique, Errno::ENOSYS.raw());
        };
        if let Err(errno) = self.begin_operation(operation, &header, fields) {
            self.fail(header.unique, errno);
        }
    }

    fn begin_operation(
        &mut self,
        operation: Opcode,
        header: &InHeader,
        mut fields: Fields<'_>,
    ) -> Result<(), Errno> {
        let unique = header.unique;
        match operation {
            Opcode::Init => self.initialize(unique, fields),
            Opcode::Destroy => {}
            Opcode::Interrupt => self.interrupt(fields.u64()),
            Opcode::Forget => self.forget(header.node, fields.u64()),
            Opcode::BatchForget => {
                let count = fields.u32();
                fields.u32();
                for _ in 0..count {
                    if fields.0.is_empty() {
                        break;
                    }
                    let (node, lookups) = (fields.u64(), fields.u64());
                    self.forget(node, lookups);
                }
            }
            Opcode::Lookup => {
                let dir = self.node(header.node)?.fid;
                self.walk(unique, dir, fields.string(), None)?;
            }
            Opcode::Getattr => {
                let (flags, _) = (fields.u32(), fields.u32());
                let handle = (flags & 1 != 0).then(|| fields.u64());
                let fid = self.fid(header.node, handle)?;
                self.getattr(unique, header.node, fid);
            }
            Opcode::Setattr => self.setattr(header, fields)?,
            Opcode::Readlink => {
                let fid = self.node(header.node)?.fid;
                self.send(unique, Step::Readlink, &Request::Readlink { fid });
            }
            Opcode::Symlink | Opcode::Mknod | Opcode::Mkdir | Opcode::Link => {
                self.make(operation, header, fields)?;
            }
            Opcode::Create => self.create(header, fields)?,
            Opcode::Unlink | Opcode::Rmdir => {
                let request = Request::Unlinkat {
                    dfid: self.node(header.node)?.fid,
                    name: name(fields.string())?,
                    flags: match operation {
                        Opcode::Rmdir => REMOVE_DIRECTORY,
                        _ => 0,
                    },
                };
                self.send(unique, Step::Done, &request);
            }
            Opcode::Rename | Opcode::Rename2 => {
                let newdir = fields.u64();
                if operation == Opcode::Rename2 {
                    let flags = fields.u32();
                    fields.u32();
                    if flags != 0 {
                        return Err(Errno::EINVAL);
                    }
                }
                let request = Request::Renameat {
                    olddirfid: self.node(header.node)?.fid,
                    oldname: name(fields.string())?,
                    newdirfid: self.node(newdir)?.fid,
                    newname: name(fields.string())?,
                };
                self.send(unique, Step::Done, &request);
            }
            Opcode::Open | Opcode::Opendir => {
                let is_dir = operation == Opcode::Opendir;
                let flags = open_flags(fields.u32(), is_dir);
                let (from, fid) = (self.node(header.node)?.fid, self.fids.take());
                let step = Step::OpenClone { fid, flags, is_dir };
                self.send(unique, step, &clone(from, fid));
            }
            Opcode::Read => {
                let (fid, offset) = (handle(fields.u64())?, fields.u64());
                let size = fields.u32().min(self.payload);
                let (node, got) = (header.node, Default::default());
                self.read(unique, node, fid, offset, size, got);
            }
            Opcode::Write => self.write(unique, fields)?,
            Opcode::Readdir => {
                let (fid, offset) = (handle(fields.u64())?, fields.u64());
                let size = fields.u32().min(self.payload);
                // An entry takes 24 bytes and its name in 9P, and here up to 7 more.
                let count = size / 32 * 25;
                let max = usize::try_from(size).unwrap_or(usize::MAX);
                let request = Request::Readdir { fid, offset, count };
                self.send(unique, Step::Readdir { max }, &request);
            }
            Opcode::Statfs => {
                let fid = self.node(header.node)?.fid;
                self.send(unique, Step::Statfs, &Request::Statfs { fid });
            }
            Opcode::Release | Opcode::Releasedir => {
                let fid = handle(fields.u64())?;
                let _flags = fields.u64();
                self.take_holder(header.node, fields.u64());
                self.clunk(unique, fid);
            }
            Opcode::Flush => {
                let (fid, _) = (handle(fields.u64())?, fields.u64());
                match self.take_holder(header.node, fields.u64()) {
                    None => self.answer(unique, |_| {}),
                    Some(holder) => self.unlock_all(unique, fid, holder),
                }
            }
            Opcode::Fsync | Opcode::Fsyncdir => {
                let fid = handle(fields.u64())?;
                let datasync = fields.u32() & DATA_ONLY;
                self.send(unique, Step::Done, &Request::Fsync { fid, datasync });
            }
            Opcode::Getxattr | Opcode::Listxattr => {
                let size = fields.u32();
                fields.u32();
                let name = match operation {
                    Opcode::Getxattr => fields.string(),
                    _ => b"",
                };
                let (fid, newfid) = (self.node(header.node)?.fid, self.fids.take());
                let name = Str::new(name).ok_or(Errno::ERANGE)?;
                let step = Step::XattrWalk { fid: newfid, size };
                self.send(unique, step, &Request::Xattrwalk { fid, newfid, name });
            }
            Opcode::Setxattr | Opcode::Removexattr => {
                const REPLACE: u32 = 2;
                let (size, flags) = match operation {
                    Opcode::Setxattr => (fields.u32(), fields.u32()),
                    _ => (0, REPLACE),
                };
                let name = fields.string().into();
                let value = fields.take(usize::try_from(size).unwrap_or(usize::MAX));
                let (from, fid) = (self.node(header.node)?.fid, self.fids.take());
                let step = Step::XattrClone {
                    fid,
                    name,
                    value: Bytes::copy_from_slice(value),
                    flags,
                };
                self.send(unique, step, &clone(from, fid));
            }
            Opcode::Getlk => {
                let lock = lock_request(fields)?;
                let request = Request::Getlock {
                    fid: lock.fid,
                    lock: Flock {
                        kind: lock.kind,
                        start: lock.start,
                        length: lock.length,
                        proc_id: lock.holder.proc_id,
                    },
                    client_id: Str::default(),
                };
                self.send(unique, Step::Getlock, &request);
            }
            Opcode::Setlk | Opcode::Setlkw => {
                let mut lock = lock_request(fields)?;
                let holders = self.lock_holders.entry(header.node).or_default();
                let known = holders.iter().find(|held| held.owner == lock.holder.owner);
                match known {
                    // The kernel names no process when it unlocks.
                    Some(held) => lock.holder = *held,
                    None if lock.kind == Flock::UNLOCK => {
                        self.answer(unique, |_| {});
                        return Ok(());
                    }
                    None => holders.push(lock.holder),
                }
                self.send_lock(unique, lock, operation == Opcode::Setlkw);
            }
        }
        Ok(())
    }

    fn initialize(&mut self, unique: u64, mut fields: Fields<'_>) {
        let (major, minor) = (fields.u32(), fields.u32());
        let (readahead, low) = (fields.u32(), fields.u32());
        let high = fields.u32();
        // 7.23 is that of Linux 3.15; the replies have their present size since then.
        if major != 7 || minor < 23 {
            return self.fail(unique, Errno::EPROTO);
        }
        let mut kernel_flags = u64::from(low);
        if kernel_flags & abi::INIT_EXT != 0 {
            kernel_flags |= u64::from(high) << 32;
        }
        let step = Step::Version {
            kernel_flags,
            minor,
            readahead,
        };
        let request = Request::Version {
            msize: self.options.msize,
            version: Str::new(VERSION).unwrap_or_default(),
        };
        request.encode(NO_TAG, &mut self.frame);
        let message = Bytes::copy_from_slice(self.frame.finish());
        self.requests.push(message);
        self.init = Some(Op { unique, step });
    }

    pub(super) fn node(&self, number: u64) -> Result<&Node, Errno> {
        self.nodes.get(number).ok_or(Errno::ESTALE)
    }

    /// The fid of an open file, or else of the file itself.
    fn fid(&self, node: u64, open: Option<u64>) -> Result<u32, Errno> {
        match open {
            Some(open) => handle(open),
            None => Ok(self.node(node)?.fid),
        }
    }

    fn forget(&mut self, node: u64, lookups: u64) {
        if let Some(fid) = self.nodes.forget(node, lookups) {
            self.lock_holders.remove(&node);
            self.clunk(0, fid);
        }
    }

    /// Looks a name up, which may be that of a file that has just been made.
    pub(super) fn walk(
        &mut self,
        unique: u64,
        dir: u32,
        called: &[u8],
        owner: Option<(u32, u32)>,
    ) -> Result<(), Errno> {
        let mut names = WalkVec::default();
        names.push(name(called)?);
        let newfid = self.fids.take();
        let request = Request::Walk {
            fid: dir,
            newfid,
            names,
        };
        self.send(unique, Step::Walk { fid: newfid, owner }, &request);
        Ok(())
    }

    pub(super) fn getattr(&mut self, unique: u64, node: u64, fid: u32) {
        let request = Request::Getattr {
            fid,
            mask: Attr::ALL,
        };
        self.send(unique, Step::Getattr { node }, &request);
    }

    fn setattr(&mut self, header: &InHeader, mut fields: Fields<'_>) -> Result<(), Errno> {
        let (which, _) = (fields.u32(), fields.u32());
        let (open, size) = (fields.u64(), fields.u64());
        let _lock_owner = fields.u64();
        let (atime, mtime, _ctime) = (fields.u64(), fields.u64(), fields.u64());
        let (atime_nsec, mtime_nsec, _) = (fields.u32(), fields.u32(), fields.u32());
        let (mode, _) = (fields.u32(), fields.u32());
        let (uid, gid) = (fields.u32(), fields.u32());
        let mut valid = which & abi::FATTR_COMMON;
        for (given, now, set) in [
            (SetAttr::ATIME, abi::FATTR_ATIME_NOW, SetAttr::ATIME_SET),
            (SetAttr::MTIME, abi::FATTR_MTIME_NOW, SetAttr::MTIME_SET),
        ] {
            if valid & given != 0 && which & now == 0 {
                valid |= set;
            }
        }
        if which & abi::FATTR_CTIME != 0 {
            valid |= SetAttr::CTIME;
        }
        let open = (which & abi::FATTR_FH != 0).then_some(open);
        let request = Request::Setattr {
            fid: self.fid(header.node, open)?,
            attr: SetAttr {
                valid,
                mode: mode & 0o7777,
                uid,
                gid,
                size,
                atime: abi::time(atime, atime_nsec),
                mtime: abi::time(mtime, mtime_nsec),
            },
        };
        let node = header.node;
        self.send(header.unique, Step::Setattr { node }, &request);
        Ok(())
    }

    /// The group of a new file in a directory, and to whom it is given afterwards.
    fn new_owner(&self, header: &InHeader) -> Result<(u32, Option<(u32, u32)>), Errno> {
        let dir = &self.node(header.node)?.attr;
        let gid = match dir.mode & S_ISGID {
            0 => header.gid,
            _ => dir.gid,
        };
        let owner = self.options.own && header.uid != 0;
        Ok((gid, owner.then_some((header.uid, gid))))
    }

    fn make(
        &mut self,
        operation: Opcode,
        header: &InHeader,
        mut fields: Fields<'_>,
    ) -> Result<(), Errno> {
        let dfid = self.node(header.node)?.fid;
        let (gid, owner) = self.new_owner(header)?;
        let step = |name: Name<'_>, owner| Step::Make {
            dir: header.node,
            name: name.bytes().into(),
            owner,
        };
        let (step, request) = match operation {
            Opcode::Mkdir => {
                let (mode, _umask) = (fields.u32(), fields.u32());
                let name = name(fields.string())?;
                let request = Request::Mkdir {
                    dfid,
                    name,
                    mode,
                    gid,
                };
                (step(name, owner), request)
            }
            Opcode::Mknod => {
                let (mode, device) = (fields.u32(), fields.u32());
                let (_umask, _) = (fields.u32(), fields.u32());
                let name = name(fields.string())?;
                // `new_decode_dev` of the kernel.
                let major = (device & 0xf_ff00) >> 8;
                let minor = (device & 0xff) | ((device >> 12) & 0xf_ff00);
                let request = Request::Mknod {
                    dfid,
                    name,
                    mode,
                    major,
                    minor,
                    gid,
                };
                (step(name, owner), request)
            }
            Opcode::Link => {
                let from = fields.u64();
                let fid = self.node(from)?.fid;
                let name = name(fields.string())?;
                (step(name, None), Request::Link { dfid, fid, name })
            }
            _ => {
                let name = name(fields.string())?;
                let target = Str::new(fields.string()).ok_or(Errno::ENAMETOOLONG)?;
                let request = Request::Symlink {
                    dfid,
                    name,
                    target,
                    gid,
                };
                (step(name, owner), request)
            }
        };
        self.send(header.unique, step, &request);
        Ok(())
    }

    fn create(&mut self, header: &InHeader, mut fields: Fields<'_>) -> Result<(), Errno> {
        let (flags, mode) = (fields.u32(), fields.u32());
        let (_umask, _) = (fields.u32(), fields.u32());
        let (gid, owner) = self.new_owner(header)?;
        let (from, fid) = (self.node(header.node)?.fid, self.fids.take());
        let step = Step::CreateClone {
            dir: header.node,
            name: fields.string().into(),
            fid,
            flags: open_flags(flags, false) | flags & (OpenFlags::CREAT | OpenFlags::EXCL),
            mode,
            gid,
            owner,
        };
        self.send(header.unique, step, &clone(from, fid));
        Ok(())
    }

    /// Asks for the rest of a read.
    pub(super) fn read(
        &mut self,
        unique: u64,
        node: u64,
        fid: u32,
        offset: u64,
        size: u32,
        got: bytes::BytesMut,
    ) {
        let done = u32::try_from(got.len()).unwrap_or(u32::MAX);
        let request = Request::Read {
            fid,
            offset: offset.saturating_add(done.into()),
            count: size.saturating_sub(done),
        };
        let step = Step::Read {
            node,
            fid,
            offset,
            size,
            got,
        };
        self.send(unique, step, &request);
    }

    fn write(&mut self, unique: u64, mut fields: Fields<'_>) -> Result<(), Errno> {
        let (fid, offset, size) = (handle(fields.u64())?, fields.u64(), fields.u32());
        // Flags and a lock owner.
        fields.take(20);
        let size = usize::try_from(size.min(self.payload)).unwrap_or(usize::MAX);
        let data = Bytes::copy_from_slice(fields.take(size));
        let step = Step::Write;
        if let Some(tag) = self.begin(Op { unique, step }) {
            // The data is not copied once more.
            let empty = Data(&[]);
            let request = Request::Write {
                fid,
                offset,
                data: empty,
            };
            request.encode(tag, &mut self.frame);
            let count = u32::try_from(data.len()).unwrap_or(u32::MAX);
            let head = self.frame.len();
            self.frame.patch(head - size_of::<u32>(), count);
            let mut message = self.frame.finish().to_vec();
            if let Some(length) = message.first_chunk_mut() {
                let head = u32::try_from(head).unwrap_or(u32::MAX);
                *length = head.saturating_add(count).to_le_bytes();
            }
            self.requests.extend([message.into(), data]);
        }
        Ok(())
    }

    /// Removes an owner of locks of a file.
    fn take_holder(&mut self, node: u64, owner: u64) -> Option<LockHolder> {
        let holders = self.lock_holders.get_mut(&node)?;
        let at = holders.iter().position(|held| held.owner == owner)?;
        let holder = holders.swap_remove(at);
        if holders.is_empty() {
            self.lock_holders.remove(&node);
        }
        Some(holder)
    }

    /// Removes the locks of who has closed a descriptor of the file, perhaps one of several.
    fn unlock_all(&mut self, unique: u64, fid: u32, holder: LockHolder) {
        let (kind, start, length) = (Flock::UNLOCK, 0, 0);
        let lock = LockRequest {
            fid,
            kind,
            start,
            length,
            holder,
        };
        self.send_lock(unique, lock, false);
    }

    pub(super) fn send_lock(&mut self, unique: u64, lock: LockRequest, waits: bool) {
        let request = Request::Lock {
            fid: lock.fid,
            kind: lock.kind,
            flags: if waits { LOCK_WAITS } else { 0 },
            start: lock.start,
            length: lock.length,
            proc_id: lock.holder.proc_id,
            client_id: Str::default(),
        };
        self.send(unique, Step::Lock { lock, waits }, &request);
    }

    /// A signal interrupts a request: flushes what it waits for.
    pub(super) fn interrupt(&mut self, unique: u64) {
        let blocked = self.blocked.iter().position(|op| op.unique == unique);
        if let Some(at) = blocked {
            self.blocked.swap_remove(at);
            return self.fail(unique, Errno::EINTR);
        }
        let mut all = self.pending.iter().zip(0..);
        let found = all.find_map(|(pending, tag)| match pending {
            Some(Pending { op, sequence, .. }) if op.unique == unique => Some((tag, *sequence)),
            _ => None,
        });
        if let Some((tag, sequence)) = found {
            let step = Step::Flush {
                of: unique,
                tag,
                sequence,
            };
            self.send(0, step, &Request::Flush { oldtag: tag });
        }
    }
}

/// A walk of no names: the same file with another fid.
pub(super) fn clone(fid: u32, newfid: u32) -> Request<'static> {
    let names = WalkVec::default();
    Request::Walk { fid, newfid, names }
}

/// The fid that a number of an open file is.
fn handle(number: u64) -> Result<u32, Errno> {
    u32::try_from(number).map_err(|_| Errno::EBADF)
}

pub(super) fn name(bytes: &[u8]) -> Result<Name<'_>, Errno> {
    Name::new(bytes).ok_or(Errno::EINVAL)
}

/// The lock that a request is about.
fn lock_request(mut fields: Fields<'_>) -> Result<LockRequest, Errno> {
    let (fid, owner) = (handle(fields.u64())?, fields.u64());
    let (start, end) = (fields.u64(), fields.u64());
    let (kind, proc_id) = (fields.u32(), fields.u32());
    Ok(LockRequest {
        fid,
        // F_RDLCK, F_WRLCK and F_UNLCK are 0, 1 and 2 in 9P too.
        kind: u8::try_from(kind).map_err(|_| Errno::EINVAL)?,
        start,
        length: match end {
            TO_THE_END.. => 0,
            end => end.saturating_sub(start).saturating_add(1),
        },
        holder: LockHolder { owner, proc_id },
    })
}

/// The flags of an open that mean something to the server.
fn open_flags(flags: u32, is_dir: bool) -> u32 {
    const PASSED: u32 = OpenFlags::ACCESS
        | OpenFlags::TRUNC
        | OpenFlags::APPEND
        | OpenFlags::DSYNC
        | OpenFlags::SYNC
        | OpenFlags::NOATIME;
    let directory = if is_dir { OpenFlags::DIRECTORY } else { 0 };
    flags & PASSED | directory
}
