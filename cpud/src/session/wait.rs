//! Waiting for the command and everything it started, passing signals on meanwhile, and ending all
//! of it when the client is gone.
//!
//! As child subreaper this process becomes the parent of every orphan below it, so "all are gone"
//! is exactly waitpid(2)'s `ECHILD`. It sleeps in poll(2) until a child dies or the control channel speaks.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{Shutdown, shutdown};
use nix::unistd::{Pid, getpid};

use super::cgroup::Cgroup;
use super::descendants::Descendants;
use crate::sys::{self, Ended};

/// How long processes may clean up after SIGHUP before SIGKILL.
const GRACE: Duration = Duration::from_secs(2);
/// Between looks for processes that were forked while their parents were being killed; doubled each time,
/// since one that hangs in the kernel is not hurried by looking.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const MAX_RETRY: Duration = Duration::from_secs(5);

/// Lets go of the pipes to the client, so that it learns when the command closes its end.
pub(super) fn release_standard_streams(null: &File) -> Result<()> {
    nix::unistd::dup2_stdin(null).context("cannot release standard input")?;
    nix::unistd::dup2_stdout(null).context("cannot release standard output")?;
    nix::unistd::dup2_stderr(null).context("cannot release standard error")
}

/// What is to be done when nothing happens until then.
enum Escalation {
    Nothing,
    /// SIGHUP was sent.
    Kill(Instant),
    /// SIGKILL was sent; look again then, and if any are left wait this much longer.
    KillAgain(Instant, Duration),
}

/// Waits for the command `pid` and all its descendants; the result is the command's status. When the
/// command alone has ended the connection is told, and with `only_command` the rest is ended.
pub(super) fn wait_for_descendants(
    pid: Pid,
    control: OwnedFd,
    tty: bool,
    only_command: bool,
    proc: Dir,
    cgroup: Option<&Cgroup>,
) -> Result<Ended> {
    let mut heard = SigSet::empty();
    heard.add(Signal::SIGCHLD);
    heard.add(Signal::SIGTERM);
    let signals = SignalFd::with_flags(&heard, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .context("cannot make a signalfd")?;
    let mut descendants = Descendants::new(proc, getpid());
    let mut control = Some(File::from(control));
    let mut ended = None;
    let mut next = Escalation::Nothing;

    let mut terminating = false;
    while let Some(status) = reap(pid)? {
        if let Reaped::Command(status) = status {
            // Later another process may have its number.
            if ended.is_none() {
                ended = Some(status);
                if let Some(control) = &control {
                    // Only a socket has a direction that can end, and only the connection listens.
                    let _ = shutdown(control.as_raw_fd(), Shutdown::Write);
                }
                terminating |= only_command;
            }
            continue;
        }
        if terminating && control.take().is_some() {
            descendants.send_all(Signal::SIGHUP);
            // A stopped process can't act on it.
            descendants.send_all(Signal::SIGCONT);
            next = Escalation::Kill(Instant::now() + GRACE);
        }
        match next {
            Escalation::Kill(at) if at <= Instant::now() => {
                if let Some(cgroup) = cgroup {
                    cgroup.kill();
                }
                descendants.send_all(Signal::SIGKILL);
                next = Escalation::KillAgain(Instant::now() + FIRST_RETRY, FIRST_RETRY);
            }
            Escalation::KillAgain(at, pause) if at <= Instant::now() => {
                descendants.send_all(Signal::SIGKILL);
                let pause = (pause * 2).min(MAX_RETRY);
                next = Escalation::KillAgain(Instant::now() + pause, pause);
            }
            _ => {}
        }
        sleep(&signals, control.as_ref(), &next)?;
        while let Some(signal) = signals.read_signal().context("cannot read the signalfd")? {
            terminating |= signal.ssi_signo == Signal::SIGTERM as u32;
        }
        match control.as_mut().map(read_control) {
            Some(Control::Signals(numbers)) => {
                for signal in numbers
                    .into_iter()
                    .filter_map(|n| Signal::try_from(i32::from(n)).ok())
                {
                    if ended.is_some() {
                        descendants.send_all(signal);
                    } else {
                        let group = if tty {
                            descendants.foreground_group(pid)
                        } else {
                            None
                        };
                        // Fails only when the group has just ended.
                        let _ = killpg(group.unwrap_or(pid), signal);
                    }
                }
            }
            Some(Control::Ended) => terminating = true,
            Some(Control::Nothing) | None => {}
        }
    }
    ended.context("the command ended without a status")
}

enum Reaped {
    Command(Ended),
    /// Some are still alive, none is dead.
    Alive,
}

/// Reaps one step: the command's status, or that children remain; none when there are none.
fn reap(command: Pid) -> Result<Option<Reaped>> {
    loop {
        match sys::reap() {
            Ok(None) => return Ok(Some(Reaped::Alive)),
            Ok(Some((pid, ended))) if pid == command => {
                return Ok(Some(Reaped::Command(ended)));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => return Ok(None),
            Err(errno) => return Err(errno).context("cannot wait for the command"),
        }
    }
}

fn sleep(signals: &SignalFd, control: Option<&File>, next: &Escalation) -> Result<()> {
    let timeout = match next {
        Escalation::Nothing => PollTimeout::NONE,
        Escalation::Kill(at) | Escalation::KillAgain(at, _) => {
            // One more millisecond, since the remainder is cut off.
            let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        }
    };
    let watched = [Some(signals.as_fd()), control.map(File::as_fd)];
    let mut fds: Vec<_> = watched
        .into_iter()
        .flatten()
        .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
        .collect();
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno).context("cannot poll"),
    }
}

enum Control {
    Signals(Vec<u8>),
    Ended,
    Nothing,
}

/// Reads what the control channel holds, without waiting.
fn read_control(control: &mut File) -> Control {
    let mut ready = [PollFd::new(control.as_fd(), PollFlags::POLLIN)];
    if !matches!(poll(&mut ready, PollTimeout::ZERO), Ok(1..)) {
        return Control::Nothing;
    }
    let mut numbers = vec![0; 64];
    match control.read(&mut numbers) {
        Ok(0) => Control::Ended,
        Ok(count) => {
            numbers.truncate(count);
            Control::Signals(numbers)
        }
        Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {
            Control::Nothing
        }
        Err(_) => Control::Ended,
    }
}
