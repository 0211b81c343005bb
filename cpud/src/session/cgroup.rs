//! A control group per session, where cgroup v2 is mounted and ours to use: one write kills all that
//! is in it, however fast it forks. Without it the descendants are found one by one ([`super::wait`]),
//! and a fork bomb may breed faster than that.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{UnlinkatFlags, unlinkat};

const ROOT: &str = "/sys/fs/cgroup";

/// The group; it is removed with this value, if nothing is in it any more.
pub(super) struct Cgroup {
    /// The group that this process is in, held open since a mount may cover its path.
    outer: OwnedFd,
    inner: OwnedFd,
    name: String,
}

impl Cgroup {
    /// Makes a group below our own; none where that is impossible, which is no fault.
    pub(super) fn new() -> Option<Self> {
        let is_v2 = statfs(ROOT).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC);
        let outer = is_v2.then(own_directory)??;
        let name = name(std::process::id());
        let path = outer.join(&name);
        match fs::create_dir(&path) {
            // Left by a session of the same number that was killed.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return None,
            _ => {}
        }
        Some(Self {
            inner: directory(&path)?,
            outer: directory(&outer)?,
            name,
        })
    }

    /// SIGKILL for all that is in it (Linux 5.14).
    pub(super) fn kill(&self) {
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        if let Ok(file) = openat(&self.inner, "cgroup.kill", flags, Mode::empty()) {
            // An older kernel has no such file; the caller kills one by one in any case.
            let _ = nix::unistd::write(&file, b"1");
        }
    }
}

/// Ends what a session has left: one that was killed itself could not. Nothing if it went in order.
pub(crate) fn kill_leftovers(session: u32) -> io::Result<()> {
    let Some(group) = own_directory().map(|outer| outer.join(name(session))) else {
        return Ok(());
    };
    match fs::write(group.join("cgroup.kill"), "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Busy until the last of them is gone.
        _ => fs::remove_dir(group),
    }
}

fn name(session: u32) -> String {
    format!("cpu-session-{session}")
}

impl AsFd for Cgroup {
    /// For the process that is to begin in it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = unlinkat(&self.outer, self.name.as_str(), UnlinkatFlags::RemoveDir);
    }
}

/// Where this process's own group is: the line `0::/path` of /proc/self/cgroup.
fn own_directory() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(ROOT).join(path))
}

fn directory(path: &Path) -> Option<OwnedFd> {
    open(
        path,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .ok()
}
