//! Waiting for the command and everything it started, passing signals on meanwhile, and ending all
//! of it when the client is gone.
//!
//! As child subreaper this process becomes the parent of every orphan below it, so "all are gone"
//! is exactly waitpid(2)'s `ECHILD`. It sleeps in poll(2) until a child dies or the control channel speaks.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, getpid};

use super::cgroup::Cgroup;
use crate::console::say;
use crate::sys::{self, Ended};

/// How long processes may clean up after SIGHUP before SIGKILL.
const GRACE: Duration = Duration::from_secs(2);
/// How long after the command's end its background processes are mentioned.
const NOTICE: Duration = Duration::from_secs(1);
/// Between looks for processes that were forked while their parents were being killed; doubled each time,
/// since one that hangs in the kernel is not hurried by looking.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LAST_LOOK: Duration = Duration::from_secs(5);

/// Lets go of the pipes to the client, so that it learns when the command closes its end. Standard
/// error is kept on a terminal, for the notice.
pub(super) fn release_standard_streams(tty: bool, null: &File) -> Result<()> {
    nix::unistd::dup2_stdin(null).context("cannot release standard input")?;
    nix::unistd::dup2_stdout(null).context("cannot release standard output")?;
    if !tty {
        nix::unistd::dup2_stderr(null).context("cannot release standard error")?;
    }
    Ok(())
}

/// What is to be done when nothing happens until then.
enum Next {
    Nothing,
    Notice(Instant),
    /// SIGHUP was sent.
    Kill(Instant),
    /// SIGKILL was sent; look again then, and if any are left wait this much longer.
    KillAgain(Instant, Duration),
}

