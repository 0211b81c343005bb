//! Which addresses that DHCP gave other machines have, and whether one of these answers for every address.

use std::net::Ipv4Addr;

/// So many addresses of one machine are not its own: it is a router that answers for others (RFC 1027).
const MAX_OF_ONE: usize = 3;
/// The most that are remembered.
const MAX: usize = 16;

/// The conflicts of a link since its carrier came.
#[derive(Debug, Default)]
pub(in super::super) struct Conflicts {
    had: Vec<(Ipv4Addr, [u8; 6])>,
    /// Who answers for every address.
    proxy: Option<[u8; 6]>,
    /// The user knows that no address is free.
    pub(in super::super) reported: bool,
}

/// What another conflict means.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum ConflictKind {
    New,
    /// The server gives the same address again.
    Known,
    /// From now on nothing is believed of who has the address.
    Proxy,
}

impl Conflicts {
    /// The machine with this Ethernet address has an address.
    pub(in super::super) fn add(&mut self, address: Ipv4Addr, mac: [u8; 6]) -> ConflictKind {
        if self.had.contains(&(address, mac)) {
            return ConflictKind::Known;
        }
        if self.had.len() == MAX {
            self.had.remove(0);
        }
        self.had.push((address, mac));
        if self.had.iter().filter(|had| had.1 == mac).count() == MAX_OF_ONE {
            self.proxy = Some(mac);
            return ConflictKind::Proxy;
        }
        ConflictKind::New
    }

    /// Who answers for every address.
    pub(in super::super) fn proxy(&self) -> Option<[u8; 6]> {
        self.proxy
    }

    pub(in super::super) fn is_empty(&self) -> bool {
        self.had.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn address(n: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, n)
    }

    #[test]
    fn who_has_three_addresses_answers_for_every_one() {
        let mut conflicts = Conflicts::default();
        assert_eq!(conflicts.add(address(1), ROUTER), ConflictKind::New);
        for _ in 0..5 {
            assert_eq!(conflicts.add(address(1), ROUTER), ConflictKind::Known);
        }
        assert_eq!(conflicts.add(address(2), ROUTER), ConflictKind::New);
        assert_eq!(conflicts.proxy(), None);
        assert_eq!(conflicts.add(address(3), ROUTER), ConflictKind::Proxy);
        assert_eq!(conflicts.proxy(), Some(ROUTER));
    }

    #[test]
    fn any_number_of_machines_are_machines() {
        let mut conflicts = Conflicts::default();
        for n in 0..100 {
            let mac = [2, 0, 0, 0, 1, n];
            assert_eq!(conflicts.add(address(n), mac), ConflictKind::New);
            assert!(conflicts.had.len() <= MAX);
        }
        assert_eq!(conflicts.proxy(), None);
    }
}
