//! What a fid stands for: a descriptor, the directory from which it was walked, and its name there.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use ninep::msg::NO_ID;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, PROC_SUPER_MAGIC, Statx, StatxAttributes};
use rustix::io::{Errno, Result};
use rustix::path::DecInt;

use super::Export;
use super::kernel_fs;
use super::policy::{Access, Policy};
use super::stat::{self, FileId};

/// A file or directory of the export. Clones share the descriptor.
#[derive(Clone)]
pub struct Node(Arc<NodeInner>);

struct NodeInner {
    /// Opened with `O_PATH`, or the descriptor with which the file was created.
    fd: Arc<OwnedFd>,
    id: FileId,
    kind: FileType,
    /// How its file system differs from others.
    special: Special,
    /// Whether it is known not to be mounted on its name.
    is_in_place: bool,
    /// What the peer may do with it, and beneath it.
    access: Access,
    /// The peer's number of the user who attached; [`NO_ID`] if he named none.
    user: u32,
    /// The directory and the name in it; `None` at the root. Never changed, so that renames cannot make a cycle.
    up: Option<(Node, Box<[u8]>)>,
    /// The number of directories above.
    depth: u32,
}

/// The most directories above a file. A path has room for 2,048, but by renaming two directories in turn a peer could make
/// a chain of any length.
const MAX_DEPTH: u32 = 1 << 16;

/// How a file system differs from others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Special {
    No,
    /// autofs(5): file systems are mounted on its directories when they are used.
    Automount,
    /// proc(5), sysfs(5) and others that show this machine's kernel and processes ([`kernel_fs`]).
    Kernel,
    /// Such a file system whose files report one page as their size, though they are shorter.
    KernelPages,
}

/// From Linux's `magic.h`.
const AUTOFS_SUPER_MAGIC: i64 = 0x187;

impl Special {
    /// Determines this for a file. If its directory `up` is on the same file system, the result is the directory's.
    fn of(
        fd: &OwnedFd,
        stat: &Statx,
        up: Option<&Node>,
        devices: &kernel_fs::DevtmpfsDevices,
    ) -> Self {
        // The special ones have no block device.
        if stat.stx_dev_major != 0 {
            return Self::No;
        }
        if let Some(Node(up)) = up
            && up.id.device == stat::device(stat)
        {
            return up.special;
        }
        if devices.contains(stat::device(stat)) {
            return Self::Kernel;
        }
        // On a network file system this asks the server, and may fail.
        #[expect(clippy::useless_conversion, reason = "narrower on some architectures")]
        match rustix::fs::fstatfs(fd).map(|stat| i64::from(stat.f_type)) {
            Ok(AUTOFS_SUPER_MAGIC) => Self::Automount,
            Ok(kind) if kernel_fs::has_page_sizes(kind) => Self::KernelPages,
            Ok(kind) if kernel_fs::is_kernels(kind) => Self::Kernel,
            _ => Self::No,
        }
    }
}

/// Without recursion, since a chain of directories may be longer than the stack is deep.
impl Drop for NodeInner {
    fn drop(&mut self) {
        let mut up = self.up.take();
        while let Some((Node(place), _)) = up {
            up = Arc::into_inner(place).and_then(|mut place| place.up.take());
        }
    }
}

impl Node {
    fn new(
        fd: Arc<OwnedFd>,
        stat: &Statx,
        up: Option<(Node, Box<[u8]>)>,
        access: Access,
        devices: &kernel_fs::DevtmpfsDevices,
    ) -> Self {
        Self(Arc::new(NodeInner {
            user: up.as_ref().map_or(NO_ID, |(up, _)| up.user()),
            special: Special::of(&fd, stat, up.as_ref().map(|(up, _)| up), devices),
            is_in_place: stat::is_in_place(stat),
            access,
            fd,
            id: FileId::new(stat),
            kind: FileType::from_raw_mode(stat.stx_mode.into()),
            depth: up
                .as_ref()
                .map_or(0, |(up, _)| up.0.depth.saturating_add(1)),
            up,
        }))
    }

    pub(super) fn root(fd: OwnedFd, stat: &Statx, policy: &Policy) -> Self {
        Self::new(fd.into(), stat, None, policy.root(), policy.devices())
    }

    /// The file `name` in this directory, opened as `fd`.
    pub(super) fn child(
        &self,
        name: &[u8],
        fd: Arc<OwnedFd>,
        stat: &Statx,
        policy: &Policy,
    ) -> Self {
        let access = policy.found(&self.0.access, name, stat);
        let up = Some((self.clone(), name.into()));
        Self::new(fd, stat, up, access, policy.devices())
    }

