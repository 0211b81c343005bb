//! One Ethernet interface: its DHCP client or fixed address, and what they put into the kernel.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::dhcp::client::{Action, DhcpClient, Lease};
use super::dhcp::packet::Route;
use super::dhcp::socket::DhcpSocket;
use super::ip_arg::Method;
use super::netlink::Link;
use super::{Host, REPORT_DELAY, RESOLV_CONF};
use crate::console::say;

/// Metric of routes: links in the order of their numbers, after what somebody sets by hand.
const METRIC: u32 = 1024;

/// A interface and how it is configured.
pub(super) struct Interface {
    link: Link,
    dhcp: Option<Dhcp>,
}

struct Dhcp {
    client: DhcpClient,
    socket: Option<DhcpSocket>,
    lease: Option<Lease>,
    /// When to say that no server answers; none when it was said or is not so.
    report_at: Option<Instant>,
    /// That no socket could be opened was said.
    open_failed: bool,
}

impl Interface {
    /// Brings the link up and begins with its method.
    pub(super) fn new(
        link: &Link,
        mac: [u8; 6],
        method: Method,
        random: u64,
        now: Instant,
        host: &mut Host,
    ) -> Self {
        if !link.up
            && let Err(error) = host.netlink.set_up(link.index)
        {
            say(format_args!("cannot bring up {}: {error}", link.name));
        }
        // As if it had no carrier yet; `changed` tells.
        let mut interface = Self {
            link: Link {
                running: false,
                ..link.clone()
            },
            dhcp: None,
        };
        match method {
            Method::Off => {}
            Method::Dhcp => {
                let client = DhcpClient::new(mac, host_name(), random, now);
                interface.dhcp = Some(Dhcp {
                    client,
                    socket: None,
                    lease: None,
                    report_at: None,
                    open_failed: false,
                });
            }
            Method::Static {
                address,
                prefix,
                gateway,
                dns,
            } => {
                let to = Ipv4Addr::UNSPECIFIED;
                let routes: Vec<_> = gateway
                    .map(|gateway| Route {
                        to,
                        prefix: 0,
                        gateway: Some(gateway),
                    })
                    .into_iter()
                    .collect();
                interface.use_address(address, prefix, None, &routes, host);
                interface.tell_resolver(&dns, &[], host);
            }
        }
        interface
    }

    /// The kernel's news about the link.
    pub(super) fn changed(&mut self, link: Link, now: Instant) {
        if let Some(dhcp) = &mut self.dhcp
            && link.running != self.link.running
        {
            if link.running {
                dhcp.client.start(now);
                dhcp.report_at = Some(now + REPORT_DELAY);
            } else {
                dhcp.client.stop();
                dhcp.report_at = None;
            }
        }
        self.link = link;
    }

    pub(super) fn name(&self) -> &str {
        &self.link.name
    }

    pub(super) fn is_running(&self) -> bool {
        self.link.running
    }

    /// When [`Self::work`] is to be called though nothing has happened.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let dhcp = self.dhcp.as_ref()?;
        [dhcp.client.deadline(), dhcp.report_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// What to wait for meanwhile.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.dhcp.as_ref()?.socket.as_ref()?.as_fd())
    }

    /// Takes what has come, does what is due.
    pub(super) fn work(&mut self, now: Instant, host: &mut Host) {
        let Some(mut dhcp) = self.dhcp.take() else {
            return;
        };
        self.step(&mut dhcp, now, host);
        self.dhcp = Some(dhcp);
    }

