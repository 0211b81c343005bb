//! The supervised children: a table of roles of this same program, each started again when it
//! dies, later and later if it dies young.

use std::env;
use std::ffi::{CString, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::console::say;
use crate::modules;
use crate::role::Role;
use crate::sys::{self, Ended};

const FIRST_DELAY: Duration = Duration::from_secs(1);
/// No child is dead for longer than this before it is started again.
pub(super) const MAX_DELAY: Duration = Duration::from_secs(30);
/// A child that lived this long did not die of how it was started.
const HEALTHY_LIFETIME: Duration = Duration::from_mins(1);

/// All of them, and the flags they share.
pub(super) struct Children {
    table: Vec<Child>,
    flags: Vec<OsString>,
    /// Their deaths are wanted and not worth a line.
    pub(super) ending: bool,
}

struct Child {
    role: Role,
    state: ChildState,
    pause: Duration,
}

enum ChildState {
    Alive {
        pid: Pid,
        since: Instant,
    },
    /// To be started then.
    Due(Instant),
}

impl Children {
    /// None is started yet, all are due.
    pub(super) fn new(flags: Vec<OsString>, is_pid_1: bool) -> Self {
        let now = Instant::now();
        // A machine's consoles are cpud's; and not every image has modules.
        let console = is_pid_1.then_some(Role::Console);
        let modules = modules::directory().map(|_| Role::Modules);
        let table = [console, modules]
            .into_iter()
            .flatten()
            .chain([Role::Network, Role::Server])
            .map(|role| Child {
                role,
                state: ChildState::Due(now),
                pause: FIRST_DELAY,
            })
            .collect();
        Self {
            table,
            flags,
            ending: false,
        }
    }

    /// Reaps every dead process, ours or adopted. True when there is no process left.
    pub(super) fn reap(&mut self, now: Instant) -> bool {
        loop {
            match sys::reap() {
                Ok(None) => return false,
                Ok(Some((pid, ended))) => self.died(pid, ended, now),
                Err(Errno::EINTR) => {}
                // ECHILD; nothing else is possible with these arguments.
                Err(_) => return true,
            }
        }
    }

    fn died(&mut self, pid: Pid, ended: Ended, now: Instant) {
        let how = match ended {
            Ended::Exited(code) => format!("ended with status {code}"),
            Ended::Killed(number) => match Signal::try_from(number) {
                Ok(signal) => format!("was killed by {signal}"),
                Err(_) => format!("was killed by signal {number}"),
            },
        };
        for child in &mut self.table {
            if let ChildState::Alive { pid: its, since } = child.state
                && its == pid
            {
                let lived = now.saturating_duration_since(since);
                let pause = child.rest(lived, now);
                if self.ending {
                    continue;
                }
                say(format_args!(
                    "{} (pid {pid}) {how} after {} s; starting it again in {} s",
                    child.role.name(),
                    lived.as_secs(),
                    pause.as_secs()
                ));
            }
        }
    }

    /// Starts every child whose time has come.
    pub(super) fn start_due(&mut self, now: Instant) {
        for child in &mut self.table {
            if !matches!(child.state, ChildState::Due(at) if at <= now) {
                continue;
            }
            match child.start(&self.flags) {
                Ok(pid) => child.state = ChildState::Alive { pid, since: now },
                Err(errno) => {
                    let pause = child.rest(Duration::ZERO, now);
                    say(format_args!(
                        "cannot start {}: {}; trying again in {} s",
                        child.role.name(),
                        errno.desc(),
                        pause.as_secs()
                    ));
                }
            }
        }
    }

    /// When the next child is due; none while all are alive.
    pub(super) fn next_start(&self) -> Option<Instant> {
        let due = |child: &Child| match child.state {
            ChildState::Due(at) => Some(at),
            ChildState::Alive { .. } => None,
        };
        self.table.iter().filter_map(due).min()
    }

    /// Those alive. Each leads a process group.
    pub(super) fn alive(&self) -> impl Iterator<Item = Pid> {
        self.table.iter().filter_map(|child| match child.state {
            ChildState::Alive { pid, .. } => Some(pid),
            ChildState::Due(_) => None,
        })
    }
}

impl Child {
    /// Dead after `lived`: due again after the pause that is returned. Pauses double while
    /// lives are short.
    fn rest(&mut self, lived: Duration, now: Instant) -> Duration {
        if lived >= HEALTHY_LIFETIME {
            self.pause = FIRST_DELAY;
        }
        let pause = self.pause;
        self.state = ChildState::Due(now + pause);
        self.pause = (pause * 2).min(MAX_DELAY);
        pause
    }

    fn start(&self, flags: &[OsString]) -> nix::Result<Pid> {
        // Found even when its file was removed; /init for the case that /proc is not there.
        let this = if Path::new("/proc/self/exe").exists() {
            c"/proc/self/exe"
        } else {
            c"/init"
        };
        let program = ["cpud", self.role.name()].map(|arg| arg.as_bytes().to_vec());
        let flags = flags.iter().map(|flag| flag.as_bytes().to_vec());
        let variables = env::vars_os().map(|(mut variable, value)| {
            variable.push("=");
            variable.push(value);
            variable.into_vec()
        });
        // What came through the kernel's or our own exec has no NUL inside.
        let c_strings = |bytes| CString::new(bytes).unwrap_or_default();
        let args: Vec<CString> = program.into_iter().chain(flags).map(c_strings).collect();
        let environment: Vec<CString> = variables.map(c_strings).collect();
        sys::spawn_leader(this, &args, &environment, &sys::Spawn::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_the_longest_and_a_long_life_resets_them() {
        let now = Instant::now();
        let state = ChildState::Due(now);
        let mut child = Child {
            role: Role::Network,
            state,
            pause: FIRST_DELAY,
        };
        let mut rest = |lived| child.rest(Duration::from_secs(lived), now).as_secs();
        assert_eq!([0; 7].map(&mut rest), [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!([59, 60, 0, 61].map(&mut rest), [30, 1, 2, 1]);
    }

    #[test]
    fn only_dead_children_are_due() {
        let mut children = Children::new(Vec::new(), false);
        let now = Instant::now();
        for (index, child) in children.table.iter_mut().enumerate() {
            let pid = Pid::from_raw(1000 + i32::try_from(index).unwrap());
            child.state = ChildState::Alive { pid, since: now };
        }
        assert_eq!(children.next_start(), None);
        children.died(Pid::from_raw(1), Ended::Exited(0), now);
        assert_eq!(children.next_start(), None);
        children.died(Pid::from_raw(1001), Ended::Exited(1), now);
        assert_eq!(children.next_start(), Some(now + FIRST_DELAY));
        assert_eq!(children.alive().collect::<Vec<_>>(), [Pid::from_raw(1000)]);
    }
}
