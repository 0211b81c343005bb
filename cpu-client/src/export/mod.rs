//! A directory of this machine, served as a 9P file system.
//!
//! Nothing outside the directory can be named, whatever the peer sends and whoever moves what
//! meanwhile: a fid is a descriptor, a walk is one `openat(O_PATH|O_NOFOLLOW)` of one name
//! beneath it, `..` is the directory that it was walked from, and symbolic links are handed out,
//! never followed. No path of the tree is resolved here; a descriptor is opened again by its number beneath
//! `/proc/self/fd`.
//!
//! | room | what for |
//! |---|---|
//! | [`node`] | descriptors: walking, opening again, paths for people |
//! | [`stat`], [`setattr`] | attributes both ways, qids |
//! | [`inode`], [`mounts`] | inode numbers, of the devices in the tree |
//! | [`dir`], [`marks`] | directories read as a stream, and where their entries are |
//! | [`lock`] | record locks that exclude everyone else |
//! | [`owner`] | who owns what, here and for the peer; whose new files are |
//! | [`xattr`] | extended attributes |
//! | [`process`] | limits and umask, set once for the whole process |
//!
//! The server has the user's rights and no others. Owners and groups that the peer names for
//! new files are ignored unless the user is root, as for any process: a new file is the user's,
//! its group is what the directory says. getattr tells so, in the peer's numbers ([`IdMap`]).

mod dir;
mod inode;
mod lock;
mod marks;
mod mounts;
mod node;
mod owner;
mod process;
mod setattr;
mod stat;
#[cfg(test)]
mod without_proc;
mod xattr;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ninep::errno::Errno;
use ninep::fs::{Attach, DirSink, FileSystem, LockOwner, LockStatus, OpenFlags, Result};
use ninep::msg::{Attr, Qid, Record, SetAttr, Statfs};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno as Os;

pub use node::Node;
pub use owner::IdMap;
pub use process::{Limits, prepare_process};

/// A directory that can be served to any number of sessions at once.
pub struct Export {
    root: Node,
    /// Whether what is mounted of proc(5) in it is shown.
    shows_processes: bool,
    devices: Arc<inode::Devices>,
    /// `/proc/self/fd`, where there is one: the way from an `O_PATH` descriptor to a real one.
    proc: Option<Arc<OwnedFd>>,
    locks: Arc<lock::Locks>,
    marks: marks::Total,
    caching: Caching,
    ids: IdMap,
}

/// What a peer's kernel keeps of the content of files. In each, every read(2) and write(2) comes here: the
/// qids of open files have version 0 (`v9fs_fid_add_modes` of Linux's `fs/9p/fid.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Caching {
    /// Pages while they are mapped. Linux writes them back through any fid that may write, also one
    /// opened to read and append (`v9fs_begin_writeback` in `fs/9p/vfs_addr.c`): appended, they would be there
    /// twice. So such a file is written where the peer says; it says where it thinks the end is.
    #[default]
    Mapped,
    /// Nothing: what is opened to append is appended to, wherever the end is by now.
    Never,
}

/// Why a directory can't be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The root.
    #[error("cannot open {path} to serve it: is it a directory that you may search?")]
    Root {
        /// As it was given.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
}

/// An open file or directory.
pub struct File {
    fd: Arc<OwnedFd>,
    kind: Kind,
}

enum Kind {
    Regular(lock::Held),
    Directory(dir::Stream),
}

fn os(errno: Os) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}

impl Export {
    /// Serves the directory `root` and what is beneath it, other file systems included.
    pub fn new(root: &Path) -> std::result::Result<Self, Error> {
        Self::with_home(root, Path::new("/"))
    }