    fn step(&self, dhcp: &mut Dhcp, now: Instant, host: &mut Host) {
        let mut actions = Vec::new();
        while let Some(socket) = &dhcp.socket {
            match socket.receive() {
                Ok(Some(message)) => actions.extend(dhcp.client.receive(&message, now)),
                Ok(None) => break,
                // The link went down, or the address from the socket; it is opened again below.
                Err(_) => dhcp.socket = None,
            }
        }
        actions.extend(dhcp.client.tick(now));
        // A socket must be there before what it sends; one that is no longer needed may still have
        // to send what was decided before.
        let listen = dhcp.client.listen();
        let open = |dhcp: &mut Dhcp| {
            if !dhcp
                .socket
                .as_ref()
                .is_some_and(|socket| socket.serves(listen))
            {
                dhcp.socket = DhcpSocket::open(listen, self.link.index).unwrap_or_else(|error| {
                    if !dhcp.open_failed {
                        say(format_args!(
                            "cannot listen for DHCP on {} (CONFIG_PACKET): {error}",
                            self.link.name
                        ));
                        dhcp.open_failed = true;
                    }
                    None
                });
            }
        };
        open(dhcp);
        for action in actions {
            // A message that can't be sent is one that is lost, and will be repeated.
            let _ = match (action, &dhcp.socket) {
                (Action::Broadcast(message), Some(socket)) => socket.broadcast(&message),
                (Action::Unicast { message, to, .. }, Some(socket)) => socket.unicast(&message, to),
                (Action::Configure(lease), _) => {
                    dhcp.report_at = None;
                    self.configure(dhcp.lease.replace(lease.clone()), &lease, now, host);
                    Ok(())
                }
                (Action::Deconfigure, _) => {
                    dhcp.report_at = Some(now + REPORT_DELAY);
                    if let Some(lease) = dhcp.lease.take() {
                        say(format_args!(
                            "{} the lease of {} has ended",
                            self.link.name, lease.address
                        ));
                        self.remove(&lease, host);
                        self.tell_resolver(&[], &[], host);
                    }
                    Ok(())
                }
                (_, None) => Ok(()),
            };
        }
        if dhcp.report_at.is_some_and(|at| at <= now) {
            dhcp.report_at = None;
            say(format_args!(
                "{} no DHCP server has answered in {} s; asking on (or give ip= to the kernel)",
                self.link.name,
                REPORT_DELAY.as_secs()
            ));
        }
    }

    fn configure(&self, old: Option<Lease>, lease: &Lease, now: Instant, host: &mut Host) {
        let is_same = |old: &Lease| {
            (old.address, old.prefix, &old.routes) == (lease.address, lease.prefix, &lease.routes)
        };
        if let Some(old) = old.filter(|old| !is_same(old)) {
            self.remove(&old, host);
        }
        if let Some(mtu) = lease.mtu.map(u32::from).filter(|&mtu| mtu != self.link.mtu)
            && let Err(error) = host.netlink.set_mtu(self.link.index, mtu)
        {
            say(format_args!(
                "{} cannot set the MTU of {mtu} that DHCP gave: {error}",
                self.link.name
            ));
        }
        let lifetime = lease
            .times
            .map(|times| times.end.saturating_duration_since(now));
        self.use_address(lease.address, lease.prefix, lifetime, &lease.routes, host);
        self.tell_resolver(&lease.dns, &lease.search, host);
        if let Some(name) = &lease.hostname {
            name_host(name);
        }
    }

    fn use_address(
        &self,
        address: Ipv4Addr,
        prefix: u8,
        lifetime: Option<Duration>,
        routes: &[Route],
        host: &mut Host,
    ) {
        // The kernel's forever is the largest number, and zero is an error.
        let seconds = lifetime.map(|left| {
            u32::try_from(left.as_secs())
                .unwrap_or(u32::MAX)
                .clamp(1, u32::MAX - 1)
        });
        if let Err(error) = host
            .netlink
            .add_address(self.link.index, address, prefix, seconds)
        {
            say(format_args!(
                "{} cannot use {address}/{prefix}: {error}",
                self.link.name
            ));
            return;
        }
        for route in routes {
            let metric = METRIC.saturating_add(self.link.index);
            if let Err(error) = host
                .netlink
                .add_route(self.link.index, *route, metric, address)
            {
                say(format_args!(
                    "{} cannot add the route {route}: {error}",
                    self.link.name
                ));
            }
        }
    }

    /// The kernel may have done it already: the address's lifetime is the lease's.
    fn remove(&self, lease: &Lease, host: &mut Host) {
        let _ = host
            .netlink
            .delete_address(self.link.index, lease.address, lease.prefix);
    }

    fn tell_resolver(&self, servers: &[Ipv4Addr], search: &[String], host: &mut Host) {
        if host.resolv.set(self.link.index, servers, search)
            && let Err(error) = host.resolv.write(Path::new(RESOLV_CONF))
        {
            say(format_args!("cannot write {RESOLV_CONF}: {error}"));
        }
    }

    /// The link is no more; its addresses went with it.
    pub(super) fn gone(self, host: &mut Host) {
        self.tell_resolver(&[], &[], host);
    }
}

/// The host name, if the host has been given one by somebody who knows which it is.
fn host_name() -> Option<String> {
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?;
    let is_given = !["", "(none)", "localhost", crate::init::HOST_NAME].contains(&name.as_str());
    is_given.then_some(name)
}

/// Gives the host this name if it has none.
pub(super) fn name_host(name: &str) {
    if host_name().is_none()
        && let Err(errno) = nix::unistd::sethostname(name)
    {
        say(format_args!(
            "cannot set the host name {name:?}: {}",
            errno.desc()
        ));
    }
}
