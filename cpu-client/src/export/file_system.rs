//! Carries out the requests of the peer by system calls.

use std::ffi::CString;
use std::sync::Arc;

use ninep::errno::Errno;
use ninep::fs::{
    Attach, DirSink, FileSystem, ListedFile, LockOwner, LockStatus, OpenFlags, Result, Watcher,
};
use ninep::msg::{Attr, DirEntry, Flock, Qid, SetAttr, Statfs};
use ninep::wire::Str;
use rustix::fs::{AtFlags, FileType, OFlags};
use rustix::io::Errno as Os;

use super::node::Node;
use super::{Caching, Export, File, FileState, dir, inode, os, stat};

impl FileSystem for Export {
    type Node = Node;
    type File = File;

    fn attach(&self, who: &Attach<'_>) -> Result<(Node, Qid)> {
        let mut node = self.root.of_user(who.n_uname);
        for name in who.aname.split(|b| *b == b'/') {
            match name {
                b"" => {}
                b"." | b".." => return Err(Errno::ENOENT),
                name => node = self.step(&node, name).map_err(os)?.0,
            }
        }
        let stat = stat::stat(node.fd()).map_err(os)?;
        let qid = self.qid(&node, &stat);
        Ok((node, qid))
    }

    fn walk(&self, dir: &Node, name: &[u8]) -> Result<(Node, Qid)> {
        let (node, stat) = self.step(dir, name).map_err(os)?;
        let qid = self.qid(&node, &stat);
        Ok((node, qid))
    }

    fn walk_getattr(&self, dir: &Node, name: &[u8]) -> Result<(Node, Attr)> {
        let (node, stat) = self.step(dir, name).map_err(os)?;
        let attr = self.attr(&node, &stat);
        Ok((node, attr))
    }

    fn parent(&self, node: &Node) -> Result<(Node, Qid)> {
        if node.kind() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let up = match node.up() {
            Some(up) => up.clone(),
            None => self.root.of_user(node.user()),
        };
        let stat = stat::stat(up.fd()).map_err(os)?;
        let qid = self.qid(&up, &stat);
        Ok((up, qid))
    }

    fn getattr(&self, node: &Node, _mask: u64) -> Result<Attr> {
        let stat = stat::stat(node.fd()).map_err(os)?;
        Ok(self.attr(node, &stat))
    }

    fn setattr(&self, node: &Node, file: Option<&File>, attr: &SetAttr) -> Result<()> {
        self.check_change(node)?;
        self.change(node, file, attr)
    }

    fn statfs(&self, node: &Node) -> Result<Statfs> {
        stat::statfs(node.fd()).map_err(os)
    }

    fn readlink(&self, node: &Node) -> Result<Vec<u8>> {
        if node.kind() != FileType::Symlink {
            return Err(Errno::EINVAL);
        }
        // ls(1) asks for every link. What one of something hidden says is no secret, and what it leads to is hidden too.
        if node.access().is_outside() || self.is_empty(node) {
            return Err(Errno::EACCES);
        }
        let target = rustix::fs::readlinkat(node.fd(), c"", Vec::new()).map_err(os)?;
        Ok(target.into_bytes())
    }

