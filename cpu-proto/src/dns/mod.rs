//! Messages of multicast DNS (RFC 1035, 4; RFC 6762, 18): those that service discovery needs. Whatever else is in a message is
//! left out when it is read. Nothing is compressed when it is written: a cpud's largest message fits into a packet.

mod name;
mod wire;

use std::net::{Ipv4Addr, Ipv6Addr};

pub use name::DomainName;

/// The UDP port.
pub const PORT: u16 = 5353;
/// The group of everybody who answers, for IPv4.
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
/// The same for IPv6; it is one group on each link.
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
/// The largest message (RFC 6762, 17).
pub const MAX_MESSAGE: usize = 9000;

/// Types of records.
pub mod kind {
    /// The IPv4 address of a host.
    pub const A: u16 = 1;
    /// A name; here, of something that a service has.
    pub const PTR: u16 = 12;
    /// Text; here, keys and values.
    pub const TXT: u16 = 16;
    /// The IPv6 address of a host.
    pub const AAAA: u16 = 28;
    /// The host and port of a service.
    pub const SRV: u16 = 33;
    /// In a question: any of them.
    pub const ANY: u16 = 255;
}

/// A query or a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Zero, but in a query that is not from the port of multicast DNS, and in the response to it.
    pub id: u16,
    /// A response, not a query.
    pub is_response: bool,
    /// What is asked.
    pub questions: Vec<Question>,
    /// Answers; in a query, those that the asker knows.
    pub answers: Vec<ResourceRecord>,
    /// In a query, the records that the asker is about to use.
    pub authorities: Vec<ResourceRecord>,
    /// Records that the asker will ask for next.
    pub additionals: Vec<ResourceRecord>,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Of which name.
    pub name: DomainName,
    /// The type of record, or [`kind::ANY`].
    pub kind: u16,
    /// The answer should go to the asker alone.
    pub unicast: bool,
}

/// A resource record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceRecord {
    /// Whose it is.
    pub name: DomainName,
    /// Earlier records of this name and type are no longer valid.
    pub flush: bool,
    /// For how many seconds it is valid. Zero: no longer.
    pub ttl: u32,
    /// Its type and value.
    pub data: RecordData,
}

/// The value of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordData {
    /// See [`kind::A`].
    A(Ipv4Addr),
    /// See [`kind::PTR`].
    Ptr(DomainName),
    /// See [`kind::TXT`]: strings, each after its length.
    Txt(Vec<u8>),
    /// See [`kind::AAAA`].
    Aaaa(Ipv6Addr),
    /// See [`kind::SRV`]. Priority and weight, which a service of one machine does not have, are left out.
    Srv {
        /// TCP port, here.
        port: u16,
        /// The host.
        target: DomainName,
    },
}

impl Question {
    /// Whether a record answers it.
    pub fn is_answered_by(&self, record: &ResourceRecord) -> bool {
        [kind::ANY, record.data.kind()].contains(&self.kind) && self.name == record.name
    }
}

impl RecordData {
    /// The type of record.
    pub fn kind(&self) -> u16 {
        match self {
            Self::A(_) => kind::A,
            Self::Ptr(_) => kind::PTR,
            Self::Txt(_) => kind::TXT,
            Self::Aaaa(_) => kind::AAAA,
            Self::Srv { .. } => kind::SRV,
        }
    }
}
