//! Patterns of addresses, as in `from=` of sshd(8)'s `authorized_keys`: separated by commas, with `*` and `?`, or a network
//! (`10.0.0.0/8`); a `!` in front excludes.

use std::net::IpAddr;

use crate::glob;

/// Patterns, at least one of which must match an address, and none with `!`. Names of hosts match nothing, since cpud does
/// not resolve names, as sshd without UseDNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerPatterns(Vec<(bool, Pattern)>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    /// A network: an address, and how many bits of it count.
    Network(IpAddr, u32),
    /// Anything else.
    Text(String),
}

impl PeerPatterns {
    /// Parses a list. The error is a pattern that is no network, although it has a `/`.
    pub(crate) fn parse(list: &str) -> Result<Self, String> {
        let patterns = list.split(',').map(str::trim).map(|pattern| {
            let (is_excluded, text) = match pattern.strip_prefix('!') {
                Some(text) => (true, text),
                None => (false, pattern),
            };
            let Some((address, bits)) = text.split_once('/') else {
                return Ok((is_excluded, Pattern::Text(text.to_ascii_lowercase())));
            };
            let network = network(address, bits).ok_or_else(|| text.to_owned())?;
            Ok((is_excluded, network))
        });
        patterns.collect::<Result<_, _>>().map(Self)
    }

    /// Parses a list of addresses and networks only, as in the `source-address` of a certificate. The error is another pattern.
    pub(crate) fn parse_networks(list: &str) -> Result<Self, String> {
        let patterns = Self::parse(list)?;
        let is_plain = |(is_excluded, pattern): &(bool, Pattern)| match pattern {
            Pattern::Network(..) => !is_excluded,
            Pattern::Text(text) => !is_excluded && text.parse::<IpAddr>().is_ok(),
        };
        if patterns.0.iter().all(is_plain) {
            Ok(patterns)
        } else {
            Err(list.to_owned())
        }
    }

    /// Whether a peer with this address may log in. One without an address is called `UNKNOWN`, as by sshd.
    pub(crate) fn allow(&self, address: Option<IpAddr>) -> bool {
        let address = address.map(|address| address.to_canonical());
        let text = address.map_or("UNKNOWN".to_owned(), |address| address.to_string());
        let text = text.to_ascii_lowercase();
        let matches = |pattern: &Pattern| match (pattern, address) {
            (Pattern::Network(network, bits), Some(address)) => {
                prefix(address, *bits)
                    .is_some_and(|prefix| Some(prefix) == self::prefix(*network, *bits))
                    && address.is_ipv4() == network.is_ipv4()
            }
            (Pattern::Network(..), None) => false,
            (Pattern::Text(pattern), _) => {
                let is_same = pattern
                    .parse()
                    .ok()
                    .is_some_and(|it: IpAddr| Some(it) == address);
                is_same || glob::matches(pattern.as_bytes(), text.as_bytes())
            }
        };
        let mut matching = self
            .0
            .iter()
            .filter(|(_, pattern)| matches(pattern))
            .peekable();
        matching.peek().is_some() && matching.all(|(is_excluded, _)| !is_excluded)
    }
}

/// A network whose address has no bits beyond those that count, which would show that something else was meant.
fn network(address: &str, bits: &str) -> Option<Pattern> {
    let address: IpAddr = address.parse().ok()?;
    let bits: u32 = bits.parse().ok()?;
    let (size, number) = number(address);
    let has_more = bits < size && number << bits << (128 - size) != 0;
    (bits <= size && !has_more).then_some(Pattern::Network(address, bits))
}

/// The first bits of an address.
fn prefix(address: IpAddr, bits: u32) -> Option<u128> {
    let (size, number) = number(address);
    // A shift by the whole width is not defined; no bits are 0.
    number.checked_shr(size.checked_sub(bits)?).or(Some(0))
}

/// An address as a number, and its width in bits.
fn number(address: IpAddr) -> (u32, u128) {
    match address {
        IpAddr::V4(address) => (32, address.to_bits().into()),
        IpAddr::V6(address) => (128, address.to_bits()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(list: &str, address: &str) -> bool {
        PeerPatterns::parse(list)
            .unwrap()
            .allow(address.parse().ok())
    }

    #[test]
    fn addresses_and_networks_match_and_exclusions_prevail() {
        for (list, address) in [
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7", "::ffff:192.0.2.7"),
            ("10.0.0.0/8,192.0.2.*", "192.0.2.7"),
            ("192.0.2.?", "192.0.2.7"),
            ("10.0.0.0/8", "10.255.0.1"),
            ("0.0.0.0/0", "10.255.0.1"),
            ("10.1.2.3/32", "10.1.2.3"),
            ("2001:db8::/32", "2001:db8:ffff::1"),
            ("::/0", "2001:db8:ffff::1"),
            ("2001:DB8:0::1", "2001:db8::1"),
            ("2001:db8::*", "2001:db8::1"),
            ("*,!10.0.0.0/8", "192.0.2.7"),
            ("*", "no address"),
            ("UNKNOWN", "no address"),
        ] {
            assert!(allow(list, address), "{list} {address}");
        }
        for (list, address) in [
            ("192.0.2.7", "192.0.2.70"),
            ("192.0.2.?", "192.0.2.70"),
            ("10.0.0.0/8", "11.0.0.1"),
            ("10.1.2.0/31", "10.1.2.2"),
            ("0.0.0.0/0", "2001:db8::1"),
            ("::/0", "192.0.2.7"),
            ("2001:db8::/33", "2001:db8:8000::1"),
            ("!10.0.0.0/8", "192.0.2.7"),
            ("*,!10.0.0.0/8", "10.0.0.1"),
            ("!10.0.0.1,10.0.0.0/8", "10.0.0.1"),
            ("*.example.org", "192.0.2.7"),
            ("", "192.0.2.7"),
            ("10.0.0.0/8", "no address"),
        ] {
            assert!(!allow(list, address), "{list} {address}");
        }
    }

    #[test]
    fn what_has_a_slash_is_a_network() {
        for bad in [
            "10.0.0.0/33",
            "10.0.0.1/8",
            "2001:db8::1/32",
            "10.0.0.0/",
            "ten/8",
            "*,10.0.0.1/24",
            "::/129",
        ] {
            assert!(PeerPatterns::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(
            PeerPatterns::parse("*,10.0.0.1/24").unwrap_err(),
            "10.0.0.1/24"
        );
    }

    #[test]
    fn a_list_of_networks_has_no_patterns() {
        let list = PeerPatterns::parse_networks("192.0.2.7,10.0.0.0/8,2001:db8::/32").unwrap();
        assert!(list.allow("10.1.1.1".parse().ok()) && !list.allow("192.0.2.8".parse().ok()));
        assert!(!list.allow(None));
        for bad in ["", "*", "10.0.0.0/8,*", "!10.0.0.1", "10.0.0.1/8", "ten"] {
            assert!(PeerPatterns::parse_networks(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_list_is_read_or_refused(list in "[0-9a-f:./*?!,]{0,40}", bits: u128, v4: u32) {
            if let Ok(networks) = PeerPatterns::parse_networks(&list) {
                proptest::prop_assert!(!networks.allow(None));
            }
            if let Ok(patterns) = PeerPatterns::parse(&list) {
                patterns.allow(Some(std::net::Ipv6Addr::from_bits(bits).into()));
                patterns.allow(Some(std::net::Ipv4Addr::from_bits(v4).into()));
            }
        }
    }
}
