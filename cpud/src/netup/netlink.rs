//! The few words of rtnetlink(7) that the network role speaks: links and addresses as they come
//! and go; and up, MTU, address and route as commands.
//!
//! Written here because the crate for it (netlink-packet-route, under rtnetlink) adds 553 KB to the
//! program, 148 KB of them after xz: it knows every kind of link there is.

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, send,
    socket,
};

use super::dhcp::packet::Route;

/// linux/netlink.h and linux/rtnetlink.h.
mod k {
    pub(super) const ERROR: u16 = 2;
    pub(super) const DONE: u16 = 3;
    pub(super) const NEW_LINK: u16 = 16;
    pub(super) const DEL_LINK: u16 = 17;
    pub(super) const GET_LINK: u16 = 18;
    pub(super) const NEW_ADDRESS: u16 = 20;
    pub(super) const DEL_ADDRESS: u16 = 21;
    pub(super) const GET_ADDRESS: u16 = 22;
    pub(super) const NEW_ROUTE: u16 = 24;

    pub(super) const REQUEST: u16 = 1;
    pub(super) const ACK: u16 = 4;
    pub(super) const REPLACE: u16 = 0x100;
    pub(super) const DUMP: u16 = 0x300;
    pub(super) const CREATE: u16 = 0x400;

    /// RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR.
    pub(super) const GROUPS: u32 = 1 | 0x10 | 0x100;

    pub(super) const IFLA_ADDRESS: u16 = 1;
    pub(super) const IFLA_IFNAME: u16 = 3;
    pub(super) const IFLA_MTU: u16 = 4;
    pub(super) const IFLA_MASTER: u16 = 10;
    pub(super) const IFLA_LINKINFO: u16 = 18;
    pub(super) const IFLA_INFO_KIND: u16 = 1;
    pub(super) const IFA_ADDRESS: u16 = 1;
    pub(super) const IFA_LOCAL: u16 = 2;
    pub(super) const IFA_BROADCAST: u16 = 4;
    pub(super) const IFA_CACHEINFO: u16 = 6;
    pub(super) const IFA_FLAGS: u16 = 8;
    pub(super) const RTA_DST: u16 = 1;
    pub(super) const RTA_OIF: u16 = 4;
    pub(super) const RTA_GATEWAY: u16 = 5;
    pub(super) const RTA_PRIORITY: u16 = 6;
    pub(super) const RTA_PREFSRC: u16 = 7;

    pub(super) const AF_INET: u8 = 2;
    pub(super) const ARPHRD_ETHER: u16 = 1;
    pub(super) const IFF_UP: u32 = 1;
    pub(super) const IFF_RUNNING: u32 = 0x40;
    /// Temporary (0x01), DAD failed (0x08), deprecated (0x20), tentative (0x40).
    pub(super) const IFA_F_NOT_FOR_USE: u32 = 0x69;
    pub(super) const IFA_F_PERMANENT: u32 = 0x80;
    pub(super) const RT_TABLE_MAIN: u8 = 254;
    pub(super) const RTPROT_DHCP: u8 = 16;
    pub(super) const RT_SCOPE_UNIVERSE: u8 = 0;
    pub(super) const RT_SCOPE_LINK: u8 = 253;
    pub(super) const RTN_UNICAST: u8 = 1;
    pub(super) const RTNH_F_ONLINK: u32 = 4;
}

/// A link as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// Ethernet links only.
    pub(super) mac: Option<[u8; 6]>,
    pub(super) up: bool,
    /// Up, and with a carrier.
    pub(super) running: bool,
    pub(super) mtu: u32,
    /// Part of a bridge or bond.
    pub(super) has_master: bool,
    /// What software made it; hardware has none.
    pub(super) kind: Option<String>,
}

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) link: u32,
    pub(super) ip: IpAddr,
    pub(super) prefix: u8,
    /// Others can reach it: its scope is global, and it is neither tentative nor about to go.
    pub(super) usable: bool,
    /// It has no end.
    pub(super) permanent: bool,
}

/// What has changed, or is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    Link(Link),
    LinkGone(u32),
    Address(Address),
    AddressGone(Address),
}

/// One socket for what happens, one for commands.
pub(super) struct Netlink {
    events: OwnedFd,
    commands: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(super) fn new() -> io::Result<Self> {
        let open = |groups, flags| -> io::Result<OwnedFd> {
            let flags = SockFlag::SOCK_CLOEXEC | flags;
            let fd = socket(
                AddressFamily::Netlink,
                SockType::Raw,
                flags,
                SockProtocol::NetlinkRoute,
            )?;
            bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
            Ok(fd)
        };
        let events = open(k::GROUPS, SockFlag::SOCK_NONBLOCK)?;
        Ok(Self {
            events,
            commands: open(0, SockFlag::empty())?,
            sequence: 0,
        })
    }

