//! The network role: brings up `lo` and every Ethernet interface, and keeps an IPv4 address on each, by DHCP or
//! as `ip=` on the kernel's command line says. It makes the links that `vlan=` names.
//!
//! IPv6 is left to the kernel, which uses router advertisements, but for name servers and DHCPv6. Where IPv4 is configured
//! by DHCP, the name servers that a router advertises are used, and DHCPv6 if it advertises that (the flags M and O). An
//! interface that has a permanent IPv4 address when this role starts was configured by somebody else (the kernel, a
//! container's runtime) and is left alone. The server does not wait for any of this. One thread sleeps in poll(2) until a
//! link changes, an answer or an advertisement arrives, or a lease has to be renewed.

mod advertised_dns;
mod dhcp;
mod dhcp6;
mod domain;
mod host_name;
mod interface;
mod ip_arg;
mod jitter;
pub(crate) mod netlink;
mod resolv;
mod router_solicitation;
mod vlan_arg;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt::Display;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::cmdline;
use crate::console::say;
use crate::poll;
pub(crate) use host_name::host_name;
use interface::Interface;
use ip_arg::{IpArg, Method};
use netlink::{Address, Link, Netlink, NetlinkEvent};
use resolv::{NameServerSource, ResolvConf};
use vlan_arg::VlanArg;

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long to wait for something that is missing before reporting it.
const REPORT_DELAY: Duration = Duration::from_secs(15);
/// The most messages that are read from a socket before other work gets its turn.
const BATCH: usize = 32;

/// What the interfaces configure.
struct Host {
    netlink: Netlink,
    resolv: ResolvConf,
    /// The indices and Ethernet addresses of all links, including those that are not configured here.
    links: Vec<(u32, Option<[u8; 6]>)>,
}

impl Host {
    fn set_name_servers(
        &mut self,
        link: u32,
        source: NameServerSource,
        servers: &[IpAddr],
        search: &[String],
    ) {
        if self.resolv.set(link, source, servers, search)
            && let Err(error) = self.resolv.write(Path::new(RESOLV_CONF))
        {
            say(format_args!("cannot write {RESOLV_CONF}: {error}"));
        }
    }
}

/// The state of the role.
struct NetworkRole {
    host: Host,
    args: Vec<IpArg>,
    vlans: Vec<VlanArg>,
    interfaces: BTreeMap<u32, Interface>,
    /// Links that had a permanent IPv4 address at the start.
    configured: BTreeSet<u32>,
    /// The usable addresses of all links.
    addresses: BTreeSet<(u32, IpAddr)>,
    /// When to report that there is no link, or no cable.
    report_at: Option<Instant>,
}

/// Runs the role for ever.
pub(crate) fn run() -> Result<Infallible> {
    let host = Host {
        netlink: Netlink::with_router_options()
            .context("cannot open a netlink socket (CONFIG_NET)")?,
        resolv: ResolvConf::default(),
        links: Vec::new(),
    };
    let mut network = NetworkRole {
        host,
        args: arguments(),
        vlans: parsed("vlan", vlan_arg::parse),
        interfaces: BTreeMap::new(),
        configured: BTreeSet::new(),
        addresses: BTreeSet::new(),
        report_at: Some(Instant::now() + REPORT_DELAY),
    };
    network.begin()?;
    loop {
        network.sleep()?;
        network.read_netlink()?;
        let now = Instant::now();
        for interface in network.interfaces.values_mut() {
            interface.work(now, &mut network.host);
        }
        if network.report_at.is_some_and(|at| at <= now) {
            network.report_at = None;
            network.report_missing();
        }
    }
}

/// The `ip=` parameters of the kernel's command line. The host name in them is set unless there is one already.
fn arguments() -> Vec<IpArg> {
    let args = parsed("ip", ip_arg::parse);
    if let Some(name) = args.iter().find_map(|arg| arg.hostname.as_deref()) {
        host_name::name_host(name);
    }
    args
}

/// The values of a parameter on the kernel's command line. A wrong one is reported and left out.
fn parsed<T, E: Display>(name: &str, parse: impl Fn(&str) -> Result<T, E>) -> Vec<T> {
    let values = cmdline::values(&cmdline::read(), name).into_iter();
    let parsed = values.filter_map(|value| {
        let report = |error: &E| {
            say(format_args!(
                "{name}={value} on the kernel's command line is ignored: {error}"
            ));
        };
        parse(&value).inspect_err(report).ok()
    });
    parsed.collect()
}

impl NetworkRole {
    fn begin(&mut self) -> Result<()> {
        let events = self.host.netlink.dump().context("cannot list the links")?;
        for event in &events {
            if let NetlinkEvent::Address(address) = event
                && address.permanent
                && address.ip.is_ipv4()
            {
                self.configured.insert(address.link);
            }
        }
        self.handle_all(events);
        Ok(())
    }

    fn handle_all(&mut self, events: Vec<NetlinkEvent>) {
        for event in events {
            self.handle(event);
        }
    }

    fn sleep(&self) -> Result<()> {
        let deadlines = self.interfaces.values().filter_map(Interface::deadline);
        let deadline = deadlines.chain(self.report_at).min();
        let sockets = self.interfaces.values().flat_map(Interface::sockets);
        poll::sleep(
            std::iter::once(self.host.netlink.as_fd()).chain(sockets),
            deadline,
        )
    }

