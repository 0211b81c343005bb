//! The private mount namespace and what is in it before the client's wishes: a `/tmp` of its own,
//! the machine's root on `/tmp/local`, the client's files on `/tmp/cpu`, and in further cache modes on `/tmp/cpu-MODE`.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};
use cpu_proto::{Cache, LOCAL_POINT, MAX_MSIZE, MOUNT_POINT};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;

/// No data, no type: what nix wants to be told about the type of nothing.
pub(super) const NONE: Option<&str> = None;

/// Leaves the machine's mount namespace: nothing mounted from here on is seen outside, and all of
/// it vanishes with the last process of the session.
pub(super) fn make_private() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| match errno {
        Errno::EPERM => anyhow!("cannot make a private mount namespace: cpud must run as root"),
        _ => anyhow!("cannot make a private mount namespace: {}", errno.desc()),
    })?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).map_err(|errno| match errno
    {
        Errno::EINVAL => anyhow!(
            "cannot make the mounts beneath / private: / is not a mount point, as in a chroot; \
             run cpud in a container or bind the directory on itself first"
        ),
        _ => anyhow!("cannot make the mounts beneath / private: {}", errno.desc()),
    })
}

/// Mounts a fresh tmpfs on /tmp and the machine's root on /tmp/local, without what is mounted on it.
pub(super) fn make_tmp() -> Result<()> {
    let tmp = Path::new("/tmp");
    if !tmp.is_dir() {
        fs::create_dir(tmp)
            .context("cannot make /tmp, on which the session's files are mounted")?;
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("cpu"), tmp, Some("tmpfs"), flags, Some("mode=1777"))
        .map_err(|errno| mount_error("tmpfs", tmp, errno))?;
    for point in [MOUNT_POINT, LOCAL_POINT] {
        fs::create_dir(point).with_context(|| format!("cannot make {point}"))?;
    }
    mount(Some("/"), LOCAL_POINT, NONE, MsFlags::MS_BIND, NONE)
        .map_err(|errno| anyhow!("cannot bind / on {LOCAL_POINT}: {}", errno.desc()))
}

/// The client's tree, as it is mounted.
pub(super) struct Client {
    /// Where: [`MOUNT_POINT`], or beside it.
    point: String,
    root: OwnedFd,
    /// What was looked up ahead.
    found: Mutex<HashMap<PathBuf, nix::Result<Found>>>,
}

/// A file or directory of the client.
pub(super) struct Found {
    /// Opened with `O_PATH`.
    pub(super) fd: OwnedFd,
    pub(super) is_directory: bool,
}

/// Does what waits for the client for all items at the same time, by threads that are gone afterwards.
/// Only after [`make_private`].
pub(super) fn at_once<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    const THREADS: usize = 16;
    let work = &work;
    for some in items.chunks(THREADS) {
        thread::scope(|scope| {
            for item in some {
                let spawned = thread::Builder::new().spawn_scoped(scope, move || work(item));
                if spawned.is_err() {
                    // No more threads to be had: one after the other then.
                    work(item);
                }
            }
        });
    }
}

/// Mounts the client's files once for each mode, the first on [`MOUNT_POINT`].
pub(super) fn mount_all_9p(
    connections: Vec<(Cache, OwnedFd)>,
    user: Option<&OsStr>,
    u_root: bool,
) -> Result<Vec<Client>> {
    let usual = connections.first().map(|(cache, _)| *cache);
    let mut clients: Vec<Client> = Vec::new();
    for (cache, connection) in connections {
        let point = cache.point(usual.unwrap_or_default());
        if clients.iter().any(|client| client.point == point) {
            bail!("the client wants two mounts of its files in the same mode, cache={cache}");
        }
        if point != MOUNT_POINT {
            fs::create_dir(&point).with_context(|| format!("cannot make {point}"))?;
        }
        clients.push(mount_9p(connection, cache, point, user, u_root)?);
    }
    Ok(clients)
}

