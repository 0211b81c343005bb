//! What the page shows: links and addresses from the kernel (rtnetlink(7)), the keys from their files, and who is
//! logged in, from the connections.

use std::net::IpAddr;

use cpu_proto::AuthorizedKeys;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{EcdsaCurve, HashAlg, PublicKey};

use super::roster::Login;
use crate::flags::ServerOptions;
use crate::listen_addr::ListenAddr;
use crate::netup::netlink::{Address, NetlinkEvent};
use crate::ssh::host_key;

/// A link of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LinkFacts {
    pub(super) index: u32,
    pub(super) name: String,
    /// It is an Ethernet link and not part of a bridge or bond.
    pub(super) is_ethernet: bool,
    /// It is up and has a carrier.
    pub(super) running: bool,
    /// Sorted, without duplicates.
    pub(super) addresses: Vec<IpAddr>,
}

/// The machine's host key, in the forms in which people compare it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HostKey {
    pub(super) fingerprint: String,
    /// The lines of OpenSSH's picture of it.
    pub(super) randomart: Vec<String>,
}

/// Everything that the page shows.
#[derive(Debug)]
pub(super) struct Facts {
    options: ServerOptions,
    /// The kernel's name, release and architecture.
    pub(super) kernel: String,
    /// Sorted by their indices.
    pub(super) links: Vec<LinkFacts>,
    pub(super) host_key: Option<HostKey>,
    /// The keys that may log in.
    pub(super) keys: Vec<String>,
    pub(super) logins: Vec<Login>,
}

impl Facts {
    pub(super) fn new(options: ServerOptions) -> Self {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
        let release = release.unwrap_or_default();
        let mut facts = Self {
            options,
            kernel: format!("Linux {} {}", release.trim(), std::env::consts::ARCH),
            links: Vec::new(),
            host_key: None,
            keys: Vec::new(),
            logins: Vec::new(),
        };
        facts.read_keys();
        facts
    }

    /// Where the server listens.
    pub(super) fn listen_addr(&self) -> &ListenAddr {
        &self.options.listen
    }

    /// Reads the key files, if that has not succeeded yet: they may be made later.
    pub(super) fn read_keys(&mut self) {
        if self.keys.is_empty() {
            // The server reports what is wrong with them.
            let file = std::fs::read(&self.options.public_keys).unwrap_or_default();
            let keys = AuthorizedKeys::parse(&file).keys;
            let described = keys.iter().map(|line| match describe(&line.key) {
                key if line.options.cert_authority => format!("CA {key}"),
                key => key,
            });
            self.keys = described.collect();
        }
        if self.host_key.is_none() {
            let key = host_key::read_public(&self.options.host_key);
            self.host_key = key.ok().map(|key| draw(&key));
        }
    }

    /// Applies a change of a link or an address.
    pub(super) fn apply(&mut self, event: NetlinkEvent) {
        match event {
            NetlinkEvent::Link(link) if link.name == "lo" => {}
            NetlinkEvent::Link(link) => {
                let at = self.links.partition_point(|seen| seen.index < link.index);
                if self
                    .links
                    .get(at)
                    .is_none_or(|seen| seen.index != link.index)
                {
                    self.links.insert(at, LinkFacts::default());
                }
                let seen = &mut self.links[at];
                seen.index = link.index;
                seen.name = link.name;
                seen.is_ethernet = link.mac.is_some() && !link.has_master;
                seen.running = link.running;
            }
            NetlinkEvent::Advertised(..) | NetlinkEvent::RouterOption(..) => {}
            NetlinkEvent::LinkGone(index) => self.links.retain(|seen| seen.index != index),
            NetlinkEvent::Address(address) => self.set_address(address, address.usable),
            NetlinkEvent::AddressGone(address) => self.set_address(address, false),
        }
    }

    fn set_address(&mut self, Address { link, ip, .. }: Address, is_there: bool) {
        let mut links = self.links.iter_mut();
        if let Some(seen) = links.find(|seen| seen.index == link) {
            match (seen.addresses.binary_search(&ip), is_there) {
                (Err(at), true) => seen.addresses.insert(at, ip),
                (Ok(at), false) => drop(seen.addresses.remove(at)),
                _ => {}
            }
        }
    }
}

