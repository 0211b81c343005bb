//! Waits for the command and everything it started, delivers signals meanwhile, and ends all of it when the client
//! has gone.
//!
//! As child subreaper this process becomes the parent of every orphan among its descendants, so waitpid(2) returns
//! `ECHILD` exactly when all have gone. It sleeps in poll(2) until a child dies or something arrives on the control
//! socket.

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
use crate::poll;
use crate::sys::{self, Ended};

/// How long processes have to clean up, between SIGHUP and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);
/// The time until SIGKILL is sent again, to processes that were forked while their parents were being killed. It is
/// doubled each time, since a process that hangs in the kernel takes as long as it takes.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const MAX_RETRY: Duration = Duration::from_secs(5);

/// Closes this process's copies of the pipes to the client, so that the client sees when the command closes them.
pub(super) fn release_standard_streams(null: &File) -> Result<()> {
    nix::unistd::dup2_stdin(null).context("cannot release standard input")?;
    nix::unistd::dup2_stdout(null).context("cannot release standard output")?;
    nix::unistd::dup2_stderr(null).context("cannot release standard error")
}

/// What to do next, and when.
enum Escalation {
    Nothing,
    /// SIGHUP was sent; send SIGKILL then.
    Kill(Instant),
    /// SIGKILL was sent; send it again then. The pause before that one was as long as this.
    KillAgain(Instant, Duration),
}

/// Waits for the command `pid` and all its descendants. The result is the command's status. When the command itself
/// ends, the connection learns it, and with `only_command` the descendants are ended.
pub(super) fn wait_for_descendants(
    pid: Pid,
    control: OwnedFd,
    tty: bool,
    only_command: bool,
    proc: Dir,
    cgroup: Option<&Cgroup>,
) -> Result<Ended> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.add(Signal::SIGTERM);
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .context("cannot make a signalfd")?;
    let mut descendants = Descendants::new(proc, getpid());
    let mut control = Some(File::from(control));
    let mut ended = None;
    let mut next = Escalation::Nothing;

    let mut terminating = false;
    while let Some(status) = reap(pid)? {
        if let Reaped::Command(status) = status {
            // Only once: later another process may have the same number.
            if ended.is_none() {
                ended = Some(status);
                if let Some(control) = &control {
                    // The connection waits for this. It fails for a pipe, which tests use.
                    let _ = shutdown(control.as_raw_fd(), Shutdown::Write);
                }
                terminating |= only_command;
                if tty {
                    // The kernel does this only to the foreground process group: jobs of an interactive shell are in others.
                    descendants.hang_up(pid);
                }
            }
            continue;
        }
        if terminating && control.take().is_some() {
            descendants.send_all(Signal::SIGHUP);
            // A stopped process cannot handle SIGHUP.
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
                        // Fails only if the group has just ended.
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
    /// Children are left, and all of them run.
    Alive,
}

/// Reaps dead children until one is the command, or until the rest are alive; none when there are none left.
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
    let deadline = match *next {
        Escalation::Nothing => None,
        Escalation::Kill(at) | Escalation::KillAgain(at, _) => Some(at),
    };
    let watched = [Some(signals.as_fd()), control.map(File::as_fd)];
    poll::sleep(watched.into_iter().flatten(), deadline)
}

enum Control {
    Signals(Vec<u8>),
    Ended,
    Nothing,
}

/// Reads what has arrived on the control socket, without waiting.
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
