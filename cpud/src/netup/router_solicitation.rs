//! Router solicitations (RFC 4861, 6.3.7) when a carrier returns. The kernel sends them only when a link is brought up, so
//! in another network the machine would have no IPv6 until the router's next advertisement, some ten minutes later.

use std::io::{self, IoSlice};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6,
    sendmsg, socket,
};

/// MAX_RTR_SOLICITATIONS, RTR_SOLICITATION_INTERVAL and MAX_RTR_SOLICITATION_DELAY.
const COUNT: u32 = 3;
const INTERVAL: Duration = Duration::from_secs(4);
const DELAY: Duration = Duration::from_secs(1);
/// The group of all routers of a link.
const ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// Those of one link that are still to be sent.
#[derive(Debug, Default)]
pub(super) struct RouterSolicitations {
    left: u32,
    next: Option<Instant>,
}

impl RouterSolicitations {
    /// The carrier has returned.
    pub(super) fn start(&mut self, now: Instant) {
        self.left = COUNT;
        self.next = Some(now + DELAY);
    }

    /// The carrier has gone.
    pub(super) fn stop(&mut self) {
        self.next = None;
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Sends one to the link with this index if it is due.
    pub(super) fn work(&mut self, link: u32, now: Instant) {
        if self.next.take_if(|next| *next <= now).is_some() {
            self.left -= 1;
            self.next = (self.left > 0).then(|| now + INTERVAL);
            // Without IPv6 there is nothing to find.
            let _ = solicit(link);
        }
    }
}

fn solicit(link: u32) -> io::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let icmp = SockProtocol::IcmpV6;
    let socket = socket(AddressFamily::Inet6, SockType::Raw, flags, icmp)?;
    // The kernel sets the checksum.
    sendmsg(
        socket.as_raw_fd(),
        &[IoSlice::new(&[133, 0, 0, 0, 0, 0, 0, 0])],
        &[ControlMessage::Ipv6HopLimit(&255)],
        MsgFlags::empty(),
        Some(&SockaddrIn6::from(SocketAddrV6::new(ROUTERS, 0, 0, link))),
    )?;
    Ok(())
}
