//! Asks for machines, and listens to the answers. The questions do not come from the port of multicast DNS, so the answers are sent
//! to this process alone (RFC 6762, 6.7), whether the computer has a daemon of its own for that or not.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cpu_proto::dns::{GROUP_V4, GROUP_V6, MAX_MESSAGE, Message, PORT};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::debug;

use super::FoundMachine;
use super::heard::Heard;

/// Listens on all networks.
pub(super) struct Browser {
    networks: Vec<Network>,
    heard: Heard,
}

/// A socket on a network.
struct Network {
    socket: UdpSocket,
    group: SocketAddr,
}

impl Browser {
    pub(super) fn new() -> Result<Self> {
        let mut id = [0; 2];
        getrandom::fill(&mut id).context("cannot get random bytes from the system")?;
        let mut browser = Self {
            networks: Vec::new(),
            heard: Heard::new(u16::from_ne_bytes(id)),
        };
        browser.find_networks()?;
        ensure!(
            !browser.networks.is_empty(),
            "there is no network to look for machines on"
        );
        Ok(browser)
    }

    /// Finds out which networks there are now. Answers to earlier questions are lost.
    pub(super) fn find_networks(&mut self) -> Result<()> {
        let interfaces = getifaddrs().context("cannot list the network interfaces")?;
        let wanted = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_MULTICAST;
        self.networks.clear();
        self.heard.own.clear();
        for interface in interfaces {
            let flags = interface.flags;
            let is_wanted = flags.contains(wanted) && !flags.contains(InterfaceFlags::IFF_LOOPBACK);
            let Some(address) = interface.address else {
                continue;
            };
            // The kernel sends to a group from the interface that has the socket's address, or its scope.
            let (own, group): (SocketAddr, SocketAddr) =
                if let Some(address) = address.as_sockaddr_in() {
                    self.heard.own.push(address.ip().into());
                    let own = SocketAddrV4::new(address.ip(), 0);
                    (own.into(), SocketAddrV4::new(GROUP_V4, PORT).into())
                } else if let Some(address) = address.as_sockaddr_in6() {
                    self.heard.own.push(address.ip().into());
                    if !address.ip().is_unicast_link_local() {
                        continue;
                    }
                    let scope = address.scope_id();
                    let own = SocketAddrV6::new(address.ip(), 0, 0, scope);
                    let group = SocketAddrV6::new(GROUP_V6, PORT, 0, scope);
                    (own.into(), group.into())
                } else {
                    continue;
                };
            if !is_wanted {
                continue;
            }
            match open(own) {
                Ok(socket) => self.networks.push(Network { socket, group }),
                Err(error) => debug!("cannot look for machines from {own}: {error}"),
            }
        }
        Ok(())
    }

    /// Asks on all networks. What cannot be sent is like what is lost.
    pub(super) fn ask(&self) {
        let bytes = self.heard.query().write();
        for network in &self.networks {
            if let Err(error) = network.socket.send_to(&bytes, network.group) {
                debug!("cannot ask {}: {error}", network.group);
            }
        }
    }

    /// Collects answers until a time.
    pub(super) fn listen(&mut self, until: Instant) -> Result<()> {
        let mut bytes = [0; MAX_MESSAGE];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            // One millisecond more, since poll(2) counts whole ones.
            let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
            let networks = self.networks.iter();
            let mut fds: Vec<_> = networks
                .map(|network| PollFd::new(network.socket.as_fd(), PollFlags::POLLIN))
                .collect();
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).context("cannot poll"),
            }
            for network in &self.networks {
                // One from each, so that no network keeps others from being heard.
                if let Ok((length, from)) = network.socket.recv_from(&mut bytes)
                    && let Some(message) = Message::read(&bytes[..length])
                {
                    self.heard.add(&message, from, Instant::now());
                }
            }
        }
    }

    /// Forgets machines and addresses that have not been heard for so long.
    pub(super) fn forget(&mut self, after: Duration) {
        self.heard.forget(after);
    }

    /// All machines that have been heard.
    pub(super) fn machines(&self) -> Vec<FoundMachine> {
        self.heard.machines()
    }
}

fn open(own: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(own)?;
    if own.is_ipv4() {
        socket.set_multicast_ttl_v4(255)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}
