//! The boot file systems: a table, and a loop that mounts them.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::console::say;
use crate::rootfs;

struct Mount {
    fstype: &'static str,
    at: &'static str,
    flags: MsFlags,
    options: &'static str,
}

const fn fs(
    fstype: &'static str,
    at: &'static str,
    flags: MsFlags,
    options: &'static str,
) -> Mount {
    Mount {
        fstype,
        at,
        flags,
        options,
    }
}

const NOSUID_NODEV: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
const NOSUID_NODEV_NOEXEC: MsFlags = NOSUID_NODEV.union(MsFlags::MS_NOEXEC);
const NOSUID_NOEXEC: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC);

/// In the order in which they are mounted. sysfs makes the mount points beneath /sys itself; if one is missing, the kernel
/// or the machine has no such thing, which is not reported.
const MOUNTS: &[Mount] = &[
    fs("proc", "/proc", NOSUID_NODEV_NOEXEC, ""),
    fs("sysfs", "/sys", NOSUID_NODEV_NOEXEC, ""),
    // Without noexec, since firmware tools map /dev/mem and the like with PROT_EXEC.
    fs("devtmpfs", "/dev", MsFlags::MS_NOSUID, "mode=0755"),
    fs(
        "devpts",
        "/dev/pts",
        NOSUID_NOEXEC,
        "ptmxmode=0666,mode=0620,gid=5",
    ),
    // What is in a tmpfs cannot be reclaimed, so all of them together must leave memory for the rest. Sessions have a /tmp of
    // their own.
    fs("tmpfs", "/dev/shm", NOSUID_NODEV, "mode=1777,size=10%"),
    fs("tmpfs", "/run", NOSUID_NODEV, "mode=0755,size=5%"),
    fs("tmpfs", "/tmp", NOSUID_NODEV, "mode=1777,size=5%"),
    fs("cgroup2", "/sys/fs/cgroup", NOSUID_NODEV_NOEXEC, ""),
    fs("debugfs", "/sys/kernel/debug", NOSUID_NODEV_NOEXEC, ""),
    fs("tracefs", "/sys/kernel/tracing", NOSUID_NODEV_NOEXEC, ""),
    fs(
        "securityfs",
        "/sys/kernel/security",
        NOSUID_NODEV_NOEXEC,
        "",
    ),
    fs(
        "efivarfs",
        "/sys/firmware/efi/efivars",
        NOSUID_NODEV_NOEXEC,
        "",
    ),
];

/// Links that shells expect in /dev (`<(command)` is /dev/fd/N) and devtmpfs does not make.
const LINKS: &[(&str, &str)] = &[
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// Takes the right to write to `/` from others than its owner, where the root is in memory: the kernel makes its rootfs, if it is
/// a tmpfs, with mode 1777 (tmpfs(5)).
pub(super) fn restrict_root() {
    use std::os::unix::fs::PermissionsExt as _;

    let is_open = fs::metadata("/").is_ok_and(|meta| meta.mode() & 0o022 != 0);
    if is_open
        && rootfs::is_in_memory()
        && let Err(error) = fs::set_permissions("/", fs::Permissions::from_mode(0o755))
    {
        say(format_args!("cannot set the mode of /: {error}"));
    }
}

/// Mounts the file systems that are not mounted already, as by a container's runtime or an earlier init.
pub(super) fn mount_all() {
    for Mount {
        fstype,
        at,
        flags,
        options,
    } in MOUNTS
    {
        if is_mount_point(at) || (at.starts_with("/sys/") && !Path::new(at).is_dir()) {
            continue;
        }
        if let Err(error) = fs::create_dir_all(at) {
            say(format_args!("cannot make {at} for {fstype}: {error}"));
            continue;
        }
        match mount(Some(*fstype), *at, Some(*fstype), *flags, Some(*options)) {
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(Errno::ENODEV) => say(format_args!("no {at}: the kernel has no {fstype}")),
            Err(errno) => say(format_args!(
                "cannot mount {fstype} on {at}: {}",
                errno.desc()
            )),
        }
    }
    for (link, to) in LINKS {
        match symlink(to, link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                say(format_args!("cannot make the link {link}: {error}"));
            }
            _ => {}
        }
    }
}

/// Whether a directory is on another device than its parent. (A bind within one file system is not recognised, and does
/// not matter here.)
fn is_mount_point(at: &str) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
    let at = Path::new(at);
    match (device(at), at.parent().and_then(device)) {
        (Some(inside), Some(outside)) => inside != outside,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_come_after_what_they_are_in() {
        for (index, mount) in MOUNTS.iter().enumerate() {
            assert!(mount.at.starts_with('/') && mount.options.is_ascii());
            let within = |outer: &Mount| Path::new(mount.at).starts_with(outer.at);
            let later = MOUNTS.iter().skip(index + 1);
            assert_eq!(
                later.filter(|outer| within(outer)).count(),
                0,
                "{}",
                mount.at
            );
        }
    }

    #[test]
    fn mount_points_are_recognised() {
        assert!(is_mount_point("/proc"));
        assert!(!is_mount_point("/proc/self"));
        assert!(!is_mount_point("/nosuch"));
    }
}
