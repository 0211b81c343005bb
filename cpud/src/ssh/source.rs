//! Where peers come from, as far as limits are concerned.

use std::net::IpAddr;

/// Where peers come from: those that share a source share its limit and its penalties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PeerSource {
    /// An IPv4 address.
    V4([u8; 4]),
    /// The network of an IPv6 address, 64 bits, in which a host has as many addresses as it likes.
    V6([u8; 8]),
    /// A peer on this computer, or a guest or host of it: a unix or vsock socket. It has no limit of its own.
    Local,
}

impl From<IpAddr> for PeerSource {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let mut network = [0; 8];
                network.copy_from_slice(&address.octets()[..8]);
                Self::V6(network)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_ipv6_is_one_source_and_an_address_of_ipv4_is_one() {
        let of = |text: &str| PeerSource::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:0:0:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
