//! DHCPv6, if a router's advertisement says so: the messages ([`packet`]), the states of a client ([`client`]), and
//! here its socket, and how it configures the kernel.

mod client;
pub(super) mod packet;

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv6Addr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Instant;

use super::netlink::Link;
use super::resolv::NameServerSource;
use super::{BATCH, Host, REPORT_DELAY};
use crate::console::say;
use client::{Dhcp6Action, Dhcp6Client};
use packet::MAX_MESSAGE;

const CLIENT: u16 = 546;
const SERVER: u16 = 547;
/// All_DHCP_Relay_Agents_and_Servers.
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// A leased address says nothing about others on its link (RFC 5942).
const PREFIX: u8 = 128;

/// The DHCPv6 client of one interface.
pub(super) struct Dhcp6 {
    client: Dhcp6Client,
    /// The address for the client's messages.
    link_local: Option<Ipv6Addr>,
    /// Open only while an answer is expected.
    socket: Option<UdpSocket>,
    /// A socket could not be opened, which has been reported.
    open_failed: bool,
    /// When to report that no server gives an address; none if none is asked for.
    report_at: Option<Instant>,
    /// That has been reported.
    reported: bool,
}

impl Dhcp6 {
    pub(super) fn new(mac: [u8; 6], random: u64, now: Instant) -> Self {
        Self {
            client: Dhcp6Client::new(mac, random, now),
            link_local: None,
            socket: None,
            open_failed: false,
            report_at: None,
            reported: false,
        }
    }

    /// A link-local address can be used, or not any more. The first one is used.
    pub(super) fn set_link_local(
        &mut self,
        address: Ipv6Addr,
        is_there: bool,
        link: &Link,
        now: Instant,
    ) {
        if is_there {
            self.link_local.get_or_insert(address);
        } else if self.link_local.take_if(|used| *used == address).is_some() {
            self.socket = None;
        }
        self.changed(link, now);
    }

    /// Another machine has an address of this link.
    pub(super) fn duplicate(&mut self, address: Ipv6Addr, link: &Link, now: Instant) {
        if self.client.decline(address, now) {
            say(format_args!(
                "{}: another machine has {address}, which DHCPv6 gave",
                link.name
            ));
        }
    }

    /// The kernel has reported a change of the link, or what a router advertises.
    pub(super) fn changed(&mut self, link: &Link, now: Instant) {
        let running = link.running && self.link_local.is_some();
        self.client.update(running, link.ra_flag, now);
    }

    pub(super) fn has_address(&self) -> bool {
        self.client.has_address()
    }

    /// When to call [`Self::work`] even if nothing has arrived.
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.client.deadline(), self.report_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// The socket to wait for meanwhile.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_ref()?.as_fd())
    }

    /// Handles what has arrived, and does what is due.
    pub(super) fn work(&mut self, link: &Link, now: Instant, host: &mut Host) {
        let mut actions = Vec::new();
        let mut buffer = [0; MAX_MESSAGE];
        for _ in 0..BATCH {
            let Some(socket) = &self.socket else {
                break;
            };
            match socket.recv(&mut buffer) {
                Ok(count) => {
                    let message = buffer.get(..count).unwrap_or_default();
                    actions.extend(self.client.receive(message, now));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // It is opened again below.
                Err(_) => self.socket = None,
            }
        }
        actions.extend(self.client.tick(now));
        if !self.client.listens() {
            self.socket = None;
        } else if self.socket.is_none() {
            self.open(link);
        }
        for action in actions {
            self.perform(action, link, now, host);
        }
        if !self.client.seeks_address() {
            self.report_at = None;
            self.reported &= !self.client.has_address();
        } else if !self.reported {
            let at = *self.report_at.get_or_insert(now + REPORT_DELAY);
            if at <= now {
                self.report_at = None;
                self.reported = true;
                say(format_args!(
                    "{}: a router advertises DHCPv6, but no server has given an address in {} s; still asking",
                    link.name,
                    REPORT_DELAY.as_secs()
                ));
            }
        }
    }

    fn open(&mut self, link: &Link) {
        let Some(address) = self.link_local else {
            return;
        };
        let open = || -> io::Result<UdpSocket> {
            let socket = UdpSocket::bind(SocketAddrV6::new(address, CLIENT, 0, link.index))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        match open() {
            Ok(socket) => self.socket = Some(socket),
            Err(error) if !self.open_failed => {
                self.open_failed = true;
                let name = &link.name;
                say(format_args!("cannot listen for DHCPv6 on {name}: {error}"));
            }
            Err(_) => {}
        }
    }

    fn perform(&mut self, action: Dhcp6Action, link: &Link, now: Instant, host: &mut Host) {
        match action {
            Dhcp6Action::Multicast(message) => {
                if let Some(socket) = &self.socket {
                    let to = SocketAddrV6::new(SERVERS, SERVER, 0, link.index);
                    // A message that can't be sent is like one that is lost: it will be repeated.
                    let _ = socket.send_to(&message, to);
                }
            }
            Dhcp6Action::Add(lease) => {
                let address = IpAddr::V6(lease.address);
                let left = |end: Instant| end.saturating_duration_since(now);
                let (preferred, valid) = (lease.deprecated.map(left), lease.end.map(left));
                let added = host
                    .netlink
                    .add_address(link.index, address, PREFIX, preferred, valid);
                if let Err(error) = added {
                    let name = &link.name;
                    say(format_args!(
                        "{name}: cannot add the address {address}/{PREFIX}: {error}"
                    ));
                }
            }
            Dhcp6Action::Remove(address) => {
                say(format_args!(
                    "{}: the lease of {address} has ended",
                    link.name
                ));
                // Unless the kernel has done so at the end of its lifetime.
                let _ = host
                    .netlink
                    .delete_address(link.index, address.into(), PREFIX);
            }
            Dhcp6Action::NameServers(servers, search) => {
                let servers: Vec<_> = servers.into_iter().map(IpAddr::V6).collect();
                host.set_name_servers(link.index, NameServerSource::Dhcp6, &servers, &search);
            }
        }
    }
}
