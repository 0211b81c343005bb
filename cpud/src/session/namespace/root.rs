//! The root directory of a session.
//!
//! On a machine that runs from its initramfs `/` is rootfs, which pivot_root(2) refuses to replace, so that no program
//! can make containers. There all mounts are bound once more on top of it ([`leave_rootfs`]).
//!
//! A session may also have a whole tree of the client as `/` ([`change_to`]), with the directories in it that have
//! to be the machine's, and the session's /tmp.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, chroot, fchdir};

use crate::console::say;
use crate::session::in_root::open_in_root;
use crate::session::mount::NONE;

/// Directories that are the machine's in every session: processes, devices, and the sockets of daemons.
const MACHINES: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];

/// A directory that every session has. A new root is mounted on it for a moment.
const STAGING: &str = "/proc";

/// If `/` is rootfs, binds all mounts on top of it and makes that the root of this process.
pub(in super::super) fn leave_rootfs() -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if !table.lines().any(is_rootfs) {
        return Ok(());
    }
    mount_over_root("/", MsFlags::MS_BIND | MsFlags::MS_REC)
        .and_then(|root| enter(&root))
        .map_err(|errno| anyhow!("cannot leave the initramfs: {}", errno.desc()))
}

/// Whether a line of mountinfo, such as `1 1 0:2 / / rw - rootfs rootfs rw`, is that of rootfs, which is its own
/// parent.
fn is_rootfs(line: &str) -> bool {
    let mut fields = line.split(' ');
    let (id, parent) = (fields.next(), fields.next());
    id == parent && fields.nth(2) == Some("/")
}

/// Binds the directory `root` with these flags and makes it the session's `/`.
pub(in super::super) fn change_to(root: &OwnedFd, binding: MsFlags) -> Result<()> {
    let root = mount_over_root(path(root).as_str(), binding).map_err(described)?;
    let mounted = mount_machines_directories(&root).and_then(|missing| {
        enter(&root).map_err(described)?;
        Ok(missing)
    });
    let missing = mounted.inspect_err(|_| {
        // No process has it as its root yet.
        let _ = umount2(path(&root).as_str(), MntFlags::MNT_DETACH);
    })?;
    if !missing.is_empty() {
        say(format_args!(
            "the tree that is / in this session has no {}: make it there, or name the directories you need in the namespace",
            missing.join(" and no ")
        ));
    }
    Ok(())
}

/// Mounts beneath `root` what every session has. The result names the directories that the tree lacks.
fn mount_machines_directories(root: &OwnedFd) -> Result<Vec<&'static str>> {
    let mut missing = Vec::new();
    let binding = MsFlags::MS_BIND | MsFlags::MS_REC;
    let machines = MACHINES.map(|directory| (directory, binding));
    // /tmp is last, and moved: a bind would show the mounts beneath it twice.
    for (directory, flags) in machines.into_iter().chain([("/tmp", MsFlags::MS_MOVE)]) {
        // Only what the machine itself has.
        if Path::new(directory).is_dir() && !mount_inside(root, directory, flags)? {
            missing.push(directory);
        }
    }
    Ok(missing)
}

fn path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn described(errno: Errno) -> anyhow::Error {
    anyhow!(errno.desc())
}

/// Mounts the machine's `directory` on the one of that name beneath `root`; false if there is none.
fn mount_inside(root: &OwnedFd, directory: &'static str, flags: MsFlags) -> Result<bool> {
    let target = match open_in_root(root, Path::new(directory), OFlag::O_DIRECTORY) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(false),
        target => target.map_err(described).context(directory)?,
    };
    let mount_with = |flags| mount(Some(directory), path(&target).as_str(), NONE, flags, NONE);
    let mounted = match mount_with(flags) {
        // An isolated session may not move what was mounted for it.
        Err(Errno::EINVAL) if flags == MsFlags::MS_MOVE => {
            mount_with(MsFlags::MS_BIND | MsFlags::MS_REC)
        }
        mounted => mounted,
    };
    mounted.map_err(|errno| anyhow!("cannot mount {directory} in it: {}", errno.desc()))?;
    Ok(true)
}

/// Mounts a directory on top of `/`, where no process sees it before [`enter`].
fn mount_over_root(source: &str, binding: MsFlags) -> nix::Result<OwnedFd> {
    mount(Some(source), STAGING, NONE, binding, NONE)?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let moved = open(STAGING, flags, Mode::empty())
        .and_then(|root| mount(Some(STAGING), "/", NONE, MsFlags::MS_MOVE, NONE).map(|()| root));
    moved.inspect_err(|_| {
        let _ = umount2(STAGING, MntFlags::MNT_DETACH);
    })
}

/// Makes the directory the root of this process.
fn enter(root: &OwnedFd) -> nix::Result<()> {
    fchdir(root)?;
    chroot(".")?;
    chdir("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rootfs_is_its_own_parent() {
        assert!(is_rootfs("1 1 0:2 / / rw - rootfs rootfs rw"));
        assert!(is_rootfs(
            "42 42 0:2 / / rw,relatime - rootfs none rw,size=1k"
        ));
        for other in [
            "22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw",
            "30 30 0:2 / /mnt rw - rootfs rootfs rw",
            "",
        ] {
            assert!(!is_rootfs(other), "{other}");
        }
    }
}
