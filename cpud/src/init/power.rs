//! How the machine ends: on the signals of busybox's, sysvinit's and systemd's init, and on requests for runlevel 0 or 6, cpud's
//! own processes get SIGTERM, on which sessions end their commands; then the others get it, and SIGKILL a little later; then
//! sync(2) and reboot(2).

use std::fmt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::children::Children;
use super::events::{Event, Events};

/// The time between the request and SIGTERM, in which the command that has made it ends, and its client gets its status.
const NOTICE: Duration = Duration::from_secs(2);
/// The time that cpud's own processes may take to end. Sessions give their commands two seconds; the rest is for slow machines.
const GRACE: Duration = Duration::from_secs(10);
/// The time to wait after each signal to the others. Only processes that hang in the kernel outlive the second, perhaps for ever.
const KILL_GRACE: Duration = Duration::from_secs(1);

/// What an event asks init for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shutdown {
    Halt,
    PowerOff,
    Reboot,
    /// End this process, if it is not PID 1.
    Exit,
}

impl fmt::Display for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Halt => "halt",
            Self::PowerOff => "power off",
            Self::Reboot => "reboot",
            Self::Exit => "exit",
        })
    }
}

impl Shutdown {
    pub(super) fn from_event(event: Event, is_pid_1: bool) -> Option<Self> {
        let signal = match event {
            Event::Runlevel(level) => {
                return match level {
                    b'0' => Some(Self::PowerOff),
                    b'6' => Some(Self::Reboot),
                    _ => None,
                };
            }
            // systemd's SIGRTMIN+3 to +5, as glibc counts them (systemd(1)).
            Event::Signal(37) if is_pid_1 => return Some(Self::Halt),
            Event::Signal(38) if is_pid_1 => return Some(Self::PowerOff),
            Event::Signal(39) if is_pid_1 => return Some(Self::Reboot),
            Event::Signal(number) => Signal::try_from(number).ok()?,
        };
        match (signal, is_pid_1) {
            (Signal::SIGUSR1, true) => Some(Self::Halt),
            (Signal::SIGUSR2 | Signal::SIGPWR, true) => Some(Self::PowerOff),
            // SIGINT is Ctrl-Alt-Del.
            (Signal::SIGTERM | Signal::SIGINT, true) => Some(Self::Reboot),
            (Signal::SIGTERM | Signal::SIGINT | Signal::SIGHUP | Signal::SIGQUIT, false) => {
                Some(Self::Exit)
            }
            _ => None,
        }
    }

    /// Halts, powers off or reboots the machine. Returns only if the kernel refuses.
    pub(super) fn reboot(self) -> Errno {
        nix::unistd::sync();
        let how = match self {
            Self::Halt => RebootMode::RB_HALT_SYSTEM,
            Self::PowerOff => RebootMode::RB_POWER_OFF,
            Self::Reboot | Self::Exit => RebootMode::RB_AUTOBOOT,
        };
        let Err(errno) = reboot(how);
        errno
    }
}

/// Ends every process but this one. If this is not PID 1, ends its children and the processes that it has adopted.
pub(super) fn kill_all(children: &mut Children, events: &Events, is_pid_1: bool) {
    children.ending = true;
    if is_pid_1 {
        wait_for_end(children, events, NOTICE);
    }
    // Connections and sessions are in the server's group. Commands are not: their sessions send them SIGHUP.
    let end_children = |children: &mut Children, signal, wait| {
        for leader in children.alive() {
            let _ = killpg(leader, signal);
        }
        wait_for_end(children, events, wait);
    };
    end_children(children, Signal::SIGTERM, GRACE);
    if is_pid_1 {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            // Fails only if there is no other process.
            let _ = kill(Pid::from_raw(-1), signal);
            let _ = kill(Pid::from_raw(-1), Signal::SIGCONT);
            wait_for_end(children, events, KILL_GRACE);
        }
    } else {
        end_children(children, Signal::SIGKILL, KILL_GRACE);
    }
    children.ending = false;
}

/// Waits until no process is left, but not longer than `wait`.
fn wait_for_end(children: &mut Children, events: &Events, wait: Duration) {
    let deadline = Instant::now() + wait;
    while !children.reap(Instant::now()) && Instant::now() < deadline {
        // SIGCHLD, or the deadline. Other events ask for what is being done.
        events.wait(Some(deadline));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_and_runlevels_mean_what_they_mean_to_other_inits() {
        for (event, end) in [
            (Event::Signal(Signal::SIGUSR1 as i32), Some(Shutdown::Halt)),
            (
                Event::Signal(Signal::SIGUSR2 as i32),
                Some(Shutdown::PowerOff),
            ),
            (
                Event::Signal(Signal::SIGTERM as i32),
                Some(Shutdown::Reboot),
            ),
            (Event::Signal(Signal::SIGINT as i32), Some(Shutdown::Reboot)),
            (Event::Signal(Signal::SIGHUP as i32), None),
            (Event::Signal(Signal::SIGCHLD as i32), None),
            (Event::Signal(36), None),
            (Event::Signal(37), Some(Shutdown::Halt)),
            (Event::Signal(38), Some(Shutdown::PowerOff)),
            (Event::Signal(39), Some(Shutdown::Reboot)),
            (Event::Signal(40), None),
            (Event::Runlevel(b'0'), Some(Shutdown::PowerOff)),
            (Event::Runlevel(b'6'), Some(Shutdown::Reboot)),
            (Event::Runlevel(b'1'), None),
            (Event::Runlevel(0), None),
        ] {
            assert_eq!(Shutdown::from_event(event, true), end, "{event}");
        }
        let of_other = |signal| Shutdown::from_event(Event::Signal(signal), false);
        assert_eq!(of_other(Signal::SIGTERM as i32), Some(Shutdown::Exit));
        assert_eq!(of_other(Signal::SIGUSR2 as i32), None);
        assert_eq!(of_other(38), None);
    }
}
