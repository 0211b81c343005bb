//! Where a fid points: a descriptor, the directory it was walked from, and its name there.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use ninep::msg::NO_ID;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, PROC_SUPER_MAGIC, Statx, StatxAttributes};
use rustix::io::{Errno, Result};
use rustix::path::DecInt;

use super::Export;
use super::stat::{self, FileId};

/// A file of the export, open or not. Clones share the descriptor.
#[derive(Clone)]
pub struct Node(Arc<NodeInner>);

struct NodeInner {
    /// Opened with `O_PATH`, or the descriptor with which the file was created.
    fd: Arc<OwnedFd>,
    id: FileId,
    kind: FileType,
    /// Of its file system.
    special: Special,
    /// Who attached, by his number there; [`NO_ID`] if he named none.
    user: u32,
    /// `None` at the root. Never changed, so that there is no circle whatever is renamed.
    up: Option<(Node, Box<[u8]>)>,
    /// How many there are above.
    depth: u32,
}

/// Directories above a file, at most: a path that can be written has 2,048, and renames by a peer could make
/// a chain of any length out of two.
const MAX_DEPTH: u32 = 1 << 16;

/// What is special about a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Special {
    No,
    /// In its directories something is mounted once they are used (autofs(5)).
    Automount,
    /// It is proc(5).
    Procfs,
    /// Its files say a page for what is shorter.
    Pages,
}

/// Of Linux's `magic.h`.
const AUTOFS_SUPER_MAGIC: i64 = 0x187;
const SYSFS_MAGIC: i64 = 0x6265_6572;
/// Of `fs/configfs/mount.c`.
const CONFIGFS_MAGIC: i64 = 0x6265_6570;

impl Special {
    /// That of the file system of a file, which `up` knows if it is on the same.
    fn of(fd: &OwnedFd, stat: &Statx, up: Option<&Node>) -> Self {
        // All that are special are on no device.
        if stat.stx_dev_major != 0 {
            return Self::No;
        }
        if let Some(Node(up)) = up
            && up.id.device == stat::device(stat)
        {
            return up.special;
        }
        // A file that is mounted by itself is what it is.
        if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::Directory {
            return Self::No;
        }
        // Of a file system on a network this asks its server, which may fail.
        #[expect(clippy::useless_conversion, reason = "narrower on some architectures")]
        match rustix::fs::fstatfs(fd).map(|stat| i64::from(stat.f_type)) {
            Ok(AUTOFS_SUPER_MAGIC) => Self::Automount,
            Ok(SYSFS_MAGIC | CONFIGFS_MAGIC) => Self::Pages,
            Ok(kind) if kind == i64::from(PROC_SUPER_MAGIC) => Self::Procfs,
            _ => Self::No,
        }
    }
}

/// A deep tree must not unwind on the stack.
impl Drop for NodeInner {
    fn drop(&mut self) {
        let mut up = self.up.take();
        while let Some((Node(place), _)) = up {
            up = Arc::into_inner(place).and_then(|mut place| place.up.take());
        }
    }
}

impl Node {
    fn new(fd: Arc<OwnedFd>, stat: &Statx, up: Option<(Node, Box<[u8]>)>) -> Self {
        Self(Arc::new(NodeInner {
            user: up.as_ref().map_or(NO_ID, |(up, _)| up.user()),
            special: Special::of(&fd, stat, up.as_ref().map(|(up, _)| up)),
            fd,
            id: FileId::new(stat),
            kind: FileType::from_raw_mode(stat.stx_mode.into()),
            depth: up
                .as_ref()
                .map_or(0, |(up, _)| up.0.depth.saturating_add(1)),
            up,
        }))
    }

    pub(super) fn root(fd: OwnedFd, stat: &Statx) -> Self {
        Self::new(fd.into(), stat, None)
    }

    /// The file `name` here, of which `fd` is a descriptor.
    pub(super) fn child(&self, name: &[u8], fd: Arc<OwnedFd>, stat: &Statx) -> Self {
        Self::new(fd, stat, Some((self.clone(), name.into())))
    }