    fn open(&self, node: &Node, flags: OpenFlags) -> Result<(File, Qid)> {
        self.check_open(node)?;
        let changes = flags.access() != OpenFlags::RDONLY || flags.has(OpenFlags::TRUNC);
        if changes && node.kind() == FileType::RegularFile {
            self.check_change(node)?;
        }
        let file = match node.kind() {
            FileType::Directory if self.is_empty(node) => File {
                fd: node.shared_fd(),
                state: FileState::Empty,
            },
            FileType::RegularFile if flags.has(OpenFlags::DIRECTORY) => return Err(Errno::ENOTDIR),
            FileType::RegularFile => {
                let fd = self
                    .reopen(node, oflags(flags, self.caching)?)
                    .map_err(os)?;
                let file = File::regular(fd.into());
                if flags.has(OpenFlags::TRUNC) {
                    self.truncate(node, Some(&file), 0)?;
                }
                file
            }
            FileType::Directory if changes => return Err(Errno::EISDIR),
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                File {
                    fd: self.reopen(node, flags).map_err(os)?.into(),
                    state: FileState::Directory(dir::DirStream::new(self.cookies.clone())),
                }
            }
            FileType::Symlink => return Err(Errno::ELOOP),
            // Pipes, sockets and devices are opened by the peer's own kernel.
            _ => return Err(Errno::ENXIO),
        };
        let qid = self.open_qid(node, &file)?;
        Ok((file, qid))
    }

    fn create(
        &self,
        dir: &Node,
        name: &[u8],
        flags: OpenFlags,
        mode: u32,
        gid: u32,
    ) -> Result<(Node, File, Qid)> {
        if let Err(refused) = self.check_entry(dir, name) {
            // Opening an existing file changes no entry.
            let (node, _) = self.step(dir, name).map_err(|_| refused)?;
            if flags.has(OpenFlags::EXCL) {
                return Err(Errno::EEXIST);
            }
            let (file, qid) = self.open(&node, flags)?;
            return Ok((node, file, qid));
        }
        // An existing file may be a pipe or a device, so it must not be opened by name. Either the file is new, or it is
        // walked to. It may be removed in between, hence the loop.
        for _ in 0..8 {
            let flags_new =
                oflags(flags, self.caching)? | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            let mode = stat::mode(mode);
            match Self::make(dir, gid, || {
                rustix::fs::openat(dir.fd(), name, flags_new, mode)
            }) {
                Ok(fd) => {
                    let fd = Arc::new(fd);
                    let stat = stat::stat(&fd).map_err(os)?;
                    let node = dir.child(name, fd.clone(), &stat, &self.policy);
                    let file = File::regular(fd);
                    let qid = self.open_qid(&node, &file)?;
                    return Ok((node, file, qid));
                }
                Err(Os::EXIST) if !flags.has(OpenFlags::EXCL) => {}
                Err(errno) => return Err(os(errno)),
            }
            match self.step(dir, name) {
                Ok((node, _)) => {
                    let (file, qid) = self.open(&node, flags)?;
                    return Ok((node, file, qid));
                }
                Err(Os::NOENT) => {}
                Err(errno) => return Err(os(errno)),
            }
        }
        Err(Errno::EAGAIN)
    }

    fn read(&self, file: &File, offset: u64, buf: &mut [u8]) -> Result<usize> {
        rustix::io::pread(&file.fd, buf, offset).map_err(os)
    }

    fn write(&self, file: &File, offset: u64, data: &[u8]) -> Result<usize> {
        rustix::io::pwrite(&file.fd, data, offset).map_err(os)
    }

    fn readdir(&self, node: &Node, file: &File, offset: u64, sink: &mut DirSink<'_>) -> Result<()> {
        let stream = match &file.state {
            FileState::Directory(stream) => stream,
            FileState::Empty => return self.read_empty(node, offset, sink),
            FileState::Regular(_) => return Err(Errno::ENOTDIR),
        };
        let share = |of: &Node| {
            let place = || of.place_of_device();
            self.devices.share(of.id().device, place)
        };
        // The peer must not see the parent of the root.
        let up = node.up().unwrap_or(&self.root);
        let (up, here) = (inode::number(share(up), up.id().inode), share(node));
        stream.read(&file.fd, offset, sink, |name, inode| {
            stat::path(match name {
                b".." => up,
                _ => inode::number(here, inode),
            })
        })
    }

    fn fsync(&self, file: &File, datasync: bool) -> Result<()> {
        if datasync {
            rustix::fs::fdatasync(&file.fd).map_err(os)
        } else {
            rustix::fs::fsync(&file.fd).map_err(os)
        }
    }

    fn lock(
        &self,
        node: &Node,
        file: &File,
        owner: LockOwner<'_>,
        lock: &Flock,
    ) -> Result<LockStatus> {
        self.set_lock(node, file, owner, lock)
    }

    fn getlock(
        &self,
        node: &Node,
        file: &File,
        owner: LockOwner<'_>,
        lock: &Flock,
    ) -> Result<Flock> {
        self.find_lock(node, file, owner, lock)
    }

    fn mkdir(&self, dir: &Node, name: &[u8], mode: u32, gid: u32) -> Result<Qid> {
        self.check_mkdir(dir, name)?;
        Self::make(dir, gid, || {
            rustix::fs::mkdirat(dir.fd(), name, stat::mode(mode))
        })
        .map_err(os)?;
        self.made(dir, name)
    }

    fn symlink(&self, dir: &Node, name: &[u8], target: &[u8], gid: u32) -> Result<Qid> {
        self.check_entry(dir, name)?;
        Self::make(dir, gid, || rustix::fs::symlinkat(target, dir.fd(), name)).map_err(os)?;
        self.made(dir, name)
    }

    fn mknod(
        &self,
        dir: &Node,
        name: &[u8],
        mode: u32,
        (major, minor): (u32, u32),
        gid: u32,
    ) -> Result<Qid> {
        self.check_entry(dir, name)?;
        let kind = FileType::from_raw_mode(mode);
        let device = rustix::fs::makedev(major, minor);
        Self::make(dir, gid, || {
            rustix::fs::mknodat(dir.fd(), name, kind, stat::mode(mode), device)
        })
        .map_err(os)?;
        self.made(dir, name)
    }

    fn link(&self, dir: &Node, name: &[u8], node: &Node) -> Result<()> {
        self.check_change(node)?;
        node.access().check_move()?;
        self.check_entry(dir, name)?;
        if let Some(proc) = &self.proc {
            let flags = AtFlags::SYMLINK_FOLLOW;
            return rustix::fs::linkat(proc, node.number(), dir.fd(), name, flags).map_err(os);
        }
        let (up, old) = node.place().map_err(os)?;
        rustix::fs::linkat(up.fd(), old, dir.fd(), name, AtFlags::empty()).map_err(os)
    }

    fn renameat(&self, olddir: &Node, oldname: &[u8], newdir: &Node, newname: &[u8]) -> Result<()> {
        self.check_rename(olddir, oldname)?;
        self.check_rename(newdir, newname)?;
        rustix::fs::renameat(olddir.fd(), oldname, newdir.fd(), newname).map_err(os)
    }

    fn rename(&self, node: &Node, dir: &Node, name: &[u8]) -> Result<Node> {
        let (up, old) = node.place().map_err(os)?;
        dir.has_room().map_err(os)?;
        self.check_rename(up, old)?;
        self.check_rename(dir, name)?;
        rustix::fs::renameat(up.fd(), old, dir.fd(), name).map_err(os)?;
        Ok(node.moved(dir, name, self.policy.child(dir.access(), name)))
    }

    fn unlinkat(&self, dir: &Node, name: &[u8], directory: bool) -> Result<()> {
        self.check_rename(dir, name)?;
        rustix::fs::unlinkat(dir.fd(), name, removal(directory)).map_err(os)
    }

    fn remove(&self, node: &Node) -> Result<()> {
        let (up, name) = node.place().map_err(os)?;
        self.check_rename(up, name)?;
        let directory = node.kind() == FileType::Directory;
        rustix::fs::unlinkat(up.fd(), name, removal(directory)).map_err(os)
    }

    fn xattr(&self, node: &Node, name: Option<&[u8]>) -> Result<Vec<u8>> {
        // Nothing is reported: ls(1) asks for the attributes of every file.
        if node.access().is_hidden() || self.is_empty(node) {
            return name.map_or(Ok(Vec::new()), |_| Err(Errno::ENODATA));
        }
        self.get_xattr(node, name)
    }

    fn set_xattr(&self, node: &Node, name: &[u8], value: Option<&[u8]>, flags: u32) -> Result<()> {
        self.check_change(node)?;
        self.change_xattr(node, name, value, flags)
    }

    fn listed(&self, dir: &Node, name: &[u8], detailed: bool) -> Result<ListedFile> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = rustix::fs::statx(dir.fd(), name, flags, stat::WANTED).map_err(os)?;
        let mut listed = ListedFile {
            attr: self.attr(dir, &stat),
            is_in_place: stat::device(&stat) == dir.id().device && stat::is_in_place(&stat),
            lacks_xattrs: false,
            target: None,
        };
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        if detailed && listed.is_in_place && kind != FileType::Directory {
            let access = self.policy.found(dir.access(), name, &stat);
            listed.lacks_xattrs = access.is_hidden() || self.lacks_xattrs(dir, name);
            if kind == FileType::Symlink && !access.is_outside() {
                let target = rustix::fs::readlinkat(dir.fd(), name, Vec::new());
                listed.target = target.map(CString::into_bytes).ok();
            }
        }
        Ok(listed)
    }

    fn watcher(&self) -> Option<Arc<dyn Watcher<Node>>> {
        self.new_watcher()
    }

    fn path(&self, node: &Node) -> Vec<u8> {
        node.path()
    }
}

