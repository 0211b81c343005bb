//! A link and its addresses: where the machine is found on it, and who is on it.

use std::net::IpAddr;

use crate::netup::netlink::{Address, Link};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// What is known of a link.
#[derive(Default)]
pub(super) struct LinkState {
    pub(super) index: u32,
    pub(super) link: Option<Link>,
    pub(super) addresses: Vec<Address>,
}

impl LinkState {
    /// The address of the network card, if others can be reached on the link.
    pub(super) fn mac(&self) -> Option<[u8; 6]> {
        let link = self.link.as_ref()?;
        link.mac.filter(|_| link.running && !link.has_master)
    }

    /// The addresses at which the machine is found: those that are valid beyond the link, if there are any.
    pub(super) fn addresses(&self, only: Option<IpAddr>) -> Vec<IpAddr> {
        let is_told = |address: &&Address| only.is_none_or(|only| only == address.ip);
        let of = |is_wanted: fn(&&Address) -> bool| {
            let all = self.addresses.iter().filter(is_told).filter(is_wanted);
            let mut all: Vec<IpAddr> = all.map(|address| address.ip).collect();
            all.sort_unstable();
            all
        };
        let usable = of(|address| address.usable);
        if usable.is_empty() {
            return of(|address| is_link_local(address.ip));
        }
        usable
    }

    /// Whether an address is one of this link's networks. Others get no answer (RFC 6762, 11).
    pub(super) fn reaches(&self, peer: IpAddr) -> bool {
        is_link_local(peer)
            || self
                .addresses
                .iter()
                .any(|address| shares_network(address, peer))
    }

    pub(super) fn has(&self, family: Family) -> bool {
        let is_v4 = family == Family::V4;
        self.addresses
            .iter()
            .any(|address| address.ip.is_ipv4() == is_v4)
    }

    pub(super) fn has_address(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|address| address.ip == ip)
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn shares_network(address: &Address, peer: IpAddr) -> bool {
    let bits = |ip| match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let differ = bits(address.ip) ^ bits(peer);
    address.ip.is_ipv4() == peer.is_ipv4() && differ.leading_zeros() >= address.prefix.into()
}
