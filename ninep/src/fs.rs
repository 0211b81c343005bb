//! The contract between the engine and the file system that it serves.
//!
//! The engine handles fids, tags and messages; a [`FileSystem`] handles files. This page is all that is needed
//! to write one:
//!
//! * Every method may be called from several threads at once, in any order, even for the same node or file. A
//!   method may block: other requests are served as long as there are threads.
//! * Names are not empty, contain neither `/` nor NUL, and are never `.` or `..`. Any other byte may occur.
//! * Nothing else is checked: a peer may open a symbolic link, create in a file, read a directory, and pass any
//!   flags, sizes and offsets. Refuse with the errno that Linux would give.
//! * Never report success for an operation that did not happen. The errno is `EOPNOTSUPP` for an operation that
//!   does not exist.
//! * A [`Node`](FileSystem::Node) or [`File`](FileSystem::File) stays usable after the file has been renamed or
//!   removed, no matter by whom. It is dropped with the last fid on it; when the drop returns, whatever it held
//!   (descriptors, locks) must have been released.
//! * Never trust the peer: nothing outside the attached tree may become reachable.

use std::sync::Arc;

use crate::errno::Errno;
use crate::msg::{Attr, DirEntry, Flock, Qid, SetAttr, Statfs};
use crate::wire::{Frame, Wire};

/// Flags of an open. The values are those of Linux on x86 on every machine (`P9_DOTL_*` of
/// `include/net/9p/9p.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenFlags(pub u32);

#[expect(missing_docs, reason = "those of open(2)")]
impl OpenFlags {
    pub const ACCESS: u32 = 0o3;
    pub const RDONLY: u32 = 0;
    pub const WRONLY: u32 = 0o1;
    pub const RDWR: u32 = 0o2;
    pub const CREAT: u32 = 0o100;
    pub const EXCL: u32 = 0o200;
    pub const TRUNC: u32 = 0o1000;
    pub const APPEND: u32 = 0o2000;
    pub const DSYNC: u32 = 0o10000;
    pub const DIRECTORY: u32 = 0o200_000;
    pub const NOFOLLOW: u32 = 0o400_000;
    pub const NOATIME: u32 = 0o1_000_000;
    pub const SYNC: u32 = 0o4_000_000;

    /// Whether any of `bits` is set.
    pub fn has(self, bits: u32) -> bool {
        self.0 & bits != 0
    }

    /// `RDONLY`, `WRONLY` or `RDWR`; 3 is no access mode of a file.
    pub fn access(self) -> u32 {
        self.0 & Self::ACCESS
    }
}

/// Who attaches, and to what.
#[derive(Debug, Clone, Copy)]
pub struct Attach<'a> {
    /// The user's name, often empty.
    pub uname: &'a [u8],
    /// Which tree; empty if there is only one.
    pub aname: &'a [u8],
    /// The user's number on the peer, or [`crate::msg::NO_ID`].
    pub n_uname: u32,
}

/// The owner of a lock in the sense of POSIX: locks of one owner never conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockOwner<'a> {
    /// The machine.
    pub client_id: &'a [u8],
    /// The process on it.
    pub proc_id: u32,
}

/// The result of a lock request (`P9_LOCK_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum LockStatus {
    /// The lock was set or removed.
    Success = 0,
    /// Another owner holds it; a client that wants to wait asks again.
    Blocked = 1,
}

/// Collects the entries of one readdir, directly in the reply.
pub struct DirSink<'f> {
    frame: &'f mut Frame,
    end: usize,
}

impl<'f> DirSink<'f> {
    /// Appends at most `count` bytes to `frame`.
    pub(crate) fn new(frame: &'f mut Frame, count: usize) -> Self {
        let end = frame.len().saturating_add(count);
        Self { frame, end }
    }

    /// Bytes that still fit.
    pub fn available(&self) -> usize {
        self.end.saturating_sub(self.frame.len())
    }

    /// Appends an entry. Returns false and appends nothing if it does not fit.
    #[must_use]
    pub fn push(&mut self, entry: &DirEntry<'_>) -> bool {
        let fits = self.available() >= DirEntry::FIXED + entry.name.bytes().len();
        if fits {
            entry.put(self.frame);
        }
        fits
    }
}

/// What a listing tells of a file.
#[derive(Debug, Clone)]
pub struct ListedFile {
    /// lstat(2).
    pub attr: Attr,
    /// [`Watcher::covers`] for it, if it is not a directory; for a directory, whether nothing is mounted on it.
    pub is_in_place: bool,
    /// Whether it is known to have no extended attributes. Not told of a directory.
    pub lacks_xattrs: bool,
    /// What it leads to, if it is a symbolic link that may be read.
    pub target: Option<Vec<u8>>,
}