/// Waits for the command `pid` and all its descendants; the result is the command's status.
pub(super) fn until_all_are_gone(
    pid: Pid,
    control: OwnedFd,
    tty: bool,
    proc: Dir,
    cgroup: Option<&Cgroup>,
) -> Result<Ended> {
    let mut heard = SigSet::empty();
    heard.add(Signal::SIGCHLD);
    heard.add(Signal::SIGTERM);
    let signals = SignalFd::with_flags(&heard, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .context("cannot make a signalfd")?;
    let mut family = Family { proc, me: getpid() };
    let mut control = Some(File::from(control));
    let mut ended = None;
    let mut next = Next::Nothing;

    while let Some(status) = reap(pid)? {
        if let Reaped::Command(status) = status {
            // Later another process may have its number.
            if ended.is_none() {
                ended = Some(status);
                if tty && matches!(next, Next::Nothing) {
                    next = Next::Notice(Instant::now() + NOTICE);
                }
            }
            continue;
        }
        match next {
            Next::Notice(at) if at <= Instant::now() => {
                notice(&mut family);
                next = Next::Nothing;
            }
            Next::Kill(at) if at <= Instant::now() => {
                if let Some(cgroup) = cgroup {
                    cgroup.kill();
                }
                family.send_all(Signal::SIGKILL);
                next = Next::KillAgain(Instant::now() + FIRST_LOOK, FIRST_LOOK);
            }
            Next::KillAgain(at, pause) if at <= Instant::now() => {
                family.send_all(Signal::SIGKILL);
                let pause = (pause * 2).min(LAST_LOOK);
                next = Next::KillAgain(Instant::now() + pause, pause);
            }
            _ => {}
        }
        sleep(&signals, control.as_ref(), &next)?;
        let mut told_to_end = false;
        while let Some(signal) = signals.read_signal().context("cannot read the signalfd")? {
            told_to_end |= signal.ssi_signo == Signal::SIGTERM as u32;
        }
        match control.as_mut().map(read_control) {
            Some(Control::Signals(numbers)) => {
                for signal in numbers
                    .into_iter()
                    .filter_map(|n| Signal::try_from(i32::from(n)).ok())
                {
                    if ended.is_some() {
                        family.send_all(signal);
                    } else {
                        let group = if tty {
                            family.foreground_group(pid)
                        } else {
                            None
                        };
                        // Fails only when the group has just ended.
                        let _ = killpg(group.unwrap_or(pid), signal);
                    }
                }
            }
            Some(Control::Ended) => told_to_end = true,
            Some(Control::Nothing) | None => {}
        }
        if told_to_end && control.take().is_some() {
            family.send_all(Signal::SIGHUP);
            // A stopped process can't act on it.
            family.send_all(Signal::SIGCONT);
            next = Next::Kill(Instant::now() + GRACE);
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

fn sleep(signals: &SignalFd, control: Option<&File>, next: &Next) -> Result<()> {
    let timeout = match next {
        Next::Nothing => PollTimeout::NONE,
        Next::Notice(at) | Next::Kill(at) | Next::KillAgain(at, _) => {
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

fn notice(family: &mut Family) {
    let names: Vec<String> = family
        .descendants()
        .iter()
        .take(4)
        .map(|p| format!("{} ({})", p.name, p.pid))
        .collect();
    if !names.is_empty() {
        say(format_args!(
            "the command has ended; waiting for what it left running: {}",
            names.join(", ")
        ));
    }
}

/// The processes below this one, seen through the machine's /proc.
struct Family {
    proc: Dir,
    me: Pid,
}

/// What /proc/PID/stat tells, see `proc_pid_stat(5)`.
#[derive(Debug, PartialEq, Eq)]
struct Process {
    pid: Pid,
    name: String,
    parent: Pid,
    /// Foreground process group of its controlling terminal.
    foreground: Option<Pid>,
}

impl Family {
    /// All descendants, parents first. One that is forked meanwhile may be missing.
    fn descendants(&mut self) -> Vec<Process> {
        let entries: Vec<_> = self.proc.iter().flatten().collect();
        let mut children: HashMap<Pid, Vec<Process>> = HashMap::new();
        for entry in entries {
            let number = entry
                .file_name()
                .to_str()
                .ok()
                .and_then(|name| name.parse().ok());
            if let Some(process) = number.and_then(|number| self.process(Pid::from_raw(number))) {
                children.entry(process.parent).or_default().push(process);
            }
        }
        let mut found = children.remove(&self.me).unwrap_or_default();
        let mut next = 0;
        while let Some(process) = found.get(next) {
            found.extend(children.remove(&process.pid).unwrap_or_default());
            next += 1;
        }
        found
    }

    fn process(&self, pid: Pid) -> Option<Process> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let fd = openat(
            &self.proc,
            format!("{pid}/stat").as_str(),
            flags,
            Mode::empty(),
        )
        .ok()?;
        let mut stat = Vec::new();
        File::from(fd).take(4096).read_to_end(&mut stat).ok()?;
        parse_stat(&stat)
    }

    fn foreground_group(&self, pid: Pid) -> Option<Pid> {
        self.process(pid)?.foreground
    }

    fn send_all(&mut self, signal: Signal) {
        for process in self.descendants() {
            // Fails only when it has just ended.
            let _ = kill(process.pid, signal);
        }
    }
}

/// `pid (name) state ppid pgrp session tty_nr tpgid ...`; the name may hold anything, `)` too.
fn parse_stat(stat: &[u8]) -> Option<Process> {
    let stat = String::from_utf8_lossy(stat);
    let (pid, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(1);
    let parent = fields.next()?.parse().ok()?;
    let foreground: i32 = fields.nth(3)?.parse().ok()?;
    Some(Process {
        pid: Pid::from_raw(pid.parse().ok()?),
        name: name.chars().filter(|c| !c.is_control()).collect(),
        parent: Pid::from_raw(parent),
        foreground: (foreground > 0).then(|| Pid::from_raw(foreground)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines() {
        let process = |foreground: Option<i32>| Process {
            pid: Pid::from_raw(7),
            name: "a) (b".into(),
            parent: Pid::from_raw(1),
            foreground: foreground.map(Pid::from_raw),
        };
        assert_eq!(
            parse_stat(b"7 (a) (b) S 1 7 7 34816 12 4194304 0"),
            Some(process(Some(12)))
        );
        assert_eq!(
            parse_stat(b"7 (a) (b) S 1 7 7 0 -1 4194304 0"),
            Some(process(None))
        );
        assert_eq!(parse_stat(b"7 (a"), None);
        assert_eq!(parse_stat(b""), None);
    }
}
