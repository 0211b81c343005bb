//! The client's tree, as it is mounted: resolves paths inside it, and looks up many of them at the same time.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Result, anyhow};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::in_root::open_in_root;

/// A mount of the client's files.
pub(super) struct ClientTree {
    /// The mount point: [`cpu_proto::MOUNT_POINT`], or one beside it.
    pub(super) point: String,
    root: OwnedFd,
    /// The results of [`ClientTree::look_up`].
    found: Mutex<HashMap<PathBuf, nix::Result<ClientFile>>>,
}

/// An open file or directory of the client.
pub(super) struct ClientFile {
    /// Opened with `O_PATH`.
    pub(super) fd: OwnedFd,
    pub(super) is_directory: bool,
}

impl ClientTree {
    pub(super) fn new(point: String, root: OwnedFd) -> Self {
        Self {
            point,
            root,
            found: Mutex::default(),
        }
    }

    /// Opens what is mounted there.
    pub(super) fn at(point: String) -> Result<Self> {
        let root = open_root(&point)?;
        Ok(Self::new(point, root))
    }

    /// Opens it again, in another mount namespace.
    pub(super) fn reopen(&mut self) -> Result<()> {
        self.root = open_root(&self.point)?;
        Ok(())
    }

    /// Resolves a path ahead of [`ClientTree::resolve`]. Each name in it takes two round trips, one after the other,
    /// so that on a slow network paths are looked up [`in_parallel`].
    pub(super) fn look_up(&self, path: &Path) {
        let found = self.open(path);
        let mut all = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(path.to_owned(), found);
    }

    /// A path beneath the mount point as the client knows it; none for any other path.
    pub(super) fn inner<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        path.strip_prefix(&self.point).ok()
    }

    /// Opens what `path` means on the client: absolute symlinks and `..` stay in the client's tree.
    pub(super) fn resolve(&self, path: &Path) -> nix::Result<ClientFile> {
        let mut all = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let looked_up = all.remove(path);
        drop(all);
        looked_up.unwrap_or_else(|| self.open(path))
    }

    /// Opens `path` without following a symlink at its end.
    pub(super) fn open_itself(&self, path: &Path) -> nix::Result<OwnedFd> {
        open_in_root(&self.root, path, OFlag::O_NOFOLLOW)
    }

    fn open(&self, path: &Path) -> nix::Result<ClientFile> {
        let path = if path == Path::new("") {
            Path::new("/")
        } else {
            path
        };
        let open = |more| open_in_root(&self.root, path, more);
        // The kernel has learned the type on the way; fstat(2) would ask the client again.
        let (opened, is_directory) = match open(OFlag::O_DIRECTORY) {
            Err(Errno::ENOTDIR) => (open(OFlag::empty()), false),
            opened => (opened, true),
        };
        opened.map(|fd| ClientFile { fd, is_directory })
    }
}

fn open_root(point: &str) -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(point, flags, Mode::empty())
        .map_err(|errno| anyhow!("cannot open {point}: {}", errno.desc()))
}

/// Does work that waits for the client for all items at the same time, in threads that have ended when this
/// returns. Only after [`super::namespace::make_private`], which needs a single thread.
pub(super) fn in_parallel<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    const THREADS: usize = 16;
    let work = &work;
    for some in items.chunks(THREADS) {
        thread::scope(|scope| {
            for item in some {
                let spawned = thread::Builder::new().spawn_scoped(scope, move || work(item));
                if spawned.is_err() {
                    // There are no more threads.
                    work(item);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsRawFd as _;

    use cpu_proto::MOUNT_POINT;

    #[test]
    fn the_clients_symlinks_stay_in_its_tree() {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir_all(tree.path().join("usr/bin")).unwrap();
        fs::write(tree.path().join("usr/bin/date"), "theirs").unwrap();
        for (link, to) in [("bin", "/usr/bin"), ("out", "../../../../usr/bin")] {
            std::os::unix::fs::symlink(to, tree.path().join(link)).unwrap();
        }
        let root = fs::File::open(tree.path()).unwrap();
        let client = ClientTree::new(MOUNT_POINT.into(), root.into());
        let paths = ["bin/date", "/bin/date", "out/date", "../bin/date"].map(Path::new);
        // Looked up ahead, and not.
        in_parallel(&paths[1..], |path| client.look_up(path));
        for path in paths {
            let found = client.resolve(path).unwrap();
            assert!(!found.is_directory);
            let real = fs::read_link(format!("/proc/self/fd/{}", found.fd.as_raw_fd())).unwrap();
            assert_eq!(
                real,
                tree.path().canonicalize().unwrap().join("usr/bin/date")
            );
        }
        let missing = || client.resolve(Path::new("usr/bin/env")).err();
        assert_eq!(missing(), Some(Errno::ENOENT));
        in_parallel(&[Path::new("usr/bin/env"); 100], |path| {
            client.look_up(path);
        });
        assert_eq!(missing(), Some(Errno::ENOENT));
        assert!(client.resolve(Path::new("")).unwrap().is_directory);
    }
}