    /// One step down, whatever `name` is: nothing is followed, but what is mounted when it is first used is.
    fn step(&self, name: &[u8]) -> Result<(Self, Statx)> {
        self.has_room()?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.fd(), name, flags, Mode::empty())?;
        let stat = stat::stat(&fd)?;
        let node = self.child(name, fd.into(), &stat);
        let is_automount = stat.stx_attributes.contains(StatxAttributes::AUTOMOUNT);
        if is_automount || node.0.special == Special::Automount {
            // Where nothing can be mounted, the directory itself can be looked at, as by lstat(2).
            let flags = flags | OFlags::DIRECTORY;
            if let Ok(mounted) = rustix::fs::openat(self.fd(), name, flags, Mode::empty()) {
                let stat = stat::stat(&mounted)?;
                return Ok((self.child(name, mounted.into(), &stat), stat));
            }
        }
        Ok((node, stat))
    }

    /// Whether there may be something beneath it.
    pub(super) fn has_room(&self) -> Result<()> {
        if self.0.depth < MAX_DEPTH {
            Ok(())
        } else {
            Err(Errno::LOOP)
        }
    }

    /// The same file, under another name.
    pub(super) fn moved(&self, dir: &Self, name: &[u8]) -> Self {
        Self(Arc::new(NodeInner {
            fd: self.0.fd.clone(),
            id: self.0.id,
            kind: self.0.kind,
            special: self.0.special,
            user: self.0.user,
            depth: dir.0.depth.saturating_add(1),
            up: Some((dir.clone(), name.into())),
        }))
    }

    /// The root for somebody who attaches.
    pub(super) fn of_user(&self, user: u32) -> Self {
        Self(Arc::new(NodeInner {
            fd: self.0.fd.clone(),
            id: self.0.id,
            kind: self.0.kind,
            special: self.0.special,
            user,
            depth: 0,
            up: None,
        }))
    }

    /// Who attached, by his number there.
    pub(super) fn user(&self) -> u32 {
        self.0.user
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.0.fd)
    }

    /// The descriptor as `/proc/self/fd` names it.
    pub(super) fn number(&self) -> DecInt {
        DecInt::from_fd(&self.0.fd)
    }

    pub(super) fn id(&self) -> FileId {
        self.0.id
    }

    pub(super) fn kind(&self) -> FileType {
        self.0.kind
    }

    /// How long it is, in bytes. A kernel that has read less asks for the rest (6.12 for ever); what has no size,
    /// as files of proc(5), is read to its end. What is longer than a page, such as a table of the firmware, is so.
    pub(super) fn size(&self, stat: &Statx) -> u64 {
        let says_page = self.0.special == Special::Pages
            && self.0.kind == FileType::RegularFile
            && stat.stx_size <= stat.stx_blksize.into();
        if says_page { 0 } else { stat.stx_size }
    }

    /// The directory it was walked from; `None` at the root.
    pub(super) fn up(&self) -> Option<&Self> {
        self.0.up.as_ref().map(|(up, _)| up)
    }

    /// Directory and name, if the name still is this file's: `EBUSY` for the root, `ESTALE` for a
    /// name that became another's.
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

    /// The path of the highest directory above that is on the same device: where that is mounted. What is no directory
    /// counts as on its directory's, since the files of an overlay may be on others, which nothing is mounted from.
    pub(super) fn place_of_device(&self) -> Vec<u8> {
        let mut node = self;
        while let Some(up) = node.up()
            && (node.id().device == up.id().device || node.kind() != FileType::Directory)
        {
            node = up;
        }
        node.path()
    }

    /// As it was walked, for people.
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
    /// One step down. What a tree holds of proc(5) shows the processes of this machine, their memory and their
    /// files: only a peer that is given the whole machine gets there.
    pub(super) fn step(&self, dir: &Node, name: &[u8]) -> Result<(Node, Statx)> {
        let (node, stat) = dir.step(name)?;
        if node.0.special == Special::Procfs && !self.shows_procfs {
            return Err(Errno::ACCESS);
        }
        Ok((node, stat))
    }

    /// A new open file description of the same file. `flags` never create nor truncate.
    pub(super) fn reopen(&self, node: &Node, flags: OFlags) -> Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        if let Some(proc) = &self.proc {
            return rustix::fs::openat(proc, node.number(), flags, Mode::empty());
        }
        if node.kind() == FileType::Directory {
            return rustix::fs::openat(node.fd(), c".", flags, Mode::empty());
        }
        let (up, name) = node.place()?;
        // Should the name become a pipe's this moment, the open must not wait.
        let careful = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let fd = rustix::fs::openat(up.fd(), name, careful, Mode::empty())?;
        if FileId::new(&stat::stat(&fd)?) == node.id() {
            Ok(fd)
        } else {
            Err(Errno::STALE)
        }
    }
}

/// `/proc/self/fd`, if `/proc` is what it should be.
pub(super) fn proc_fds() -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(c"/proc/self/fd", flags, Mode::empty()).ok()?;
    is_of_proc(&fd).then_some(fd)
}

/// Whether a file is one of proc(5).
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
        let mut node = Node::root(fd, &stat);
        for _ in 0..300_000 {
            node = node.child(b"d", node.0.fd.clone(), &stat);
        }
        drop(node);
    }

    #[test]
    fn processes_are_no_files_of_a_tree() {
        let mut export = Export::new("/".as_ref()).unwrap();
        let root = export.root.clone();
        let (proc, _) = export.step(&root, b"proc").unwrap();
        export.shows_procfs = false;
        assert_eq!(export.step(&root, b"proc").err(), Some(Errno::ACCESS));
        assert_eq!(export.step(&proc, b"sys").err(), Some(Errno::ACCESS));
        export.step(&root, b"etc").unwrap();
        // Who asks for them gets them.
        let export = Export::new("/proc".as_ref()).unwrap();
        export.step(&export.root, b"self").unwrap();
        export.step(&export.root, b"sys").unwrap();
    }

    #[test]
    fn paths_are_as_walked() {
        let fd = rustix::fs::open(c"/", OFlags::PATH, Mode::empty()).unwrap();
        let root = Node::root(fd, &stat::stat(rustix::fs::CWD).unwrap());
        assert_eq!(root.path(), b"/");
        let (proc, _) = root.step(b"proc").unwrap();
        assert_eq!(proc.path(), b"/proc");
        assert_eq!(proc.step(b"self").unwrap().0.path(), b"/proc/self");
    }
}
