//! The descendants of a session process, as the machine's /proc shows them (`proc_pid_stat(5)`).

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read as _;

use nix::dir::Dir;
use nix::fcntl::{OFlag, openat};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

/// How many processes a message names.
const MAX_NAMED: usize = 4;

/// All descendants of a process.
pub(crate) struct Descendants {
    proc: Dir,
    ancestor: Pid,
}

/// A process, from /proc/PID/stat.
#[derive(Debug, PartialEq, Eq)]
struct Process {
    pid: Pid,
    name: String,
    parent: Pid,
    /// Its process group.
    group: Pid,
    /// Its session (setsid(2)).
    session: Pid,
    /// The foreground process group of its controlling terminal.
    foreground: Option<Pid>,
}

impl Descendants {
    /// The descendants of `ancestor`. `proc` is the machine's /proc.
    pub(crate) fn new(proc: Dir, ancestor: Pid) -> Self {
        Self { proc, ancestor }
    }

    /// Finds them, parents first. One that is forked meanwhile may be missing.
    fn descendants(&mut self) -> Vec<Process> {
        self.find(&[])
    }

    /// Those of them that are neither among `others` nor descendants of these.
    pub(crate) fn without(&mut self, others: &[Pid]) -> Vec<Pid> {
        let found = self.find(others);
        found.into_iter().map(|process| process.pid).collect()
    }

    fn find(&mut self, others: &[Pid]) -> Vec<Process> {
        let entries: Vec<_> = self.proc.iter().flatten().collect();
        let mut children: HashMap<Pid, Vec<Process>> = HashMap::new();
        for entry in entries {
            let number = entry
                .file_name()
                .to_str()
                .ok()
                .and_then(|name| name.parse().ok());
            let number = number.map(Pid::from_raw);
            let number = number.filter(|number| !others.contains(number));
            if let Some(process) = number.and_then(|number| self.process(number)) {
                children.entry(process.parent).or_default().push(process);
            }
        }
        let mut found = children.remove(&self.ancestor).unwrap_or_default();
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

    /// The names and process numbers of the first few, for a message; none if there are none. In an isolated session, the
    /// first is the session's own process, and the numbers are others.
    pub(crate) fn describe(&mut self, is_isolated: bool) -> Option<String> {
        let mut all = self.descendants();
        all.retain(|process| !is_isolated || process.parent != self.ancestor);
        let named = all.iter().take(MAX_NAMED);
        let mut text: Vec<String> = named
            .map(|process| {
                let number = format!(" (pid {})", process.pid);
                let number = if is_isolated { "" } else { number.as_str() };
                format!("{}{number}", process.name)
            })
            .collect();
        if all.len() > MAX_NAMED {
            text.push(format!("{} more", all.len() - MAX_NAMED));
        }
        (!text.is_empty()).then(|| text.join(", "))
    }

    pub(super) fn foreground_group(&self, pid: Pid) -> Option<Pid> {
        self.process(pid)?.foreground
    }

    pub(super) fn send_all(&mut self, signal: Signal) {
        for process in self.descendants() {
            // Fails only if the process has just ended.
            let _ = kill(process.pid, signal);
        }
    }

    /// Hangs up a session: the processes on its terminal, but for those that have called setsid(2). A group gets a signal as a
    /// whole, with what it forks meanwhile.
    pub(super) fn hang_up(&mut self, session: Pid) {
        let processes = self.descendants().into_iter();
        let its = processes.filter(|process| process.session == session);
        let groups: HashSet<Pid> = its.map(|process| process.group).collect();
        for group in groups {
            // Fails only if the group has just ended.
            let _ = killpg(group, Signal::SIGHUP);
            let _ = killpg(group, Signal::SIGCONT);
        }
    }
}

/// Parses `pid (name) state ppid pgrp session tty_nr tpgid ...`. The name may contain anything, even `)`.
fn parse_stat(stat: &[u8]) -> Option<Process> {
    let stat = String::from_utf8_lossy(stat);
    let (pid, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(1);
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    let foreground: i32 = fields.nth(1)?.parse().ok()?;
    Some(Process {
        pid: Pid::from_raw(pid.parse().ok()?),
        name: name.chars().filter(|c| !c.is_control()).collect(),
        parent: Pid::from_raw(parent),
        group: Pid::from_raw(group),
        session: Pid::from_raw(session),
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
            group: Pid::from_raw(5),
            session: Pid::from_raw(6),
            foreground: foreground.map(Pid::from_raw),
        };
        assert_eq!(
            parse_stat(b"7 (a) (b) S 1 5 6 34816 12 4194304 0"),
            Some(process(Some(12)))
        );
        assert_eq!(
            parse_stat(b"7 (a) (b) S 1 5 6 0 -1 4194304 0"),
            Some(process(None))
        );
        assert_eq!(parse_stat(b"7 (a"), None);
        assert_eq!(parse_stat(b""), None);
    }
}
