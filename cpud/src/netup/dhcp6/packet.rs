//! DHCPv6 messages (RFC 8415, 3646): the few that a client sends, and the few options that it reads. What arrives is
//! not trusted: an option that makes no sense counts as absent.

use std::net::Ipv6Addr;

use super::super::domain::search_list;

/// The largest message that is read: what fits in an Ethernet frame.
pub(super) const MAX_MESSAGE: usize = 1452;
/// A DUID is at most 128 bytes, and its type (RFC 8415, 11.1).
const MAX_DUID: usize = 130;

pub(super) const SOLICIT: u8 = 1;
pub(super) const ADVERTISE: u8 = 2;
pub(super) const REQUEST: u8 = 3;
pub(super) const RENEW: u8 = 5;
pub(super) const REBIND: u8 = 6;
pub(super) const REPLY: u8 = 7;
pub(super) const DECLINE: u8 = 9;
pub(super) const INFORMATION_REQUEST: u8 = 11;

/// Option codes of RFC 8415 and 3646.
mod code {
    pub(super) const CLIENT: u16 = 1;
    pub(super) const SERVER: u16 = 2;
    pub(super) const IA_NA: u16 = 3;
    pub(super) const IA_ADDRESS: u16 = 5;
    pub(super) const REQUESTED: u16 = 6;
    pub(super) const ELAPSED: u16 = 8;
    pub(super) const STATUS: u16 = 13;
    pub(super) const RAPID_COMMIT: u16 = 14;
    pub(super) const DNS: u16 = 23;
    pub(super) const SEARCH: u16 = 24;
    pub(super) const REFRESH: u16 = 32;
}

/// A message of a client.
pub(super) struct Dhcp6Request<'a> {
    pub(super) kind: u8,
    /// 24 bits.
    pub(super) xid: u32,
    /// Hundredths of a second since the first message of the exchange.
    pub(super) elapsed: u16,
    pub(super) mac: [u8; 6],
    /// The DUID of the server that it is for.
    pub(super) server: Option<&'a [u8]>,
    pub(super) address: Option<Ipv6Addr>,
}

impl Dhcp6Request<'_> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut m = (u32::from(self.kind) << 24 | self.xid)
            .to_be_bytes()
            .to_vec();
        option(&mut m, code::CLIENT, &duid(self.mac));
        option(&mut m, code::ELAPSED, &self.elapsed.to_be_bytes());
        let requested = [code::DNS, code::SEARCH, code::REFRESH].map(u16::to_be_bytes);
        option(&mut m, code::REQUESTED, requested.as_flattened());
        if let Some(server) = self.server {
            option(&mut m, code::SERVER, server);
        }
        if self.kind == SOLICIT {
            option(&mut m, code::RAPID_COMMIT, &[]);
        }
        if self.kind != INFORMATION_REQUEST {
            // The times T1 and T2, and those of the address, are the server's to choose.
            let mut ia = [&iaid(self.mac)[..], &[0; 8]].concat();
            if let Some(address) = self.address {
                let address = [&address.octets()[..], &[0; 8]].concat();
                option(&mut ia, code::IA_ADDRESS, &address);
            }
            option(&mut m, code::IA_NA, &ia);
        }
        m
    }
}

fn option(message: &mut Vec<u8>, code: u16, value: &[u8]) {
    message.extend(code.to_be_bytes());
    message.extend(u16::try_from(value.len()).unwrap_or(0).to_be_bytes());
    message.extend_from_slice(value);
}

/// DUID-LL, for Ethernet (RFC 8415, 11.4): the kind that needs no memory. Each link has its own, since the link that
/// another boot finds first may be another one.
fn duid(mac: [u8; 6]) -> Vec<u8> {
    [&[0, 3, 0, 1], &mac[..]].concat()
}

/// The number of the only identity association (IAID). The index of the link may change from boot to boot.
fn iaid([_, _, a, b, c, d]: [u8; 6]) -> [u8; 4] {
    [a, b, c, d]
}

/// An address that a server gives. Lifetimes, here and below, are in seconds, and `u32::MAX` is for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IaAddress {
    pub(super) address: Ipv6Addr,
    pub(super) preferred: u32,
    pub(super) valid: u32,
}

