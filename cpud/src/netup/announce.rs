//! The lines on the console that a person can act on: where the machine is, and what to type.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use cpu_proto::DEFAULT_PORT;
use russh::keys::{HashAlg, PrivateKey};

use super::netlink::Address;
use crate::console::say;

/// Tells each address once, until it has been gone.
pub(super) struct Announcer {
    port: u16,
    host_key: PathBuf,
    told: BTreeSet<(u32, IpAddr)>,
}

impl Announcer {
    pub(super) fn new(port: u16, host_key: PathBuf) -> Self {
        Self {
            port,
            host_key,
            told: BTreeSet::new(),
        }
    }

    /// No address has been told.
    pub(super) fn is_quiet(&self) -> bool {
        self.told.is_empty()
    }

    /// A link has this address, now or still.
    pub(super) fn address(&mut self, link: &str, address: Address) {
        if address.usable && self.told.insert((address.link, address.ip)) {
            say(line(
                link,
                address.ip,
                self.port,
                self.fingerprint().as_deref(),
            ));
        }
    }

    pub(super) fn forget(&mut self, address: Address) {
        self.told.remove(&(address.link, address.ip));
    }

    pub(super) fn forget_link(&mut self, link: u32) {
        self.told.retain(|(of, _)| *of != link);
    }

    /// Read each time, since the key may be made after the network is there.
    fn fingerprint(&self) -> Option<String> {
        let key = PrivateKey::read_openssh_file(&self.host_key).ok()?;
        Some(key.public_key().fingerprint(HashAlg::Sha256).to_string())
    }
}

fn line(link: &str, address: IpAddr, port: u16, fingerprint: Option<&str>) -> String {
    let key = fingerprint
        .map(|key| format!(" host key {key}"))
        .unwrap_or_default();
    let flag = if port == DEFAULT_PORT {
        String::new()
    } else {
        format!("-sp {port} ")
    };
    format!("{link} {address} port {port}{key}; try: cpu {flag}{address} date")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_where_who_and_what_to_type() {
        assert_eq!(
            line(
                "eth0",
                IpAddr::from([10, 0, 2, 15]),
                17010,
                Some("SHA256:abc")
            ),
            "eth0 10.0.2.15 port 17010 host key SHA256:abc; try: cpu 10.0.2.15 date"
        );
        assert_eq!(
            line("eth0", "fec0::1".parse().unwrap(), 22, None),
            "eth0 fec0::1 port 22; try: cpu -sp 22 fec0::1 date"
        );
    }

    #[test]
    fn an_address_is_told_once_until_it_is_gone() {
        let mut announcer = Announcer::new(17010, "/nosuch".into());
        let ip = IpAddr::from([10, 0, 2, 15]);
        let address = Address {
            link: 2,
            ip,
            prefix: 24,
            usable: true,
            permanent: false,
        };
        announcer.address(
            "eth0",
            Address {
                usable: false,
                ..address
            },
        );
        assert!(announcer.is_quiet());
        announcer.address("eth0", address);
        assert_eq!(announcer.told.len(), 1);
        announcer.forget(address);
        announcer.address("eth0", address);
        announcer.forget_link(2);
        assert!(announcer.is_quiet());
    }
}