/// What of a directory the peer is about to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told<'a> {
    /// A name in it: which file that is, if any, and its attributes.
    Name(&'a [u8]),
    /// Its own attributes.
    Itself,
    /// Its names, and the attributes of their files.
    All,
}

/// A change of something of which the peer was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// One of the constants `FORGET_*` of [`crate::msg`].
    pub what: u8,
    /// The qid path of the directory.
    pub dir: u64,
    /// The name in it, or empty.
    pub name: Box<[u8]>,
    /// The path of the directory, for people.
    pub place: Arc<[u8]>,
}

/// Watches directories for one session, so that the peer may keep what it is told of them. Every change that is made after
/// [`Watcher::watch`] has returned is in the next [`Watcher::changes`] that begins after it.
pub trait Watcher<N>: Send + Sync {
    /// Watches a directory of which the peer is about to be told something. False if its changes cannot be watched.
    fn watch(&self, dir: &N, told: Told<'_>) -> bool;

    /// Whether changes of the attributes of `node`, which has only the name by which it was walked from `dir`, are reported
    /// as changes of that name.
    fn covers(&self, dir: &N, node: &N) -> bool;

    /// Whether `node`, which was walked from `dir`, may be read before the peer asks for it.
    fn may_fetch(&self, dir: &N, node: &N) -> bool;

    /// Passes the changes since the last call to `send`, if there are any. Another call waits until this one has returned.
    fn changes(&self, send: &mut dyn FnMut(&[Change]));

    /// Waits until there may be changes. False after [`Watcher::close`].
    fn wait(&self) -> bool;

    /// Ends the session.
    fn close(&self);
}

/// A result of the file system.
pub type Result<T> = std::result::Result<T, Errno>;

/// A tree of files. The rules for every method are at the top of this module. Default implementations refuse
/// with `EOPNOTSUPP`.
#[expect(
    unused_variables,
    reason = "the defaults refuse whatever they are given"
)]
pub trait FileSystem: Sync {
    /// A file that a fid refers to, open or not. Clones are cheap and refer to the same file.
    type Node: Clone + Send + Sync;
    /// An open file or directory.
    type File: Send + Sync;

