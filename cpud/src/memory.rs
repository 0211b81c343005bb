//! The machine's memory, from /proc/meminfo (proc_meminfo(5)).

use std::fs;

/// All memory, in bytes. None without /proc.
pub(crate) fn total() -> Option<u64> {
    value(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal")
}

/// An estimate of the memory that can be used without swapping, in bytes. None without /proc.
pub(crate) fn available() -> Option<u64> {
    value(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable")
}

fn value(meminfo: &str, name: &str) -> Option<u64> {
    let value = meminfo
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kilobytes: u64 = value.strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_whole_names() {
        let text = "MemTotal:         491072 kB\nMemFree: 3 kB\nMemAvailable:     402332 kB\nHugePages_Total: 0\n";
        assert_eq!(value(text, "MemTotal"), Some(491_072 * 1024));
        assert_eq!(value(text, "MemAvailable"), Some(402_332 * 1024));
        assert_eq!(value(text, "Mem"), None);
        assert_eq!(value(text, "HugePages_Total"), None);
        assert!(available().unwrap() <= total().unwrap());
    }
}