    /// Walks to `name`. Symbolic links are not followed, but an autofs directory is mounted.
    fn step(&self, name: &[u8], policy: &Policy) -> Result<(Self, Statx)> {
        self.has_room()?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.fd(), name, flags, Mode::empty())?;
        let stat = stat::stat(&fd)?;
        let node = self.child(name, fd.into(), &stat, policy);
        let is_automount = stat.stx_attributes.contains(StatxAttributes::AUTOMOUNT);
        if is_automount || node.0.special == Special::Automount {
            // If mounting fails, the node is the directory itself, as with lstat(2).
            let flags = flags | OFlags::DIRECTORY;
            if let Ok(mounted) = rustix::fs::openat(self.fd(), name, flags, Mode::empty()) {
                let stat = stat::stat(&mounted)?;
                return Ok((self.child(name, mounted.into(), &stat, policy), stat));
            }
        }
        Ok((node, stat))
    }

    /// `ELOOP` if the tree may not become deeper here.
    pub(super) fn has_room(&self) -> Result<()> {
        if self.0.depth < MAX_DEPTH {
            Ok(())
        } else {
            Err(Errno::LOOP)
        }
    }

    /// The same file under another name, where the peer has this access to it.
    pub(super) fn moved(&self, dir: &Self, name: &[u8], access: Access) -> Self {
        Self(Arc::new(NodeInner {
            fd: self.0.fd.clone(),
            id: self.0.id,
            kind: self.0.kind,
            special: self.0.special,
            is_in_place: self.0.is_in_place,
            user: self.0.user,
            access,
            depth: dir.0.depth.saturating_add(1),
            up: Some((dir.clone(), name.into())),
        }))
    }

    /// The root for a user who attaches.
    pub(super) fn of_user(&self, user: u32) -> Self {
        Self(Arc::new(NodeInner {
            fd: self.0.fd.clone(),
            id: self.0.id,
            kind: self.0.kind,
            special: self.0.special,
            is_in_place: self.0.is_in_place,
            access: self.0.access.clone(),
            user,
            depth: 0,
            up: None,
        }))
    }

    /// The peer's number of the user who attached.
    pub(super) fn user(&self) -> u32 {
        self.0.user
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.0.fd)
    }

    pub(super) fn owned_fd(&self) -> &OwnedFd {
        &self.0.fd
    }

    pub(super) fn shared_fd(&self) -> Arc<OwnedFd> {
        self.0.fd.clone()
    }

    /// The root with other rules.
    pub(super) fn with_access(&self, access: Access) -> Self {
        Self(Arc::new(NodeInner {
            fd: self.0.fd.clone(),
            id: self.0.id,
            kind: self.0.kind,
            special: self.0.special,
            is_in_place: self.0.is_in_place,
            access,
            user: self.0.user,
            depth: 0,
            up: None,
        }))
    }

    /// The name of the descriptor in `/proc/self/fd`.
    pub(super) fn number(&self) -> DecInt {
        DecInt::from_fd(&self.0.fd)
    }

    /// What the peer may do with it.
    pub(super) fn access(&self) -> &Access {
        &self.0.access
    }

    /// Whether it shows this machine's kernel and processes.
    pub(super) fn is_of_kernel(&self) -> bool {
        matches!(self.0.special, Special::Kernel | Special::KernelPages)
    }

    /// Whether it is known not to be mounted on its name (Linux 5.8).
    pub(super) fn is_in_place(&self) -> bool {
        self.0.is_in_place
    }

    pub(super) fn id(&self) -> FileId {
        self.0.id
    }

    pub(super) fn kind(&self) -> FileType {
        self.0.kind
    }

    /// The size to report. If a read returns less than the reported size, the peer's kernel asks for the rest (6.12 for
    /// ever); files of size 0 it reads to their end, as in proc(5). So a size of one page that may be wrong is reported as
    /// 0. Larger sizes are right, such as those of firmware tables.
    pub(super) fn size(&self, stat: &Statx) -> u64 {
        let says_page = self.0.special == Special::KernelPages
            && self.0.kind == FileType::RegularFile
            && stat.stx_size <= stat.stx_blksize.into();
        if says_page { 0 } else { stat.stx_size }
    }

    /// The directory from which it was walked; `None` at the root.
    pub(super) fn up(&self) -> Option<&Self> {
        self.0.up.as_ref().map(|(up, _)| up)
    }

    /// The directory and the name, if it still is the name of this file; else `ESTALE`. `EBUSY` for the root.
    pub(super) fn place(&self) -> Result<(&Self, &[u8])> {
        let (up, name) = self.0.up.as_ref().ok_or(Errno::BUSY)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat = rustix::fs::statx(up.fd(), &**name, flags, stat::WANTED)?;
        if FileId::new(&stat) == self.0.id {
            Ok((up, name))
        } else {
            Err(Errno::STALE)
        }
    }

    /// The path where this file's device is mounted: that of the highest directory on it. A file counts as being on its
    /// directory's device, since files of an overlay may report devices that are mounted nowhere.
    pub(super) fn place_of_device(&self) -> Vec<u8> {
        let mut node = self;
        while let Some(up) = node.up()
            && (node.id().device == up.id().device || node.kind() != FileType::Directory)
        {
            node = up;
        }
        node.path()
    }

    /// The path by which it was walked, for people.
    pub(super) fn path(&self) -> Vec<u8> {
        let mut names = Vec::new();
        let mut node = self;
        while let Some((up, name)) = &node.0.up {
            names.push(&**name);
            node = up;
        }
        names.push(b"");
        names.reverse();
        if names.len() == 1 {
            names.push(b"");
        }
        names.join(&b'/')
    }
}