/// u-root's server gets the size of messages that its own cpud asks for, and no requests for attributes,
/// which it has none of. The kernel keeps the connection; the descriptor is closed.
fn mount_9p(
    connection: OwnedFd,
    cache: Cache,
    point: String,
    user: Option<&OsStr>,
    u_root: bool,
) -> Result<Client> {
    let fd = connection.as_raw_fd();
    // access=any: one attach serves every user; the client's own rights decide, whoever asks. Only a client
    // that is root can give new files to the user who makes them, so there each user attaches.
    // locktimeout: seconds until the kernel asks again for a lock that somebody else has.
    let (msize, more) = if u_root {
        (64 * 1024, ",noxattr")
    } else {
        (MAX_MSIZE, "")
    };
    let access = match user {
        Some(user) if user == "root" => "user",
        _ => "any",
    };
    let mut options = format!(
        "version=9p2000.L,trans=fd,rfdno={fd},wfdno={fd},msize={msize}{more},cache={cache},\
         access={access},locktimeout=1"
    );
    if let Some(user) = user.filter(|user| !user.is_empty()) {
        options.push_str(",uname=");
        options.push_str(&plain_name(user));
    }
    mount(
        Some("cpu"),
        Path::new(&point),
        Some("9p"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(options.as_str()),
    )
    .map_err(|errno| mount_error("9p", Path::new(&point), errno))?;
    drop(connection);
    let root = open(
        point.as_str(),
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(|errno| anyhow!("cannot open {point}: {}", errno.desc()))?;
    Ok(Client::new(point, root))
}

impl Client {
    fn new(point: String, root: OwnedFd) -> Self {
        Self {
            point,
            root,
            found: Mutex::default(),
        }
    }

    /// Looks up what [`Client::resolve`] will be asked for. On a long path every name takes two round trips,
    /// one after the other, so many are looked up [`at_once`].
    pub(super) fn look_up(&self, path: &Path) {
        let found = self.open(path);
        let mut all = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(path.to_owned(), found);
    }

    /// What a path beneath the mount is to the client; none for any other.
    pub(super) fn inner<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        path.strip_prefix(&self.point).ok()
    }

    /// What `path` means on the client: its absolute symlinks and `..` stay in the client's tree.
    pub(super) fn resolve(&self, path: &Path) -> nix::Result<Found> {
        let mut all = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = all.remove(path);
        drop(all);
        ahead.unwrap_or_else(|| self.open(path))
    }

    /// Opens what has this name, a symlink as such.
    pub(super) fn open_itself(&self, path: &Path) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT);
        openat2(&self.root, path, how)
    }

    fn open(&self, path: &Path) -> nix::Result<Found> {
        let path = if path == Path::new("") {
            Path::new("/")
        } else {
            path
        };
        let open = |more: OFlag| {
            let how = OpenHow::new()
                .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | more)
                .resolve(ResolveFlag::RESOLVE_IN_ROOT);
            openat2(&self.root, path, how)
        };
        // The kernel knows from the walk what it is; fstat(2) would ask the client again.
        let (opened, is_directory) = match open(OFlag::O_DIRECTORY) {
            Err(Errno::ENOTDIR) => (open(OFlag::empty()), false),
            opened => (opened, true),
        };
        opened.map(|fd| Found { fd, is_directory })
    }
}

/// A user's name that can't add mount options: other bytes than those of portable names become `_`.
fn plain_name(user: &OsStr) -> String {
    let portable = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
    let shown = |&b: &u8| if portable(b) { char::from(b) } else { '_' };
    user.as_bytes().iter().take(255).map(shown).collect()
}

/// What a failed mount(2) of `fstype` on `target` means, and what to do.
fn mount_error(fstype: &str, target: &Path, errno: Errno) -> anyhow::Error {
    let at = target.display();
    match errno {
        Errno::ENODEV if fstype == "9p" => anyhow!(
            "cannot mount 9p on {at}: the kernel has no 9p (CONFIG_NET_9P_FD, CONFIG_9P_FS); \
             use a kernel that has, or -9p=false"
        ),
        Errno::ENODEV => anyhow!("cannot mount {fstype} on {at}: the kernel has no {fstype}"),
        Errno::EPROTONOSUPPORT
        | Errno::EIO
        | Errno::EREMOTEIO
        | Errno::ECONNRESET
        | Errno::EPIPE
            if fstype == "9p" =>
        {
            anyhow!(
                "cannot mount 9p on {at}: the client's file server does not answer ({})",
                errno.desc()
            )
        }
        _ => anyhow!("cannot mount {fstype} on {at}: {}", errno.desc()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_add_no_mount_options() {
        assert_eq!(plain_name(OsStr::new("ann.b-c")), "ann.b-c");
        assert_eq!(
            plain_name(OsStr::from_bytes(b"a,cache=loose\xff\n")),
            "a_cache_loose__"
        );
        assert_eq!(plain_name(OsStr::new(&"x".repeat(1000))).len(), 255);
    }

    #[test]
    fn the_clients_symlinks_stay_in_its_tree() {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir_all(tree.path().join("usr/bin")).unwrap();
        fs::write(tree.path().join("usr/bin/date"), "theirs").unwrap();
        for (link, to) in [("bin", "/usr/bin"), ("out", "../../../../usr/bin")] {
            std::os::unix::fs::symlink(to, tree.path().join(link)).unwrap();
        }
        let root = fs::File::open(tree.path()).unwrap();
        let client = Client::new(MOUNT_POINT.into(), root.into());
        let paths = ["bin/date", "/bin/date", "out/date", "../bin/date"].map(Path::new);
        // Ahead, and when it is wanted.
        at_once(&paths[1..], |path| client.look_up(path));
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
        at_once(&[Path::new("usr/bin/env"); 100], |path| {
            client.look_up(path);
        });
        assert_eq!(missing(), Some(Errno::ENOENT));
        assert!(client.resolve(Path::new("")).unwrap().is_directory);
    }

    #[test]
    fn a_kernel_without_9p_is_named() {
        let text = mount_error("9p", Path::new("/tmp/cpu"), Errno::ENODEV).to_string();
        assert!(
            text.starts_with("cannot mount 9p on /tmp/cpu: the kernel has no 9p"),
            "{text}"
        );
    }
}
