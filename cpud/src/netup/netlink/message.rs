//! Encodes and parses rtnetlink(7) messages.

use std::ffi::CStr;
use std::net::IpAddr;

/// Constants of linux/netlink.h and linux/rtnetlink.h.
pub(super) mod k {
    pub(in super::super) const ERROR: u16 = 2;
    pub(in super::super) const DONE: u16 = 3;
    pub(in super::super) const NEW_LINK: u16 = 16;
    pub(in super::super) const DEL_LINK: u16 = 17;
    pub(in super::super) const GET_LINK: u16 = 18;
    pub(in super::super) const NEW_ADDRESS: u16 = 20;
    pub(in super::super) const DEL_ADDRESS: u16 = 21;
    pub(in super::super) const GET_ADDRESS: u16 = 22;
    pub(in super::super) const NEW_ROUTE: u16 = 24;

    /// RTM_NEWNDUSEROPT, and its group, RTNLGRP_ND_USEROPT.
    pub(in super::super) const NEW_ND_OPTION: u16 = 68;
    pub(in super::super) const ND_GROUP: u32 = 1 << 19;
    pub(in super::super) const REQUEST: u16 = 1;
    pub(in super::super) const ACK: u16 = 4;
    pub(in super::super) const REPLACE: u16 = 0x100;
    pub(in super::super) const DUMP: u16 = 0x300;
    pub(in super::super) const EXCLUSIVE: u16 = 0x200;
    pub(in super::super) const CREATE: u16 = 0x400;

    /// RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_IFINFO.
    pub(in super::super) const GROUPS: u32 = 1 | 0x10 | 0x100 | 0x800;

    pub(in super::super) const IFLA_ADDRESS: u16 = 1;
    pub(in super::super) const IFLA_IFNAME: u16 = 3;
    pub(in super::super) const IFLA_MTU: u16 = 4;
    pub(in super::super) const IFLA_LINK: u16 = 5;
    pub(in super::super) const IFLA_MASTER: u16 = 10;
    pub(in super::super) const IFLA_PROTINFO: u16 = 12;
    pub(in super::super) const IFLA_LINKINFO: u16 = 18;
    pub(in super::super) const IFLA_AF_SPEC: u16 = 26;
    pub(in super::super) const IFLA_INET6_FLAGS: u16 = 1;
    pub(in super::super) const IFLA_INFO_KIND: u16 = 1;
    pub(in super::super) const IFLA_INFO_DATA: u16 = 2;
    pub(in super::super) const IFLA_VLAN_ID: u16 = 1;
    pub(in super::super) const IFA_ADDRESS: u16 = 1;
    pub(in super::super) const IFA_LOCAL: u16 = 2;
    pub(in super::super) const IFA_BROADCAST: u16 = 4;
    pub(in super::super) const IFA_CACHEINFO: u16 = 6;
    pub(in super::super) const IFA_FLAGS: u16 = 8;
    pub(in super::super) const RTA_DST: u16 = 1;
    pub(in super::super) const RTA_OIF: u16 = 4;
    pub(in super::super) const RTA_GATEWAY: u16 = 5;
    pub(in super::super) const RTA_PRIORITY: u16 = 6;
    pub(in super::super) const RTA_PREFSRC: u16 = 7;

    pub(in super::super) const AF_UNSPEC: u8 = 0;
    pub(in super::super) const AF_INET: u8 = 2;
    pub(in super::super) const AF_INET6: u8 = 10;
    pub(in super::super) const ARPHRD_ETHER: u16 = 1;
    pub(in super::super) const IFF_UP: u32 = 1;
    pub(in super::super) const IFF_RUNNING: u32 = 0x40;
    /// Temporary (0x01), DAD failed (0x08), deprecated (0x20), tentative (0x40).
    pub(in super::super) const IFA_F_NOT_FOR_USE: u32 = 0x69;
    pub(in super::super) const IFA_F_DADFAILED: u32 = 8;
    pub(in super::super) const IFA_F_TENTATIVE: u32 = 0x40;
    pub(in super::super) const IFA_F_PERMANENT: u32 = 0x80;
    pub(in super::super) const IF_RA_MANAGED: u32 = 0x40;
    pub(in super::super) const IF_RA_OTHERCONF: u32 = 0x80;
    pub(in super::super) const RT_TABLE_MAIN: u8 = 254;
    pub(in super::super) const RTPROT_DHCP: u8 = 16;
    pub(in super::super) const RT_SCOPE_UNIVERSE: u8 = 0;
    pub(in super::super) const RT_SCOPE_LINK: u8 = 253;
    pub(in super::super) const RTN_UNICAST: u8 = 1;
    pub(in super::super) const RTNH_F_ONLINK: u32 = 4;
}

