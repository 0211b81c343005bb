//! A control group for each session, where cgroup v2 is mounted and writable: one write kills every process in it,
//! however fast they fork. Without it the descendants are found and killed one by one ([`super::wait`]), and a fork
//! bomb may be faster. What a session may take is limited there too ([`SessionLimits`]).

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{Pid, UnlinkatFlags, getpid, unlinkat};

const ROOT: &str = "/sys/fs/cgroup";
const PREFIX: &str = "cpu-session-";
/// The file with the controllers that the groups in a group have.
const CONTROLLERS: &str = "cgroup.subtree_control";

/// The most that a session may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SessionLimits {
    /// Processes and threads. By default a quarter of what the kernel has room for.
    pub(crate) processes: Option<u64>,
    /// Bytes of memory, with what its files in memory and its part of the page cache take. By default all.
    pub(crate) memory: Option<u64>,
}

impl SessionLimits {
    /// Enables the controllers for these limits. The result is why one of them will have no effect, if that is so.
    pub(crate) fn enable(self) -> Vec<String> {
        let given = [
            ("-session-pids", "pids", self.processes),
            ("-session-memory", "memory", self.memory),
        ];
        let given = given.into_iter().filter(|(.., limit)| limit.is_some());
        given
            .filter_map(|(flag, controller, _)| {
                let why = enable(controller).err()?;
                Some(format!("{flag} has no effect: {why}"))
            })
            .collect()
    }
}

/// Enables a controller for groups below that of this process.
fn enable(controller: &str) -> Result<(), String> {
    let Some(own) = own_directory() else {
        return Err(format!("there is no cgroup v2 at {ROOT}"));
    };
    let has = |file: &str| {
        let names = fs::read_to_string(own.join(file)).unwrap_or_default();
        names.split_whitespace().any(|name| name == controller)
    };
    let file = own.join(CONTROLLERS);
    // Fails if it has no such controller.
    let written = fs::write(&file, format!("+{controller}"));
    match written {
        _ if has(CONTROLLERS) => Ok(()),
        Err(error) if has("cgroup.controllers") => Err(format!(
            "cannot enable the controller {controller} in {}: {error}",
            file.display()
        )),
        _ => Err(format!(
            "{} has no controller {controller} (is the kernel without {}?)",
            own.display(),
            if controller == "memory" {
                "CONFIG_MEMCG"
            } else {
                "CONFIG_CGROUP_PIDS"
            },
        )),
    }
}

/// A control group. Dropping it removes the group, if it is empty.
pub(super) struct Cgroup {
    /// The group that this process is in, and the session's; open, since a mount may cover their paths.
    directories: Option<[OwnedFd; 2]>,
    /// Its `cgroup.procs` and `cgroup.kill`, open for writing, since a process in a user namespace may not open them. Kernels
    /// before 5.14 have no such file as the second.
    processes: OwnedFd,
    kill: Option<OwnedFd>,
    name: String,
}

impl Cgroup {
    /// Makes a group with these limits below that of this process; none where that is not possible.
    pub(super) fn new(limits: SessionLimits) -> Option<Self> {
        let outer = own_directory()?;
        let name = name(getpid());
        let path = outer.join(&name);
        match fs::create_dir(&path) {
            // Left by a session with the same process number that was killed.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return None,
            _ => {}
        }
        // Without the controller there is no such file, and no limit.
        let set = |file: &str, value: u64| {
            let _ = fs::write(path.join(file), value.to_string());
        };
        if let Some(limit) = limits.processes.or_else(max_processes) {
            set("pids.max", limit);
        }
        if let Some(limit) = limits.memory {
            // Not memory.high too: what cannot be reclaimed would make the session slower and slower, not end it.
            set("memory.max", limit);
            set("memory.swap.max", 0);
            // All of its processes, since what is left of a session that has lost one is seldom of use.
            set("memory.oom.group", 1);
        }
        let inner = directory(&path)?;
        let file = |name: &str| {
            let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
            openat(&inner, name, flags, Mode::empty()).ok()
        };
        Some(Self {
            processes: file("cgroup.procs")?,
            kill: file("cgroup.kill"),
            directories: Some([directory(&outer)?, inner]),
            name,
        })
    }

    /// Kills all processes in it. The caller kills them one by one in any case.
    pub(super) fn kill(&self) {
        if let Some(kill) = &self.kill {
            let _ = nix::unistd::write(kill, b"1");
        }
    }

    /// Its `cgroup.procs`, and its directory if that is open, for a process that is to start in the group.
    pub(super) fn descriptors(&self) -> (BorrowedFd<'_>, Option<BorrowedFd<'_>>) {
        let directory = self.directories.as_ref().map(|[_, inner]| inner.as_fd());
        (self.processes.as_fd(), directory)
    }

    /// Closes what leads out of the root of an isolated session: the client may name `/proc/self/fd/7` as a directory, and `..`
    /// of that. A process in a user namespace has no use for them, and the session's process outside removes the group.
    pub(super) fn close_directories(&mut self) {
        self.directories = None;
    }
}

/// The most processes and threads of a session: a quarter of what the kernel has room for.
fn max_processes() -> Option<u64> {
    let all = fs::read_to_string("/proc/sys/kernel/threads-max").ok()?;
    Some(all.trim().parse::<u64>().ok()? / 4)
}

/// Kills what a session process has left because it was killed itself. Does nothing after a session that ended
/// normally.
pub(crate) fn kill_leftovers(session: Pid) -> io::Result<()> {
    own_directory().map_or(Ok(()), |outer| remove(&outer.join(name(session))))
}

/// The same for all sessions below the group of this process that have no process any more.
pub(crate) fn kill_all_leftovers() {
    let groups = own_directory().and_then(|outer| fs::read_dir(outer).ok());
    for group in groups.into_iter().flatten().flatten() {
        let name = group.file_name();
        let session = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let process = session.map(|session| Path::new("/proc").join(session));
        if process.is_some_and(|process| !process.exists()) {
            // What cannot be removed yet is removed another time.
            let _ = remove(&group.path());
        }
    }
}

/// Kills the processes of a group, and removes it, if there is one.
fn remove(group: &Path) -> io::Result<()> {
    match fs::write(group.join("cgroup.kill"), "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::remove_dir(group) {
            // Before Linux 5.14 the group is there, without the file.
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
        // EBUSY until the last process has gone.
        _ => fs::remove_dir(group),
    }
}

fn name(session: Pid) -> String {
    format!("{PREFIX}{session}")
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Some([outer, _]) = &self.directories {
            let _ = unlinkat(outer, self.name.as_str(), UnlinkatFlags::RemoveDir);
        }
    }
}

/// The directory of this process's own group, from the line `0::/path` of /proc/self/cgroup; none if cgroup v2 is not at its
/// usual place.
fn own_directory() -> Option<PathBuf> {
    let is_v2 = statfs(ROOT).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC);
    let groups = is_v2.then(|| fs::read_to_string("/proc/self/cgroup").ok())??;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(PathBuf::from(format!(
        "{ROOT}{}",
        path.trim_end_matches('/')
    )))
}

fn directory(path: &Path) -> Option<OwnedFd> {
    open(
        path,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .ok()
}
