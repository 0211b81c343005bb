//! How a cpud is found: the names of the service, and what a machine says of itself, as u-root's programs have them (RFC 6763).

use std::collections::BTreeMap;

use crate::dns::DomainName;

/// The labels of the service.
const SERVICE: [&str; 3] = ["_ncpu", "_tcp", "local"];

/// Keys of what a machine says of itself.
pub mod key {
    /// Go's name of the processor's architecture.
    pub const ARCH: &str = "arch";
    /// Go's name of the operating system.
    pub const OS: &str = "os";
    /// The number of processors.
    pub const CORES: &str = "cores";
    /// Bytes of memory.
    pub const MEMORY_TOTAL: &str = "mem.total";
    /// Bytes of it that programs can have.
    pub const MEMORY_AVAILABLE: &str = "mem.avail";
    /// The load average of one minute. u-root's cpud does not send it.
    pub const LOAD: &str = "load";
    /// How busy the processors are, in percent.
    pub const BUSY: &str = "cpu.pcnt";
    /// The number of sessions.
    pub const SESSIONS: &str = "tenants";
}

/// The name of the service, of which every machine that is found has an instance.
pub fn service() -> DomainName {
    DomainName::new(SERVICE)
}

/// The name under which all services are found.
pub fn all_services() -> DomainName {
    DomainName::new(["_services", "_dns-sd", "_udp", "local"])
}

/// The name of an instance of the service.
pub fn instance(label: &[u8]) -> DomainName {
    DomainName::new(std::iter::once(label).chain(SERVICE.map(str::as_bytes)))
}

/// The label of an instance of the service.
pub fn instance_label(name: &DomainName) -> Option<&[u8]> {
    let label = name.labels().next()?;
    (*name == instance(label)).then_some(label)
}

/// Go's name for an architecture, from the one of Linux and Rust.
pub fn go_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" | "i386" | "i686" => "386",
        "armv7" | "armv7l" => "arm",
        other => other,
    }
}

/// Writes keys and values as the text of a record. What is longer than 255 bytes is left out.
pub fn write_text<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> Vec<u8> {
    let mut text = Vec::new();
    for (key, value) in pairs {
        let pair = format!("{key}={value}");
        if let Ok(length) = u8::try_from(pair.len()) {
            text.push(length);
            text.extend(pair.into_bytes());
        }
    }
    text
}

/// Reads keys and values. A key without a value has an empty one; of two that are equal the first counts (RFC 6763, 6.4).
pub fn read_text(text: &[u8]) -> BTreeMap<String, String> {
    let mut pairs = BTreeMap::new();
    let mut rest = text;
    while let Some((&length, after)) = rest.split_first() {
        let Some((pair, after)) = after.split_at_checked(length.into()) else {
            break;
        };
        rest = after;
        let pair = String::from_utf8_lossy(pair);
        let (key, value) = pair.split_once('=').unwrap_or((&pair, ""));
        if !key.is_empty() {
            let entry = pairs.entry(key.to_ascii_lowercase());
            entry.or_insert_with(|| value.to_owned());
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn instances_belong_to_the_service() {
        let name = instance(b"Board 7.1");
        assert_eq!(name.to_string(), "Board 7.1._ncpu._tcp.local");
        assert_eq!(instance_label(&name), Some(&b"Board 7.1"[..]));
        assert_eq!(
            instance_label(&DomainName::new(["x", "_ssh", "_tcp", "local"])),
            None
        );
        assert_eq!(instance_label(&DomainName::new([""; 0])), None);
    }

    #[test]
    fn text_is_pairs_of_which_the_first_counts() {
        let text = write_text([(key::ARCH, "arm64".into()), (key::LOAD, "0.25".into())]);
        assert_eq!(text, b"\x0aarch=arm64\x09load=0.25");
        let pairs = read_text(b"\x06Arch=x\x06arch=y\x01z\0\x02=v\x09cut");
        let pairs: Vec<_> = pairs.into_iter().collect();
        assert_eq!(
            pairs,
            [("arch".into(), "x".into()), ("z".into(), String::new())]
        );
        assert_eq!(write_text([("k", "v".repeat(300))]), b"");
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(read_text(&text).len() <= text.len());
        }
    }
}
