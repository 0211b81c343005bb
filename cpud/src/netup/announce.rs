//! The lines on the console that a person can act on: where the machine is, and what to type.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cpu_proto::DEFAULT_PORT;
use russh::keys::PrivateKey;

use super::netlink::Address;
use crate::console::say;

/// How often, and how long at most, a line waits for the server, which starts at the same time as
/// the network: what the line invites to must work, but the address is worth knowing in any case.
const LOOK: Duration = Duration::from_millis(50);
const LOOKS: u32 = 100;

/// The server's TCP port and the only address that it listens on, if it is one; none at all on another kind of
/// socket.
pub(super) type Served = Option<(Option<IpAddr>, u16)>;

/// Tells each address once, until it has been gone.
pub(super) struct Announcer {
    served: Served,
    host_key: PathBuf,
    /// Each address that was told or is about to be.
    known: BTreeSet<(u32, IpAddr)>,
    /// Those about to be told, with their links' names.
    waiting: Vec<(String, Address)>,
    next_look: Option<Instant>,
    looks: u32,
}

impl Announcer {
    pub(super) fn new(served: Served, host_key: PathBuf) -> Self {
        let (known, waiting) = (BTreeSet::new(), Vec::new());
        Self {
            served,
            host_key,
            known,
            waiting,
            next_look: None,
            looks: 0,
        }
    }

    /// No link has an address.
    pub(super) fn is_quiet(&self) -> bool {
        self.known.is_empty()
    }

    /// A link has this address, now or still.
    pub(super) fn address(&mut self, link: &str, address: Address, now: Instant) {
        if address.usable && self.known.insert((address.link, address.ip)) {
            self.waiting.push((link.to_owned(), address));
            self.next_look = Some(now);
            self.looks = 0;
        }
    }

    pub(super) fn forget(&mut self, address: Address) {
        self.known.remove(&(address.link, address.ip));
        self.waiting
            .retain(|(_, waiting)| (waiting.link, waiting.ip) != (address.link, address.ip));
    }

    pub(super) fn forget_link(&mut self, link: u32) {
        self.known.retain(|(of, _)| *of != link);
        self.waiting.retain(|(_, waiting)| waiting.link != link);
    }

    /// When to call [`Self::work`]: only while something waits to be told.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next_look
    }

    /// Tells what waits, if the server serves by now.
    pub(super) fn work(&mut self, now: Instant) {
        if self.next_look.is_none_or(|at| at > now) {
            return;
        }
        self.looks += 1;
        let is_late = self.served.is_some_and(|(_, port)| !is_served(port));
        if !self.waiting.is_empty() && self.looks < LOOKS && is_late {
            self.next_look = Some(now + LOOK);
            return;
        }
        self.next_look = None;
        // Read each time, since the key may be made after the network is there.
        let key = PrivateKey::read_openssh_file(&self.host_key).ok();
        let key = key.map(|key| cpu_proto::fingerprint(key.public_key()));
        for (link, address) in self.waiting.drain(..) {
            let served = self.served;
            let served = served.filter(|(only, _)| only.is_none_or(|only| only == address.ip));
            say(line(
                &link,
                address.ip,
                served.map(|(_, port)| port),
                key.as_deref(),
            ));
        }
    }
}

fn is_served(port: u16) -> bool {
    let tables = ["/proc/net/tcp6", "/proc/net/tcp"].map(std::fs::read_to_string);
    tables.iter().flatten().any(|table| listens(table, port))
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

/// Without a port there is nothing to try at this address, which is worth knowing all the same.
fn line(link: &str, address: IpAddr, port: Option<u16>, fingerprint: Option<&str>) -> String {
    let Some(port) = port else {
        return format!("{link} {address}");
    };
    let key = fingerprint
        .map(|key| format!(" host key {key}"))
        .unwrap_or_default();
    let invitation = invitation(address, port);
    format!("{link} {address} port {port}{key}; try: {invitation}")
}

/// What a person can type.
pub(crate) fn invitation(address: IpAddr, port: u16) -> String {
    match port {
        DEFAULT_PORT => format!("cpu {address} date"),
        port => format!("cpu -sp {port} {address} date"),
    }
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
                Some(17010),
                Some("SHA256:abc")
            ),
            "eth0 10.0.2.15 port 17010 host key SHA256:abc; try: cpu 10.0.2.15 date"
        );
        assert_eq!(
            line("eth0", "fec0::1".parse().unwrap(), Some(22), None),
            "eth0 fec0::1 port 22; try: cpu -sp 22 fec0::1 date"
        );
        let unserved = line(
            "eth0",
            IpAddr::from([10, 0, 2, 15]),
            None,
            Some("SHA256:abc"),
        );
        assert_eq!(unserved, "eth0 10.0.2.15");
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
        let now = Instant::now();
        let mut announcer = Announcer::new(Some((None, 0)), "/nosuch".into());
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
            now,
        );
        assert!(announcer.is_quiet() && announcer.deadline().is_none());
        announcer.address("eth0", address, now);
        announcer.address("eth0", address, now);
        assert_eq!(announcer.waiting.len(), 1);
        announcer.forget(address);
        assert!(announcer.is_quiet() && announcer.waiting.is_empty());
        announcer.address("eth0", address, now);
        announcer.forget_link(2);
        assert!(announcer.is_quiet() && announcer.waiting.is_empty());
    }

    #[test]
    fn a_line_waits_for_the_server_but_not_for_ever() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let ip = IpAddr::from([10, 0, 2, 15]);
        let address = Address {
            link: 2,
            ip,
            prefix: 24,
            usable: true,
            permanent: false,
        };
        // Nobody can listen on port 0.
        for (port, looks) in [(port, 1), (0, LOOKS)] {
            let mut announcer = Announcer::new(Some((None, port)), "/nosuch".into());
            announcer.address("eth0", address, Instant::now());
            for _ in 0..looks {
                assert_eq!(announcer.waiting.len(), 1);
                announcer.work(announcer.deadline().unwrap());
            }
            assert!(announcer.waiting.is_empty() && announcer.deadline().is_none());
        }
    }
}
