//! The root of an isolated session: a file system in memory with the machine's programs, read-only, and the few devices that do
//! no harm. Nothing else of the machine is in it, and nothing of other sessions.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, pivot_root};

use super::mount_tmpfs;
use crate::session::mount::NONE;
use crate::sys;

/// Where the root is made.
const STAGING: &str = "/proc";

/// What a session may see of a machine: its programs and their settings.
const PROGRAMS: [&str; 9] = [
    "bin", "etc", "lib", "lib32", "lib64", "libx32", "opt", "sbin", "usr",
];

/// Devices that do no harm.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Links in /dev.
const LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// cpud itself, which is sudo in a session.
pub(in super::super) const PROGRAM: &str = "/run/cpud/sudo";

/// The machine's name servers, where its own file is a link into its /run.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Makes this the root of the process. Everything in it that is the session's own belongs to the user and group `root`. `devpts` is
/// mounted on /dev/pts. /proc is still missing.
pub(in super::super) fn enter(root: u32, devpts: &OwnedFd) -> Result<()> {
    // Opened now: /proc is about to be covered.
    let program = fs::read_link("/proc/self/exe").context("cannot find cpud")?;
    let resolv_conf = fs::canonicalize(RESOLV_CONF);
    mount_tmpfs(Path::new(STAGING), "mode=0755", ROOT_PERCENT, root)?;
    let machine = fs::read_dir("/").context("cannot read /")?;
    for entry in machine.flatten() {
        let kind = entry.file_type();
        if kind.is_ok_and(|kind| kind.is_dir() || kind.is_symlink()) {
            show(&entry.file_name(), root)?;
        }
    }
    for (name, mode) in [
        ("proc", 0o755),
        ("tmp", 0o1777),
        ("run", 0o755),
        ("dev", 0o755),
        ("dev/pts", 0o755),
        ("dev/shm", 0o1777),
        ("sys", 0o755),
        ("var/tmp", 0o1777),
    ] {
        make_directory(name, mode, root)?;
    }
    // Without the mounts beneath it, such as debugfs and the variables of the firmware. A container may have none.
    if Path::new("/sys/class").is_dir() {
        bind(Path::new("/sys"), "sys", MsFlags::empty())?;
    }
    for name in DEVICES {
        let device = Path::new("/dev").join(name);
        let inside = format!("dev/{name}");
        make_file(&inside)?;
        mount(
            Some(&device),
            &staged(&inside),
            NONE,
            MsFlags::MS_BIND,
            NONE,
        )
        .map_err(|errno| anyhow!("cannot bind /dev/{name}: {}", errno.desc()))?;
    }
    for (link, to) in LINKS {
        symlink(to, staged(&format!("dev/{link}")))?;
    }
    // Another one may have been installed in its place.
    if program.exists() {
        bind_file(&program, PROGRAM)?;
    }
    if let Some(file) = resolv_conf.ok().filter(|file| file.starts_with("/run"))
        && let Some(name) = file.to_str()
    {
        bind_file(&file, name)?;
    }
    let pivot = || -> nix::Result<()> {
        chdir(STAGING)?;
        // The old root is mounted on the new one, and taken off (pivot_root(2), NOTES).
        pivot_root(".", ".")?;
        umount2(".", MntFlags::MNT_DETACH)?;
        chdir("/")
    };
    pivot().map_err(|errno| anyhow!("cannot change the root: {}", errno.desc()))?;
    sys::attach_mount(devpts.as_fd(), c"/dev/pts")
        .map_err(|errno| anyhow!("cannot mount /dev/pts: {}", errno.desc()))
}

/// The part of the available memory that the root may take.
const ROOT_PERCENT: u64 = 10;

/// Where something of the new root is as long as it is made.
fn staged(name: &str) -> PathBuf {
    Path::new(STAGING).join(name.trim_start_matches('/'))
}

fn make_directory(name: &str, mode: u32, owner: u32) -> Result<()> {
    let path = staged(name);
    let make = || {
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        chown(&path, Some(owner), Some(owner))
    };
    make().with_context(|| format!("cannot make /{name}"))
}

fn make_file(name: &str) -> Result<()> {
    let path = staged(name);
    File::create(&path).with_context(|| format!("cannot make /{name}"))?;
    Ok(())
}

/// A directory or link of the machine's root: the machine's own if it has programs, and else an empty directory of this
/// name, on which the client's may be mounted.
fn show(name: &OsStr, owner: u32) -> Result<()> {
    let Some(name) = name.to_str() else {
        return Ok(());
    };
    let original = Path::new("/").join(name);
    let programs = PROGRAMS.contains(&name);
    if let Ok(target) = fs::read_link(&original) {
        if programs {
            symlink(target, staged(name)).with_context(|| format!("cannot make /{name}"))?;
        }
        return Ok(());
    }
    let private = name == "root";
    make_directory(name, if private { 0o700 } else { 0o755 }, owner)?;
    let has_entries = fs::read_dir(&original).is_ok_and(|mut entries| entries.next().is_some());
    if programs && has_entries {
        bind(&original, name, MsFlags::MS_REC)?;
    }
    Ok(())
}

/// Binds a file or directory of the machine, read-only.
fn bind(original: &Path, name: &str, more: MsFlags) -> Result<()> {
    let path = staged(name);
    let bind = || -> nix::Result<()> {
        mount(Some(original), &path, NONE, MsFlags::MS_BIND | more, NONE)?;
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let mounted = open(&path, flags, Mode::empty())?;
        sys::restrict_mounts(mounted.as_fd())
    };
    bind().map_err(|errno: Errno| anyhow!("cannot bind {}: {}", original.display(), errno.desc()))
}

fn bind_file(original: &Path, name: &str) -> Result<()> {
    if let Some(parent) = Path::new(name).parent().and_then(Path::to_str) {
        fs::create_dir_all(staged(parent))?;
    }
    make_file(name)?;
    bind(original, name, MsFlags::empty())
}
