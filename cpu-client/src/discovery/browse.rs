//! Asks for machines, and collects the answers. The questions do not come from the port of multicast DNS, so the answers are sent
//! to this process alone (RFC 6762, 6.7), whether the computer has a daemon of its own for that or not.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cpu_proto::discovery::{instance, instance_label, read_text, service};
use cpu_proto::dns::{
    DomainName, GROUP_V4, GROUP_V6, MAX_MESSAGE, Message, PORT, Question, RecordData, kind,
};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::debug;

use super::FoundMachine;
use super::machine::host_name;

/// The most machines that are listened to, and the most addresses of one.
const MAX_MACHINES: usize = 1000;
const MAX_ADDRESSES: usize = 16;
/// The most machines that a message asks for more about.
const MAX_QUESTIONS: usize = 16;

/// Listens on all networks.
pub(super) struct Browser {
    sockets: Vec<Network>,
    heard: Heard,
}

/// A socket on a network.
struct Network {
    socket: UdpSocket,
    group: SocketAddr,
}

/// What has been heard, by the label of the instance.
#[derive(Default)]
struct Heard(BTreeMap<Vec<u8>, Instance>);

struct Instance {
    last: Instant,
    /// The sender of the last message.
    from: SocketAddr,
    service: Option<(u16, DomainName)>,
    text: Option<Vec<u8>>,
    addresses: Vec<SocketAddr>,
}

impl Browser {
    pub(super) fn new() -> Result<Self> {
        let addresses = getifaddrs().context("cannot list the network interfaces")?;
        let wanted = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_MULTICAST;
        let mut sockets = Vec::new();
        for interface in addresses {
            let flags = interface.flags;
            let Some(address) = interface.address else {
                continue;
            };
            if !flags.contains(wanted) || flags.contains(InterfaceFlags::IFF_LOOPBACK) {
                continue;
            }
            // The kernel sends to a group from the interface that has the socket's address, or its scope.
            let (own, group): (SocketAddr, SocketAddr) =
                if let Some(address) = address.as_sockaddr_in() {
                    let own = SocketAddrV4::new(address.ip(), 0);
                    (own.into(), SocketAddrV4::new(GROUP_V4, PORT).into())
                } else if let Some(address) = address.as_sockaddr_in6()
                    && address.ip().is_unicast_link_local()
                {
                    let scope = address.scope_id();
                    let own = SocketAddrV6::new(address.ip(), 0, 0, scope);
                    (
                        own.into(),
                        SocketAddrV6::new(GROUP_V6, PORT, 0, scope).into(),
                    )
                } else {
                    continue;
                };
            match open(own) {
                Ok(socket) => sockets.push(Network { socket, group }),
                Err(error) => debug!("cannot look for machines from {own}: {error}"),
            }
        }
        ensure!(
            !sockets.is_empty(),
            "there is no network to look for machines on"
        );
        Ok(Self {
            sockets,
            heard: Heard::default(),
        })
    }