/// A link (network interface).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// Only of Ethernet links.
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) up: bool,
    /// Up, and with a carrier.
    pub(crate) running: bool,
    pub(crate) mtu: u32,
    /// Part of a bridge or bond.
    pub(crate) has_master: bool,
    /// The type of a virtual link, such as `veth`. Hardware has none.
    pub(crate) kind: Option<String>,
    pub(crate) ra_flag: RaFlag,
}

/// What the last router advertisement on a link says about DHCPv6 (RFC 4861, 4.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum RaFlag {
    /// That there is none.
    #[default]
    Neither,
    /// O: it has name servers and the like.
    Other,
    /// M: it has addresses, too.
    Managed,
}

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) link: u32,
    pub(crate) ip: IpAddr,
    pub(crate) prefix: u8,
    /// Other machines can reach it: its scope is global, and it is neither tentative nor deprecated.
    pub(crate) usable: bool,
    /// Its lifetime has no end.
    pub(crate) permanent: bool,
    /// IPv6 is still asking whether another machine has it.
    pub(crate) tentative: bool,
    /// Another machine has it (RFC 4862, 5.4).
    pub(crate) duplicate: bool,
}

/// A link or address that exists, has changed, or has gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NetlinkEvent {
    Link(Link),
    LinkGone(u32),
    /// What is advertised on the link with this index has changed.
    Advertised(u32, RaFlag),
    /// An option of a router's advertisement on the link with this index, which the kernel does not use itself.
    RouterOption(u32, Vec<u8>),
    Address(Address),
    AddressGone(Address),
}

pub(super) fn link_header(link: u32) -> [u8; 16] {
    // struct ifinfomsg: family, pad, type, index, flags, change.
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    header
}

pub(super) fn address_header(link: u32, address: IpAddr, prefix: u8) -> [u8; 8] {
    let family = if address.is_ipv4() {
        k::AF_INET
    } else {
        k::AF_INET6
    };
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let mut header = [family, prefix, 0, k::RT_SCOPE_UNIVERSE, 0, 0, 0, 0];
    header[4..].copy_from_slice(&link.to_ne_bytes());
    header
}

/// Encodes a message: struct nlmsghdr, the family's header and attributes, all aligned to four bytes.
pub(super) fn encode(
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
        message.extend(attribute(*kind, value));
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message
}

/// Encodes an attribute, padded, so that one may follow.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut attribute = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    attribute.extend_from_slice(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// A received message: its type, the sequence number of the request that it answers, and what follows the header.
pub(super) struct NetlinkMessage<'a> {
    pub(super) kind: u16,
    pub(super) sequence: u32,
    body: &'a [u8],
}

impl NetlinkMessage<'_> {
    pub(super) fn number<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.body.get(at..)?.first_chunk().copied()
    }

    /// The attributes after a family's header of this size.
    fn attributes(&self, header: usize) -> impl Iterator<Item = (u16, &[u8])> {
        attributes(self.body.get(header..).unwrap_or_default())
    }
}

pub(super) fn messages(bytes: &[u8]) -> impl Iterator<Item = NetlinkMessage<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
        let message = rest.get(..length)?;
        let kind = u16::from_ne_bytes(*message.get(4..)?.first_chunk()?);
        let sequence = u32::from_ne_bytes(*message.get(8..)?.first_chunk()?);
        let body = message.get(16..)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(NetlinkMessage {
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
        // The two high bits are the flags "nested" and "network byte order".
        Some((kind & 0x3fff, value))
    })
}

pub(super) fn event(message: &NetlinkMessage<'_>) -> Option<NetlinkEvent> {
    match message.kind {
        // In other families a link is a bridge's port, or what IPv6 has of it.
        k::NEW_LINK | k::DEL_LINK => match (message.kind, message.number(0)?) {
            (k::NEW_LINK, [k::AF_UNSPEC]) => link(message).map(NetlinkEvent::Link),
            (k::NEW_LINK, [k::AF_INET6]) => advertised(message),
            (k::DEL_LINK, [k::AF_UNSPEC]) => {
                let index = u32::from_ne_bytes(message.number(4)?);
                Some(NetlinkEvent::LinkGone(index))
            }
            _ => None,
        },
        k::NEW_ND_OPTION => router_option(message),
        k::NEW_ADDRESS => address(message).map(NetlinkEvent::Address),
        k::DEL_ADDRESS => address(message).map(NetlinkEvent::AddressGone),
        _ => None,
    }
}

