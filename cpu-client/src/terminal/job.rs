//! Whether this process is a job in the background (termios(3), credentials(7)).

use std::fs;
use std::os::fd::AsFd;

use nix::unistd::{getpgrp, tcgetpgrp};

/// How many ancestors are looked at.
const MAX_ANCESTORS: usize = 64;

/// What a read from a terminal does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TerminalRead {
    /// It returns what is typed.
    Returns,
    /// It stops this process, a job in the background, and a shell leaves it so.
    Stops,
    /// It fails where nobody is left who controls the job; or sudo sees that its command wants input, and brings it to the foreground.
    Tries,
}

/// What a read from this does now.
pub(crate) fn read_of(terminal: impl AsFd) -> TerminalRead {
    if is_foreground(terminal) {
        TerminalRead::Returns
    } else if is_job() {
        TerminalRead::Stops
    } else {
        TerminalRead::Tries
    }
}

/// Whether this is not the controlling terminal of a job in the background.
pub(super) fn is_foreground(input: impl AsFd) -> bool {
    tcgetpgrp(input).map_or(true, |group| group == getpgrp())
}

/// Whether somebody is left who controls this job and is not sudo.
fn is_job() -> bool {
    let read = |pid: u32| fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    is_controlled(std::process::id(), |pid| ProcessStat::parse(&read(pid)?))
}

/// What /proc/PID/stat says of a process (`proc_pid_stat(5)`).
#[derive(Debug, Clone, PartialEq, Eq)]
struct ProcessStat {
    name: String,
    parent: u32,
    group: u32,
    session: u32,
}

impl ProcessStat {
    fn parse(stat: &str) -> Option<Self> {
        let (name, rest) = stat.rsplit_once(") ")?;
        let mut numbers = rest.split(' ').skip(1).map(str::parse);
        let mut number = || numbers.next()?.ok();
        Some(Self {
            name: name.split_once('(')?.1.to_owned(),
            parent: number()?,
            group: number()?,
            session: number()?,
        })
    }
}

/// Whether the first ancestor of another process group is of the same session.
fn is_controlled(pid: u32, process: impl Fn(u32) -> Option<ProcessStat>) -> bool {
    let Some(own) = process(pid) else {
        return false;
    };
    let ancestors = std::iter::successors(process(own.parent), |child| process(child.parent));
    let mut ancestors = ancestors.take(MAX_ANCESTORS);
    let leader = ancestors.find(|ancestor| ancestor.group != own.group);
    leader.is_some_and(|leader| leader.session == own.session && !leader.name.starts_with("sudo"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_look_like_anything() {
        let process = |name: &str| ProcessStat {
            name: name.into(),
            parent: 7,
            group: 9,
            session: 8,
        };
        for name in ["bash", "a) S 1 (b", "", " "] {
            let stat = format!("9 ({name}) S 7 9 8 34816 10 4194304 0\n");
            assert_eq!(ProcessStat::parse(&stat), Some(process(name)));
        }
        for stat in ["", "9 (bash) S 7 9", "9 bash S 7 9 8", "9 (bash) S x 9 8"] {
            assert_eq!(ProcessStat::parse(stat), None);
        }
    }

    #[test]
    fn a_shell_controls_its_jobs_and_sudo_and_strangers_do_not() {
        // The shell 2 of session 2 has the job 3, a script, with cpu as 4.
        let find = |name: &'static str, session| {
            move |pid| {
                let (parent, group, name) = match pid {
                    4 => (3, 3, "cpu"),
                    3 => (2, 3, "sh"),
                    2 => (1, 2, name),
                    1 => (0, 1, "init"),
                    _ => return None,
                };
                let name = name.to_owned();
                let session = if pid == 2 { session } else { pid.min(2) };
                Some(ProcessStat {
                    name,
                    parent,
                    group,
                    session,
                })
            }
        };
        assert!(is_controlled(4, find("bash", 2)));
        assert!(!is_controlled(4, find("sudo", 2)));
        // The shell has ended, and its place is taken by a process of another session.
        assert!(!is_controlled(4, find("systemd", 1)));
        assert!(!is_controlled(4, |pid| (pid == 4).then(|| ProcessStat {
            name: "cpu".into(),
            parent: 3,
            group: 3,
            session: 2,
        })));
        assert!(!is_controlled(4, |_| None));
    }
}
