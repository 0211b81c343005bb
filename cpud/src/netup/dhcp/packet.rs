//! DHCPv4 messages (RFC 2131, 2132, 3397, 3442): the few that a client sends, and the few fields that it reads. What
//! arrives is not trusted: a field that makes no sense counts as absent.
//!
//! Written here because the crate for it (dhcproto) adds 229 KB to the program (75 KB after xz), with the Unicode
//! tables of its DNS library.

use std::net::Ipv4Addr;

use super::super::domain::{host_name, search_list};

/// The largest message that this client accepts (option 57): what fits in an Ethernet frame.
pub(in super::super) const MAX_MESSAGE: usize = 1472;
/// The smallest message that BOOTP relays accept (RFC 1542, 2.1).
const MIN_MESSAGE: usize = 300;
const OPTIONS_AT: usize = 240;
const MAGIC: [u8; 4] = [99, 130, 83, 99];

pub(super) const DISCOVER: u8 = 1;
pub(super) const OFFER: u8 = 2;
pub(super) const REQUEST: u8 = 3;
pub(super) const DECLINE: u8 = 4;
pub(super) const ACK: u8 = 5;
pub(super) const NAK: u8 = 6;

/// Option codes of RFC 2132 and, from 119 on, RFC 3397 and 3442.
mod code {
    pub(super) const MASK: u8 = 1;
    pub(super) const ROUTER: u8 = 3;
    pub(super) const DNS: u8 = 6;
    pub(super) const HOSTNAME: u8 = 12;
    pub(super) const DOMAIN: u8 = 15;
    pub(super) const MTU: u8 = 26;
    pub(super) const REQUESTED: u8 = 50;
    pub(super) const LEASE: u8 = 51;
    pub(super) const OVERLOAD: u8 = 52;
    pub(super) const TYPE: u8 = 53;
    pub(super) const SERVER: u8 = 54;
    pub(super) const PARAMETERS: u8 = 55;
    pub(super) const MAX_SIZE: u8 = 57;
    pub(super) const T1: u8 = 58;
    pub(super) const T2: u8 = 59;
    pub(super) const CLIENT: u8 = 61;
    pub(super) const SEARCH: u8 = 119;
    pub(super) const ROUTES: u8 = 121;
    pub(super) const END: u8 = 255;
}

/// A message of a client.
pub(super) struct BootRequest<'a> {
    pub(super) kind: u8,
    pub(super) xid: u32,
    /// Seconds since the client began to look for an address.
    pub(super) secs: u16,
    pub(super) mac: [u8; 6],
    /// The client's address, if it can be reached there.
    pub(super) ciaddr: Ipv4Addr,
    pub(super) requested: Option<Ipv4Addr>,
    pub(super) server: Option<Ipv4Addr>,
    pub(super) hostname: Option<&'a str>,
}

impl BootRequest<'_> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut m = vec![0; OPTIONS_AT];
        // BOOTREQUEST, Ethernet, length of its addresses. The broadcast flag stays off: the packet socket receives
        // answers even to an address that this machine does not have yet.
        m[..3].copy_from_slice(&[1, 1, 6]);
        m[4..8].copy_from_slice(&self.xid.to_be_bytes());
        m[8..10].copy_from_slice(&self.secs.to_be_bytes());
        m[12..16].copy_from_slice(&self.ciaddr.octets());
        m[28..34].copy_from_slice(&self.mac);
        m[236..].copy_from_slice(&MAGIC);

        let mut option = |code: u8, value: &[u8]| {
            // An option holds 255 bytes. Only a host name could be longer, and that is cut.
            let value = value.get(..255).unwrap_or(value);
            m.push(code);
            m.extend(u8::try_from(value.len()));
            m.extend_from_slice(value);
        };
        option(code::TYPE, &[self.kind]);
        option(code::CLIENT, &[&[1], &self.mac[..]].concat());
        if let Some(address) = self.requested {
            option(code::REQUESTED, &address.octets());
        }
        if let Some(server) = self.server {
            option(code::SERVER, &server.octets());
        }
        if self.kind == DECLINE {
            // RFC 2131, table 5: nothing else.
            m.push(code::END);
            m.resize(m.len().max(MIN_MESSAGE), 0);
            return m;
        }
        if let Some(name) = self.hostname {
            option(code::HOSTNAME, name.as_bytes());
        }
        let size = u16::try_from(MAX_MESSAGE).unwrap_or(576);
        option(code::MAX_SIZE, &size.to_be_bytes());
        // Classless routes before routers, as RFC 3442 requires.
        option(
            code::PARAMETERS,
            &[
                code::MASK,
                code::ROUTES,
                code::ROUTER,
                code::DNS,
                code::HOSTNAME,
                code::DOMAIN,
                code::MTU,
                code::LEASE,
                code::SERVER,
                code::T1,
                code::T2,
                code::SEARCH,
            ],
        );
        m.push(code::END);
        m.resize(m.len().max(MIN_MESSAGE), 0);
        m
    }
}

/// A route to a network: through `gateway`, or on the link itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Route {
    pub(in super::super) to: Ipv4Addr,
    pub(in super::super) prefix: u8,
    pub(in super::super) gateway: Option<Ipv4Addr>,
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.to, self.prefix)?;
        self.gateway
            .map_or(Ok(()), |gateway| write!(f, " via {gateway}"))
    }
}

