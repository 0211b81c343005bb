//! What a machine says of itself.

use std::fs::{self, File};
use std::io::Read as _;
use std::time::{Duration, Instant};

use cpu_proto::discovery::{go_arch, key, write_text};
use nix::sched::CpuSet;
use nix::unistd::Pid;

use crate::memory;
use crate::role::Role;

/// For how long it is taken to be true, whoever asks.
const FRESH: Duration = Duration::from_secs(1);

/// The text of a record, read anew when it is old.
#[derive(Default)]
pub(super) struct MachineText {
    text: Vec<u8>,
    read: Option<Instant>,
}

impl MachineText {
    pub(super) fn get(&mut self, now: Instant) -> &[u8] {
        if self.read.is_none_or(|read| read + FRESH <= now) {
            self.text = text();
            self.read = Some(now);
        }
        &self.text
    }
}

fn text() -> Vec<u8> {
    let cores = cores();
    let mut pairs = vec![
        (key::ARCH, go_arch(std::env::consts::ARCH).to_owned()),
        (key::OS, std::env::consts::OS.to_owned()),
        (key::CORES, cores.to_string()),
    ];
    // What cannot be read is left out.
    let mut add = |key, value: Option<String>| pairs.extend(value.map(|value| (key, value)));
    add(
        key::MEMORY_TOTAL,
        memory::total().map(|bytes| bytes.to_string()),
    );
    add(
        key::MEMORY_AVAILABLE,
        memory::available().map(|bytes| bytes.to_string()),
    );
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    if let Some(percent) = percent(load) {
        add(key::LOAD, Some(load.to_owned()));
        // u-root's clients sort by it.
        add(key::BUSY, Some((percent / cores).min(100).to_string()));
    }
    add(
        key::SESSIONS,
        sessions().map(|sessions| sessions.to_string()),
    );
    write_text(pairs)
}

/// The processors that this process may use. (std's function for it is large.)
fn cores() -> u32 {
    let all = nix::sched::sched_getaffinity(Pid::from_raw(0));
    let is_set = |set: &CpuSet, number| set.is_set(number).unwrap_or(false);
    let count = all.map_or(0, |set| {
        (0..CpuSet::count())
            .filter(|number| is_set(&set, *number))
            .count()
    });
    u32::try_from(count).unwrap_or(1).max(1)
}

/// A load as in proc_loadavg(5), such as 1.85, in hundredths. (To parse floating-point numbers takes large tables.)
fn percent(load: &str) -> Option<u32> {
    let (whole, hundredths) = load.split_once('.')?;
    let hundredths: u32 = hundredths.parse().ok().filter(|number| *number < 100)?;
    whole
        .parse::<u32>()
        .ok()?
        .checked_mul(100)?
        .checked_add(hundredths)
}

/// The number of sessions of the server that is this process's parent, or has the same parent.
fn sessions() -> Option<usize> {
    let starter = nix::unistd::getppid().as_raw().unsigned_abs();
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let sessions = pids.filter(|pid| is_session(*pid, starter, parent, has_role));
    Some(sessions.count())
}

/// Whether a process is a session of the server that is `starter`, or that `starter` has started. An isolated session has two
/// processes, of which one is the child of the other.
///
/// The arguments of a process are in its memory, which can make whoever reads them wait for ever. So only those of cpud's own are
/// read: the ancestors' first.
fn is_session(
    pid: u32,
    starter: u32,
    parent: impl Fn(u32) -> Option<u32>,
    has_role: impl Fn(u32, Role) -> bool,
) -> bool {
    let Some(connection) = parent(pid) else {
        return false;
    };
    let Some(server) = parent(connection) else {
        return false;
    };
    let is_ours =
        server == starter || (parent(server) == Some(starter) && has_role(server, Role::Server));
    is_ours && has_role(connection, Role::Connection) && has_role(pid, Role::Session)
}

/// By its arguments (proc_pid_cmdline(5)).
fn has_role(pid: u32, role: Role) -> bool {
    let args = format!("cpud\0{}\0", role.name());
    let mut begin = [0; 32];
    // A process may have gone meanwhile.
    let read = File::open(format!("/proc/{pid}/cmdline"));
    let read = read.and_then(|mut file| file.read(&mut begin));
    read.is_ok() && begin.starts_with(args.as_bytes())
}

fn parent(pid: u32) -> Option<u32> {
    parent_in(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The fourth field of proc_pid_stat(5). The second, in parentheses, may contain anything.
fn parent_in(stat: &[u8]) -> Option<u32> {
    let stat = String::from_utf8_lossy(stat);
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use cpu_proto::discovery::read_text;

    use super::*;

    #[test]
    fn all_keys_are_there() {
        let mut own = MachineText::default();
        let now = Instant::now();
        let pairs = read_text(own.get(now));
        let keys = [
            "arch",
            "cores",
            "cpu.pcnt",
            "load",
            "mem.avail",
            "mem.total",
            "os",
            "tenants",
        ];
        assert_eq!(pairs.keys().collect::<Vec<_>>(), keys);
        for key in &keys[1..6] {
            assert!(pairs[*key].parse::<f64>().unwrap() >= 0.0, "{pairs:?}");
        }
        assert_eq!(pairs["os"], "linux");
    }

    #[test]
    fn they_are_read_once_a_second() {
        let now = Instant::now();
        let mut own = MachineText {
            text: b"old".to_vec(),
            read: Some(now),
        };
        assert_eq!(own.get(now + FRESH / 2), b"old");
        assert_ne!(own.get(now + FRESH), b"old");
    }

    #[test]
    fn sessions_are_counted_and_no_arguments_of_commands_are_read() {
        // Process, parent, role: of cpud's own.
        let table = [
            (10, 1, Some(Role::Server)),
            (11, 10, Some(Role::Connection)),
            (12, 11, Some(Role::Session)),
            // An isolated session, in which is another process of cpud's.
            (13, 11, Some(Role::Session)),
            (14, 13, Some(Role::Session)),
            (15, 1, Some(Role::Isolation)),
            // Commands: of a session, of an isolated one, and whose parents have ended.
            (20, 12, None),
            (21, 20, None),
            (22, 14, None),
            (23, 15, None),
            (24, 23, None),
            (25, 24, None),
        ];
        let find = |pid| table.iter().find(|(its, ..)| *its == pid);
        let parent = |pid| find(pid).map(|(_, parent, _)| *parent);
        let has_role = |pid, role| {
            let (_, _, its) = find(pid).unwrap();
            its.expect("its arguments are not read") == role
        };
        for starter in [1, 10] {
            let pids = table.iter().map(|(pid, ..)| *pid);
            let sessions = pids.filter(|pid| is_session(*pid, starter, parent, has_role));
            assert_eq!(sessions.collect::<Vec<_>>(), [12, 13]);
        }
        assert!(!is_session(12, 11, parent, has_role));
    }

    #[test]
    fn loads_are_hundredths() {
        assert_eq!(percent("1.85"), Some(185));
        assert_eq!(percent("0.00"), Some(0));
        for none in [
            "",
            "1",
            "1.",
            ".5",
            "1.100",
            "-1.00",
            "99999999999.00",
            "nan",
        ] {
            assert_eq!(percent(none), None, "{none}");
        }
        assert!(cores() >= 1);
    }

    #[test]
    fn a_parent_is_found_behind_any_name() {
        assert_eq!(parent_in(b"7 (a) S 9) (b) S 42 1 1"), Some(42));
        assert_eq!(parent_in(b"7 (cpud) S"), None);
        assert_eq!(parent_in(b""), None);
    }
}
