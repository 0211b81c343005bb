//! The supervised children: roles of this program that are started again when they end, after longer and longer
//! delays if they end soon.

use std::env;
use std::ffi::{CString, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::console::say;
use crate::flags;
use crate::modules;
use crate::role::Role;
use crate::ssh::host_key::PrivateHostKey;
use crate::sys::{self, Ended};

const FIRST_DELAY: Duration = Duration::from_secs(1);
/// The longest delay before a child is started again.
pub(super) const MAX_DELAY: Duration = Duration::from_secs(30);
/// After a child has lived this long, its next delay is the first one again.
const HEALTHY_LIFETIME: Duration = Duration::from_mins(1);

/// All children, and the flags that they share.
pub(super) struct Children {
    table: Vec<Child>,
    flags: Vec<OsString>,
    /// The machine's host key, if it is in no file any more.
    host_key: Option<PrivateHostKey>,
    /// Everything is being ended, so their ends are not reported.
    pub(super) ending: bool,
}

struct Child {
    role: Role,
    state: ChildState,
    delay: Duration,
}

enum ChildState {
    Alive {
        pid: Pid,
        since: Instant,
    },
    /// To be started at this time.
    Due(Instant),
}

impl Children {
    /// All are due, and none has been started.
    pub(super) fn new(
        flags: Vec<OsString>,
        host_key: Option<PrivateHostKey>,
        is_pid_1: bool,
    ) -> Self {
        let now = Instant::now();
        // Only PID 1 owns the consoles, and not every image has modules.
        let console = is_pid_1.then_some(Role::Console);
        let modules = modules::directory().map(|_| Role::Modules);
        let is_found = flags::parse_os(&flags).is_ok_and(|options| options.dnssd);
        let dnssd = is_found.then_some(Role::Dnssd);
        let table = [console, modules, dnssd]
            .into_iter()
            .flatten()
            .chain([Role::Network, Role::Server])
            .map(|role| Child {
                role,
                state: ChildState::Due(now),
                delay: FIRST_DELAY,
            })
            .collect();
        Self {
            table,
            flags,
            host_key,
            ending: false,
        }
    }

    /// Reaps every dead process, whether a child or adopted. True if no process is left.
    pub(super) fn reap(&mut self, now: Instant) -> bool {
        loop {
            match sys::reap() {
                Ok(None) => return false,
                Ok(Some((pid, ended))) => self.died(pid, ended, now),
                Err(Errno::EINTR) => {}
                // ECHILD: with these arguments there is no other error.
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
                let delay = child.schedule_restart(lived, now);
                if self.ending {
                    continue;
                }
                say(format_args!(
                    "{} (pid {pid}) {how} after {} s; starting it again in {} s",
                    child.role.name(),
                    lived.as_secs(),
                    delay.as_secs()
                ));
            }
        }
    }

    /// Starts the children that are due.
    pub(super) fn start_due(&mut self, now: Instant) {
        for child in &mut self.table {
            if !matches!(child.state, ChildState::Due(at) if at <= now) {
                continue;
            }
            match child.start(&self.flags, self.host_key.as_ref()) {
                Ok(pid) => child.state = ChildState::Alive { pid, since: now },
                Err(errno) => {
                    let delay = child.schedule_restart(Duration::ZERO, now);
                    say(format_args!(
                        "cannot start {}: {}; trying again in {} s",
                        child.role.name(),
                        errno.desc(),
                        delay.as_secs()
                    ));
                }
            }
        }
    }

    /// When the next child is due; none if all are alive.
    pub(super) fn next_start(&self) -> Option<Instant> {
        let due = |child: &Child| match child.state {
            ChildState::Due(at) => Some(at),
            ChildState::Alive { .. } => None,
        };
        self.table.iter().filter_map(due).min()
    }

    /// The children that are alive. Each is the leader of a process group.
    pub(super) fn alive(&self) -> impl Iterator<Item = Pid> {
        self.table.iter().filter_map(|child| match child.state {
            ChildState::Alive { pid, .. } => Some(pid),
            ChildState::Due(_) => None,
        })
    }
}

impl Child {
    /// Records the end of the child after it has lived for `lived`. The result is the delay after which it is started
    /// again. Delays double while lives are short.
    fn schedule_restart(&mut self, lived: Duration, now: Instant) -> Duration {
        if lived >= HEALTHY_LIFETIME {
            self.delay = FIRST_DELAY;
        }
        let delay = self.delay;
        self.state = ChildState::Due(now + delay);
        self.delay = (delay * 2).min(MAX_DELAY);
        delay
    }

    fn start(&self, flags: &[OsString], host_key: Option<&PrivateHostKey>) -> nix::Result<Pid> {
        // This works even if the file has been removed. /init is for the case that /proc is not mounted.
        let program = if Path::new("/proc/self/exe").exists() {
            c"/proc/self/exe"
        } else {
            c"/init"
        };
        let names = ["cpud", self.role.name()].map(|arg| arg.as_bytes().to_vec());
        let flags = flags.iter().map(|flag| flag.as_bytes().to_vec());
        let variables = env::vars_os().map(|(mut variable, value)| {
            variable.push("=");
            variable.push(value);
            variable.into_vec()
        });
        // Arguments and variables of a process cannot contain a NUL.
        let c_strings = |bytes| CString::new(bytes).unwrap_or_default();
        // Without a pipe, the server says what it cannot read.
        let host_key = host_key.filter(|_| self.role == Role::Server);
        let host_key = host_key.and_then(|host_key| host_key.pipe().ok());
        let host_key_flag = host_key
            .iter()
            .map(|(_, name)| format!("-hk={name}").into_bytes());
        let args = names.into_iter().chain(flags).chain(host_key_flag);
        let args: Vec<CString> = args.map(c_strings).collect();
        let environment: Vec<CString> = variables.map(c_strings).collect();
        sys::spawn_leader(program, &args, &environment, &sys::Spawn::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_the_longest_and_a_long_life_resets_them() {
        let now = Instant::now();
        let state = ChildState::Due(now);
        let mut child = Child {
            role: Role::Network,
            state,
            delay: FIRST_DELAY,
        };
        let mut delay = |lived| {
            child
                .schedule_restart(Duration::from_secs(lived), now)
                .as_secs()
        };
        assert_eq!([0; 7].map(&mut delay), [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!([59, 60, 0, 61].map(&mut delay), [30, 1, 2, 1]);
    }

    #[test]
    fn only_dead_children_are_due() {
        let mut children = Children::new(Vec::new(), None, false);
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