    /// Everything that is: addresses first, then links.
    pub(super) fn everything(&mut self) -> io::Result<Vec<Event>> {
        let mut events = self.request(k::GET_ADDRESS, k::DUMP, &[0; 8], &[])?;
        events.extend(self.request(k::GET_LINK, k::DUMP, &[0; 16], &[])?);
        Ok(events)
    }

    /// What has happened since; none means that some of it was lost and all is to be read again.
    pub(super) fn events(&self) -> io::Result<Option<Vec<Event>>> {
        let mut all = Vec::new();
        loop {
            match receive(&self.events) {
                Ok(bytes) => all.extend(messages(&bytes).filter_map(|m| event(&m))),
                Err(Errno::EAGAIN) => return Ok(Some(all)),
                Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    pub(super) fn set_up(&mut self, link: u32) -> io::Result<()> {
        let mut header = link_header(link);
        header[8..12].copy_from_slice(&k::IFF_UP.to_ne_bytes());
        header[12..16].copy_from_slice(&k::IFF_UP.to_ne_bytes());
        self.request(k::NEW_LINK, k::ACK, &header, &[]).map(drop)
    }

    pub(super) fn set_mtu(&mut self, link: u32, mtu: u32) -> io::Result<()> {
        let mtu = (k::IFLA_MTU, &mtu.to_ne_bytes()[..]);
        self.request(k::NEW_LINK, k::ACK, &link_header(link), &[mtu])
            .map(drop)
    }

    /// Adds an address or changes its lifetime, in seconds; none is for ever.
    pub(super) fn add_address(
        &mut self,
        link: u32,
        address: Ipv4Addr,
        prefix: u8,
        lifetime: Option<u32>,
    ) -> io::Result<()> {
        let seconds = lifetime.unwrap_or(u32::MAX).to_ne_bytes();
        // struct ifa_cacheinfo: preferred, valid, and two that are the kernel's.
        let times = [seconds, seconds, [0; 4], [0; 4]].concat();
        let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
        let broadcast = (address.to_bits() | hosts).to_be_bytes();
        let octets = address.octets();
        let mut attributes = vec![
            (k::IFA_LOCAL, &octets[..]),
            (k::IFA_ADDRESS, &octets),
            (k::IFA_CACHEINFO, &times),
        ];
        if prefix < 31 {
            attributes.push((k::IFA_BROADCAST, &broadcast));
        }
        let header = address_header(link, prefix);
        self.request(
            k::NEW_ADDRESS,
            k::ACK | k::CREATE | k::REPLACE,
            &header,
            &attributes,
        )
        .map(drop)
    }

    /// Removes an address, and with it the routes that came with it.
    pub(super) fn delete_address(
        &mut self,
        link: u32,
        address: Ipv4Addr,
        prefix: u8,
    ) -> io::Result<()> {
        let local = (k::IFA_LOCAL, &address.octets()[..]);
        self.request(
            k::DEL_ADDRESS,
            k::ACK,
            &address_header(link, prefix),
            &[local],
        )
        .map(drop)
    }

    /// Adds a route that lasts as long as the address `from`.
    pub(super) fn add_route(
        &mut self,
        link: u32,
        route: Route,
        metric: u32,
        from: Ipv4Addr,
    ) -> io::Result<()> {
        let scope = if route.gateway.is_some() {
            k::RT_SCOPE_UNIVERSE
        } else {
            k::RT_SCOPE_LINK
        };
        let mut header = vec![
            k::AF_INET,
            route.prefix,
            0,
            0,
            k::RT_TABLE_MAIN,
            k::RTPROT_DHCP,
            scope,
            k::RTN_UNICAST,
        ];
        // The gateway of a /32 is not within any network of the link, and is on it all the same.
        let flags = if route.gateway.is_some() {
            k::RTNH_F_ONLINK
        } else {
            0
        };
        header.extend(flags.to_ne_bytes());
        let (to, index, priority, source) = (
            route.to.octets(),
            link.to_ne_bytes(),
            metric.to_ne_bytes(),
            from.octets(),
        );
        let gateway = route.gateway.map(|gateway| gateway.octets());
        let mut attributes = vec![
            (k::RTA_DST, &to[..]),
            (k::RTA_OIF, &index),
            (k::RTA_PRIORITY, &priority),
            (k::RTA_PREFSRC, &source),
        ];
        if let Some(gateway) = &gateway {
            attributes.push((k::RTA_GATEWAY, gateway));
        }
        self.request(
            k::NEW_ROUTE,
            k::ACK | k::CREATE | k::REPLACE,
            &header,
            &attributes,
        )
        .map(drop)
    }

    /// Sends one request and reads its answers.
    fn request(
        &mut self,
        kind: u16,
        flags: u16,
        header: &[u8],
        attributes: &[(u16, &[u8])],
    ) -> io::Result<Vec<Event>> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = encode(kind, k::REQUEST | flags, self.sequence, header, attributes);
        send(self.commands.as_raw_fd(), &request, MsgFlags::empty())?;
        let mut events = Vec::new();
        loop {
            let bytes = match receive(&self.commands) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            for message in messages(&bytes).filter(|m| m.sequence == self.sequence) {
                match message.kind {
                    k::DONE => return Ok(events),
                    k::ERROR => {
                        return match message.number::<4>(0).map(i32::from_ne_bytes) {
                            Some(0) => Ok(events),
                            Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                            None => Err(io::ErrorKind::InvalidData.into()),
                        };
                    }
                    _ => events.extend(event(&message)),
                }
            }
        }
    }
}

impl AsFd for Netlink {
    /// Readable when something has happened.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

/// One datagram from the kernel; what another process sent is passed over.
fn receive(fd: &OwnedFd) -> nix::Result<Vec<u8>> {
    // The kernel's own choice of size for dumps.
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let (length, from) = recvfrom::<NetlinkAddr>(fd.as_raw_fd(), &mut buffer)?;
        if from.is_some_and(|from| from.pid() == 0) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

fn link_header(link: u32) -> [u8; 16] {
    // struct ifinfomsg: family, pad, type, index, flags, change.
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    header
}

fn address_header(link: u32, prefix: u8) -> [u8; 8] {
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let mut header = [k::AF_INET, prefix, 0, k::RT_SCOPE_UNIVERSE, 0, 0, 0, 0];
    header[4..].copy_from_slice(&link.to_ne_bytes());
    header
}

/// struct nlmsghdr, the family's header, attributes; all at multiples of four.
fn encode(
    kind: u16,
    flags: u16,
    sequence: u32,
    header: &[u8],
    attributes: &[(u16, &[u8])],
) -> Vec<u8> {
    let mut message = vec![0; 4];
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend([0; 4]);
    message.extend_from_slice(header);
    for (kind, value) in attributes {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend_from_slice(value);
        message.resize(message.len().next_multiple_of(4), 0);
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message
}

/// A received message: what it is, which request it answers, and what is behind the header.
struct Message<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

impl Message<'_> {
    fn number<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.body.get(at..)?.first_chunk().copied()
    }

    /// The attributes behind a family's header of this size.
    fn attributes(&self, header: usize) -> impl Iterator<Item = (u16, &[u8])> {
        attributes(self.body.get(header..).unwrap_or_default())
    }
}

fn messages(bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
        let message = rest.get(..length)?;
        let kind = u16::from_ne_bytes(*message.get(4..)?.first_chunk()?);
        let sequence = u32::from_ne_bytes(*message.get(8..)?.first_chunk()?);
        let body = message.get(16..)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind,
            sequence,
            body,
        })
    })
}

fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        // The two high bits say "nested" and "big-endian".
        Some((kind & 0x3fff, value))
    })
}

fn event(message: &Message<'_>) -> Option<Event> {
    match message.kind {
        k::NEW_LINK => link(message).map(Event::Link),
        k::DEL_LINK => Some(Event::LinkGone(u32::from_ne_bytes(message.number(4)?))),
        k::NEW_ADDRESS => address(message).map(Event::Address),
        k::DEL_ADDRESS => address(message).map(Event::AddressGone),
        _ => None,
    }
}

fn link(message: &Message<'_>) -> Option<Link> {
    let flags = u32::from_ne_bytes(message.number(8)?);
    let ethernet = u16::from_ne_bytes(message.number(2)?) == k::ARPHRD_ETHER;
    let mut link = Link {
        index: u32::from_ne_bytes(message.number(4)?),
        name: String::new(),
        mac: None,
        up: flags & k::IFF_UP != 0,
        running: flags & (k::IFF_UP | k::IFF_RUNNING) == k::IFF_UP | k::IFF_RUNNING,
        mtu: 0,
        has_master: false,
        kind: None,
    };
    for (kind, value) in message.attributes(16) {
        match kind {
            k::IFLA_IFNAME => link.name = text(value),
            k::IFLA_ADDRESS if ethernet => link.mac = value.try_into().ok(),
            k::IFLA_MTU => link.mtu = value.try_into().map_or(0, u32::from_ne_bytes),
            k::IFLA_MASTER => link.has_master = true,
            k::IFLA_LINKINFO => {
                link.kind = attributes(value)
                    .find(|(kind, _)| *kind == k::IFLA_INFO_KIND)
                    .map(|(_, kind)| text(kind));
            }
            _ => {}
        }
    }
    Some(link)
}

