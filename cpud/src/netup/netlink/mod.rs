//! The part of rtnetlink(7) that cpud needs: reports of links and addresses that come and go, and requests to bring a
//! link up and to set its MTU, addresses and routes.
//!
//! Written here because the crate for it (netlink-packet-route, under rtnetlink) adds 553 KB to the program (148 KB
//! after xz): it knows every kind of link.

mod message;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, send,
    socket,
};

use super::BATCH;
use super::dhcp::packet::Route;
pub(crate) use message::{Address, Link, NetlinkEvent, RaFlag};
use message::{address_header, attribute, encode, event, k, link_header, messages};

/// Two netlink sockets: one receives what changes, the other sends requests.
pub(crate) struct Netlink {
    events: OwnedFd,
    commands: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(crate) fn new() -> io::Result<Self> {
        Self::with_groups(k::GROUPS)
    }

    /// The same, with the options of router advertisements among the changes.
    pub(super) fn with_router_options() -> io::Result<Self> {
        Self::with_groups(k::GROUPS | k::ND_GROUP)
    }

    fn with_groups(groups: u32) -> io::Result<Self> {
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
        let events = open(groups, SockFlag::SOCK_NONBLOCK)?;
        Ok(Self {
            events,
            commands: open(0, SockFlag::empty())?,
            sequence: 0,
        })
    }

    /// All links, then all addresses.
    pub(crate) fn dump(&mut self) -> io::Result<Vec<NetlinkEvent>> {
        // Requested in the other order, so that every address has its link in the list.
        let addresses = self.request(k::GET_ADDRESS, k::DUMP, &[0; 8], &[])?;
        let mut events = self.request(k::GET_LINK, k::DUMP, &[0; 16], &[])?;
        events.extend(addresses);
        Ok(events)
    }

    /// Something of what has changed since the last call. None means that messages were lost, so call [`Self::dump`].
    pub(crate) fn read_events(&self) -> io::Result<Option<Vec<NetlinkEvent>>> {
        let mut some = Vec::new();
        for _ in 0..BATCH {
            match receive(&self.events) {
                Ok(bytes) => some.extend(messages(&bytes).filter_map(|m| event(&m))),
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(Some(some))
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

    /// Makes a link for the frames of another one that have this VLAN number.
    pub(super) fn add_vlan(&mut self, link: u32, name: &str, number: u16) -> io::Result<()> {
        let of = link.to_ne_bytes();
        let data = attribute(k::IFLA_VLAN_ID, &number.to_ne_bytes());
        let kind = attribute(k::IFLA_INFO_KIND, b"vlan");
        let info = [kind, attribute(k::IFLA_INFO_DATA, &data)].concat();
        let attributes = [
            (k::IFLA_IFNAME, name.as_bytes()),
            (k::IFLA_LINK, &of[..]),
            (k::IFLA_LINKINFO, &info),
        ];
        let flags = k::ACK | k::CREATE | k::EXCLUSIVE;
        self.request(k::NEW_LINK, flags, &link_header(0), &attributes)
            .map(drop)
    }

    /// Adds an address or changes its lifetimes. None is for ever.
    pub(super) fn add_address(
        &mut self,
        link: u32,
        address: IpAddr,
        prefix: u8,
        preferred: Option<Duration>,
        valid: Option<Duration>,
    ) -> io::Result<()> {
        // To the kernel the largest number means for ever.
        let seconds = |lifetime: Option<Duration>| {
            lifetime.map_or(u32::MAX, |left| {
                u32::try_from(left.as_secs()).map_or(u32::MAX - 1, |left| left.min(u32::MAX - 1))
            })
        };
        // And zero is an error.
        let valid = seconds(valid).max(1);
        // struct ifa_cacheinfo: preferred and valid lifetime, and two times that the kernel sets.
        let times = [seconds(preferred).min(valid), valid, 0, 0].map(u32::to_ne_bytes);
        let octets = octets(address);
        let mut attributes = vec![
            (k::IFA_LOCAL, &octets[..]),
            (k::IFA_ADDRESS, &octets),
            (k::IFA_CACHEINFO, times.as_flattened()),
        ];
        let broadcast;
        if let IpAddr::V4(address) = address
            && prefix < 31
        {
            broadcast = (address.to_bits() | u32::MAX >> prefix).to_be_bytes();
            attributes.push((k::IFA_BROADCAST, &broadcast));
        }
        let header = address_header(link, address, prefix);
        self.request(
            k::NEW_ADDRESS,
            k::ACK | k::CREATE | k::REPLACE,
            &header,
            &attributes,
        )
        .map(drop)
    }

    /// Removes an address, and with it the routes that have it as their source.
    pub(super) fn delete_address(
        &mut self,
        link: u32,
        address: IpAddr,
        prefix: u8,
    ) -> io::Result<()> {
        let local = (k::IFA_LOCAL, &octets(address)[..]);
        self.request(
            k::DEL_ADDRESS,
            k::ACK,
            &address_header(link, address, prefix),
            &[local],
        )
        .map(drop)
    }

    /// Adds a route with the source address `from`. It lasts as long as that address.
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
        // The gateway may be outside all networks of the link, as with a /32, but it is on the link.
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
    ) -> io::Result<Vec<NetlinkEvent>> {
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
    /// Readable when something has changed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// One datagram from the kernel. Those from other processes are ignored.
fn receive(fd: &OwnedFd) -> nix::Result<Vec<u8>> {
    // The size that the kernel chooses for dumps.
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let (length, from) = recvfrom::<NetlinkAddr>(fd.as_raw_fd(), &mut buffer)?;
        if from.is_some_and(|from| from.pid() == 0) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_link_is_read_from_the_kernel() {
        let events = Netlink::new().unwrap().dump().unwrap();
        let lo = events.iter().find_map(|event| match event {
            NetlinkEvent::Link(link) if link.name == "lo" => Some(link),
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
}
