//! Tests of what the role knows of links.

use super::*;
use crate::netup::netlink::Address;

#[test]
fn peers_of_other_networks_get_no_answer() {
    let mut link = LinkState::default();
    for (ip, prefix) in [("192.168.77.5", 24), ("10.0.0.1", 32), ("fec0::5", 64)] {
        let address = Address {
            link: 2,
            ip: ip.parse().unwrap(),
            prefix,
            usable: true,
            permanent: true,
            tentative: false,
            duplicate: false,
        };
        link.addresses.push(address);
    }
    for near in ["192.168.77.200", "10.0.0.1", "fec0::1", "fe80::1"] {
        assert!(link.reaches(near.parse().unwrap()), "{near}");
    }
    for far in [
        "192.168.78.5",
        "10.0.0.2",
        "8.8.8.8",
        "fec0:0:0:1::1",
        "::1",
    ] {
        assert!(!link.reaches(far.parse().unwrap()), "{far}");
    }
}

#[test]
fn addresses_of_the_link_alone_are_told_if_there_are_no_others() {
    let mut link = LinkState::default();
    let mut add = |ip: &str, usable| {
        let ip = ip.parse().unwrap();
        let (prefix, permanent) = (64, true);
        link.addresses.push(Address {
            link: 2,
            ip,
            prefix,
            usable,
            permanent,
            tentative: false,
            duplicate: false,
        });
        link.addresses(None)
            .into_iter()
            .map(|ip| ip.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(add("fe80::1", false), ["fe80::1"]);
    assert_eq!(add("fec0::2", false), ["fe80::1"]);
    assert_eq!(add("fec0::1", true), ["fec0::1"]);
    assert_eq!(add("10.0.0.1", true), ["10.0.0.1", "fec0::1"]);
    let only = |ip: &str| link.addresses(Some(ip.parse().unwrap())).len();
    assert_eq!((only("10.0.0.1"), only("10.0.0.2")), (1, 0));
}