fn link(message: &NetlinkMessage<'_>) -> Option<Link> {
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
        ra_flag: RaFlag::default(),
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
            k::IFLA_AF_SPEC => {
                let ipv6 = attributes(value).find(|(family, _)| *family == k::AF_INET6.into());
                link.ra_flag = ipv6
                    .and_then(|(_, value)| ra_flag(value))
                    .unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(link)
}

fn advertised(message: &NetlinkMessage<'_>) -> Option<NetlinkEvent> {
    let index = u32::from_ne_bytes(message.number(4)?);
    let mut attributes = message.attributes(16);
    let (_, value) = attributes.find(|(kind, _)| *kind == k::IFLA_PROTINFO)?;
    ra_flag(value).map(|flag| NetlinkEvent::Advertised(index, flag))
}

fn router_option(message: &NetlinkMessage<'_>) -> Option<NetlinkEvent> {
    // struct nduseroptmsg: family, pad, length of the option, index, ICMP type and code, pads.
    let length = usize::from(u16::from_ne_bytes(message.number(2)?));
    let option = message.body.get(16..16 + length)?.to_vec();
    let index = u32::from_ne_bytes(message.number(4)?);
    Some(NetlinkEvent::RouterOption(index, option))
}

/// The flag among IPv6's attributes of a link.
fn ra_flag(value: &[u8]) -> Option<RaFlag> {
    let (_, flags) = attributes(value).find(|(kind, _)| *kind == k::IFLA_INET6_FLAGS)?;
    let flags = u32::from_ne_bytes(flags.try_into().ok()?);
    Some(if flags & k::IF_RA_MANAGED != 0 {
        RaFlag::Managed
    } else if flags & k::IF_RA_OTHERCONF != 0 {
        RaFlag::Other
    } else {
        RaFlag::Neither
    })
}

fn text(value: &[u8]) -> String {
    let text = CStr::from_bytes_until_nul(value).map_or(value, CStr::to_bytes);
    String::from_utf8_lossy(text).into_owned()
}

fn address(message: &NetlinkMessage<'_>) -> Option<Address> {
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
            // The flags again, as 32 bits.
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
        tentative: flags & k::IFA_F_TENTATIVE != 0,
        duplicate: flags & k::IFA_F_DADFAILED != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        let [NetlinkEvent::Link(link)] = &events[..] else {
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
        assert_eq!(link.ra_flag, RaFlag::Neither);

        let ip = IpAddr::from([10, 0, 0, 1]);
        let header = address_header(7, ip, 24);
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
        assert_eq!(
            events,
            [NetlinkEvent::Address(Address {
                link: 7,
                ip,
                prefix: 24,
                usable: true,
                permanent: true,
                tentative: false,
                duplicate: false
            })]
        );
    }

    #[test]
    fn what_routers_advertise_is_understood() {
        use RaFlag::{Managed, Neither, Other};
        for (flags, flag) in [
            (0x30, Neither),
            (0xb0, Other),
            (0x70, Managed),
            (0xf0, Managed),
        ] {
            let flags = attribute(k::IFLA_INET6_FLAGS, &u32::to_ne_bytes(flags));
            let mut header = link_header(7);
            let of_ipv4 = attribute(k::AF_INET.into(), &[0; 8]);
            let families = [of_ipv4, attribute(k::AF_INET6.into(), &flags)].concat();
            let bytes = encode(k::NEW_LINK, 0, 1, &header, &[(k::IFLA_AF_SPEC, &families)]);
            let events: Vec<_> = messages(&bytes).filter_map(|m| event(&m)).collect();
            assert!(matches!(&events[..], [NetlinkEvent::Link(link)] if link.ra_flag == flag));

            header[0] = k::AF_INET6;
            let info = (k::IFLA_PROTINFO | 0x8000, &flags[..]);
            let bytes = encode(k::NEW_LINK, 0, 1, &header, &[info]);
            let events: Vec<_> = messages(&bytes).filter_map(|m| event(&m)).collect();
            assert_eq!(events, [NetlinkEvent::Advertised(7, flag)]);
            // That it leaves IPv6 or a bridge does not mean that it goes.
            let bytes = encode(k::DEL_LINK, 0, 1, &header, &[]);
            assert_eq!(messages(&bytes).filter_map(|m| event(&m)).count(), 0);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(kind in prop::sample::select(&[16u16, 17, 20, 21, 22, 68][..]), body in prop::collection::vec(any::<u8>(), 0..80), cut in 0usize..100) {
            let mut bytes = encode(kind, 0, 1, &body, &[]);
            bytes.truncate(cut);
            prop_assert!(messages(&bytes).filter_map(|m| event(&m)).count() <= 1);
        }
    }
}
