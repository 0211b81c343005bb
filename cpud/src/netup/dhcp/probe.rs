//! Asks by ARP whether another machine has an address that a server has given, before it is used (RFC 2131, 4.4.1; RFC 5227, 2.1.1).
//!
//! For half a second, where RFC 5227 has up to nine: a machine is to be reached soon, and who has an address answers within
//! milliseconds.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::super::BATCH;
use super::client::Lease;
use crate::sys;

/// How often to ask, and how long to wait each time.
const PROBES: u32 = 2;
const INTERVAL: Duration = Duration::from_millis(250);

const REQUEST: u8 = 1;
/// Size of a message about IPv4 addresses on Ethernet (RFC 826).
const SIZE: usize = 28;
/// How it begins: Ethernet, IPv4, and the sizes of their addresses.
const BEGINNING: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// An address that is being asked for.
pub(in super::super) struct AddressProbe {
    lease: Lease,
    mac: [u8; 6],
    /// Of whom nothing is believed: this machine itself, and who answers for every address.
    ignored: Vec<[u8; 6]>,
    socket: File,
    link: u32,
    sent: u32,
    next: Instant,
}

/// What was found out.
pub(in super::super) enum ProbeOutcome {
    /// Nobody has it.
    Free(Lease),
    /// The machine with this Ethernet address has it.
    Taken(Ipv4Addr, [u8; 6]),
}

impl AddressProbe {
    /// On the link with this index, whose Ethernet address is `mac`. What machines with the addresses `ignored` say does not count.
    pub(in super::super) fn new(
        lease: Lease,
        mac: [u8; 6],
        ignored: Vec<[u8; 6]>,
        link: u32,
        now: Instant,
    ) -> io::Result<Self> {
        Ok(Self {
            lease,
            mac,
            ignored,
            socket: File::from(sys::arp_socket(link)?),
            link,
            sent: 0,
            next: now,
        })
    }

    /// When to call [`Self::work`] even if nothing has arrived.
    pub(in super::super) fn deadline(&self) -> Instant {
        self.next
    }

    /// Reads what has arrived, and asks if that is due. None if it is not known yet.
    pub(in super::super) fn work(&mut self, now: Instant) -> Option<ProbeOutcome> {
        let address = self.lease.address;
        let mut message = [0; SIZE];
        for _ in 0..BATCH {
            match (&self.socket).read(&mut message) {
                Ok(SIZE) => {
                    let claimed = claimant(&message, address);
                    if let Some(mac) = claimed.filter(|mac| !self.ignored.contains(mac)) {
                        return Some(ProbeOutcome::Taken(address, mac));
                    }
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The link is down: its address is asked for anew when it is up.
                Err(_) => break,
            }
        }
        if self.next > now {
            return None;
        }
        if self.sent == PROBES {
            return Some(ProbeOutcome::Free(self.lease.clone()));
        }
        // A message that cannot be sent is like one that is lost.
        let _ = sys::broadcast_arp(self.socket.as_fd(), self.link, &probe(self.mac, address));
        self.sent += 1;
        self.next = now + INTERVAL;
        None
    }
}

impl AsFd for AddressProbe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Asks who has the address, and says nothing of an own one.
fn probe(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let nobody = [0; 4];
    let parts: [&[u8]; 6] = [
        &BEGINNING,
        &[0, REQUEST],
        &mac,
        &nobody,
        &[0; 6],
        &address.octets(),
    ];
    parts.concat()
}

/// Which machine says that it has the address. Who asks for it does not say so: switches do as well when they see somebody new.
fn claimant(message: &[u8; SIZE], address: Ipv4Addr) -> Option<[u8; 6]> {
    let rest = message.strip_prefix(&BEGINNING)?;
    let (_, rest) = rest.split_first_chunk::<2>()?;
    let (sender, rest) = rest.split_first_chunk::<6>()?;
    let (sender_address, _) = rest.split_first_chunk::<4>()?;
    (*sender_address == address.octets()).then_some(*sender)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);

    fn message(kind: u8, sender: [u8; 6], from: [u8; 4], of: [u8; 4]) -> [u8; SIZE] {
        let parts: [&[u8]; 6] = [&BEGINNING, &[0, kind], &sender, &from, &OWN, &of];
        parts.concat().try_into().unwrap()
    }

    #[test]
    fn only_who_has_the_address_claims_it() {
        let (ours, other) = (ADDRESS.octets(), [10, 0, 0, 8]);
        let claims = |message: [u8; SIZE]| claimant(&message, ADDRESS);
        assert_eq!(claims(message(2, OTHER, ours, [0; 4])), Some(OTHER));
        // To all, when an address is new (RFC 5227, 2.3).
        assert_eq!(claims(message(1, OTHER, ours, ours)), Some(OTHER));
        let same: [u8; SIZE] = probe(OTHER, ADDRESS).try_into().unwrap();
        assert_eq!(claims(same), None);
        // Somebody asks for the machine that may have been there before, or has another address.
        assert_eq!(claims(message(1, OTHER, other, ours)), None);
        assert_eq!(claims(message(2, OTHER, other, ours)), None);
        assert_eq!(claims(message(2, OTHER, [0; 4], ours)), None);
        let mut ipv6 = message(2, OTHER, ours, ours);
        ipv6[3] = 0xdd;
        assert_eq!(claims(ipv6), None);
    }

    proptest! {
        #[test]
        fn any_message_is_survived(bytes in any::<[u8; SIZE]>()) {
            let mac = claimant(&bytes, ADDRESS);
            prop_assert!(mac.is_none_or(|mac| bytes[8..14] == mac));
        }
    }
}
