//! What the page shows, and where it comes from: links and addresses from the kernel by rtnetlink(7), the
//! keys from their files, the machine's name, the connections' words about themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cpu_proto::AuthorizedKeys;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{EcdsaCurve, HashAlg, PublicKey};

use super::roster::Login;
use crate::netup::netlink::{Event, Link};
use crate::ssh::{self, Options};

/// A link of the machine's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) name: String,
    /// An Ethernet link, whether or not it has an address.
    pub(super) is_ethernet: bool,
    /// It is up and has a carrier.
    pub(super) running: bool,
    pub(super) addresses: BTreeSet<IpAddr>,
}

/// The machine's host key as people compare it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HostKey {
    pub(super) fingerprint: String,
    /// OpenSSH's picture of it, line by line.
    pub(super) randomart: Vec<String>,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Facts {
    options: Options,
    /// Its name, release and architecture.
    pub(super) kernel: String,
    /// By their indices.
    pub(super) links: BTreeMap<u32, Seen>,
    pub(super) host_key: Option<HostKey>,
    /// Who may log in.
    pub(super) keys: Vec<String>,
    pub(super) logins: Vec<Login>,
}

impl Facts {
    pub(super) fn new(options: Options) -> Self {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
        let release = release.unwrap_or_default();
        let mut facts = Self {
            options,
            kernel: format!("Linux {} {}", release.trim(), std::env::consts::ARCH),
            links: BTreeMap::new(),
            host_key: None,
            keys: Vec::new(),
            logins: Vec::new(),
        };
        facts.read_keys();
        facts
    }

    /// Where the server listens.
    pub(super) fn place(&self) -> &ssh::Place {
        &self.options.place
    }

    /// Reads what is still missing: the server may be waiting for its files too.
    pub(super) fn read_keys(&mut self) {
        if self.keys.is_empty() {
            // The server tells what is wrong with them.
            let file = std::fs::read(&self.options.public_keys).unwrap_or_default();
            let keys = AuthorizedKeys::parse(&file).keys;
            self.keys = keys.iter().map(describe).collect();
        }
        if self.host_key.is_none() {
            let key = ssh::read_host_key(&self.options.host_key);
            self.host_key = key.ok().map(|key| draw(key.public_key()));
        }
    }

    /// Takes in what has happened to a link.
    pub(super) fn hear(&mut self, event: Event) {
        match event {
            Event::Link(Link { name, .. }) if name == "lo" => {}
            Event::Link(link) => {
                let seen = self.links.entry(link.index).or_default();
                seen.name = link.name;
                seen.is_ethernet = link.mac.is_some() && !link.has_master;
                seen.running = link.running;
            }
            Event::LinkGone(index) => drop(self.links.remove(&index)),
            Event::Address(address) => {
                if let Some(seen) = self.links.get_mut(&address.link) {
                    if address.usable {
                        seen.addresses.insert(address.ip);
                    } else {
                        seen.addresses.remove(&address.ip);
                    }
                }
            }
            Event::AddressGone(address) => {
                if let Some(seen) = self.links.get_mut(&address.link) {
                    seen.addresses.remove(&address.ip);
                }
            }
        }
    }
}

/// A key by its comment and its fingerprint.
fn describe(key: &PublicKey) -> String {
    let comment = key.comment().to_string();
    let fingerprint = ssh::fingerprint(key);
    match comment.trim() {
        "" => fingerprint,
        comment => format!("{comment} {fingerprint}"),
    }
}

fn draw(key: &PublicKey) -> HostKey {
    let fingerprint = key.fingerprint(HashAlg::Sha256);
    let picture = fingerprint.to_randomart(&format!("[{}]", kind(key)));
    HostKey {
        fingerprint: fingerprint.to_string(),
        randomart: picture.lines().map(str::to_owned).collect(),
    }
}

/// Kind and size as ssh-keygen(1) writes them.
fn kind(key: &PublicKey) -> String {
    match key.key_data() {
        KeyData::Ed25519(_) => "ED25519 256".into(),
        KeyData::Ecdsa(key) => match key.curve() {
            EcdsaCurve::NistP256 => "ECDSA 256".into(),
            EcdsaCurve::NistP384 => "ECDSA 384".into(),
            EcdsaCurve::NistP521 => "ECDSA 521".into(),
        },
        KeyData::Rsa(key) => {
            let modulus = key.n().as_positive_bytes();
            format!("RSA {}", modulus.map_or(0, |bytes| 8 * bytes.len()))
        }
        _ => key.algorithm().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// OpenSSH draws the same.
    #[test]
    fn the_picture_is_openssh_s() {
        let directory = tempfile::tempdir().unwrap();
        let kinds = [
            ["-t", "ed25519", "-b", "256"],
            ["-t", "ecdsa", "-b", "521"],
            ["-t", "rsa", "-b", "2048"],
        ];
        for (index, words) in kinds.iter().enumerate() {
            let file = directory.path().join(index.to_string());
            let keygen = |words: &[&str]| {
                let mut command = Command::new("ssh-keygen");
                let output = command.args(words).arg("-f").arg(&file).output();
                let output = output.expect("ssh-keygen (package openssh-client) is needed");
                assert!(output.status.success(), "{output:?}");
                String::from_utf8(output.stdout).unwrap()
            };
            keygen(&[&["-q", "-N", ""], &words[..]].concat());
            let shown = keygen(&["-l", "-v"]);
            let drawn = draw(ssh::read_host_key(&file).unwrap().public_key());
            let picture: Vec<&str> = shown.lines().skip(1).collect();
            assert_eq!(drawn.randomart, picture, "{shown}");
            assert!(shown.contains(&drawn.fingerprint), "{shown}");
        }
    }
}