impl Export {
    /// Walks to `name`. A file system of the kernel is an empty directory, unless it is what is served.
    pub(super) fn step(&self, dir: &Node, name: &[u8]) -> Result<(Node, Statx)> {
        if self.is_empty(dir) {
            return Err(Errno::NOENT);
        }
        let (node, stat) = dir.step(name, &self.policy)?;
        if node.0.access.is_absent() {
            return Err(Errno::NOENT);
        }
        Ok((node, stat))
    }

    /// Whether a directory is shown without what is in it.
    pub(super) fn is_empty(&self, node: &Node) -> bool {
        node.is_of_kernel() && !self.shows_kernel
    }

    /// Opens the same file again. `flags` must neither create nor truncate.
    pub(super) fn reopen(&self, node: &Node, flags: OFlags) -> Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        if let Some(proc) = &self.proc {
            return rustix::fs::openat(proc, node.number(), flags, Mode::empty());
        }
        if node.kind() == FileType::Directory {
            return rustix::fs::openat(node.fd(), c".", flags, Mode::empty());
        }
        let (up, name) = node.place()?;
        // If the name is a pipe's by now, the open must not block.
        let careful = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let fd = rustix::fs::openat(up.fd(), name, careful, Mode::empty())?;
        if FileId::new(&stat::stat(&fd)?) == node.id() {
            Ok(fd)
        } else {
            Err(Errno::STALE)
        }
    }
}

/// `/proc/self/fd`, if `/proc` is a proc(5).
pub(super) fn proc_fds() -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(c"/proc/self/fd", flags, Mode::empty()).ok()?;
    is_of_proc(&fd).then_some(fd)
}

/// Whether a file is in a proc(5).
pub(super) fn is_of_proc(fd: &OwnedFd) -> bool {
    rustix::fs::fstatfs(fd).is_ok_and(|stat| stat.f_type == PROC_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_any_stack_is_dropped() {
        let fd = rustix::fs::open(c"/", OFlags::PATH, Mode::empty()).unwrap();
        let stat = stat::stat(&fd).unwrap();
        let policy = Policy::default();
        let mut node = Node::root(fd, &stat, &policy);
        for _ in 0..300_000 {
            node = node.child(b"d", node.0.fd.clone(), &stat, &policy);
        }
        drop(node);
    }

    #[test]
    fn what_cannot_be_examined_is_not_renamed_or_removed() {
        use super::super::{Rule, RuleKind};
        use ninep::fs::FileSystem;
        let directory = tempfile::tempdir().unwrap();
        let other = directory.path().join("other");
        std::fs::write(directory.path().join("key"), "key").unwrap();
        std::fs::hard_link(directory.path().join("key"), &other).unwrap();
        let rule = Rule {
            path: "/key".into(),
            kind: RuleKind::Hide,
        };
        let export = Export::new(directory.path()).unwrap().with_rules(&[rule]);
        // As deep as a peer can get by renaming directories.
        let mut deep = export.root.clone();
        while deep.has_room().is_ok() {
            deep = export.root.moved(&deep, b"d", Access::default());
        }
        assert!(export.unlinkat(&deep, b"other", false).is_err());
        let root = &export.root;
        assert!(export.renameat(&deep, b"other", root, b"x").is_err());
        assert!(other.exists());
    }

    #[test]
    fn file_systems_of_the_kernel_are_empty() {
        let export = Export::new("/".as_ref()).unwrap();
        for name in [b"proc", &b"sys"[..]] {
            let (node, _) = export.step(&export.root, name).unwrap();
            assert!(export.is_empty(&node));
            for name in [b"self", &b"kernel"[..]] {
                assert_eq!(export.step(&node, name).err(), Some(Errno::NOENT));
            }
        }
        let (etc, _) = export.step(&export.root, b"etc").unwrap();
        export.step(&etc, b"passwd").unwrap();
        // If it is the served directory itself, it is shown.
        let export = Export::new("/proc".as_ref()).unwrap();
        export.step(&export.root, b"self").unwrap();
        export.step(&export.root, b"sys").unwrap();
    }

    #[test]
    fn paths_are_as_walked() {
        let fd = rustix::fs::open(c"/", OFlags::PATH, Mode::empty()).unwrap();
        let policy = Policy::default();
        let root = Node::root(fd, &stat::stat(rustix::fs::CWD).unwrap(), &policy);
        assert_eq!(root.path(), b"/");
        let (proc, _) = root.step(b"proc", &policy).unwrap();
        assert_eq!(proc.path(), b"/proc");
        assert_eq!(proc.step(b"self", &policy).unwrap().0.path(), b"/proc/self");
    }
}