/// A message of a server.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Dhcp6Reply {
    pub(super) kind: u8,
    /// The DUID of the server.
    pub(super) server: Vec<u8>,
    /// False if the status code of the message says that something has failed.
    pub(super) succeeded: bool,
    pub(super) rapid_commit: bool,
    /// Empty if a status code says that something has failed.
    pub(super) addresses: Vec<IaAddress>,
    pub(super) t1: u32,
    pub(super) t2: u32,
    pub(super) dns: Vec<Ipv6Addr>,
    pub(super) search: Vec<String>,
    /// When to ask for information again (RFC 8415, 21.23).
    pub(super) refresh: Option<u32>,
}

impl Dhcp6Reply {
    /// Decodes a message. None if it is not for the client with this MAC address, or from no server.
    pub(super) fn decode(bytes: &[u8], mac: [u8; 6]) -> Option<Self> {
        // The other three bytes are the number of the transaction.
        let (&[kind, ..], area) = bytes.split_first_chunk::<4>()?;
        if find(area, code::CLIENT)? != duid(mac) {
            return None;
        }
        let server = find(area, code::SERVER)?;
        let mut reply = Self {
            kind,
            server: (1..=MAX_DUID)
                .contains(&server.len())
                .then(|| server.to_vec())?,
            succeeded: succeeded(area),
            rapid_commit: find(area, code::RAPID_COMMIT).is_some(),
            search: search_list(find(area, code::SEARCH).unwrap_or_default()),
            refresh: find(area, code::REFRESH).and_then(number),
            ..Self::default()
        };
        let servers = find(area, code::DNS).unwrap_or_default().chunks_exact(16);
        reply.dns = servers.filter_map(address).collect();
        let ias = options(area).filter(|(code, _)| *code == code::IA_NA);
        let ours = ias
            .filter_map(|(_, ia)| ia.split_first_chunk::<12>())
            .find(|(head, _)| head[..4] == iaid(mac));
        if let Some((head, ia)) = ours.filter(|(_, ia)| reply.succeeded && succeeded(ia)) {
            reply.t1 = number(&head[4..8])?;
            reply.t2 = number(&head[8..])?;
            let given = options(ia).filter(|(code, _)| *code == code::IA_ADDRESS);
            reply.addresses = given.filter_map(|(_, value)| ia_address(value)).collect();
        }
        Some(reply)
    }
}

/// Code and value of each option, up to the end or to the first that is truncated.
fn options(area: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = area;
    std::iter::from_fn(move || {
        let (&[a, b, c, d], after) = rest.split_first_chunk()?;
        let (value, after) = after.split_at_checked(u16::from_be_bytes([c, d]).into())?;
        rest = after;
        Some((u16::from_be_bytes([a, b]), value))
    })
}

fn find(area: &[u8], wanted: u16) -> Option<&[u8]> {
    options(area)
        .find(|(code, _)| *code == wanted)
        .map(|(_, value)| value)
}

fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

/// Whether the status code among these options is Success (0), which it is also if there is none.
fn succeeded(area: &[u8]) -> bool {
    find(area, code::STATUS).is_none_or(|status| status.starts_with(&[0, 0]))
}

/// An address option, unless it makes no sense or says that something has failed.
fn ia_address(value: &[u8]) -> Option<IaAddress> {
    let (head, options) = value.split_first_chunk::<24>()?;
    let given = IaAddress {
        address: address(&head[..16])?,
        preferred: number(&head[16..20])?,
        valid: number(&head[20..])?,
    };
    let is_wrong = given.address.is_unicast_link_local() || given.preferred > given.valid;
    (!is_wrong && succeeded(options)).then_some(given)
}

/// An address, if a host can have it.
pub(in super::super) fn address(bytes: &[u8]) -> Option<Ipv6Addr> {
    let address = Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?);
    let is_wrong = address.is_unspecified()
        || address.is_multicast()
        || address.is_loopback()
        || address.to_ipv4_mapped().is_some();
    (!is_wrong).then_some(address)
}

#[cfg(test)]
pub(super) mod tests;