impl Export {
    /// Reads a directory as if it were empty.
    fn read_empty(&self, node: &Node, offset: u64, sink: &mut DirSink<'_>) -> Result<()> {
        let up = node.up().unwrap_or(&self.root);
        let entries = [(&b"."[..], node), (b"..", up)];
        for (number, (name, node)) in (1..).zip(entries).skip_while(|(n, _)| *n <= offset) {
            let stat = stat::stat(node.fd()).map_err(os)?;
            let entry = DirEntry {
                qid: self.qid(node, &stat),
                offset: number,
                kind: libc::DT_DIR,
                name: Str::new(name).ok_or(Errno::EIO)?,
            };
            if !sink.push(&entry) {
                break;
            }
        }
        Ok(())
    }
}

fn removal(directory: bool) -> AtFlags {
    if directory {
        AtFlags::REMOVEDIR
    } else {
        AtFlags::empty()
    }
}

/// Translates the flags of an open from the wire, where they have x86's numbers. Flags that only concern the peer's kernel
/// (`O_DIRECT`, `O_NONBLOCK`, `O_NOCTTY` and others) are dropped.
fn oflags(flags: OpenFlags, caching: Caching) -> Result<OFlags> {
    let mut to = match flags.access() {
        OpenFlags::RDONLY => OFlags::RDONLY,
        OpenFlags::WRONLY => OFlags::WRONLY,
        OpenFlags::RDWR => OFlags::RDWR,
        _ => return Err(Errno::EINVAL),
    };
    let mapped = to == OFlags::RDWR && caching == Caching::Mapped;
    if flags.has(OpenFlags::APPEND) && !mapped {
        to |= OFlags::APPEND;
    }
    for (bit, flag) in [
        // rustix's DSYNC has the value of O_SYNC.
        (
            OpenFlags::DSYNC,
            OFlags::from_bits_retain(libc::O_DSYNC.cast_unsigned()),
        ),
        (OpenFlags::SYNC, OFlags::SYNC),
        (OpenFlags::NOATIME, OFlags::NOATIME),
    ] {
        if flags.has(bit) {
            to |= flag;
        }
    }
    Ok(to | OFlags::CLOEXEC)
}