fn text(value: &[u8]) -> String {
    let text = CStr::from_bytes_until_nul(value).map_or(value, CStr::to_bytes);
    String::from_utf8_lossy(text).into_owned()
}

fn address(message: &Message<'_>) -> Option<Address> {
    let [_, prefix, flags, scope] = message.number(0)?;
    let link = u32::from_ne_bytes(message.number(4)?);
    let (mut flags, mut local, mut peer) = (u32::from(flags), None, None);
    for (kind, value) in message.attributes(8) {
        let ip = || -> Option<IpAddr> {
            <[u8; 4]>::try_from(value)
                .map(Into::into)
                .or(<[u8; 16]>::try_from(value).map(Into::into))
                .ok()
        };
        match kind {
            k::IFA_LOCAL => local = ip(),
            k::IFA_ADDRESS => peer = ip(),
            // The same flags with room for more.
            k::IFA_FLAGS => flags = value.try_into().map_or(flags, u32::from_ne_bytes),
            _ => {}
        }
    }
    Some(Address {
        link,
        ip: local.or(peer)?,
        prefix,
        usable: scope == k::RT_SCOPE_UNIVERSE && flags & k::IFA_F_NOT_FOR_USE == 0,
        permanent: flags & k::IFA_F_PERMANENT != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_loopback_link_is_read_from_the_kernel() {
        let events = Netlink::new().unwrap().everything().unwrap();
        let lo = events.iter().find_map(|event| match event {
            Event::Link(link) if link.name == "lo" => Some(link),
            _ => None,
        });
        let lo = lo.expect("every Linux has lo");
        assert_eq!(
            (lo.index, lo.mac, lo.has_master, &lo.kind),
            (1, None, false, &None)
        );
        assert!(lo.mtu >= 1500);
    }

    #[test]
    fn a_refusal_is_an_error() {
        let error = Netlink::new()
            .unwrap()
            .set_mtu(u32::MAX >> 1, 1500)
            .unwrap_err();
        assert!(
            matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EPERM)),
            "{error}"
        );
    }

    #[test]
    fn links_and_addresses_are_understood() {
        let mut header = link_header(7);
        header[2] = 1;
        header[8..12].copy_from_slice(&0x41u32.to_ne_bytes());
        let nested = [&[8, 0, 1, 0][..], b"veth"].concat();
        let bytes = encode(
            k::NEW_LINK,
            0,
            1,
            &header,
            &[
                (k::IFLA_IFNAME, b"eth0\0"),
                (k::IFLA_ADDRESS, &[2, 0, 0, 0, 0, 1]),
                (k::IFLA_LINKINFO | 0x8000, &nested),
            ],
        );
        let events: Vec<_> = messages(&bytes).filter_map(|m| event(&m)).collect();
        let [Event::Link(link)] = &events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(
            (link.index, link.name.as_str(), link.mac),
            (7, "eth0", Some([2, 0, 0, 0, 0, 1]))
        );
        assert_eq!(
            (link.up, link.running, link.kind.as_deref()),
            (true, true, Some("veth"))
        );

        let header = address_header(7, 24);
        let bytes = encode(
            k::NEW_ADDRESS,
            0,
            1,
            &header,
            &[
                (k::IFA_LOCAL, &[10, 0, 0, 1]),
                (k::IFA_FLAGS, &0x80u32.to_ne_bytes()),
            ],
        );
        let events: Vec<_> = messages(&bytes).filter_map(|m| event(&m)).collect();
        let ip = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(
            events,
            [Event::Address(Address {
                link: 7,
                ip,
                prefix: 24,
                usable: true,
                permanent: true
            })]
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(kind in 16u16..23, body in prop::collection::vec(any::<u8>(), 0..80), cut in 0usize..100) {
            let mut bytes = encode(kind, 0, 1, &body, &[]);
            bytes.truncate(cut);
            prop_assert!(messages(&bytes).filter_map(|m| event(&m)).count() <= 1);
        }
    }
}
