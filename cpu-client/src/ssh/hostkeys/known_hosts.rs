//! OpenSSH's known_hosts format ("SSH_KNOWN_HOSTS FILE FORMAT" in sshd(8)). As in ssh, lines that cannot be parsed are
//! ignored.

use data_encoding::BASE64;
use hmac::{Hmac, KeyInit, Mac};
use russh::keys::PublicKey;
use sha1::Sha1;

use crate::ssh::pattern::matches_list;

/// A line about the host that was searched for.
#[derive(Debug, Clone)]
pub(crate) enum Known {
    /// The host has this key.
    Key { key: PublicKey, line: usize },
    /// This key must never be accepted.
    Revoked { key: PublicKey, line: usize },
    /// The host may have a certificate by this key.
    Authority { key: PublicKey },
}

/// A host's name in known_hosts: with its port, unless that is 22.
pub(crate) fn name(host: &str, port: u16) -> String {
    if port == 22 {
        host.to_owned()
    } else {
        format!("[{host}]:{port}")
    }
}

/// A name as it is written with `HashKnownHosts`: hashed, so that it can be searched for but not read.
pub(crate) fn hashed(name: &str, salt: &[u8; 20]) -> Option<String> {
    let mut mac = Hmac::<Sha1>::new_from_slice(salt).ok()?;
    mac.update(name.to_ascii_lowercase().as_bytes());
    let hash = BASE64.encode(&mac.finalize().into_bytes());
    Some(format!("|1|{}|{hash}", BASE64.encode(salt)))
}

/// All lines about a host with this [`name`], in order.
pub(crate) fn lookup(text: &str, name: &str) -> Vec<Known> {
    let name = name.to_ascii_lowercase();
    let lines = text.lines().enumerate();
    lines
        .filter_map(|(i, line)| read_line(line, |field| matches(field, &name), i + 1))
        .collect()
}

/// All lines about a host at whatever port, in order. Of the names that are hashed those with a port of `ports` are found.
pub(crate) fn lookup_any_port(text: &str, host: &str, ports: &[u16]) -> Vec<Known> {
    let host = host.to_ascii_lowercase();
    let names: Vec<_> = ports.iter().map(|port| name(&host, *port)).collect();
    let begin = format!("[{host}]:");
    let is_wanted = |field: &str| {
        names.iter().any(|name| matches(field, name))
            || field
                .split(',')
                .any(|pattern| pattern.to_ascii_lowercase().starts_with(&begin))
    };
    let lines = text.lines().enumerate();
    lines
        .filter_map(|(i, line)| read_line(line, is_wanted, i + 1))
        .collect()
}

fn read_line(text: &str, is_wanted: impl Fn(&str) -> bool, line: usize) -> Option<Known> {
    let mut words = text.split_ascii_whitespace().peekable();
    let marker = words.next_if(|word| word.starts_with('@'));
    let hosts = words.next()?;
    if hosts.starts_with('#') || !is_wanted(hosts) {
        return None;
    }
    let key = format!("{} {}", words.next()?, words.next()?);
    let key = PublicKey::from_openssh(&key).ok()?;
    match marker {
        None => Some(Known::Key { key, line }),
        Some("@revoked") => Some(Known::Revoked { key, line }),
        Some("@cert-authority") => Some(Known::Authority { key }),
        Some(_) => None,
    }
}

/// Whether a line's first field, a hash or a list of patterns, names the host.
fn matches(field: &str, name: &str) -> bool {
    if let Some(hashed) = field.strip_prefix("|1|") {
        return matches_hash(hashed, name).unwrap_or(false);
    }
    matches_list(field.split(','), name)
}

/// `salt|HMAC-SHA1(salt, name)`, both in base64.
fn matches_hash(hashed: &str, name: &str) -> Option<bool> {
    let (salt, hash) = hashed.split_once('|')?;
    let salt = BASE64.decode(salt.as_bytes()).ok()?;
    let hash = BASE64.decode(hash.as_bytes()).ok()?;
    let mut mac = Hmac::<Sha1>::new_from_slice(&salt).ok()?;
    mac.update(name.as_bytes());
    Some(mac.verify_slice(&hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    fn count(hosts: &str, host: &str, port: u16) -> usize {
        lookup(&format!("{hosts} {KEY} comment\n"), &name(host, port)).len()
    }

    #[test]
    fn names_ports_and_patterns() {
        assert_eq!(count("[board]:17010", "board", 17010), 1);
        assert_eq!(count("board", "board", 17010), 0);
        assert_eq!(count("board", "board", 22), 1);
        assert_eq!(count("a,BOARD,c", "Board", 22), 1);
        assert_eq!(count("*.lab,!bad.lab", "good.lab", 22), 1);
        assert_eq!(count("*.lab,!bad.lab", "bad.lab", 22), 0);
        assert_eq!(count("10.0.?.1", "10.0.7.1", 22), 1);
        assert_eq!(count("[*]:17010", "x", 17010), 1);
    }

    #[test]
    fn a_host_is_found_at_whatever_port() {
        let hash = hashed("[board]:17010", &[1; 20]).unwrap();
        for (hosts, wanted) in [
            ("[Board]:2222", true),
            ("a,[board]:2222", true),
            ("board", true),
            (&hash, true),
            ("[board2]:17010", false),
            ("[board].lab:17010", false),
        ] {
            let found = lookup_any_port(&format!("{hosts} {KEY}\n"), "board", &[22, 17010]);
            assert_eq!(!found.is_empty(), wanted, "{hosts}");
        }
    }

    #[test]
    fn hashed_names() {
        // As ssh-keygen -H writes "[board]:17010".
        let hosts = "|1|AQEBAQEBAQEBAQEBAQEBAQEBAQE=|0/KSDIhPya+K8kf9LAsMpvPJojo=";
        assert_eq!(hashed("[Board]:17010", &[1; 20]).unwrap(), hosts);
        assert_eq!(count(hosts, "board", 17010), 1);
        assert_eq!(count(hosts, "other", 17010), 0);
        assert_eq!(count("|1|nonsense", "board", 17010), 0);
    }

    #[test]
    fn markers_tabs_and_broken_lines() {
        let text = format!(
            "nonsense\nboard\t{KEY}\n@revoked board {KEY}\n@cert-authority * {KEY}\n@other * {KEY}\n# board {KEY}\nboard ssh-ed25519 !!\n"
        );
        let known = lookup(&text, "board");
        assert!(
            matches!(
                known[..],
                [
                    Known::Key { line: 2, .. },
                    Known::Revoked { line: 3, .. },
                    Known::Authority { .. }
                ]
            ),
            "{known:?}"
        );
    }
}
