//! The contract between the engine and what it serves.
//!
//! The engine knows of fids, tags and messages; a [`FileSystem`] knows of files. A backend can be
//! written from this page alone:
//!
//! * Every method may be called from several threads at once, also for the same node or file, and
//!   in any order. A method may block; others are served meanwhile while threads are left.
//! * Names come without `/` and NUL, not empty, never `.` or `..`; any other byte occurs.
//! * Nothing else is checked: a peer may open a symbolic link, create in a file, read a
//!   directory, pass any flags, sizes and offsets. Refuse with the errno Linux gives.
//! * Success is a promise: what was not done is an error, `EOPNOTSUPP` when it can't be done at all.
//! * A [`Node`](FileSystem::Node) or [`File`](FileSystem::File) stays usable after the file was
//!   renamed or removed, by whomever. When the last fid on it goes, it is dropped, and what it held
//!   (descriptors, locks) must be gone when the drop returns.
//! * The peer is never trusted: nothing outside the attached tree may become reachable.

use crate::errno::Errno;
use crate::msg::{Attr, DirEntry, Flock, Qid, SetAttr, Statfs};
use crate::wire::{Frame, Wire};

/// Flags of an open, with the values that Linux has on x86 whatever this machine is
/// (`P9_DOTL_*` of `include/net/9p/9p.h`).
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

    /// `RDONLY`, `WRONLY` or `RDWR`; 3 is not a mode that files have.
    pub fn access(self) -> u32 {
        self.0 & Self::ACCESS
    }
}

/// Who attaches, and to what.
#[derive(Debug, Clone, Copy)]
pub struct Attach<'a> {
    /// User's name, often empty.
    pub uname: &'a [u8],
    /// Which tree; empty for the only one.
    pub aname: &'a [u8],
    /// User's number there, [`crate::msg::NO_ID`] if it names none.
    pub n_uname: u32,
}

/// Who asks for a lock, as POSIX sees it: locks of one owner never conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockOwner<'a> {
    /// The machine.
    pub client_id: &'a [u8],
    /// The process on it.
    pub proc_id: u32,
}

/// What became of a lock request (`P9_LOCK_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum LockStatus {
    /// Done.
    Success = 0,
    /// Someone else has it; the client asks again if it wants to wait.
    Blocked = 1,
}

/// Takes the entries of one readdir, straight into the reply.
pub struct DirSink<'f> {
    frame: &'f mut Frame,
    end: usize,
}

impl<'f> DirSink<'f> {
    /// At most `count` bytes, appended to `frame`.
    pub(crate) fn new(frame: &'f mut Frame, count: usize) -> Self {
        let end = frame.len().saturating_add(count);
        Self { frame, end }
    }

    /// Bytes that still fit.
    pub fn room(&self) -> usize {
        self.end.saturating_sub(self.frame.len())
    }

    /// Appends an entry; false, and nothing appended, if it doesn't fit.
    #[must_use]
    pub fn push(&mut self, entry: &DirEntry<'_>) -> bool {
        let fits = self.room() >= DirEntry::FIXED + entry.name.bytes().len();
        if fits {
            entry.put(self.frame);
        }
        fits
    }
}

/// A result of the file system.
pub type Result<T> = std::result::Result<T, Errno>;

/// A tree of files. See the module for what holds for every method. What has a default refuses
/// with `EOPNOTSUPP`.
#[expect(
    unused_variables,
    reason = "the defaults refuse whatever they are given"
)]
pub trait FileSystem: Sync {
    /// Where a fid points: a file that is not (or not only) open. Clones are cheap and the same.
    type Node: Clone + Send + Sync;
    /// An open file or directory.
    type File: Send + Sync;

