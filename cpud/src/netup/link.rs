//! One Ethernet port: its DHCP client or fixed address, and what they put into the kernel.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::dhcp::client::{Action, Client, Lease};
use super::dhcp::packet::Route;
use super::dhcp::wire::Wire;
use super::ip_arg::Method;
use super::netlink::Link;
use super::{Machine, PATIENCE, RESOLV_CONF};
use crate::console::say;

/// Metric of routes: links in the order of their numbers, after what somebody sets by hand.
const METRIC: u32 = 1024;

/// A port and how it is configured.
pub(super) struct Port {
    link: Link,
    dhcp: Option<Dhcp>,
}

struct Dhcp {
    client: Client,
    wire: Option<Wire>,
    lease: Option<Lease>,
    /// When to say that no server answers; none when it was said or is not so.
    complain: Option<Instant>,
    /// That no socket could be opened was said.
    is_deaf: bool,
}

impl Port {
    /// Brings the link up and begins with its method.
    pub(super) fn new(
        link: &Link,
        mac: [u8; 6],
        method: Method,
        random: u64,
        now: Instant,
        machine: &mut Machine,
    ) -> Self {
        if !link.up
            && let Err(error) = machine.netlink.set_up(link.index)
        {
            say(format_args!("cannot bring up {}: {error}", link.name));
        }
        // As if it had no carrier yet; `changed` tells.
        let mut port = Self {
            link: Link {
                running: false,
                ..link.clone()
            },
            dhcp: None,
        };
        match method {
            Method::Off => {}
            Method::Dhcp => {
                let client = Client::new(mac, host_name(), random, now);
                port.dhcp = Some(Dhcp {
                    client,
                    wire: None,
                    lease: None,
                    complain: None,
                    is_deaf: false,
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
                port.use_address(address, prefix, None, &routes, machine);
                port.tell_resolver(&dns, &[], machine);
            }
        }
        port
    }

    /// The kernel's news about the link.
    pub(super) fn changed(&mut self, link: Link, now: Instant) {
        if let Some(dhcp) = &mut self.dhcp
            && link.running != self.link.running
        {
            if link.running {
                dhcp.client.start(now);
                dhcp.complain = Some(now + PATIENCE);
            } else {
                dhcp.client.stop();
                dhcp.complain = None;
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
        [dhcp.client.deadline(), dhcp.complain]
            .into_iter()
            .flatten()
            .min()
    }

    /// What to wait for meanwhile.
    pub(super) fn wire(&self) -> Option<BorrowedFd<'_>> {
        Some(self.dhcp.as_ref()?.wire.as_ref()?.as_fd())
    }

    /// Takes what has come, does what is due.
    pub(super) fn work(&mut self, now: Instant, machine: &mut Machine) {
        let Some(mut dhcp) = self.dhcp.take() else {
            return;
        };
        self.step(&mut dhcp, now, machine);
        self.dhcp = Some(dhcp);
    }

    fn step(&self, dhcp: &mut Dhcp, now: Instant, machine: &mut Machine) {
        let mut actions = Vec::new();
        while let Some(wire) = &dhcp.wire {
            match wire.receive() {
                Ok(Some(message)) => actions.extend(dhcp.client.receive(&message, now)),
                Ok(None) => break,
                // The link went down, or the address from the socket; it is opened again below.
                Err(_) => dhcp.wire = None,
            }
        }
        actions.extend(dhcp.client.tick(now));
        // A socket must be there before what it sends; one that is no longer needed may still have
        // to send what was decided before.
        let listen = dhcp.client.listen();
        let open = |dhcp: &mut Dhcp| {
            if !dhcp.wire.as_ref().is_some_and(|wire| wire.serves(listen)) {
                dhcp.wire = Wire::open(listen, self.link.index).unwrap_or_else(|error| {
                    if !dhcp.is_deaf {
                        say(format_args!(
                            "cannot listen for DHCP on {} (CONFIG_PACKET): {error}",
                            self.link.name
                        ));
                        dhcp.is_deaf = true;
                    }
                    None
                });
            }
        };
        open(dhcp);
        for action in actions {
            // A message that can't be sent is one that is lost, and will be repeated.
            let _ = match (action, &dhcp.wire) {
                (Action::Broadcast(message), Some(wire)) => wire.broadcast(&message),
                (Action::Unicast { message, to, .. }, Some(wire)) => wire.unicast(&message, to),
                (Action::Configure(lease), _) => {
                    dhcp.complain = None;
                    self.configure(dhcp.lease.replace(lease.clone()), &lease, now, machine);
                    Ok(())
                }
                (Action::Deconfigure, _) => {
                    dhcp.complain = Some(now + PATIENCE);
                    if let Some(lease) = dhcp.lease.take() {
                        say(format_args!(
                            "{} the lease of {} has ended",
                            self.link.name, lease.address
                        ));
                        self.remove(&lease, machine);
                        self.tell_resolver(&[], &[], machine);
                    }
                    Ok(())
                }
                (_, None) => Ok(()),
            };
        }
        if dhcp.complain.is_some_and(|at| at <= now) {
            dhcp.complain = None;
            say(format_args!(
                "{} no DHCP server has answered in {} s; asking on (or give ip= to the kernel)",
                self.link.name,
                PATIENCE.as_secs()
            ));
        }
    }

    fn configure(&self, old: Option<Lease>, lease: &Lease, now: Instant, machine: &mut Machine) {
        let is_same = |old: &Lease| {
            (old.address, old.prefix, &old.routes) == (lease.address, lease.prefix, &lease.routes)
        };
        if let Some(old) = old.filter(|old| !is_same(old)) {
            self.remove(&old, machine);
        }
        if let Some(mtu) = lease.mtu.map(u32::from).filter(|&mtu| mtu != self.link.mtu)
            && let Err(error) = machine.netlink.set_mtu(self.link.index, mtu)
        {
            say(format_args!(
                "{} cannot set the MTU of {mtu} that DHCP gave: {error}",
                self.link.name
            ));
        }
        let lifetime = lease
            .times
            .map(|times| times.end.saturating_duration_since(now));
        self.use_address(
            lease.address,
            lease.prefix,
            lifetime,
            &lease.routes,
            machine,
        );
        self.tell_resolver(&lease.dns, &lease.search, machine);
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
        machine: &mut Machine,
    ) {
        // The kernel's forever is the largest number, and zero is an error.
        let seconds = lifetime.map(|left| {
            u32::try_from(left.as_secs())
                .unwrap_or(u32::MAX)
                .clamp(1, u32::MAX - 1)
        });
        if let Err(error) = machine
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
            if let Err(error) = machine
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
    fn remove(&self, lease: &Lease, machine: &mut Machine) {
        let _ = machine
            .netlink
            .delete_address(self.link.index, lease.address, lease.prefix);
    }

    fn tell_resolver(&self, servers: &[Ipv4Addr], search: &[String], machine: &mut Machine) {
        if machine.resolv.set(self.link.index, servers, search)
            && let Err(error) = machine.resolv.write(Path::new(RESOLV_CONF))
        {
            say(format_args!("cannot write {RESOLV_CONF}: {error}"));
        }
    }

    /// The link is no more; its addresses went with it.
    pub(super) fn gone(self, machine: &mut Machine) {
        self.tell_resolver(&[], &[], machine);
    }
}

/// The host name, if the machine has been given one by somebody who knows which it is.
fn host_name() -> Option<String> {
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?;
    let is_given = !["", "(none)", "localhost", crate::init::HOST_NAME].contains(&name.as_str());
    is_given.then_some(name)
}

/// Gives the machine this name if it has none.
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
