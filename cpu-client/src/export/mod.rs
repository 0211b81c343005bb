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
//! | [`file_system`] | what each request does |
//! | [`node`] | descriptors: walking, opening again, paths for people |
//! | [`stat`], [`setattr`] | attributes both ways, qids |
//! | [`inode`], [`mounts`] | inode numbers, of the devices in the tree |
//! | [`dir`], [`cookies`] | directories read as a stream, and where their entries are |
//! | [`lock`] | record locks that exclude everyone else |
//! | [`owner`] | who owns what, here and for the peer; whose new files are |
//! | [`xattr`] | extended attributes |
//! | [`process`] | limits and umask, set once for the whole process |
//!
//! The server has the user's rights and no others. Owners and groups that the peer names for
//! new files are ignored unless the user is root, as for any process: a new file is the user's,
//! its group is what the directory says. getattr tells so, in the peer's numbers ([`IdMap`]).

mod cookies;
mod dir;
mod file_system;
mod inode;
mod lock;
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
use ninep::fs::Result;
use ninep::msg::{Attr, Qid};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno as Os;

pub use node::Node;
pub use owner::IdMap;
pub use process::{Limits, prepare_process};

/// A directory that can be served to any number of sessions at once.
pub struct Export {
    root: Node,
    /// Whether what is mounted of proc(5) in it is shown.
    shows_procfs: bool,
    devices: Arc<inode::Devices>,
    /// `/proc/self/fd`, where there is one: the way from an `O_PATH` descriptor to a real one.
    proc: Option<Arc<OwnedFd>>,
    locks: Arc<lock::Locks>,
    cookies: cookies::CookieTotal,
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
    state: FileState,
}

enum FileState {
    Regular(lock::Held),
    Directory(dir::DirStream),
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
            shows_procfs: stat::FileId::new(&whole) == stat::FileId::new(&stat)
                || node::is_of_proc(&fd),
            devices: Arc::new(inode::Devices::new(
                device,
                home.unwrap_or(device),
                mounts::mounted(root),
            )),
            root: Node::root(fd, &stat),
            proc: node::proc_fds().map(Arc::new),
            locks: Arc::default(),
            cookies: cookies::CookieTotal::default(),
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
            cookies: self.cookies.clone(),
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
        self.ids.attr_to_peer(&mut attr);
        attr
    }

    /// The qid of what has just been made.
    fn made(&self, dir: &Node, name: &[u8]) -> Result<Qid> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat = rustix::fs::statx(dir.fd(), name, flags, stat::WANTED).map_err(os)?;
        Ok(self.qid(dir, &stat))
    }
}

impl File {
    fn regular(fd: Arc<OwnedFd>) -> Self {
        Self {
            fd,
            state: FileState::Regular(lock::Held::default()),
        }
    }
}