    /// The root of the tree that `who` asks for. No later request may reach anything above it.
    fn attach(&self, who: &Attach<'_>) -> Result<(Self::Node, Qid)>;

    /// The file called `name` in `dir`. A symbolic link is not followed.
    fn walk(&self, dir: &Self::Node, name: &[u8]) -> Result<(Self::Node, Qid)>;

    /// [`walk`](FileSystem::walk) and [`getattr`](FileSystem::getattr) of all attributes in one call.
    fn walk_getattr(&self, dir: &Self::Node, name: &[u8]) -> Result<(Self::Node, Attr)> {
        let (node, _) = self.walk(dir, name)?;
        let attr = self.getattr(&node, Attr::ALL)?;
        Ok((node, attr))
    }

    /// The directory in which `node` was reached; that of the root is the root.
    fn parent(&self, node: &Self::Node) -> Result<(Self::Node, Qid)>;

    /// stat(2). `mask` tells which attributes are asked for (`P9_STATS_*`); the result may hold more.
    fn getattr(&self, node: &Self::Node, mask: u64) -> Result<Attr>;

    /// Changes the attributes named in `attr.valid` and no others. `file` is the fid's open file, if there is one:
    /// as with ftruncate(2), the size can be set through it even if the permissions no longer allow an open.
    fn setattr(&self, node: &Self::Node, file: Option<&Self::File>, attr: &SetAttr) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// statfs(2) of the file system that holds `node`.
    fn statfs(&self, node: &Self::Node) -> Result<Statfs> {
        Err(Errno::EOPNOTSUPP)
    }

    /// The target of a symbolic link, unchanged.
    fn readlink(&self, node: &Self::Node) -> Result<Vec<u8>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Opens for I/O. The qid is that of the file after the open, with a fresh version.
    fn open(&self, node: &Self::Node, flags: OpenFlags) -> Result<(Self::File, Qid)>;

    /// Creates a regular file in `dir`, or opens an existing one unless `EXCL` is set: open(2) with `CREAT`. The
    /// umask of the peer's process has been applied to `mode`.
    fn create(
        &self,
        dir: &Self::Node,
        name: &[u8],
        flags: OpenFlags,
        mode: u32,
        gid: u32,
    ) -> Result<(Self::Node, Self::File, Qid)> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Reads at `offset` into `buf`; returns the number of bytes read, 0 at the end of the file. The previous
    /// contents of `buf` mean nothing.
    fn read(&self, file: &Self::File, offset: u64, buf: &mut [u8]) -> Result<usize>;

    /// Writes at `offset`, or at the end of a file opened with `APPEND`; returns the number of bytes written.
    fn write(&self, file: &Self::File, offset: u64, data: &[u8]) -> Result<usize> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Pushes entries to `sink` until it is full. The first is the one after the entry whose [`DirEntry::offset`]
    /// was `offset`; 0 starts again from the beginning. No entry means the end of the directory. An entry that
    /// exists throughout is returned exactly once. `EINVAL` if not even one fits.
    fn readdir(
        &self,
        node: &Self::Node,
        file: &Self::File,
        offset: u64,
        sink: &mut DirSink<'_>,
    ) -> Result<()>;

    /// fsync(2), or with `datasync` fdatasync(2).
    fn fsync(&self, file: &Self::File, datasync: bool) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Sets or removes a record lock, without waiting. A lock lasts until its owner removes it, or until the last
    /// fid through which the owner has locked the file is dropped.
    fn lock(
        &self,
        node: &Self::Node,
        file: &Self::File,
        owner: LockOwner<'_>,
        lock: &Flock,
    ) -> Result<LockStatus> {
        Err(Errno::EOPNOTSUPP)
    }

    /// The first lock that conflicts with `lock`, or `lock` itself as [`Flock::UNLOCK`] if there is none.
    fn getlock(
        &self,
        node: &Self::Node,
        file: &Self::File,
        owner: LockOwner<'_>,
        lock: &Flock,
    ) -> Result<Flock> {
        Err(Errno::EOPNOTSUPP)
    }

    /// mkdir(2).
    fn mkdir(&self, dir: &Self::Node, name: &[u8], mode: u32, gid: u32) -> Result<Qid> {
        Err(Errno::EOPNOTSUPP)
    }

    /// symlink(2).
    fn symlink(&self, dir: &Self::Node, name: &[u8], target: &[u8], gid: u32) -> Result<Qid> {
        Err(Errno::EOPNOTSUPP)
    }

    /// mknod(2). `mode` includes the file type; `device` is major and minor.
    fn mknod(
        &self,
        dir: &Self::Node,
        name: &[u8],
        mode: u32,
        device: (u32, u32),
        gid: u32,
    ) -> Result<Qid> {
        Err(Errno::EOPNOTSUPP)
    }

    /// A hard link to `node`.
    fn link(&self, dir: &Self::Node, name: &[u8], node: &Self::Node) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// rename(2) by names.
    fn renameat(
        &self,
        olddir: &Self::Node,
        oldname: &[u8],
        newdir: &Self::Node,
        newname: &[u8],
    ) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// rename(2) of the name by which `node` was reached; returns the node under its new name.
    fn rename(&self, node: &Self::Node, dir: &Self::Node, name: &[u8]) -> Result<Self::Node> {
        Err(Errno::EOPNOTSUPP)
    }

    /// unlink(2), or rmdir(2) if `directory`.
    fn unlinkat(&self, dir: &Self::Node, name: &[u8], directory: bool) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Removes the name by which `node` was reached, if it still refers to that file.
    fn remove(&self, node: &Self::Node) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// The value of an extended attribute. Without a name: the names of all, each followed by NUL.
    fn xattr(&self, node: &Self::Node, name: Option<&[u8]>) -> Result<Vec<u8>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// setxattr(2), or without a value removexattr(2). `flags` are `XATTR_CREATE` (1) and `XATTR_REPLACE` (2).
    fn set_xattr(
        &self,
        node: &Self::Node,
        name: &[u8],
        value: Option<&[u8]>,
        flags: u32,
    ) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// What is told of `name` in a listing of `dir`, without following a mount. Only with `detailed`, more than attributes.
    fn listed(&self, dir: &Self::Node, name: &[u8], detailed: bool) -> Result<ListedFile> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Watches directories for a new session; `None` if changes cannot be reported.
    fn watcher(&self) -> Option<Arc<dyn Watcher<Self::Node>>> {
        None
    }

    /// The path from the root by which `node` was reached, beginning with `/`. Only for display.
    fn path(&self, node: &Self::Node) -> Vec<u8>;
}
