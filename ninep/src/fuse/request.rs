//! What the kernel asks for, as the first request of 9P that it leads to.

use bytes::{Bytes, BytesMut};

use super::abi::{self, Fields, IN_HEADER, InHeader, Opcode};
use super::nodes::{KernelNode, Location};
use super::{FuseFront, FuseStep, Op, Pending};
use crate::errno::Errno;
use crate::fs::OpenFlags;
use crate::msg::{Attr, Request, SetAttr};
use crate::wire::{Data, Name, Str, WalkVec};

/// `AT_REMOVEDIR` of an unlinkat.
const REMOVE_DIRECTORY: u32 = 0x200;
/// `NAME_MAX` of limits.h.
const MAX_NAME: usize = 255;
/// `FUSE_FSYNC_FDATASYNC`.
const DATA_ONLY: u32 = 1;

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
        let begun = match self.find_again(operation, &header, fields, request) {
            Ok(false) => self.begin_operation(operation, &header, fields),
            found => found.map(drop),
        };
        if let Err(errno) = begun {
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
                let (dir, name) = (header.node, fields.string().into());
                self.walk(unique, Location { dir, name }, None)?;
            }
            Opcode::Getattr => {
                let (flags, _) = (fields.u32(), fields.u32());
                let handle = (flags & 1 != 0).then(|| fields.u64());
                let fid = self.fid(header.node, handle)?;
                self.getattr(unique, header.node, fid);
            }
            Opcode::Setattr => self.setattr(header, fields)?,
            Opcode::Readlink => {
                let fid = self.node_fid(header.node)?;
                self.send(unique, FuseStep::Readlink, &Request::Readlink { fid });
            }
            Opcode::Symlink | Opcode::Mknod | Opcode::Mkdir | Opcode::Link => {
                self.make(operation, header, fields)?;
            }
            Opcode::Create => self.create(header, fields)?,
            Opcode::Unlink | Opcode::Rmdir => {
                let request = Request::Unlinkat {
                    dfid: self.node_fid(header.node)?,
                    name: name(fields.string())?,
                    flags: match operation {
                        Opcode::Rmdir => REMOVE_DIRECTORY,
                        _ => 0,
                    },
                };
                self.send(unique, FuseStep::Done, &request);
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
                let (old, new) = (fields.string(), fields.string());
                let request = Request::Renameat {
                    olddirfid: self.node_fid(header.node)?,
                    oldname: name(old)?,
                    newdirfid: self.node_fid(newdir)?,
                    newname: name(new)?,
                };
                let place = |dir, name: &[u8]| Location {
                    dir,
                    name: name.into(),
                };
                let (from, to) = (place(header.node, old), place(newdir, new));
                self.send(unique, FuseStep::Rename { from, to }, &request);
            }
            Opcode::Open | Opcode::Opendir => {
                let is_dir = operation == Opcode::Opendir;
                let flags = open_flags(fields.u32(), is_dir);
                let (from, fid) = (self.node_fid(header.node)?, self.fids.take());
                let step = FuseStep::OpenClone {
                    node: header.node,
                    fid,
                    flags,
                    is_dir,
                };
                self.send(unique, step, &clone(from, fid));
            }
            Opcode::Read => {
                let (fid, offset) = (handle(fields.u64())?, fields.u64());
                let size = fields.u32().min(self.payload);
                let (node, got) = (header.node, BytesMut::new());
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
                self.send(unique, FuseStep::Readdir { max }, &request);
            }
            Opcode::Statfs => {
                let fid = self.node_fid(header.node)?;
                self.send(unique, FuseStep::Statfs, &Request::Statfs { fid });
            }
            Opcode::Release | Opcode::Releasedir => {
                let fid = handle(fields.u64())?;
                self.count_open(header.node, false);
                self.release(unique, header.node, fid);
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
                self.send(unique, FuseStep::Done, &Request::Fsync { fid, datasync });
            }
            Opcode::Getxattr | Opcode::Listxattr => {
                let size = fields.u32();
                fields.u32();
                let name = match operation {
                    Opcode::Getxattr => fields.string(),
                    _ => b"",
                };
                let (fid, newfid) = (self.node_fid(header.node)?, self.fids.take());
                let name = Str::new(name).ok_or(Errno::ERANGE)?;
                let step = FuseStep::XattrWalk { fid: newfid, size };
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
                let (from, fid) = (self.node_fid(header.node)?, self.fids.take());
                let step = FuseStep::XattrClone {
                    fid,
                    name,
                    value: Bytes::copy_from_slice(value),
                    flags,
                };
                self.send(unique, step, &clone(from, fid));
            }
            Opcode::Getlk => self.getlk(unique, header.node, fields)?,
            Opcode::Setlk | Opcode::Setlkw => {
                let waits = operation == Opcode::Setlkw;
                self.setlk(unique, header.node, fields, waits)?;
            }
        }
        Ok(())
    }

    pub(super) fn node(&self, number: u64) -> Result<&KernelNode, Errno> {
        self.nodes.get(number).ok_or(Errno::ESTALE)
    }

    /// The fid of an open file, or else of the file itself.
    fn fid(&self, node: u64, open: Option<u64>) -> Result<u32, Errno> {
        match open {
            Some(open) => handle(open),
            None => self.node_fid(node),
        }
    }

    pub(super) fn node_fid(&self, number: u64) -> Result<u32, Errno> {
        self.node(number)?.fid.ok_or(Errno::ESTALE)
    }

    fn forget(&mut self, node: u64, lookups: u64) {
        if let Some(fid) = self.nodes.forget(node, lookups) {
            self.clunk(0, fid);
        }
        if self.nodes.get(node).is_none() {
            self.lock_holders.remove(&node);
        }
    }

    /// Looks a name up, which may be that of a file that has just been made.
    pub(super) fn walk(
        &mut self,
        unique: u64,
        place: Location,
        owner: Option<(u32, u32)>,
    ) -> Result<(), Errno> {
        let called = place.name.clone();
        let mut names = WalkVec::default();
        names.push(name(&called)?);
        let fid = self.node_fid(place.dir)?;
        let newfid = self.fids.take();
        let step = FuseStep::Walk {
            place,
            fid: newfid,
            owner,
        };
        self.send(unique, step, &Request::Walk { fid, newfid, names });
        Ok(())
    }

    pub(super) fn getattr(&mut self, unique: u64, node: u64, fid: u32) {
        let request = Request::Getattr {
            fid,
            mask: Attr::ALL,
        };
        self.send(unique, FuseStep::Getattr { node }, &request);
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
        let fid = self.fid(header.node, open)?;
        let request = Request::Setattr {
            fid,
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
        self.send(header.unique, FuseStep::Setattr { node, fid }, &request);
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
        got: BytesMut,
    ) {
        let done = u32::try_from(got.len()).unwrap_or(u32::MAX);
        let request = Request::Read {
            fid,
            offset: offset.saturating_add(done.into()),
            count: size.saturating_sub(done),
        };
        let step = FuseStep::Read {
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
        let step = FuseStep::Write;
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
            let step = FuseStep::Flush {
                of: unique,
                tag,
                sequence,
            };
            self.send(0, step, &Request::Flush { oldtag: tag });
        }
    }

    /// The server will not answer the request any more that had this tag, unless it has already.
    pub(super) fn flushed(&mut self, of: u64, tag: u16, flushed: u64) {
        let place = self.pending.get_mut(usize::from(tag));
        let is_it = |pending: &mut Pending| pending.sequence == flushed;
        match place.and_then(|place| place.take_if(is_it)) {
            Some(Pending { op, .. }) => {
                self.free_tags.push(tag);
                self.failed(op.unique, &op.step, Errno::EINTR, true);
            }
            // Meanwhile the operation has come to its next request, or to its end.
            None => self.interrupt(of),
        }
    }
}

/// A walk of no names: the same file with another fid.
pub(super) fn clone(fid: u32, newfid: u32) -> Request<'static> {
    let names = WalkVec::default();
    Request::Walk { fid, newfid, names }
}

/// The fid that a number of an open file is.
pub(super) fn handle(number: u64) -> Result<u32, Errno> {
    u32::try_from(number).map_err(|_| Errno::EBADF)
}

/// Linux's 9P client refuses long names itself, and so the relay answers for others only.
pub(super) fn name(bytes: &[u8]) -> Result<Name<'_>, Errno> {
    if bytes.len() > MAX_NAME {
        return Err(Errno::ENAMETOOLONG);
    }
    Name::new(bytes).ok_or(Errno::EINVAL)
}

/// The flags of an open that mean something to the server.
pub(super) fn open_flags(flags: u32, is_dir: bool) -> u32 {
    const PASSED: u32 = OpenFlags::ACCESS
        | OpenFlags::TRUNC
        | OpenFlags::APPEND
        | OpenFlags::DSYNC
        | OpenFlags::SYNC
        | OpenFlags::NOATIME;
    let directory = if is_dir { OpenFlags::DIRECTORY } else { 0 };
    flags & PASSED | directory
}