    /// The root of the tree `who` wants. Nothing above it is reachable, whatever follows.
    fn attach(&self, who: &Attach<'_>) -> Result<(Self::Node, Qid)>;

    /// `name` in `dir`; the last component is not followed if it is a symbolic link.
    fn walk(&self, dir: &Self::Node, name: &[u8]) -> Result<(Self::Node, Qid)>;

    /// [`walk`](FileSystem::walk) and [`getattr`](FileSystem::getattr) of all in one.
    fn walk_getattr(&self, dir: &Self::Node, name: &[u8]) -> Result<(Self::Node, Attr)> {
        let (node, _) = self.walk(dir, name)?;
        let attr = self.getattr(&node, Attr::ALL)?;
        Ok((node, attr))
    }

    /// The directory that `node` was reached by; the root's is the root.
    fn parent(&self, node: &Self::Node) -> Result<(Self::Node, Qid)>;

    /// stat(2). `mask` says what is wanted (`P9_STATS_*`); more may be given.
    fn getattr(&self, node: &Self::Node, mask: u64) -> Result<Attr>;

    /// Changes what `attr.valid` names and nothing else. `file` is the fid's open file, if it has
    /// one: a size can be set through it though the permissions have changed since.
    fn setattr(&self, node: &Self::Node, file: Option<&Self::File>, attr: &SetAttr) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// statfs(2) of the file system that holds `node`.
    fn statfs(&self, node: &Self::Node) -> Result<Statfs> {
        Err(Errno::EOPNOTSUPP)
    }

    /// The target of a symbolic link, as it is.
    fn readlink(&self, node: &Self::Node) -> Result<Vec<u8>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Opens for I/O. The qid is the file's after the open, with a fresh version.
    fn open(&self, node: &Self::Node, flags: OpenFlags) -> Result<(Self::File, Qid)>;

    /// Creates a regular file in `dir`, or unless `EXCL` opens what is there, as open(2) does with
    /// `CREAT`. `mode` has had the umask of the peer's process applied.
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

    /// Reads at `offset` into `buf`; returns the bytes read, 0 at the end. What `buf` holds
    /// before is of no meaning.
    fn read(&self, file: &Self::File, offset: u64, buf: &mut [u8]) -> Result<usize>;

    /// Writes at `offset`, or at the end of a file opened with `APPEND`; returns the bytes
    /// written.
    fn write(&self, file: &Self::File, offset: u64, data: &[u8]) -> Result<usize> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Gives entries into `sink` until it is full, beginning after the entry whose
    /// [`DirEntry::offset`] was `offset`, or afresh if 0. No entry given means the end. An entry
    /// that exists all the while is given exactly once. `EINVAL` if not even one fits.
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

    /// Sets or removes a record lock. Never waits. Locks go when their owner removes them, and when
    /// the last fid through which the owner locked the file is dropped.
    fn lock(
        &self,
        node: &Self::Node,
        file: &Self::File,
        owner: LockOwner<'_>,
        lock: &Flock,
    ) -> Result<LockStatus> {
        Err(Errno::EOPNOTSUPP)
    }

    /// The first lock that is in the way of `lock`, or `lock` itself as [`Flock::UNLOCK`].
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

    /// mknod(2); `mode` has the type. `device` is major and minor.
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

    /// rename(2) of the name that `node` was reached by; returns the node under its new name.
    fn rename(&self, node: &Self::Node, dir: &Self::Node, name: &[u8]) -> Result<Self::Node> {
        Err(Errno::EOPNOTSUPP)
    }

    /// unlink(2), or rmdir(2) if `directory`.
    fn unlinkat(&self, dir: &Self::Node, name: &[u8], directory: bool) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Removes the name that `node` was reached by, if it still is that file's.
    fn remove(&self, node: &Self::Node) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// The value of an extended attribute; without a name, all names, each ended by NUL.
    fn xattr(&self, node: &Self::Node, name: Option<&[u8]>) -> Result<Vec<u8>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// setxattr(2), or with no value removexattr(2). `flags` are `XATTR_CREATE` (1) and
    /// `XATTR_REPLACE` (2).
    fn set_xattr(
        &self,
        node: &Self::Node,
        name: &[u8],
        value: Option<&[u8]>,
        flags: u32,
    ) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Where `node` was reached, from the root, beginning with `/`: for people's eyes only.
    fn path(&self, node: &Self::Node) -> Vec<u8>;
}
