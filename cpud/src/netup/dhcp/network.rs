//! Networks of IPv4: their sizes, and the addresses in them.

use std::net::Ipv4Addr;

/// The prefix length of an address's class, for a server that sends no netmask.
pub(in super::super) fn class_prefix(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..=127 => 8,
        128..=191 => 16,
        _ => 24,
    }
}

/// The address after this one in its network; after the last one, the first.
pub(super) fn next_address(address: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
    let number = address.to_bits();
    let host = number & hosts;
    // The first is that of the network itself, and the last is for all.
    let next = if host + 1 >= hosts { 1 } else { host + 1 };
    Ipv4Addr::from_bits(number & !hosts | next & hosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_address_is_in_the_same_network() {
        for (address, prefix, next) in [
            ("10.9.0.60", 24, "10.9.0.61"),
            ("10.9.0.254", 24, "10.9.0.1"),
            ("10.9.0.255", 8, "10.9.1.0"),
            ("10.255.255.254", 8, "10.0.0.1"),
            ("10.9.0.4", 31, "10.9.0.5"),
            ("10.9.0.5", 31, "10.9.0.5"),
            ("10.9.0.5", 32, "10.9.0.5"),
            ("10.9.0.5", 0, "10.9.0.6"),
        ] {
            let given: Ipv4Addr = address.parse().unwrap();
            assert_eq!(next_address(given, prefix).to_string(), next, "{given}");
        }
    }
}
