//! One Ethernet interface: its DHCP clients or fixed address, and how they configure the kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use super::advertised_dns::AdvertisedDns;
use super::dhcp::client::{Action, DhcpClient, Lease};
use super::dhcp::conflicts::{ConflictKind, Conflicts};
use super::dhcp::packet::Route;
use super::dhcp::probe::{AddressProbe, ProbeOutcome};
use super::dhcp::socket::DhcpSocket;
use super::dhcp6::Dhcp6;
use super::host_name::{host_name, name_host};
use super::ip_arg::{Method, StaticAddress};
use super::netlink::{Link, RaFlag};
use super::resolv::NameServerSource;
use super::router_solicitation::RouterSolicitations;
use super::{BATCH, Host, REPORT_DELAY};
use crate::console::say;

/// The metric of routes is this plus the index of the link, so that routes that somebody adds by hand come first.
const METRIC: u32 = 1024;

pub(super) struct Interface {
    link: Link,
    dhcp: Option<Dhcp>,
    /// There is one where there is DHCPv4.
    dhcp6: Option<Dhcp6>,
    advertised_dns: AdvertisedDns,
    solicitations: RouterSolicitations,
    /// There has been a carrier, so that the kernel has sent its own solicitations.
    had_carrier: bool,
}

struct Dhcp {
    client: DhcpClient,
    mac: [u8; 6],
    socket: Option<DhcpSocket>,
    /// A new lease, of which it is not known yet whether another machine has its address.
    probe: Option<AddressProbe>,
    conflicts: Conflicts,
    /// The one that is used.
    lease: Option<Lease>,
    /// The address to use while no server answers.
    fallback: Option<StaticAddress>,
    fallback_used: bool,
    /// When to report that there is no address; none if that has been reported, or there is one.
    report_at: Option<Instant>,
    /// A socket could not be opened, which has been reported.
    open_failed: bool,
}

