//! A machine that has been found, and what it says of itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use cpu_proto::discovery::{go_arch, key};
use cpu_proto::dns::DomainName;

/// Keys that a query may have besides those that are sent.
const SESSIONS: &str = "sessions";
const MEMORY: &str = "memory";

/// A machine that has been found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundMachine {
    /// The name of its instance of the service: any text.
    pub(crate) instance: String,
    /// Its host name, which ends in `.local`: the name that known_hosts has its key under.
    pub(crate) host: String,
    /// At least one.
    pub(crate) addresses: Vec<SocketAddr>,
    facts: BTreeMap<String, String>,
}

impl FoundMachine {
    pub(super) fn new(
        instance: String,
        host: String,
        addresses: Vec<SocketAddr>,
        mut facts: BTreeMap<String, String>,
    ) -> Self {
        let number = |facts: &BTreeMap<String, String>, key| facts.get(key)?.parse::<f64>().ok();
        // u-root's cpud does not send it.
        if !facts.contains_key(key::LOAD)
            && let (Some(busy), Some(cores)) =
                (number(&facts, key::BUSY), number(&facts, key::CORES))
        {
            facts.insert(key::LOAD.into(), format!("{:.2}", busy * cores / 100.0));
        }
        if let Some(arch) = facts.get_mut(key::ARCH) {
            *arch = go_arch(arch).to_owned();
        }
        for (name, of) in [(SESSIONS, key::SESSIONS), (MEMORY, key::MEMORY_AVAILABLE)] {
            if let Some(value) = facts.get(of) {
                facts.insert(name.to_owned(), value.clone());
            }
        }
        Self {
            instance,
            host,
            addresses,
            facts,
        }
    }

    /// What it says about something.
    pub(super) fn fact(&self, key: &str) -> Option<&str> {
        self.facts.get(key).map(String::as_str)
    }

    /// The same, if it is a number.
    pub(super) fn number(&self, key: &str) -> Option<f64> {
        self.fact(key)?
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite())
    }
}

/// The text of a host name that can be one of this network. Any other could be that of a machine elsewhere, or a pattern, or
/// more than a name to a program that gets it.
pub(super) fn host_name(name: &DomainName) -> Option<String> {
    let labels: Vec<&str> = name
        .labels()
        .map(|label| {
            let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
            let text = std::str::from_utf8(label).ok()?;
            (label.iter().all(is_plain) && !text.starts_with('-')).then_some(text)
        })
        .collect::<Option<_>>()?;
    match labels[..] {
        [_, .., last] if last.eq_ignore_ascii_case("local") => {
            Some(labels.join(".").to_ascii_lowercase())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_of_this_network_are_names() {
        let name = |labels: &[&str]| host_name(&DomainName::new(labels));
        assert_eq!(
            name(&["Board-7", "local"]).as_deref(),
            Some("board-7.local")
        );
        assert_eq!(name(&["a", "lab", "LOCAL"]).as_deref(), Some("a.lab.local"));
        for bad in [
            &["board", "example"][..],
            &["local"],
            &["board.lab", "local"],
            &["*", "local"],
            &["-oProxyCommand=x", "local"],
            &["a b", "local"],
            &["a\x1b[2J", "local"],
            &["é", "local"],
            &["board", "local", "com"],
            &[],
        ] {
            assert_eq!(name(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_u_roots_cpud_says_is_understood() {
        let facts = [
            ("arch", "aarch64"),
            ("cpu.pcnt", "25.0"),
            ("cores", "8"),
            ("tenants", "3"),
        ];
        let facts = facts.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let machine = FoundMachine::new("x".into(), "x.local".into(), Vec::new(), facts.into());
        assert_eq!(machine.fact("arch"), Some("arm64"));
        assert_eq!(
            (machine.number("load"), machine.number("sessions")),
            (Some(2.0), Some(3.0))
        );
        assert_eq!(machine.number("arch"), None);
    }
}
