//! Name servers and search domains in router advertisements (RFC 8106), and how long each may be used.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::dhcp6::packet::address;
use super::domain::search_list;

/// The options RDNSS and DNSSL.
const SERVERS: u8 = 25;
const SEARCH: u8 = 31;
/// The most servers, and the most domains, that are kept: whoever is on a link can advertise thousands.
const MAX_KEPT: usize = 8;

/// Something advertised, and when it is over; none is never.
type Advertised<T> = Vec<(T, Option<Instant>)>;

/// What the routers of a link advertise.
#[derive(Debug, Default)]
pub(super) struct AdvertisedDns {
    servers: Advertised<IpAddr>,
    search: Advertised<String>,
}

impl AdvertisedDns {
    /// Reads an option of an advertisement.
    pub(super) fn read(&mut self, option: &[u8], now: Instant) {
        let Some((&[kind, _, _, _, a, b, c, d], value)) = option.split_first_chunk() else {
            return;
        };
        let lifetime = u32::from_be_bytes([a, b, c, d]);
        let end = (lifetime != u32::MAX).then(|| now + Duration::from_secs(lifetime.into()));
        match kind {
            SERVERS => {
                for server in value.chunks_exact(16).filter_map(address) {
                    keep(&mut self.servers, server.into(), end);
                }
            }
            SEARCH => {
                for domain in search_list(value) {
                    keep(&mut self.search, domain, end);
                }
            }
            _ => {}
        }
    }

    /// When something is over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let servers = self.servers.iter().filter_map(|(_, end)| *end);
        servers
            .chain(self.search.iter().filter_map(|(_, end)| *end))
            .min()
    }

    /// The servers and domains that may be used now. The others are forgotten.
    pub(super) fn current(&mut self, now: Instant) -> (Vec<IpAddr>, Vec<String>) {
        (
            current(&mut self.servers, now),
            current(&mut self.search, now),
        )
    }
}

/// In their first order, so that routers that take turns change nothing.
fn keep<T: PartialEq>(kept: &mut Advertised<T>, value: T, end: Option<Instant>) {
    if let Some((_, known)) = kept.iter_mut().find(|(known, _)| *known == value) {
        *known = end;
    } else if kept.len() < MAX_KEPT {
        kept.push((value, end));
    }
}

fn current<T: Clone>(kept: &mut Advertised<T>, now: Instant) -> Vec<T> {
    kept.retain(|(_, end)| end.is_none_or(|end| end > now));
    kept.iter().map(|(value, _)| value.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn option(kind: u8, lifetime: u32, value: &[u8]) -> Vec<u8> {
        [&[kind, 0, 0, 0], &lifetime.to_be_bytes()[..], value].concat()
    }

    #[test]
    fn what_is_advertised_lasts_for_its_lifetime() {
        let (mut dns, now) = (AdvertisedDns::default(), Instant::now());
        let second = Duration::from_secs(1);
        let servers = [[0xfd; 16], [0xfe; 16]];
        dns.read(&option(25, 10, servers.as_flattened()), now);
        dns.read(&option(25, u32::MAX, &servers[1]), now);
        dns.read(&option(31, 5, b"\x03lab\x00\x04e\nil\x00\x01a\x00\0"), now);
        assert_eq!(dns.deadline(), Some(now + 5 * second));
        let both = servers.map(IpAddr::from).to_vec();
        assert_eq!(
            dns.current(now + 4 * second),
            (both.clone(), vec!["lab".into(), "a".into()])
        );
        assert_eq!(dns.current(now + 5 * second), (both, vec![]));
        assert_eq!(dns.deadline(), Some(now + 10 * second));
        let forever = vec![IpAddr::from(servers[1])];
        assert_eq!(dns.current(now + 10 * second), (forever, vec![]));
        assert_eq!(dns.deadline(), None);
        dns.read(&option(25, 0, &servers[1]), now);
        assert_eq!(dns.current(now), (vec![], vec![]));
    }

    #[test]
    fn thousands_are_not_kept() {
        let (mut dns, now) = (AdvertisedDns::default(), Instant::now());
        for number in 0..1000u16 {
            let address = [&[0xfd; 14][..], &number.to_be_bytes()].concat();
            dns.read(&option(25, 100, &address), now);
            let name = [&[4][..], format!("{number:04}").as_bytes(), &[0]].concat();
            dns.read(&option(31, 100, &name), now);
        }
        let (servers, search) = dns.current(now);
        assert_eq!((servers.len(), search.len()), (MAX_KEPT, MAX_KEPT));
    }

    proptest! {
        #[test]
        fn any_options_are_survived(kind in prop::sample::select(&[25u8, 31, 1][..]), rest in prop::collection::vec(any::<u8>(), 0..100)) {
            let (mut dns, now) = (AdvertisedDns::default(), Instant::now());
            dns.read(&[&[kind][..], &rest].concat(), now);
            for name in dns.current(now).1 {
                prop_assert!(name.bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }
}
