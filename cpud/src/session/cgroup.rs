//! A control group for each session, where cgroup v2 is mounted and writable: one write kills every process in it,
//! however fast they fork. Without it the descendants are found and killed one by one ([`super::wait`]), and a fork
//! bomb may be faster.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{UnlinkatFlags, unlinkat};

const ROOT: &str = "/sys/fs/cgroup";

/// A control group. Dropping it removes the group, if it is empty.
pub(super) struct Cgroup {
    /// The group that this process is in; open, since a mount may cover its path.
    outer: OwnedFd,
    inner: OwnedFd,
    /// Its `cgroup.procs` and `cgroup.kill`, open for writing, since a process in a user namespace may not open them. Kernels
    /// before 5.14 have no such file as the second.
    processes: OwnedFd,
    kill: Option<OwnedFd>,
    name: String,
}

impl Cgroup {
    /// Makes a group below that of this process; none where that is not possible.
    pub(super) fn new() -> Option<Self> {
        let is_v2 = statfs(ROOT).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC);
        let outer = is_v2.then(own_directory)??;
        let name = name(std::process::id());
        let path = outer.join(&name);
        match fs::create_dir(&path) {
            // Left by a session with the same process number that was killed.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return None,
            _ => {}
        }
        if let Some(limit) = max_processes() {
            // Without the controller there is no such file, and no limit.
            let _ = fs::write(path.join("pids.max"), limit.to_string());
        }
        let inner = directory(&path)?;
        let file = |name: &str| {
            let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
            openat(&inner, name, flags, Mode::empty()).ok()
        };
        Some(Self {
            processes: file("cgroup.procs")?,
            kill: file("cgroup.kill"),
            inner,
            outer: directory(&outer)?,
            name,
        })
    }

    /// Kills all processes in it. The caller kills them one by one in any case.
    pub(super) fn kill(&self) {
        if let Some(kill) = &self.kill {
            let _ = nix::unistd::write(kill, b"1");
        }
    }

    /// Its directory and its `cgroup.procs`, for a process that is to start in the group.
    pub(super) fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.inner.as_fd(), self.processes.as_fd()]
    }
}

/// The most processes and threads of a session: a quarter of what the kernel has room for.
fn max_processes() -> Option<u64> {
    let all = fs::read_to_string("/proc/sys/kernel/threads-max").ok()?;
    Some(all.trim().parse::<u64>().ok()? / 4)
}

/// Kills what a session process has left because it was killed itself. Does nothing after a session that ended
/// normally.
pub(crate) fn kill_leftovers(session: u32) -> io::Result<()> {
    let Some(group) = own_directory().map(|outer| outer.join(name(session))) else {
        return Ok(());
    };
    match fs::write(group.join("cgroup.kill"), "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // EBUSY until the last process has gone.
        _ => fs::remove_dir(group),
    }
}

fn name(session: u32) -> String {
    format!("cpu-session-{session}")
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = unlinkat(&self.outer, self.name.as_str(), UnlinkatFlags::RemoveDir);
    }
}

/// The directory of this process's own group, from the line `0::/path` of /proc/self/cgroup.
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
