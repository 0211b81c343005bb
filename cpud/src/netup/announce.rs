//! The lines on the console that a person can act on: where the machine is, and what to type.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

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
            wait_until_served(self.port);
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

/// What the line invites to must work, so it waits for the server, which starts at the same time
/// as the network; not for ever, for the address is worth knowing in any case.
fn wait_until_served(port: u16) {
    for _ in 0..250 {
        let tables = ["/proc/net/tcp6", "/proc/net/tcp"].map(std::fs::read_to_string);
        if tables.iter().flatten().any(|table| listens(table, port)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a table of sockets (proc_net_tcp in the kernel's documentation) has one that listens.
fn listens(table: &str, port: u16) -> bool {
    let port = format!(":{port:04X}");
    table.lines().any(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let local = words.next().is_some_and(|local| local.ends_with(&port));
        local && words.nth(1) == Some("0A")
    })
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
    fn a_listening_socket_is_found() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n   \
            0: 00000000000000000000000000000000:4272 00000000000000000000000000000000:0000 0A 0:0\n   \
            1: 0F02000A:0016 0202000A:4272 01 0:0\n";
        assert!(listens(table, 17010));
        assert!(!listens(table, 22));
    }

    #[test]
    fn an_address_is_told_once_until_it_is_gone() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let mut announcer = Announcer::new(port, "/nosuch".into());
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
