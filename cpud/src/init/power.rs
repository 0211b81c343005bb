//! How the machine ends: on the signals of busybox's and sysvinit's init all processes get SIGTERM, and SIGKILL a little
//! later; then sync(2) and reboot(2).

use std::fmt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::AllSignals;
use super::children::Children;

/// The time between SIGTERM and SIGKILL: one second more than sessions give their commands.
const GRACE: Duration = Duration::from_secs(3);
/// The time to wait after SIGKILL. Only processes that hang in the kernel take longer, perhaps for ever.
const KILL_GRACE: Duration = Duration::from_secs(1);

/// What a signal to init asks for.
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
    pub(super) fn from_signal(signal: Signal, is_pid_1: bool) -> Option<Self> {
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
pub(super) fn kill_all(children: &mut Children, signals: &AllSignals, is_pid_1: bool) {
    children.ending = true;
    for (signal, wait) in [(Signal::SIGTERM, GRACE), (Signal::SIGKILL, KILL_GRACE)] {
        if is_pid_1 {
            // Fails only if there is no other process.
            let _ = kill(Pid::from_raw(-1), signal);
            let _ = kill(Pid::from_raw(-1), Signal::SIGCONT);
        } else {
            for leader in children.alive() {
                let _ = killpg(leader, signal);
            }
        }
        let deadline = Instant::now() + wait;
        while !children.reap(Instant::now()) {
            if Instant::now() >= deadline {
                break;
            }
            // SIGCHLD, or the deadline. Other signals ask for what is being done.
            signals.wait(Some(deadline));
        }
    }
    children.ending = false;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_mean_what_they_mean_to_busybox() {
        for (signal, end) in [
            (Signal::SIGUSR1, Some(Shutdown::Halt)),
            (Signal::SIGUSR2, Some(Shutdown::PowerOff)),
            (Signal::SIGTERM, Some(Shutdown::Reboot)),
            (Signal::SIGINT, Some(Shutdown::Reboot)),
            (Signal::SIGHUP, None),
            (Signal::SIGCHLD, None),
        ] {
            assert_eq!(Shutdown::from_signal(signal, true), end);
        }
        assert_eq!(
            Shutdown::from_signal(Signal::SIGTERM, false),
            Some(Shutdown::Exit)
        );
        assert_eq!(Shutdown::from_signal(Signal::SIGUSR2, false), None);
    }
}