impl Interface {
    /// Brings the link up and starts to configure it.
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
        // As if there were no carrier yet; `changed` is called next.
        let mut interface = Self {
            link: Link {
                running: false,
                ..link.clone()
            },
            dhcp: None,
            dhcp6: None,
            advertised_dns: AdvertisedDns::default(),
            solicitations: RouterSolicitations::default(),
            had_carrier: link.running,
        };
        match method {
            Method::Off => {}
            Method::Dhcp { fallback } => {
                let client = DhcpClient::new(mac, host_name(), random, now);
                interface.dhcp = Some(Dhcp {
                    client,
                    mac,
                    socket: None,
                    probe: None,
                    conflicts: Conflicts::default(),
                    lease: None,
                    fallback,
                    fallback_used: false,
                    report_at: None,
                    open_failed: false,
                });
                interface.dhcp6 = Some(Dhcp6::new(mac, random, now));
            }
            Method::Static(given) => interface.use_static(&given, host),
        }
        interface
    }

    /// The kernel has reported a change of the link.
    pub(super) fn changed(&mut self, link: Link, now: Instant) {
        if let Some(dhcp) = &mut self.dhcp
            && link.running != self.link.running
        {
            if link.running {
                dhcp.client.start(now);
                dhcp.conflicts = Conflicts::default();
                if std::mem::replace(&mut self.had_carrier, true) {
                    self.solicitations.start(now);
                }
                dhcp.report_at = Some(now + REPORT_DELAY);
            } else {
                dhcp.client.stop();
                dhcp.probe = None;
                self.solicitations.stop();
                dhcp.report_at = None;
            }
        }
        self.link = link;
        if let Some(dhcp6) = &mut self.dhcp6 {
            dhcp6.changed(&self.link, now);
        }
    }

    /// The kernel has reported what is advertised on the link.
    pub(super) fn advertised(&mut self, ra_flag: RaFlag, now: Instant) {
        let link = self.link.clone();
        self.changed(Link { ra_flag, ..link }, now);
    }

    /// The kernel has passed on an option of a router's advertisement. Name servers are used where there is DHCP.
    pub(super) fn router_option(&mut self, option: &[u8], now: Instant) {
        if self.dhcp.is_some() {
            self.advertised_dns.read(option, now);
        }
    }

    /// A link-local address can be used, or not any more.
    pub(super) fn set_link_local(&mut self, address: Ipv6Addr, is_there: bool, now: Instant) {
        if let Some(dhcp6) = &mut self.dhcp6 {
            dhcp6.set_link_local(address, is_there, &self.link, now);
        }
    }

    /// Another machine has an address of this link.
    pub(super) fn duplicate(&mut self, address: Ipv6Addr, now: Instant) {
        if let Some(dhcp6) = &mut self.dhcp6 {
            dhcp6.duplicate(address, &self.link, now);
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.link.name
    }

    pub(super) fn is_running(&self) -> bool {
        self.link.running
    }

    /// When to call [`Self::work`] even if nothing has arrived.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let dhcp = self.dhcp.iter();
        // What the client has to do waits until it is known whether it may use its address.
        let next = |dhcp: &Dhcp| match &dhcp.probe {
            Some(probe) => Some(probe.deadline()),
            None => dhcp.client.deadline(),
        };
        dhcp.flat_map(|dhcp| [next(dhcp), dhcp.report_at])
            .chain(self.dhcp6.as_ref().map(Dhcp6::deadline))
            .chain([
                self.advertised_dns.deadline(),
                self.solicitations.deadline(),
            ])
            .flatten()
            .min()
    }

    /// The sockets to wait for meanwhile.
    pub(super) fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let dhcp = self.dhcp.as_ref();
        let socket = dhcp.and_then(|dhcp| Some(dhcp.socket.as_ref()?.as_fd()));
        let probe = dhcp.and_then(|dhcp| Some(dhcp.probe.as_ref()?.as_fd()));
        let socket6 = self.dhcp6.as_ref().and_then(Dhcp6::socket);
        [socket, probe, socket6].into_iter().flatten()
    }

    /// Handles what has arrived, and does what is due.
    pub(super) fn work(&mut self, now: Instant, host: &mut Host) {
        if let Some(dhcp6) = &mut self.dhcp6 {
            dhcp6.work(&self.link, now, host);
        }
        self.solicitations.work(self.link.index, now);
        let (servers, search) = self.advertised_dns.current(now);
        host.set_name_servers(
            self.link.index,
            NameServerSource::Advertised,
            &servers,
            &search,
        );
        let Some(mut dhcp) = self.dhcp.take() else {
            return;
        };
        self.step(&mut dhcp, now, host);
        self.dhcp = Some(dhcp);
    }

    fn step(&self, dhcp: &mut Dhcp, now: Instant, host: &mut Host) {
        let mut actions = Vec::new();
        for _ in 0..BATCH {
            let Some(socket) = &dhcp.socket else {
                break;
            };
            match socket.receive() {
                Ok(Some(message)) => actions.extend(dhcp.client.receive(&message, now)),
                Ok(None) => break,
                // The link is down, or the socket's address has gone. It is opened again below.
                Err(_) => dhcp.socket = None,
            }
        }
        if dhcp.probe.is_none() {
            actions.extend(dhcp.client.tick(now));
        }
        self.perform(dhcp, actions, now, host);
        match dhcp.probe.as_mut().and_then(|probe| probe.work(now)) {
            None => {}
            Some(ProbeOutcome::Free(lease)) => {
                dhcp.probe = None;
                self.use_lease(dhcp, &lease, now, host);
            }
            Some(ProbeOutcome::Taken(address, mac)) => {
                dhcp.probe = None;
                let is_new = self.report_conflict(dhcp, address, mac);
                // The client has forgotten when it ends.
                self.end_lease(dhcp, host);
                if is_new && !dhcp.conflicts.reported {
                    dhcp.report_at = Some(now + REPORT_DELAY);
                }
                let declined = dhcp.client.decline(now);
                self.perform(dhcp, declined.into_iter().collect(), now, host);
            }
        }
        if dhcp.report_at.is_some_and(|at| at <= now) {
            dhcp.report_at = None;
            dhcp.conflicts.reported = true;
            let seconds = REPORT_DELAY.as_secs();
            let name = &self.link.name;
            let silence = if dhcp.conflicts.is_empty() {
                format!("{name}: no DHCP server has answered in {seconds} s")
            } else {
                format!("{name}: DHCP gives only addresses that other machines have")
            };
            if let Some(fallback) = &dhcp.fallback {
                say(format_args!(
                    "{silence}; using {} as ip= says, and still asking",
                    fallback.address
                ));
                self.use_static(fallback, host);
                dhcp.fallback_used = true;
            } else if !self.dhcp6.as_ref().is_some_and(Dhcp6::has_address) {
                say(format_args!(
                    "{silence}; still asking (ip= on the kernel's command line gives a fixed address)"
                ));
            }
        }
    }

    fn perform(&self, dhcp: &mut Dhcp, actions: Vec<Action>, now: Instant, host: &mut Host) {
        // The socket is opened before the actions that send, and closed only in the next round, since one that is no
        // longer needed may still have something to send.
        let listen = dhcp.client.listen();
        let serves = |socket: &DhcpSocket| socket.serves(listen);
        if !dhcp.socket.as_ref().is_some_and(serves) {
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
        for action in actions {
            // A message that can't be sent is like one that is lost: it will be repeated.
            let _ = match (action, &dhcp.socket) {
                (Action::Broadcast(message), Some(socket)) => socket.broadcast(&message),
                (Action::Unicast { message, to, .. }, Some(socket)) => socket.unicast(&message, to),
                (Action::Configure(lease), _) => {
                    let used = dhcp.lease.as_ref().map(|used| used.address);
                    let is_new = used != Some(lease.address);
                    let others = host.links.iter().filter_map(|(_, mac)| *mac);
                    let ignored = others.chain(dhcp.conflicts.proxy()).collect();
                    let probe = |lease: &Lease| {
                        AddressProbe::new(lease.clone(), dhcp.mac, ignored, self.link.index, now)
                            .ok()
                    };
                    dhcp.probe = Some(&lease).filter(|_| is_new).and_then(probe);
                    if dhcp.probe.is_none() {
                        self.use_lease(dhcp, &lease, now, host);
                    }
                    Ok(())
                }
                (Action::Deconfigure, _) => {
                    dhcp.report_at = Some(now + REPORT_DELAY);
                    dhcp.probe = None;
                    self.end_lease(dhcp, host);
                    Ok(())
                }
                (_, None) => Ok(()),
            };
        }
    }

    /// Whether this is not known yet.
    fn report_conflict(&self, dhcp: &mut Dhcp, address: Ipv4Addr, mac: [u8; 6]) -> bool {
        let conflict = dhcp.conflicts.add(address, mac);
        let name = &self.link.name;
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        if conflict != ConflictKind::Known {
            say(format_args!(
                "{name}: another machine ({mac}) has {address}, which DHCP gave; asking for another address"
            ));
        }
        if conflict == ConflictKind::Proxy {
            say(format_args!(
                "{name}: {mac} answers for every address, and is not believed any more"
            ));
        }
        conflict != ConflictKind::Known
    }

    fn end_lease(&self, dhcp: &mut Dhcp, host: &mut Host) {
        if let Some(lease) = dhcp.lease.take() {
            say(format_args!(
                "{}: the lease of {} has ended",
                self.link.name, lease.address
            ));
            self.remove(lease.address, lease.prefix, host);
            self.set_name_servers(&[], &[], host);
        }
    }

    fn use_lease(&self, dhcp: &mut Dhcp, lease: &Lease, now: Instant, host: &mut Host) {
        dhcp.report_at = None;
        if std::mem::take(&mut dhcp.fallback_used)
            && let Some(fallback) = &dhcp.fallback
        {
            self.remove(fallback.address, fallback.prefix, host);
        }
        let old = dhcp.lease.replace(lease.clone());
        self.configure(old, lease, now, host);
    }

    fn configure(&self, old: Option<Lease>, lease: &Lease, now: Instant, host: &mut Host) {
        // Before the address, with which the machine is announced under its name.
        if let Some(name) = &lease.hostname {
            name_host(name);
        }
        let is_same = |old: &Lease| {
            (old.address, old.prefix, &old.routes) == (lease.address, lease.prefix, &lease.routes)
        };
        if let Some(old) = old.filter(|old| !is_same(old)) {
            self.remove(old.address, old.prefix, host);
        }
        if let Some(mtu) = lease.mtu.map(u32::from).filter(|&mtu| mtu != self.link.mtu)
            && let Err(error) = host.netlink.set_mtu(self.link.index, mtu)
        {
            say(format_args!(
                "{}: cannot set the MTU to {mtu}, as DHCP says: {error}",
                self.link.name
            ));
        }
        let lifetime = lease
            .times
            .map(|times| times.end.saturating_duration_since(now));
        self.use_address(lease.address, lease.prefix, lifetime, &lease.routes, host);
        self.set_name_servers(&lease.dns, &lease.search, host);
    }

    fn use_static(&self, given: &StaticAddress, host: &mut Host) {
        let default = given.gateway.map(|gateway| Route {
            to: Ipv4Addr::UNSPECIFIED,
            prefix: 0,
            gateway: Some(gateway),
        });
        self.use_address(given.address, given.prefix, None, default.as_slice(), host);
        self.set_name_servers(&given.dns, &[], host);
    }

    fn use_address(
        &self,
        address: Ipv4Addr,
        prefix: u8,
        lifetime: Option<Duration>,
        routes: &[Route],
        host: &mut Host,
    ) {
        let index = self.link.index;
        if let Err(error) =
            host.netlink
                .add_address(index, address.into(), prefix, lifetime, lifetime)
        {
            say(format_args!(
                "{}: cannot add the address {address}/{prefix}: {error}",
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
                    "{}: cannot add the route {route}: {error}",
                    self.link.name
                ));
            }
        }
    }

    /// Removes an address, unless the kernel has done so at the end of its lifetime.
    fn remove(&self, address: Ipv4Addr, prefix: u8, host: &mut Host) {
        let _ = host
            .netlink
            .delete_address(self.link.index, address.into(), prefix);
    }

    fn set_name_servers(&self, servers: &[Ipv4Addr], search: &[String], host: &mut Host) {
        let servers: Vec<_> = servers.iter().copied().map(IpAddr::V4).collect();
        host.set_name_servers(self.link.index, NameServerSource::Ipv4, &servers, search);
    }

    /// The link has gone, or is no longer configured here.
    pub(super) fn gone(self, host: &mut Host) {
        for source in [
            NameServerSource::Ipv4,
            NameServerSource::Dhcp6,
            NameServerSource::Advertised,
        ] {
            host.set_name_servers(self.link.index, source, &[], &[]);
        }
    }
}