    /// Reads what has changed.
    fn read_netlink(&mut self) -> Result<()> {
        let lost = "cannot read from the netlink socket";
        let events = match self.host.netlink.read_events().context(lost)? {
            Some(events) => {
                self.handle_all(events);
                return Ok(());
            }
            None => self.host.netlink.dump().context(lost)?,
        };
        let there = |index: &u32| {
            events
                .iter()
                .any(|event| matches!(event, NetlinkEvent::Link(link) if link.index == *index))
        };
        let links = self.host.links.iter().map(|(index, _)| *index);
        let gone: Vec<u32> = links.filter(|index| !there(index)).collect();
        for index in gone {
            self.handle(NetlinkEvent::LinkGone(index));
        }
        self.handle_all(events);
        Ok(())
    }

    fn handle(&mut self, event: NetlinkEvent) {
        match event {
            NetlinkEvent::Link(link) => {
                self.host.links.retain(|(of, _)| *of != link.index);
                self.host.links.push((link.index, link.mac));
                self.link_changed(link);
            }
            NetlinkEvent::LinkGone(index) => {
                self.host.links.retain(|(of, _)| *of != index);
                self.configured.remove(&index);
                self.addresses.retain(|(of, _)| *of != index);
                self.forget(index);
            }
            NetlinkEvent::Advertised(index, flag) => {
                if let Some(interface) = self.interfaces.get_mut(&index) {
                    interface.advertised(flag, Instant::now());
                }
            }
            NetlinkEvent::RouterOption(index, option) => {
                if let Some(interface) = self.interfaces.get_mut(&index) {
                    interface.router_option(&option, Instant::now());
                }
            }
            NetlinkEvent::Address(address) => {
                if address.usable {
                    self.addresses.insert((address.link, address.ip));
                }
                self.set_ipv6(address, !address.tentative);
            }
            NetlinkEvent::AddressGone(address) => {
                self.addresses.remove(&(address.link, address.ip));
                self.set_ipv6(address, false);
            }
        }
    }

    /// Notes whether an address is there, if it is of IPv6.
    fn set_ipv6(&mut self, address: Address, is_there: bool) {
        if let IpAddr::V6(ip) = address.ip
            && let Some(interface) = self.interfaces.get_mut(&address.link)
        {
            let now = Instant::now();
            if ip.is_unicast_link_local() {
                interface.set_link_local(ip, is_there, now);
            } else if address.duplicate {
                interface.duplicate(ip, now);
            }
        }
    }

    /// Handles a link that is new or has changed.
    fn link_changed(&mut self, link: Link) {
        let now = Instant::now();
        if link.name == "lo" {
            if !link.up
                && let Err(error) = self.host.netlink.set_up(link.index)
            {
                say(format_args!("cannot bring up lo: {error}"));
            }
            return;
        }
        let is_ours = link.kind.as_deref() == Some("vlan")
            && self.vlans.iter().any(|vlan| vlan.name == link.name);
        let Some(mac) = link.mac.filter(|_| is_ours || is_physical(&link)) else {
            self.forget(link.index);
            return;
        };
        if !self.interfaces.contains_key(&link.index) {
            self.make_vlans(&link);
        }
        let interface = self.interfaces.entry(link.index).or_insert_with(|| {
            let method = if self.configured.contains(&link.index) {
                &Method::Off
            } else {
                ip_arg::for_link(&self.args, &link.name)
            };
            Interface::new(&link, mac, method.clone(), random(), now, &mut self.host)
        });
        interface.changed(link, now);
    }

    /// A link has gone, or somebody else configures it now.
    fn forget(&mut self, index: u32) {
        if let Some(interface) = self.interfaces.remove(&index) {
            interface.gone(&mut self.host);
        }
    }

    /// Makes the VLANs of a link that has appeared.
    fn make_vlans(&mut self, link: &Link) {
        for vlan in self.vlans.iter().filter(|vlan| vlan.device == link.name) {
            let made = self
                .host
                .netlink
                .add_vlan(link.index, &vlan.name, vlan.number);
            match made {
                // By a role before this one.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => say(format_args!(
                    "cannot make the VLAN {} of {} (CONFIG_VLAN_8021Q): {error}",
                    vlan.name, vlan.device
                )),
                Ok(()) => {}
            }
        }
    }

    fn report_missing(&self) {
        if self.interfaces.is_empty() && self.addresses.is_empty() {
            say(
                "there is no Ethernet interface: does the kernel have a driver for this machine's network card?",
            );
        }
        for interface in self
            .interfaces
            .values()
            .filter(|interface| !interface.is_running())
        {
            say(format_args!(
                "{} has no carrier: is the cable plugged in?",
                interface.name()
            ));
        }
    }
}

/// Whether it is hardware, or what a container has instead; not a link that other software has made and configures.
fn is_physical(link: &Link) -> bool {
    !link.has_master && matches!(link.kind.as_deref(), None | Some("veth" | "macvlan"))
}

/// A random number from the kernel, through the keys of std's hash tables.
pub(crate) fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}
