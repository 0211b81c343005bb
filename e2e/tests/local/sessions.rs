//! The session role, where it needs root itself: a user namespace in which one is root has no control groups of its own.

use std::io::{BufRead as _, BufReader};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[(
    "a_control_group_is_the_sessions_own_and_goes_with_it",
    control_group,
)];

/// How long the processes sleep, which is how they are found.
const MARK: &str = "86423.5";

fn control_group() -> Result<()> {
    // In a mount namespace of its own, since this machine may have no cgroup v2 mounted.
    let script =
        "mount -t cgroup2 none /sys/fs/cgroup && exec \"$0\" session --control $1 -- sh -c \"$2\"";
    let breed = format!(
        "trap '' HUP; grep ^0:: /proc/self/cgroup; (while :; do (sleep {MARK} &); sleep 0.01; done) & wait"
    );
    let (theirs, ours) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty()))?;
    let mut child = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(e2e::out().join("cpud"))
        .args([&theirs.as_raw_fd().to_string(), &breed])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run unshare (package util-linux)")?;
    let mut group = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut group)?;
    let path = group.rsplit("0::").next().unwrap_or_default().trim_end();
    ensure!(
        path.ends_with(&format!("/cpu-session-{}", child.id())),
        "{group}"
    );
    drop(ours);
    let status = child.wait()?;
    ensure!(status.signal() == Some(9), "{status}");
    ensure!(!is_running(MARK)?, "a process is left");
    let look = "mount -t cgroup2 none /sys/fs/cgroup && ls -d /sys/fs/cgroup/\"$0\"";
    let look = Command::new("unshare")
        .args(["--mount", "sh", "-c", look, path])
        .output()?;
    ensure!(
        String::from_utf8_lossy(&look.stderr).contains("No such file"),
        "{look:?}"
    );
    Ok(())
}

/// Whether any process has `mark` in its command line.
fn is_running(mark: &str) -> Result<bool> {
    Ok(std::fs::read_dir("/proc")?.flatten().any(|entry| {
        std::fs::read(entry.path().join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(mark))
    }))
}
