//! The mounts that the client asks for in `CPU_FSTAB`, in their order. One that fails is reported and left out.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, anyhow, bail};
use cpu_proto::MOUNT_POINT;
use cpu_proto::fstab::{self, Entry};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::statvfs::statvfs;

use super::NONE;
use crate::console::say;
use crate::rootfs;
use crate::session::client_tree::{ClientFile, ClientTree, in_parallel};
use crate::session::namespace::root;
use crate::session::shown;

/// Mounts the lines of `text`. The result is the mount points.
pub(in super::super) fn mount_all(text: &OsStr, clients: &[ClientTree]) -> Vec<PathBuf> {
    let mut done = Vec::new();
    for line in fstab::parse(text.as_bytes()) {
        let entry = line.map_err(anyhow::Error::from);
        match entry.and_then(|entry| mount_one(&entry, clients).map(|()| entry)) {
            // A remount does not make a mount.
            Ok(entry) if entry.flags & fstab::REMOUNT != 0 => {}
            Ok(entry) => done.push(entry.target),
            Err(error) => say(format_args!("{error:#}")),
        }
    }
    done
}

/// Unmounts what was mounted. The kernel does that too when the session ends, but then the client's files are
/// clunked one after the other, and each clunk is waited for.
pub(in super::super) fn unmount_all(targets: &[PathBuf]) {
    let _ = env::set_current_dir("/");
    // The root goes with the namespace.
    let targets: Vec<_> = targets.iter().filter(|target| !is_root(target)).collect();
    in_parallel(&targets, |target| {
        let _ = umount2(target.as_path(), MntFlags::MNT_DETACH);
    });
}

/// Looks up, all at the same time, what the mounts of `text` and the working directory need of the client's files, and
/// what the mount points `points` are in it. As long as the result is held, the kernel knows those mount points and does
/// not ask the client for them. Nothing is looked up if a mount changes the client's tree itself: then the order matters.
pub(in super::super) fn look_up(
    text: &OsStr,
    directory: Option<&Path>,
    points: &[&Path],
    clients: &[ClientTree],
) -> Vec<OwnedFd> {
    let entries: Vec<Entry> = fstab::parse(text.as_bytes()).flatten().collect();
    if entries.iter().any(|e| inside(&e.target, clients).is_some()) {
        return Vec::new();
    }
    let binds = entries.iter().filter(|e| e.flags & fstab::BIND != 0);
    let sources = binds.filter_map(|e| inside(Path::new(&e.source), clients));
    let directory = clients.first().zip(directory);
    let points: Vec<PathBuf> = points
        .iter()
        .filter_map(|point| source_of(point, &entries))
        .collect();
    let points = points.iter().filter_map(|point| inside(point, clients));
    let paths = sources.chain(directory).map(|path| (path, false));
    let paths: Vec<_> = paths.chain(points.map(|point| (point, true))).collect();
    let held = Mutex::new(Vec::new());
    in_parallel(&paths, |&((client, path), is_point)| {
        if !is_point {
            client.look_up(path);
        } else if let Ok(fd) = client.open_itself(path) {
            let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
            held.push(fd);
        }
    });
    held.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The path of a file beneath the target of a bind, translated to its source.
fn source_of(path: &Path, entries: &[Entry]) -> Option<PathBuf> {
    entries.iter().rev().find_map(|entry| {
        let rest = path.strip_prefix(&entry.target).ok()?;
        Some(Path::new(&entry.source).join(rest))
    })
}

/// The mount of the client's files that a path is beneath, and the path as the client knows it.
fn inside<'a>(path: &'a Path, clients: &'a [ClientTree]) -> Option<(&'a ClientTree, &'a Path)> {
    let mut all = clients.iter();
    all.find_map(|client| Some((client, client.inner(path)?)))
}

fn mount_one(entry: &Entry, clients: &[ClientTree]) -> Result<()> {
    let (source, target) = (shown(&entry.source), entry.target.display());
    if entry.flags & fstab::BIND != 0 && entry.flags & fstab::REMOUNT == 0 {
        bind(entry, clients).with_context(|| format!("cannot bind {source} on {target}"))
    } else {
        let fstype = shown(&entry.fstype);
        mount_type(entry).with_context(|| format!("cannot mount {fstype} {source} on {target}"))
    }
}

