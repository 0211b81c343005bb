//! What machines have answered, put together. Who has sent it is anybody.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use cpu_proto::discovery::{instance, instance_label, read_text, service};
use cpu_proto::dns::{DomainName, Message, PORT, Question, RecordData, ResourceRecord, kind};
use tracing::debug;

use super::FoundMachine;
use super::machine::host_name;

/// The most machines that are listened to, and the most addresses of one.
const MAX_MACHINES: usize = 1000;
const MAX_ADDRESSES: usize = 16;
/// The longest text of a machine, in bytes: it should fit into a packet (RFC 6763, 6.2).
const MAX_TEXT: usize = 1300;
/// The most machines that a message asks for more about.
const MAX_QUESTIONS: usize = 16;

/// What has been heard.
#[derive(Default)]
pub(super) struct Heard {
    /// The number of the questions, which the answers have, too (RFC 6762, 6.7): who has not heard them cannot answer.
    id: u16,
    /// The addresses of this computer.
    pub(super) own: Vec<IpAddr>,
    /// By the labels of the instances.
    instances: BTreeMap<Vec<u8>, Instance>,
}

struct Instance {
    last: Instant,
    /// The sender of the last message.
    from: SocketAddr,
    service: Option<(u16, DomainName)>,
    text: Option<Vec<u8>>,
    /// Those of its host, without a port, each with the time when it was last told.
    addresses: Vec<(SocketAddr, Instant)>,
}

impl Heard {
    /// Nothing yet, with a number for the questions.
    pub(super) fn new(id: u16) -> Self {
        Self {
            id,
            ..Self::default()
        }
    }

    /// Asks for all machines, and for what is not known of those that have answered.
    pub(super) fn query(&self) -> Message {
        let question = |name, kind| Question {
            name,
            kind,
            unicast: true,
        };
        let unknown = self
            .instances
            .iter()
            .filter(|(_, instance)| instance.service.is_none() || instance.text.is_none());
        let more = unknown.map(|(label, _)| question(instance(label), kind::ANY));
        Message {
            id: self.id,
            questions: std::iter::once(question(service(), kind::PTR))
                .chain(more.take(MAX_QUESTIONS))
                .collect(),
            ..Message::default()
        }
    }

    /// Adds what a message says.
    pub(super) fn add(&mut self, message: &Message, from: SocketAddr, now: Instant) {
        if !message.is_response || message.id != self.id || from.port() != PORT {
            return;
        }
        let records = || message.answers.iter().chain(&message.additionals);
        let mut labels = Vec::new();
        for record in records() {
            labels.extend(self.add_record(record, from, now));
        }
        labels.sort_unstable();
        labels.dedup();
        for label in labels {
            let Some(instance) = self.instances.get_mut(&label) else {
                continue;
            };
            let Some((_, host)) = &instance.service else {
                continue;
            };
            let told = records().filter(|record| record.name == *host && record.ttl > 0);
            for address in told.filter_map(|record| address(&record.data, from, &self.own)) {
                let mut known = instance.addresses.iter_mut();
                if let Some((_, last)) = known.find(|(known, _)| *known == address) {
                    *last = now;
                } else if instance.addresses.len() < MAX_ADDRESSES {
                    instance.addresses.push((address, now));
                }
            }
        }
    }

    /// Adds what a record says of an instance, of which this is the label.
    fn add_record(
        &mut self,
        record: &ResourceRecord,
        from: SocketAddr,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let name = match &record.data {
            RecordData::Ptr(target) if record.name == service() => target,
            RecordData::Srv { .. } | RecordData::Txt(_) => &record.name,
            _ => return None,
        };
        let label = instance_label(name)?.to_ascii_lowercase();
        if record.ttl == 0 {
            self.instances.remove(&label);
            return None;
        }
        if !self.instances.contains_key(&label) && self.instances.len() >= MAX_MACHINES {
            return None;
        }
        let instance = self
            .instances
            .entry(label.clone())
            .or_insert_with(|| Instance {
                last: now,
                from,
                service: None,
                text: None,
                addresses: Vec::new(),
            });
        (instance.last, instance.from) = (now, from);
        match &record.data {
            RecordData::Srv { port, target } => {
                let new = Some((*port, target.clone()));
                let old = std::mem::replace(&mut instance.service, new);
                if old.is_some_and(|(_, host)| host != *target) {
                    instance.addresses.clear();
                }
            }
            RecordData::Txt(text) if text.len() <= MAX_TEXT => instance.text = Some(text.clone()),
            _ => {}
        }
        Some(label)
    }

    /// Forgets machines and addresses that have not been heard for so long.
    pub(super) fn forget(&mut self, after: Duration) {
        let is_fresh = |last: Instant| last.elapsed() < after;
        self.instances.retain(|_, instance| is_fresh(instance.last));
        for instance in self.instances.values_mut() {
            instance.addresses.retain(|(_, last)| is_fresh(*last));
        }
    }

    /// All machines whose service is known.
    pub(super) fn machines(&self) -> Vec<FoundMachine> {
        let machine = |(label, instance): (&Vec<u8>, &Instance)| {
            let (port, host) = instance.service.as_ref().filter(|(port, _)| *port != 0)?;
            let told = instance.addresses.iter().map(|(address, _)| *address);
            let mut addresses: Vec<_> = told.collect();
            if addresses.is_empty() {
                // Who answers is reached where the answer has come from.
                addresses.push(instance.from);
            }
            for address in &mut addresses {
                address.set_port(*port);
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
        self.instances.iter().filter_map(machine).collect()
    }
}

/// An address that a message tells, if its sender can be believed, without a port.
fn address(data: &RecordData, from: SocketAddr, own: &[IpAddr]) -> Option<SocketAddr> {
    let ip = match *data {
        RecordData::A(ip) => IpAddr::V4(ip),
        // It could be an IPv4 address in disguise, which the kernel would connect to.
        RecordData::Aaaa(ip) => IpAddr::V6(ip).to_canonical(),
        _ => return None,
    };
    // Another computer is not at an address of this one, where cpu would reach whatever listens here.
    let is_elsewhere = !own.contains(&ip) || own.contains(&from.ip());
    let is_one_host = !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast();
    if !is_elsewhere || !is_one_host {
        return None;
    }
    match (ip, from) {
        // One of a link is of the link that the message has come from, which only IPv6 tells.
        (IpAddr::V6(ip), from) if ip.is_unicast_link_local() => match from {
            SocketAddr::V6(from) => Some(SocketAddrV6::new(ip, 0, 0, from.scope_id()).into()),
            SocketAddr::V4(_) => None,
        },
        _ => Some((ip, 0).into()),
    }
}

#[cfg(test)]
mod tests;
