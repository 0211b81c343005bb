//! The lines on the console that say where the machine is, and what to type to reach it: one for each address
//! that a link gets. The server prints them, so that the command works when it is read.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use cpu_proto::DEFAULT_PORT;

use crate::console::say;
use crate::listen_addr::ListenAddr;
use crate::netup::netlink::{Netlink, NetlinkEvent};

/// Announces each address once, until it has been gone.
pub(super) struct Announcer {
    netlink: Netlink,
    addresses: Addresses,
    listen: ListenAddr,
    /// The fingerprint of the host key.
    fingerprint: String,
}

impl Announcer {
    /// Announces the addresses that the machine has now.
    pub(super) fn new(listen: ListenAddr, fingerprint: String) -> io::Result<Self> {
        let mut announcer = Self {
            netlink: Netlink::new()?,
            addresses: Addresses::default(),
            listen,
            fingerprint,
        };
        announcer.read_all()?;
        Ok(announcer)
    }

    /// Announces the addresses that have been added since.
    pub(super) fn update(&mut self) -> io::Result<()> {
        match self.netlink.read_events()? {
            Some(events) => self.apply_all(events),
            // Some of the messages were lost.
            None => self.read_all()?,
        }
        Ok(())
    }

    fn read_all(&mut self) -> io::Result<()> {
        let events = self.netlink.dump()?;
        self.addresses.retain(&events);
        self.apply_all(events);
        Ok(())
    }

    fn apply_all(&mut self, events: Vec<NetlinkEvent>) {
        for event in events {
            let Some((link, address)) = self.addresses.apply(event) else {
                continue;
            };
            let port = match self.listen {
                ListenAddr::Tcp(None, port) => Some(port),
                ListenAddr::Tcp(Some(only), port) if only == address => Some(port),
                _ => None,
            };
            say(line(&link, address, port, &self.fingerprint));
        }
    }
}

impl AsFd for Announcer {
    /// Readable when something has changed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.netlink.as_fd()
    }
}

/// The names of the links, and the addresses that were announced.
#[derive(Default)]
struct Addresses {
    links: BTreeMap<u32, String>,
    announced: BTreeSet<(u32, IpAddr)>,
}

impl Addresses {
    /// Records a change. The result is an address to announce, with the name of its link.
    fn apply(&mut self, event: NetlinkEvent) -> Option<(String, IpAddr)> {
        match event {
            NetlinkEvent::Link(link) => drop(self.links.insert(link.index, link.name)),
            NetlinkEvent::LinkGone(link) => {
                self.links.remove(&link);
                self.announced.retain(|(of, _)| *of != link);
            }
            NetlinkEvent::Advertised(..) | NetlinkEvent::RouterOption(..) => {}
            NetlinkEvent::Address(address) => {
                if address.usable && self.announced.insert((address.link, address.ip)) {
                    let link = self.links.get(&address.link);
                    return Some((link.map_or("?", String::as_str).to_owned(), address.ip));
                }
            }
            NetlinkEvent::AddressGone(address) => {
                self.announced.remove(&(address.link, address.ip));
            }
        }
        None
    }

    /// Forgets the addresses that are not in `events`, a complete list.
    fn retain(&mut self, events: &[NetlinkEvent]) {
        self.announced.retain(|announced| {
            let is_it = |event: &NetlinkEvent| match event {
                NetlinkEvent::Address(address) => (address.link, address.ip) == *announced,
                _ => false,
            };
            events.iter().any(is_it)
        });
    }
}

/// Without a port the server does not listen at this address, which is worth knowing all the same.
fn line(link: &str, address: IpAddr, port: Option<u16>, fingerprint: &str) -> String {
    let Some(port) = port else {
        return format!("{link} {address}");
    };
    let command = example_command(address, port);
    format!("{link} {address} port {port} host key {fingerprint}; try: {command}")
}

/// A command that a person can type to try the machine.
pub(crate) fn example_command(address: IpAddr, port: u16) -> String {
    match port {
        DEFAULT_PORT => format!("cpu {address} date"),
        port => format!("cpu -sp {port} {address} date"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netup::netlink::{Address, Link, RaFlag};

    #[test]
    fn the_line_says_where_who_and_what_to_type() {
        let ip = IpAddr::from([10, 0, 2, 15]);
        assert_eq!(
            line("eth0", ip, Some(17010), "SHA256:abc"),
            "eth0 10.0.2.15 port 17010 host key SHA256:abc; try: cpu 10.0.2.15 date"
        );
        assert_eq!(
            line("eth0", "fec0::1".parse().unwrap(), Some(22), "SHA256:abc"),
            "eth0 fec0::1 port 22 host key SHA256:abc; try: cpu -sp 22 fec0::1 date"
        );
        assert_eq!(line("eth0", ip, None, "SHA256:abc"), "eth0 10.0.2.15");
    }

    #[test]
    fn an_address_is_announced_once_until_it_is_gone() {
        let ip = IpAddr::from([10, 0, 2, 15]);
        let address = |usable| Address {
            link: 2,
            ip,
            prefix: 24,
            usable,
            permanent: false,
            tentative: false,
            duplicate: false,
        };
        let link = NetlinkEvent::Link(Link {
            index: 2,
            name: "eth0".into(),
            mac: None,
            up: true,
            running: true,
            mtu: 1500,
            has_master: false,
            kind: None,
            ra_flag: RaFlag::default(),
        });
        let there = || NetlinkEvent::Address(address(true));
        let announced = Some(("eth0".to_owned(), ip));

        let mut addresses = Addresses::default();
        assert_eq!(addresses.apply(link.clone()), None);
        assert_eq!(addresses.apply(NetlinkEvent::Address(address(false))), None);
        assert_eq!(addresses.apply(there()), announced);
        assert_eq!(addresses.apply(there()), None);
        addresses.apply(NetlinkEvent::AddressGone(address(true)));
        assert_eq!(addresses.apply(there()), announced);
        addresses.retain(&[link.clone(), there()]);
        assert_eq!(addresses.apply(there()), None);
        addresses.retain(std::slice::from_ref(&link));
        assert_eq!(addresses.apply(there()), announced);
        addresses.apply(NetlinkEvent::LinkGone(2));
        assert_eq!(addresses.apply(there()), Some(("?".to_owned(), ip)));
    }
}