fn mount_type(entry: &Entry) -> Result<()> {
    let target = prepare_target(&entry.target, true)?;
    if is_root(&target) {
        bail!("no process would see it there; name the directories you need");
    }
    let data = Some(entry.data.as_os_str()).filter(|data| !data.is_empty());
    let (source, fstype) = (entry.source.as_os_str(), entry.fstype.as_os_str());
    mount(
        Some(source),
        &target,
        Some(fstype),
        flags(entry.flags),
        data,
    )
    .map_err(|errno| match errno {
        Errno::ENODEV => anyhow!("the kernel has no {}", shown(fstype)),
        _ => anyhow!(errno.desc()),
    })?;
    propagate(&target, entry)
}

fn bind(entry: &Entry, clients: &[ClientTree]) -> Result<()> {
    let source = open_source(&entry.source, clients)?;
    let target = prepare_target(&entry.target, source.is_directory)?;
    let binding = flags(entry.flags & (fstab::BIND | fstab::REC));
    if is_root(&target) {
        root::change_to(&source.fd, binding)?;
    } else {
        let path = format!("/proc/self/fd/{}", source.fd.as_raw_fd());
        mount(Some(path.as_str()), &target, NONE, binding, NONE).map_err(|e| anyhow!(e.desc()))?;
    }

    // mount(2): a bind ignores all other flags, so they are set by a remount, which clears the flags of the source's
    // mount unless they are given again. statvfs(3) has the same values for the first four.
    let options = flags(entry.flags & !(fstab::BIND | fstab::REC));
    if !options.is_empty() {
        let kept = statvfs(&target).map_or(0, |fs| fs.flags().bits() & 0xf);
        let all =
            MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::from_bits_truncate(kept) | options;
        mount(NONE, &target, NONE, all, NONE).map_err(|errno| {
            anyhow!(
                "it is bound, but its options could not be set: {}",
                errno.desc()
            )
        })?;
    }
    propagate(&target, entry)
}

fn flags(bits: u32) -> MsFlags {
    MsFlags::from_bits_retain(bits.into())
}

fn propagate(target: &Path, entry: &Entry) -> Result<()> {
    if entry.propagation == 0 {
        return Ok(());
    }
    mount(NONE, target, NONE, flags(entry.propagation), NONE).map_err(|errno| {
        anyhow!(
            "it is mounted, but its propagation could not be set: {}",
            errno.desc()
        )
    })
}

/// Opens the source of a bind. A path in the client's tree is resolved inside it, so that the client's
/// `/bin -> /usr/bin` does not lead into the machine's `/usr/bin`.
fn open_source(source: &OsStr, clients: &[ClientTree]) -> Result<ClientFile> {
    let path = Path::new(source);
    match inside(path, clients) {
        Some((client, inner)) => client.resolve(inner).map_err(|errno| match errno {
            Errno::ENOENT => anyhow!("the client has no /{}", inner.display()),
            _ => anyhow!("the client's /{}: {}", inner.display(), errno.desc()),
        }),
        None if path.starts_with(MOUNT_POINT) => {
            bail!("the client's files are not mounted, 9P is off")
        }
        None => open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .map(|fd| ClientFile {
                is_directory: is_directory(&fd),
                fd,
            })
            .map_err(|errno| anyhow!(errno.desc())),
    }
}

fn is_directory(fd: &OwnedFd) -> bool {
    fstat(fd).is_ok_and(|stat| stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits())
}

/// The real path of a mount point. One that is missing is made where that leaves nothing on a disk: in the
/// session's own /tmp, or if the machine's root is in memory.
fn prepare_target(target: &Path, directory: bool) -> Result<PathBuf> {
    let real = match fs::canonicalize(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_target(target, directory)?;
            fs::canonicalize(target)
        }
        other => other,
    }
    .context("cannot use the mount point")?;
    Ok(real)
}

/// Whether a mount point is the session's `/`.
fn is_root(target: &Path) -> bool {
    target
        .canonicalize()
        .is_ok_and(|real| real == Path::new("/"))
}

fn make_target(target: &Path, directory: bool) -> Result<()> {
    let device = |path: &str| fs::metadata(path).map(|meta| meta.dev()).ok();
    let in_memory = rootfs::is_in_memory();
    let mut allowed = [device("/tmp"), if in_memory { device("/") } else { None }]
        .into_iter()
        .flatten();
    // The deepest directory that exists decides, which may be the client's or on a disk.
    let above = target.ancestors().find_map(|path| fs::metadata(path).ok());
    if !above.is_some_and(|above| allowed.any(|device| device == above.dev())) {
        bail!("the machine has no such directory: make it there, or leave it out of the namespace");
    }
    let made = match (directory, target.parent()) {
        (true, _) | (_, None) => fs::create_dir_all(target),
        (false, Some(parent)) => fs::create_dir_all(parent).and_then(|()| {
            fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(target)
                .map(drop)
        }),
    };
    made.context("cannot make the mount point")
}
