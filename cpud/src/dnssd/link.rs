//! A link and its addresses: where the machine is found on it, and who is on it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::netup::netlink::{Address, Link};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

/// What is known of a link.
#[derive(Default)]
pub(super) struct LinkState {
    pub(super) link: Option<Link>,
    pub(super) addresses: BTreeMap<IpAddr, Address>,
}

impl LinkState {
    /// The address of the network card, if others can be reached on the link.
    pub(super) fn mac(&self) -> Option<[u8; 6]> {
        let link = self.link.as_ref()?;
        link.mac.filter(|_| link.running && !link.has_master)
    }

    /// The addresses at which the machine is found: those that are valid beyond the link, if there are any.
    pub(super) fn addresses(&self, only: Option<IpAddr>) -> BTreeSet<IpAddr> {
        let all = self.addresses.values();
        let all = all.filter(|address| only.is_none_or(|only| only == address.ip));
        let usable = all.clone().filter(|address| address.usable);
        let usable: BTreeSet<_> = usable.map(|address| address.ip).collect();
        if usable.is_empty() {
            let local = all.filter(|address| is_link_local(address.ip));
            return local.map(|address| address.ip).collect();
        }
        usable
    }

    /// Whether an address is one of this link's networks. Others get no answer (RFC 6762, 11).
    pub(super) fn reaches(&self, peer: IpAddr) -> bool {
        is_link_local(peer)
            || self
                .addresses
                .values()
                .any(|address| shares_network(address, peer))
    }

    pub(super) fn has(&self, family: Family) -> bool {
        let is_v4 = family == Family::V4;
        self.addresses.keys().any(|ip| ip.is_ipv4() == is_v4)
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

pub(super) fn shares_network(address: &Address, peer: IpAddr) -> bool {
    let bits = |ip| match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let differ = bits(address.ip) ^ bits(peer);
    address.ip.is_ipv4() == peer.is_ipv4() && differ.leading_zeros() >= address.prefix.into()
}