/// A message of a server, as far as it makes sense.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct BootReply {
    pub(super) kind: u8,
    pub(super) xid: u32,
    pub(super) mac: [u8; 6],
    pub(super) yiaddr: Option<Ipv4Addr>,
    pub(super) server: Option<Ipv4Addr>,
    pub(super) prefix: Option<u8>,
    /// In seconds; `u32::MAX` means for ever.
    pub(super) lease: Option<u32>,
    pub(super) t1: Option<u32>,
    pub(super) t2: Option<u32>,
    pub(super) routes: Vec<Route>,
    pub(super) dns: Vec<Ipv4Addr>,
    /// Domains to search, the machine's own first.
    pub(super) search: Vec<String>,
    pub(super) hostname: Option<String>,
    pub(super) mtu: Option<u16>,
}

impl BootReply {
    /// Parses a message; none if it is not a DHCP answer to an Ethernet client.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let field = |from: usize, len: usize| bytes.get(from..from.checked_add(len)?);
        if field(0, 3)? != [2, 1, 6] || field(236, 4)? != MAGIC {
            return None;
        }
        // The fields `sname` and `file` may hold options too (RFC 2131, 4.1).
        let mut areas = vec![bytes.get(OPTIONS_AT..)?];
        let overload = options(areas[0]).find(|(code, _)| *code == code::OVERLOAD);
        if let Some((_, [which])) = overload {
            if which & 1 != 0 {
                areas.push(field(108, 128)?);
            }
            if which & 2 != 0 {
                areas.push(field(44, 64)?);
            }
        }
        // The parts of a split option are joined (RFC 3396).
        let joined = |wanted: u8| -> Option<Vec<u8>> {
            let parts = areas.iter().flat_map(|area| options(area));
            let mut parts = parts
                .filter(|(code, _)| *code == wanted)
                .map(|(_, value)| value);
            let first = parts.next()?.to_vec();
            Some(parts.fold(first, |sum, part| [sum.as_slice(), part].concat()))
        };
        let number = |code| Some(u32::from_be_bytes(joined(code)?.try_into().ok()?));
        let addresses = |code| -> Vec<Ipv4Addr> {
            let value = joined(code).unwrap_or_default();
            value.chunks_exact(4).filter_map(address).collect()
        };
        let name = |code| joined(code).and_then(|value| host_name(&value));

        let classless = joined(code::ROUTES).map(|value| classless_routes(&value));
        let default = |gateway| Route {
            to: Ipv4Addr::UNSPECIFIED,
            prefix: 0,
            gateway: Some(gateway),
        };
        let mut search: Vec<String> = name(code::DOMAIN).into_iter().collect();
        for domain in search_list(&joined(code::SEARCH).unwrap_or_default()) {
            if !search.contains(&domain) {
                search.push(domain);
            }
        }
        Some(Self {
            kind: *joined(code::TYPE)?.first()?,
            xid: u32::from_be_bytes(field(4, 4)?.try_into().ok()?),
            mac: field(28, 6)?.try_into().ok()?,
            yiaddr: address(field(16, 4)?),
            server: addresses(code::SERVER).first().copied(),
            prefix: number(code::MASK).and_then(prefix_of),
            lease: number(code::LEASE),
            t1: number(code::T1),
            t2: number(code::T2),
            routes: classless.unwrap_or_else(|| {
                addresses(code::ROUTER)
                    .into_iter()
                    .take(1)
                    .map(default)
                    .collect()
            }),
            dns: addresses(code::DNS),
            search,
            hostname: name(code::HOSTNAME),
            mtu: joined(code::MTU)
                .and_then(|value| Some(u16::from_be_bytes(value.try_into().ok()?)))
                // Every IPv4 host must accept this size (RFC 791).
                .filter(|&mtu| mtu >= 576),
        })
    }
}

/// Code and value of each option, up to the end or to the first that is truncated.
fn options(area: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = area;
    std::iter::from_fn(move || {
        loop {
            match *rest {
                [0, ref after @ ..] => rest = after,
                [] | [code::END, ..] | [_] => return None,
                [code, len, ref after @ ..] => {
                    let (value, after) = after.split_at_checked(len.into())?;
                    rest = after;
                    return Some((code, value));
                }
            }
        }
    })
}

/// An address, if a host can have it.
fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    let address = Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?);
    let wrong = address.is_unspecified()
        || address.is_broadcast()
        || address.is_multicast()
        || address.is_loopback();
    (!wrong).then_some(address)
}

/// The prefix length of a netmask; none if its ones are not contiguous.
pub(in super::super) fn prefix_of(mask: u32) -> Option<u8> {
    let ones = mask.leading_ones();
    (mask.count_ones() == ones)
        .then(|| u8::try_from(ones).ok())
        .flatten()
}

/// Parses classless routes (RFC 3442): prefix length, the bytes of the network that it covers, gateway; repeated.
fn classless_routes(value: &[u8]) -> Vec<Route> {
    let mut routes = Vec::new();
    let mut rest = value;
    while let Some((&prefix, after)) = rest.split_first() {
        let significant = usize::from(prefix.div_ceil(8));
        let Some((network, after)) = after.split_at_checked(significant) else {
            break;
        };
        let Some((gateway, after)) = after.split_first_chunk::<4>() else {
            break;
        };
        rest = after;
        let mut to = [0; 4];
        let Some(front) = to.get_mut(..significant) else {
            break;
        };
        front.copy_from_slice(network);
        let host_bits = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
        let to = Ipv4Addr::from_bits(u32::from_be_bytes(to) & !host_bits);
        // The gateway 0.0.0.0 means "on this link".
        routes.push(Route {
            to,
            prefix,
            gateway: address(gateway),
        });
    }
    routes
}

#[cfg(test)]
pub(super) mod tests;
