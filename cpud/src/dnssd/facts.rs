//! What a machine says of itself.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use cpu_proto::discovery::{go_arch, key, write_text};

use crate::memory;
use crate::role::Role;

/// For how long it is taken to be true, whoever asks.
const FRESH: Duration = Duration::from_secs(1);

/// The text of a record, read anew when it is old.
#[derive(Default)]
pub(super) struct Facts {
    text: Vec<u8>,
    read: Option<Instant>,
}

impl Facts {
    pub(super) fn text(&mut self, now: Instant) -> &[u8] {
        if self.read.is_none_or(|read| read + FRESH <= now) {
            self.text = text();
            self.read = Some(now);
        }
        &self.text
    }
}

fn text() -> Vec<u8> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
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
    let load = load
        .split(' ')
        .next()
        .and_then(|load| load.parse::<f64>().ok());
    add(key::LOAD, load.map(|load| format!("{load:.2}")));
    // u-root's clients sort by it.
    let busy = load.and_then(|load| Some(100.0 * load / f64::from(u32::try_from(cores).ok()?)));
    add(
        key::BUSY,
        busy.map(|busy| format!("{:.6}", busy.min(100.0))),
    );
    add(
        key::SESSIONS,
        sessions().map(|sessions| sessions.to_string()),
    );
    write_text(pairs)
}

/// The number of sessions: of the processes whose parent is none of them, since an isolated one has two.
fn sessions() -> Option<usize> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // A process may have gone meanwhile.
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let mut args = read("cmdline");
        args.truncate(64);
        let mut args = args.split(|byte| *byte == 0);
        let is_session =
            args.next() == Some(b"cpud") && args.next() == Some(Role::Session.name().as_bytes());
        if is_session && let Some(parent) = parent(&read("stat")) {
            parents.insert(pid, parent);
        }
    }
    let first = parents
        .values()
        .filter(|parent| !parents.contains_key(parent));
    Some(first.count())
}

/// The fourth field of proc_pid_stat(5). The second, in parentheses, may contain anything.
fn parent(stat: &[u8]) -> Option<u32> {
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
        let mut facts = Facts::default();
        let now = Instant::now();
        let pairs = read_text(facts.text(now));
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
        let mut facts = Facts {
            text: b"old".to_vec(),
            read: Some(now),
        };
        assert_eq!(facts.text(now + FRESH / 2), b"old");
        assert_ne!(facts.text(now + FRESH), b"old");
    }

    #[test]
    fn a_parent_is_found_behind_any_name() {
        assert_eq!(parent(b"7 (a) S 9) (b) S 42 1 1"), Some(42));
        assert_eq!(parent(b"7 (cpud) S"), None);
        assert_eq!(parent(b""), None);
    }
}
