//! A directory of this machine, served as a 9P file system.
//!
//! The peer cannot reach anything outside the directory, whatever it sends, and whatever is renamed meanwhile. A fid is a
//! descriptor; a walk is one `openat(O_PATH|O_NOFOLLOW)` of one name beneath it; `..` is the directory from which the fid
//! was walked; and symbolic links are returned, never followed. Paths of the tree are never resolved here: to open a file
//! for reading or writing, its descriptor is opened again through `/proc/self/fd`.
//!
//! | module | purpose |
//! |---|---|
//! | [`file_system`] | a function for each request |
//! | [`node`] | what a fid stands for: walking, opening again, paths for people |
//! | [`stat`], [`setattr`] | reading and changing attributes, qids |
//! | [`inode`], [`mounts`] | inode numbers, which the devices of the tree share |
//! | [`dir`], [`cookies`] | reading directories, and the positions of their entries |
//! | [`lock`] | record locks |
//! | [`owner`] | owners, here and as the peer sees them; owners of new files |
//! | [`policy`] | what is hidden, read-only or not there |
//! | [`kernel_fs`] | file systems of the kernel, which are not served |
//! | [`xattr`] | extended attributes |
//! | [`watch`] | reports changes, so that the peer may keep what it was told |
//! | [`process`] | limits and umask, set once for the process |
//!
//! The server has the rights of its user. As with any process, a new file belongs to that user and to the group that the
//! directory determines, whatever owner and group the peer asks for; unless the user is root. Owners that the peer sees
//! are mapped ([`IdMap`]).

mod cookies;
mod dir;
mod file_system;
mod in_root;
mod inode;
mod kernel_fs;
mod lock;
mod mounts;
mod node;
mod owner;
mod policy;
mod process;
mod setattr;
mod stat;
mod watch;
#[cfg(test)]
mod without_proc;
mod xattr;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ninep::errno::Errno;
use ninep::fs::Result;
use ninep::msg::{Attr, Qid};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno as Os;

pub use in_root::open_in_root;
pub use node::Node;
pub use owner::IdMap;
pub use policy::{Rule, RuleKind};
pub use process::{Limits, prepare_process};

/// A directory, which can be served to any number of sessions at once.
pub struct Export {
    root: Node,
    policy: Arc<policy::Policy>,
    /// Whether file systems of the kernel are shown: only if the directory is in one.
    shows_kernel: bool,
    devices: Arc<inode::Devices>,
    /// `/proc/self/fd`, if it exists. Through it an `O_PATH` descriptor is opened again for reading or writing.
    proc: Option<Arc<OwnedFd>>,
    locks: Arc<lock::Locks>,
    cookies: cookies::CookieTotal,
    caching: Caching,
    ids: IdMap,
    watchings: watch::Watchings,
}

/// What the peer's kernel caches of the contents of files. In either case, every read(2) and write(2) becomes a request,
/// because the qids of open files have version 0 (`v9fs_fid_add_modes` in Linux's `fs/9p/fid.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Caching {
    /// Pages, while they are mapped. Linux writes them back through any fid that is open for writing, even one opened to
    /// read and append (`v9fs_begin_writeback` in `fs/9p/vfs_addr.c`). Appending them would duplicate them. So a file
    /// opened to read and append is written at the peer's offset, which is where the peer thinks that the file ends.
    #[default]
    Mapped,
    /// Nothing. Files that are opened to append are appended to, wherever they end by then.
    Never,
}

/// Why a directory cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory cannot be opened.
    #[error("cannot open {path} to serve it: is it a directory that you may search?")]
    Root {
        /// The directory.
        path: PathBuf,
        /// The reason.
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
    /// A directory that is shown as an empty one.
    Empty,
}

fn os(errno: Os) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}

impl Export {
    /// Serves the directory `root` and everything beneath it, other file systems included.
    pub fn new(root: &Path) -> std::result::Result<Self, Error> {
        Self::with_home(root, Path::new("/"))
    }

