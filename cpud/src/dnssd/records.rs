//! What a machine answers with: its names, its addresses on a link, and the text about itself.

use std::net::IpAddr;

use cpu_proto::DEFAULT_PORT;
use cpu_proto::discovery::{all_services, instance, service};
use cpu_proto::dns::{DomainName, RecordData, ResourceRecord};

/// The lifetime of records that contain the name or an address of a host, in seconds (RFC 6762, 10); and of the text, since
/// the load in it changes.
const HOST_TTL: u32 = 120;
/// The lifetime of others.
const OTHER_TTL: u32 = 4500;
/// The most addresses in a message, which must fit into a packet of Ethernet (RFC 6762, 17).
const MAX_ADDRESSES: usize = 8;
/// The longest part of a label that is the machine's name, so that there is room for `-cpud` and numbers.
const MAX_NAME: usize = 40;

/// The names of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MachineNames {
    /// Without `.local`.
    pub(super) host: String,
    /// The label of the instance of the service.
    pub(super) instance: String,
}

impl MachineNames {
    /// The names for a host name, or, if it has none of its own, for the address of its network card. The `number` tells
    /// machines apart that would have the same names: the first is 1.
    pub(super) fn new(host_name: Option<&str>, mac: [u8; 6], port: u16, number: u32) -> Self {
        let first = host_name.and_then(|name| name.split('.').next());
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let host: String = first
            .unwrap_or_default()
            .chars()
            .map(plain)
            .take(MAX_NAME)
            .collect();
        let mut host = match host.trim_matches('-') {
            "" => format!("cpu-{:02x}{:02x}{:02x}", mac[3], mac[4], mac[5]),
            host => host.to_owned(),
        };
        if number > 1 {
            host = format!("{host}-{number}");
        }
        // Another cpud of the same machine has another port.
        let instance = match port {
            DEFAULT_PORT => format!("{host}-cpud"),
            port => format!("{host}-cpud-{port}"),
        };
        Self { host, instance }
    }

    /// All records. The first is the one that all machines have.
    pub(super) fn records(
        &self,
        port: u16,
        addresses: &[IpAddr],
        text: Vec<u8>,
    ) -> Vec<ResourceRecord> {
        let (instance, host) = (
            instance(self.instance.as_bytes()),
            DomainName::new([&self.host, "local"]),
        );
        let shared = |name, target| ResourceRecord {
            name,
            flush: false,
            ttl: OTHER_TTL,
            data: RecordData::Ptr(target),
        };
        let unique = |name: &DomainName, data| ResourceRecord {
            name: name.clone(),
            flush: true,
            ttl: HOST_TTL,
            data,
        };
        let target = host.clone();
        let mut records = vec![
            shared(all_services(), service()),
            shared(service(), instance.clone()),
            unique(&instance, RecordData::Srv { port, target }),
            unique(&instance, RecordData::Txt(text)),
        ];
        let data = addresses.iter().map(|ip| match *ip {
            IpAddr::V4(ip) => RecordData::A(ip),
            IpAddr::V6(ip) => RecordData::Aaaa(ip),
        });
        records.extend(data.take(MAX_ADDRESSES).map(|data| unique(&host, data)));
        records
    }
}

#[cfg(test)]
mod tests {
    use cpu_proto::dns::Message;

    use super::*;

    #[test]
    fn names_are_plain_and_differ() {
        let mac = [0x52, 0x54, 0, 0x12, 0x34, 0xab];
        let names = |name, port, number| {
            let names = MachineNames::new(name, mac, port, number);
            (names.host, names.instance)
        };
        let both = |host: &str, instance: &str| (host.to_owned(), instance.to_owned());
        assert_eq!(
            names(Some("board7.lab.example"), 17010, 1),
            both("board7", "board7-cpud")
        );
        assert_eq!(
            names(Some("board7"), 17010, 2),
            both("board7-2", "board7-2-cpud")
        );
        assert_eq!(
            names(Some("board7"), 22, 1),
            both("board7", "board7-cpud-22")
        );
        for none in [None, Some(""), Some("-.x")] {
            assert_eq!(names(none, 17010, 1), both("cpu-1234ab", "cpu-1234ab-cpud"));
        }
        assert_eq!(names(Some("a_b\x1bé"), 17010, 1).0, "a-b");
        assert!(names(Some(&"x".repeat(99)), 65535, u32::MAX).1.len() <= 63);
    }

    #[test]
    fn all_records_fit_into_a_packet() {
        let name = "x".repeat(99);
        let names = MachineNames::new(Some(&name), [0; 6], 65535, u32::MAX);
        let addresses = [IpAddr::from([0xfe; 16]); 40];
        let message = Message {
            is_response: true,
            answers: names.records(65535, &addresses, vec![0; 200]),
            ..Message::default()
        };
        // The headers of IPv6 and UDP are 48 bytes long.
        assert!(message.write().len() <= 1500 - 48);
        assert!(message.answers.len() > 4);
    }
}