/// The comment and the fingerprint of a key.
fn describe(key: &PublicKey) -> String {
    let comment = key.comment().to_string();
    let fingerprint = cpu_proto::fingerprint(key);
    match comment.trim() {
        "" => fingerprint,
        comment => format!("{comment} {fingerprint}"),
    }
}

fn draw(key: &PublicKey) -> HostKey {
    let picture = key
        .fingerprint(HashAlg::Sha256)
        .to_randomart(&format!("[{}]", kind(key)));
    HostKey {
        fingerprint: cpu_proto::fingerprint(key),
        randomart: picture.lines().map(str::to_owned).collect(),
    }
}

/// Type and size of a key, as ssh-keygen(1) prints them.
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
    use crate::netup::netlink::{Link, RaFlag};

    #[test]
    fn links_and_addresses_come_and_go() {
        let options = crate::flags::parse(&["-pk=/nosuch".into(), "-hk=/nosuch".into()]).unwrap();
        let mut facts = Facts::new(options);
        let link = |index, name: &str, running| {
            NetlinkEvent::Link(Link {
                index,
                name: name.into(),
                mac: Some([0; 6]),
                up: true,
                running,
                mtu: 1500,
                has_master: false,
                kind: None,
                ra_flag: RaFlag::default(),
            })
        };
        let address = |link, last, usable| Address {
            link,
            ip: [10, 0, 0, last].into(),
            prefix: 24,
            usable,
            permanent: false,
            tentative: false,
            duplicate: false,
        };
        for event in [
            link(3, "eth1", false),
            link(1, "lo", true),
            link(2, "eth0", false),
            link(2, "eth0", true),
            NetlinkEvent::Address(address(2, 9, true)),
            NetlinkEvent::Address(address(2, 7, true)),
            NetlinkEvent::Address(address(2, 9, true)),
            NetlinkEvent::Address(address(1, 1, true)),
            NetlinkEvent::Address(address(3, 5, false)),
        ] {
            facts.apply(event);
        }
        let seen = |facts: &Facts| -> Vec<(String, bool, String)> {
            let links = facts.links.iter();
            links
                .map(|link| {
                    (
                        link.name.clone(),
                        link.running,
                        format!("{:?}", link.addresses),
                    )
                })
                .collect()
        };
        let both = [
            ("eth0".into(), true, "[10.0.0.7, 10.0.0.9]".into()),
            ("eth1".into(), false, "[]".into()),
        ];
        assert_eq!(seen(&facts), both);
        facts.apply(NetlinkEvent::Address(address(2, 7, false)));
        facts.apply(NetlinkEvent::AddressGone(address(2, 9, true)));
        facts.apply(NetlinkEvent::LinkGone(3));
        assert_eq!(seen(&facts), [("eth0".into(), true, "[]".into())]);
    }

    #[test]
    fn the_picture_is_openssh_s() {
        let directory = tempfile::tempdir().unwrap();
        let kinds = [
            ["-t", "ed25519", "-b", "256"],
            ["-t", "ecdsa", "-b", "521"],
            ["-t", "rsa", "-b", "2048"],
        ];
        for (index, args) in kinds.iter().enumerate() {
            let file = directory.path().join(index.to_string());
            let keygen = |args: &[&str]| {
                let mut command = Command::new("ssh-keygen");
                let output = command.args(args).arg("-f").arg(&file).output();
                let output = output.expect("ssh-keygen (package openssh-client) is needed");
                assert!(output.status.success(), "{output:?}");
                String::from_utf8(output.stdout).unwrap()
            };
            keygen(&[&["-q", "-N", ""], &args[..]].concat());
            let shown = keygen(&["-l", "-v"]);
            let drawn = draw(&host_key::read_public(&file).unwrap());
            let picture: Vec<&str> = shown.lines().skip(1).collect();
            assert_eq!(drawn.randomart, picture, "{shown}");
            assert!(shown.contains(&drawn.fingerprint), "{shown}");
        }
    }
}