    /// The same for a user whose home is `home` in that directory. Files on the home's device keep their inode numbers.
    /// Otherwise git on one side would read all files again that are in the index written on the other.
    pub fn with_home(root: &Path, home: &Path) -> std::result::Result<Self, Error> {
        let failed = |source: Os| Error::Root {
            path: root.to_owned(),
            source: source.into(),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(root, flags, Mode::empty()).map_err(failed)?;
        let stat = stat::stat(&fd).map_err(failed)?;
        let device = stat::device(&stat);
        let home = open_in_root(&fd, home, OFlags::PATH);
        let home = home.and_then(stat::stat).map(|stat| stat::device(&stat));
        let policy = policy::Policy::new(&fd, &[]);
        let top = Node::root(fd, &stat, &policy);
        Ok(Self {
            devices: Arc::new(inode::Devices::new(
                device,
                home.unwrap_or(device),
                mounts::mounted(root),
            )),
            shows_kernel: top.is_of_kernel(),
            root: top,
            policy: Arc::new(policy),
            proc: node::proc_fds().map(Arc::new),
            locks: Arc::default(),
            cookies: cookies::CookieTotal::default(),
            caching: Caching::default(),
            ids: IdMap::default(),
            watchings: watch::Watchings::default(),
        })
    }

    /// The same directory, with mapped owners.
    #[must_use]
    pub fn with_ids(self, ids: IdMap) -> Self {
        Self { ids, ..self }
    }

    /// The same directory, of which these rules keep something from the peer.
    #[must_use]
    pub fn with_rules(self, rules: &[Rule]) -> Self {
        let policy = policy::Policy::new(self.root.owned_fd(), rules);
        Self {
            root: self.root.with_access(policy.root()),
            policy: Arc::new(policy),
            ..self
        }
    }

    /// The hidden paths that peers asked for, as they walked to them: the first few.
    pub fn requested_hidden(&self) -> Vec<Vec<u8>> {
        self.policy.requested()
    }

    /// The same directory for peers that cache differently. The locks are shared.
    #[must_use]
    pub fn with_caching(&self, caching: Caching) -> Self {
        Self {
            root: self.root.clone(),
            proc: self.proc.clone(),
            locks: self.locks.clone(),
            cookies: self.cookies.clone(),
            devices: self.devices.clone(),
            policy: self.policy.clone(),
            watchings: self.watchings.clone(),
            caching,
            ..*self
        }
    }

    /// The qid of an open file. With version 0 the peer caches nothing of it.
    fn open_qid(&self, node: &Node, file: &File) -> Result<Qid> {
        let stat = stat::stat(&file.fd).map_err(os)?;
        let mut qid = self.qid(node, &stat);
        qid.version = 0;
        Ok(qid)
    }

    /// The qid of `node`, or of a new file in that directory.
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

    /// An error if the peer may not open `node`, and a report of what is hidden.
    fn check_open(&self, node: &Node) -> Result<()> {
        if node.access().is_secret() {
            self.policy.report(node.path());
        }
        if node.access().is_hidden() {
            return Err(Errno::EACCES);
        }
        if self.is_empty(node) && node.kind() != rustix::fs::FileType::Directory {
            return Err(Errno::EACCES);
        }
        Ok(())
    }

    /// An error if the peer may not change `node`.
    fn check_change(&self, node: &Node) -> Result<()> {
        if self.is_empty(node) {
            return Err(Errno::EACCES);
        }
        if node.access().is_secret() {
            self.policy.report(node.path());
        }
        node.access().check_change()
    }

    /// An error if the peer may not make, replace or remove `name` in a directory.
    fn check_entry(&self, dir: &Node, name: &[u8]) -> Result<()> {
        self.entry(dir, name)?.check_move()
    }

    /// An error if the peer may not make the directory `name` in a directory. A new one is reached by this name only, so it
    /// may be on the way to what is hidden.
    fn check_mkdir(&self, dir: &Node, name: &[u8]) -> Result<()> {
        self.entry(dir, name)?.check_change()
    }

    /// The access of `name` in a directory that the peer may change.
    fn entry(&self, dir: &Node, name: &[u8]) -> Result<policy::Access> {
        self.check_change(dir)?;
        let access = self.policy.child(dir.access(), name);
        if access.is_secret() {
            self.policy.report([&dir.path(), &b"/"[..], name].concat());
        }
        Ok(access)
    }

    /// An error if the peer may not give `name` in a directory another name.
    fn check_rename(&self, dir: &Node, name: &[u8]) -> Result<()> {
        self.check_entry(dir, name)?;
        match self.step(dir, name) {
            Ok((node, _)) => node.access().check_move(),
            Err(Os::NOENT) => Ok(()),
            // It may exist all the same: a peer that uses up the descriptors must not get around the rules.
            Err(errno) => Err(os(errno)),
        }
    }

    /// The qid of a file that was just created.
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