    /// The same for a user whose home is `home` in that directory: what lies on the home's device has the inode numbers there that it
    /// has here, or git on either side would read again all that the other has in its index.
    pub fn with_home(root: &Path, home: &Path) -> std::result::Result<Self, Error> {
        let failed = |source: Os| Error::Root {
            path: root.to_owned(),
            source: source.into(),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(root, flags, Mode::empty()).map_err(failed)?;
        let stat = stat::stat(&fd).map_err(failed)?;
        let whole = rustix::fs::statx(rustix::fs::CWD, c"/", AtFlags::empty(), stat::WANTED);
        let whole = whole.map_err(failed)?;
        let device = stat::device(&stat);
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let inside = ResolveFlags::IN_ROOT;
        let home = rustix::fs::openat2(&fd, home, flags, Mode::empty(), inside);
        let home = home.and_then(stat::stat).map(|stat| stat::device(&stat));
        Ok(Self {
            shows_processes: stat::FileId::new(&whole) == stat::FileId::new(&stat)
                || node::is_of_proc(&fd),
            devices: Arc::new(inode::Devices::new(
                device,
                home.unwrap_or(device),
                mounts::mounted(root),
            )),
            root: Node::root(fd, &stat),
            proc: node::proc_fds().map(Arc::new),
            locks: Arc::default(),
            marks: marks::Total::default(),
            caching: Caching::default(),
            ids: IdMap::default(),
        })
    }

    /// The same directory with owners shown in other numbers.
    #[must_use]
    pub fn with_ids(self, ids: IdMap) -> Self {
        Self { ids, ..self }
    }

    /// The same directory for peers that may keep something else. An owner of locks is one in both.
    #[must_use]
    pub fn with_caching(&self, caching: Caching) -> Self {
        Self {
            root: self.root.clone(),
            proc: self.proc.clone(),
            locks: self.locks.clone(),
            marks: self.marks.clone(),
            devices: self.devices.clone(),
            caching,
            ..*self
        }
    }

    /// The qid of an open file: version 0 has the peer ask here each time.
    fn open_qid(&self, node: &Node, file: &File) -> Result<Qid> {
        let stat = stat::stat(&file.fd).map_err(os)?;
        let mut qid = self.qid(node, &stat);
        qid.version = 0;
        Ok(qid)
    }

    /// The qid of a file that is `node`, or is new in it.
    fn qid(&self, node: &Node, stat: &rustix::fs::Statx) -> Qid {
        let number = self
            .devices
            .number(stat::FileId::new(stat), || node.place_of_device());
        stat::qid(number, stat)
    }

    fn attr(&self, node: &Node, stat: &rustix::fs::Statx) -> Attr {
        let mut attr = stat::attr(self.qid(node, stat), node.size(stat), stat);
        self.ids.show(&mut attr);
        attr
    }

    /// The qid of what has just been made.
    fn made(&self, dir: &Node, name: &[u8]) -> Result<Qid> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat = rustix::fs::statx(dir.fd(), name, flags, stat::WANTED).map_err(os)?;
        Ok(self.qid(dir, &stat))
    }
}

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
        self.change(node, file, attr)
    }

    fn statfs(&self, node: &Node) -> Result<Statfs> {
        stat::statfs(node.fd()).map_err(os)
    }

    fn readlink(&self, node: &Node) -> Result<Vec<u8>> {
        if node.kind() != FileType::Symlink {
            return Err(Errno::EINVAL);
        }
        let target = rustix::fs::readlinkat(node.fd(), c"", Vec::new()).map_err(os)?;
        Ok(target.into_bytes())
    }

    fn open(&self, node: &Node, flags: OpenFlags) -> Result<(File, Qid)> {
        let file = match node.kind() {
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
            FileType::Directory
                if flags.access() != OpenFlags::RDONLY || flags.has(OpenFlags::TRUNC) =>
            {
                return Err(Errno::EISDIR);
            }
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                File {
                    fd: self.reopen(node, flags).map_err(os)?.into(),
                    kind: Kind::Directory(dir::Stream::new(self.marks.clone())),
                }
            }
            FileType::Symlink => return Err(Errno::ELOOP),
            // Pipes, sockets and devices belong to the peer's kernel.
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
        // What is there may be a pipe or a device, so it is never opened by name: either the
        // file is new, or it is walked to. Someone may remove it in between, hence the loop.
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
                    let node = dir.child(name, fd.clone(), &stat);
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
        let Kind::Directory(stream) = &file.kind else {
            return Err(Errno::ENOTDIR);
        };
        let share = |of: &Node| {
            let place = || of.place_of_device();
            self.devices.share(of.id().device, place)
        };
        // The root has no parent that the peer may know of.
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
        lock: &Record,
    ) -> Result<LockStatus> {
        self.set_lock(node, file, owner, lock)
    }

    fn getlock(
        &self,
        node: &Node,
        file: &File,
        owner: LockOwner<'_>,
        lock: &Record,
    ) -> Result<Record> {
        self.find_lock(node, file, owner, lock)
    }

    fn mkdir(&self, dir: &Node, name: &[u8], mode: u32, gid: u32) -> Result<Qid> {
        Self::make(dir, gid, || {
            rustix::fs::mkdirat(dir.fd(), name, stat::mode(mode))
        })
        .map_err(os)?;
        self.made(dir, name)
    }

    fn symlink(&self, dir: &Node, name: &[u8], target: &[u8], gid: u32) -> Result<Qid> {
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
        let kind = FileType::from_raw_mode(mode);
        let device = rustix::fs::makedev(major, minor);
        Self::make(dir, gid, || {
            rustix::fs::mknodat(dir.fd(), name, kind, stat::mode(mode), device)
        })
        .map_err(os)?;
        self.made(dir, name)
    }

    fn link(&self, dir: &Node, name: &[u8], node: &Node) -> Result<()> {
        if let Some(proc) = &self.proc {
            let flags = AtFlags::SYMLINK_FOLLOW;
            return rustix::fs::linkat(proc, node.number(), dir.fd(), name, flags).map_err(os);
        }
        let (up, old) = node.place().map_err(os)?;
        rustix::fs::linkat(up.fd(), old, dir.fd(), name, AtFlags::empty()).map_err(os)
    }

    fn renameat(&self, olddir: &Node, oldname: &[u8], newdir: &Node, newname: &[u8]) -> Result<()> {
        rustix::fs::renameat(olddir.fd(), oldname, newdir.fd(), newname).map_err(os)
    }

    fn rename(&self, node: &Node, dir: &Node, name: &[u8]) -> Result<Node> {
        let (up, old) = node.place().map_err(os)?;
        dir.has_room().map_err(os)?;
        rustix::fs::renameat(up.fd(), old, dir.fd(), name).map_err(os)?;
        Ok(node.moved(dir, name))
    }

    fn unlinkat(&self, dir: &Node, name: &[u8], directory: bool) -> Result<()> {
        rustix::fs::unlinkat(dir.fd(), name, removal(directory)).map_err(os)
    }

    fn remove(&self, node: &Node) -> Result<()> {
        let (up, name) = node.place().map_err(os)?;
        let directory = node.kind() == FileType::Directory;
        rustix::fs::unlinkat(up.fd(), name, removal(directory)).map_err(os)
    }

    fn xattr(&self, node: &Node, name: Option<&[u8]>) -> Result<Vec<u8>> {
        self.get_xattr(node, name)
    }

    fn set_xattr(&self, node: &Node, name: &[u8], value: Option<&[u8]>, flags: u32) -> Result<()> {
        self.change_xattr(node, name, value, flags)
    }

    fn path(&self, node: &Node) -> Vec<u8> {
        node.path()
    }
}

impl File {
    fn regular(fd: Arc<OwnedFd>) -> Self {
        Self {
            fd,
            kind: Kind::Regular(lock::Held::default()),
        }
    }
}

fn removal(directory: bool) -> AtFlags {
    if directory {
        AtFlags::REMOVEDIR
    } else {
        AtFlags::empty()
    }
}

/// The flags of the wire, which are x86's, as this machine's. What only the peer's kernel can do
/// (`O_DIRECT`, `O_NONBLOCK`, `O_NOCTTY` ...) is left to it.
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
        // rustix's DSYNC is O_SYNC.
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