    /// Asks on all networks. What cannot be sent is like what is lost.
    pub(super) fn ask(&self) {
        let bytes = self.heard.query().write();
        for network in &self.sockets {
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
            let sockets = self.sockets.iter();
            let mut fds: Vec<_> = sockets
                .map(|network| PollFd::new(network.socket.as_fd(), PollFlags::POLLIN))
                .collect();
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).context("cannot poll"),
            }
            for network in &self.sockets {
                // One from each, so that no network keeps others from being heard.
                if let Ok((length, from)) = network.socket.recv_from(&mut bytes)
                    && let Some(message) = Message::read(&bytes[..length])
                {
                    self.heard.add(&message, from, Instant::now());
                }
            }
        }
    }

    /// Forgets machines that have not been heard for so long.
    pub(super) fn forget(&mut self, after: Duration) {
        self.heard
            .0
            .retain(|_, instance| instance.last.elapsed() < after);
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

impl Heard {
    /// Asks for all machines, and for what is not known of those that have answered.
    fn query(&self) -> Message {
        let question = |name, kind| Question {
            name,
            kind,
            unicast: true,
        };
        let unknown = self
            .0
            .iter()
            .filter(|(_, instance)| instance.service.is_none() || instance.text.is_none());
        let more = unknown.map(|(label, _)| question(instance(label), kind::ANY));
        Message {
            questions: std::iter::once(question(service(), kind::PTR))
                .chain(more.take(MAX_QUESTIONS))
                .collect(),
            ..Message::default()
        }
    }

    /// Adds what a message says.
    fn add(&mut self, message: &Message, from: SocketAddr, now: Instant) {
        if !message.is_response {
            return;
        }
        let records = || message.answers.iter().chain(&message.additionals);
        let mut labels = Vec::new();
        for record in records() {
            let name = match &record.data {
                RecordData::Ptr(target) if record.name == service() => target,
                RecordData::Srv { .. } | RecordData::Txt(_) => &record.name,
                _ => continue,
            };
            let Some(label) = instance_label(name).map(<[u8]>::to_ascii_lowercase) else {
                continue;
            };
            if record.ttl == 0 {
                self.0.remove(&label);
                continue;
            }
            if !self.0.contains_key(&label) && self.0.len() >= MAX_MACHINES {
                continue;
            }
            let instance = self.0.entry(label.clone()).or_insert_with(|| Instance {
                last: now,
                from,
                service: None,
                text: None,
                addresses: Vec::new(),
            });
            (instance.last, instance.from) = (now, from);
            match &record.data {
                RecordData::Srv { port, target } => {
                    instance.service = Some((*port, target.clone()));
                }
                RecordData::Txt(text) => instance.text = Some(text.clone()),
                _ => {}
            }
            labels.push(label);
        }
        for label in labels {
            let Some(instance) = self.0.get_mut(&label) else {
                continue;
            };
            let Some((port, host)) = &instance.service else {
                continue;
            };
            let told = records().filter(|record| record.name == *host && record.ttl > 0);
            for ip in told.filter_map(|record| address(&record.data)) {
                let address = with_scope(ip, *port, from);
                if instance.addresses.len() < MAX_ADDRESSES
                    && !instance.addresses.contains(&address)
                {
                    instance.addresses.push(address);
                }
            }
        }
    }

    fn machines(&self) -> Vec<FoundMachine> {
        let machine = |(label, instance): (&Vec<u8>, &Instance)| {
            let (port, host) = instance.service.as_ref().filter(|(port, _)| *port != 0)?;
            let mut addresses = instance.addresses.clone();
            addresses.retain(|address| address.port() == *port);
            if addresses.is_empty() {
                // Who answers is reached where the answer has come from.
                addresses.push(with_scope(instance.from.ip(), *port, instance.from));
            }
            addresses.sort_by_key(SocketAddr::is_ipv6);
            let Some(host) = host_name(host) else {
                debug!(
                    "a machine is left out whose host name is {:?}",
                    host.to_string()
                );
                return None;
            };
            let label = String::from_utf8_lossy(label).into_owned();
            let facts = read_text(instance.text.as_deref().unwrap_or_default());
            Some(FoundMachine::new(label, host, addresses, facts))
        };
        self.0.iter().filter_map(machine).collect()
    }
}

/// An address at which another machine can be.
fn address(data: &RecordData) -> Option<IpAddr> {
    let ip = match *data {
        RecordData::A(ip) => IpAddr::V4(ip),
        RecordData::Aaaa(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    (!ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast()).then_some(ip)
}

/// An address of a link is one of the link that the message has come from.
fn with_scope(ip: IpAddr, port: u16, from: SocketAddr) -> SocketAddr {
    match (ip, from) {
        (IpAddr::V6(ip), SocketAddr::V6(from)) if ip.is_unicast_link_local() => {
            SocketAddrV6::new(ip, port, 0, from.scope_id()).into()
        }
        _ => (ip, port).into(),
    }
}

#[cfg(test)]
mod tests {
    use cpu_proto::discovery::write_text;
    use cpu_proto::dns::ResourceRecord;
    use proptest::prelude::*;

    use super::*;

    fn record(name: DomainName, ttl: u32, data: RecordData) -> ResourceRecord {
        ResourceRecord {
            name,
            flush: false,
            ttl,
            data,
        }
    }

    /// What a machine answers.
    fn told(label: &str, host: &str, ips: &[&str]) -> Message {
        let name = instance(label.as_bytes());
        let target = DomainName::new(host.split('.'));
        let text = write_text([("arch", "arm64".to_owned())]);
        let address = |ip: &&str| match ip.parse().unwrap() {
            IpAddr::V4(ip) => record(target.clone(), 120, RecordData::A(ip)),
            IpAddr::V6(ip) => record(target.clone(), 120, RecordData::Aaaa(ip)),
        };
        let mut additionals: Vec<_> = ips.iter().map(address).collect();
        let (port, host) = (17010, target.clone());
        additionals.push(record(
            name.clone(),
            120,
            RecordData::Srv { port, target: host },
        ));
        additionals.push(record(name.clone(), 120, RecordData::Txt(text)));
        Message {
            is_response: true,
            answers: vec![record(service(), 4500, RecordData::Ptr(name))],
            additionals,
            ..Message::default()
        }
    }

    fn add(heard: &mut Heard, message: &Message, from: &str) {
        heard.add(message, from.parse().unwrap(), Instant::now());
    }

    fn addresses(heard: &Heard) -> Vec<String> {
        let machines = heard.machines().into_iter();
        let all = machines.flat_map(|machine| machine.addresses);
        all.map(|address| address.to_string()).collect()
    }

    #[test]
    fn what_several_messages_say_of_a_machine_is_put_together() {
        let from = "192.168.77.1:5353";
        let mut heard = Heard::default();
        let whole = told("Board 7", "board7.local", &["fec0::1", "192.168.77.1"]);
        let part = |records: &[ResourceRecord]| Message {
            is_response: true,
            answers: records.to_vec(),
            ..Message::default()
        };
        add(&mut heard, &part(&whole.answers), from);
        assert!(heard.machines().is_empty());
        // It is asked for the rest.
        let asked = heard.query().questions;
        let names: Vec<_> = asked.iter().map(|question| question.name.clone()).collect();
        assert_eq!(names, [service(), instance(b"BOARD 7")]);
        add(&mut heard, &part(&whole.additionals), from);
        let machines = heard.machines();
        let [machine] = &machines[..] else {
            panic!("{machines:?}")
        };
        assert_eq!(
            (machine.instance.as_str(), machine.host.as_str()),
            ("board 7", "board7.local")
        );
        assert_eq!(machine.fact("arch"), Some("arm64"));
        assert_eq!(addresses(&heard), ["192.168.77.1:17010", "[fec0::1]:17010"]);
        assert_eq!(heard.query().questions.len(), 1);

        let ended = record(service(), 0, RecordData::Ptr(instance(b"board 7")));
        add(&mut heard, &part(&[ended]), from);
        assert!(heard.machines().is_empty());
    }

    #[test]
    fn addresses_are_those_of_other_machines_on_the_right_link() {
        let mut heard = Heard::default();
        let here = ["127.0.0.1", "0.0.0.0", "224.0.0.1", "::1", "fe80::1"];
        add(&mut heard, &told("a", "a.local", &here), "[fe80::1]:5353");
        assert_eq!(addresses(&heard), ["[fe80::1]:17010"]);

        let from = SocketAddrV6::new("fe80::2".parse().unwrap(), 5353, 0, 7);
        let mut heard = Heard::default();
        heard.add(
            &told("a", "a.local", &["fe80::1"]),
            from.into(),
            Instant::now(),
        );
        assert_eq!(addresses(&heard), ["[fe80::1%7]:17010"]);
        // Without an address it is where its answer has come from.
        let mut heard = Heard::default();
        heard.add(&told("a", "a.local", &[]), from.into(), Instant::now());
        assert_eq!(addresses(&heard), ["[fe80::2%7]:17010"]);
    }

    #[test]
    fn queries_and_names_of_elsewhere_are_no_machines() {
        let from = "192.168.77.1:5353";
        let mut heard = Heard::default();
        let query = Message {
            is_response: false,
            ..told("a", "a.local", &[])
        };
        add(&mut heard, &query, from);
        add(
            &mut heard,
            &told("b", "bank.example", &["192.168.77.1"]),
            from,
        );
        add(&mut heard, &told("c", "a b.local", &["192.168.77.1"]), from);
        assert!(heard.machines().is_empty());
        for number in 0..2 * MAX_MACHINES {
            add(&mut heard, &told(&number.to_string(), "x.local", &[]), from);
        }
        assert!(heard.0.len() <= MAX_MACHINES);
    }

    proptest! {
        #[test]
        fn any_answers_are_survived(
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        ) {
            let label = String::from_utf8_lossy(&bytes).into_owned();
            let mut message = told(&label, "a.local", &["192.168.77.1"]).write();
            for (at, byte) in damage {
                let at = at.index(message.len());
                message[at] = byte;
            }
            let mut heard = Heard::default();
            if let Some(message) = Message::read(&message) {
                add(&mut heard, &message, "192.168.77.1:5353");
            }
            for machine in heard.machines() {
                prop_assert!(machine.host.contains(".local") && !machine.addresses.is_empty());
                prop_assert!(machine.host.bytes().all(|byte| byte.is_ascii_graphic()));
            }
            let _ = heard.query().write();
        }
    }
}
