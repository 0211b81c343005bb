//! How messages are written and read.

use super::{DomainName, Message, Question, RecordData, ResourceRecord, kind};

/// The class of everything.
const INTERNET: u16 = 1;
/// In a question: any class.
const ANY_CLASS: u16 = 255;
/// The highest bit of a class: in a question, whether a unicast response is wanted; in a record, [`ResourceRecord::flush`].
const TOP_BIT: u16 = 0x8000;
/// The flags of a response: QR, AA.
const RESPONSE: u16 = 0x8400;
/// The flags that make it neither a query nor a response: those of another operation, and errors.
const NEITHER: u16 = 0x780f;

impl Message {
    /// Reads a message. `None` if it is none, or damaged; what it has of other types and classes is left out.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = MessageReader { bytes, at: 0 };
        let (id, flags) = (reader.number()?, reader.number()?);
        if flags & NEITHER != 0 {
            return None;
        }
        let counts = [(); 4].map(|()| reader.number());
        let [questions, answers, authorities, additionals] = counts;
        let mut message = Self {
            id,
            is_response: flags & TOP_BIT != 0,
            ..Self::default()
        };
        // The counts are not trusted: each item takes bytes, of which there are few.
        for _ in 0..questions? {
            reader.question(&mut message.questions)?;
        }
        for (count, records) in [
            (answers?, &mut message.answers),
            (authorities?, &mut message.authorities),
            (additionals?, &mut message.additionals),
        ] {
            for _ in 0..count {
                reader.record(records)?;
            }
        }
        Some(message)
    }

    /// Writes the message.
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut number = |number: u16| bytes.extend(number.to_be_bytes());
        number(self.id);
        number(if self.is_response { RESPONSE } else { 0 });
        let records = [&self.answers, &self.authorities, &self.additionals];
        number(count(self.questions.len()));
        for records in records {
            number(count(records.len()));
        }
        for question in &self.questions {
            bytes.extend_from_slice(question.name.wire());
            bytes.extend(question.kind.to_be_bytes());
            let class = INTERNET | if question.unicast { TOP_BIT } else { 0 };
            bytes.extend(class.to_be_bytes());
        }
        for record in records.into_iter().flatten() {
            bytes.extend_from_slice(record.name.wire());
            bytes.extend(record.data.kind().to_be_bytes());
            let class = INTERNET | if record.flush { TOP_BIT } else { 0 };
            bytes.extend(class.to_be_bytes());
            bytes.extend(record.ttl.to_be_bytes());
            let data = record.data.wire();
            bytes.extend(count(data.len()).to_be_bytes());
            bytes.extend(data);
        }
        bytes
    }
}

/// What cpu and cpud write has no more than this.
fn count(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

impl RecordData {
    /// The value as bytes, by which values are also compared (RFC 6762, 8.2).
    pub fn wire(&self) -> Vec<u8> {
        match self {
            Self::A(ip) => ip.octets().to_vec(),
            Self::Aaaa(ip) => ip.octets().to_vec(),
            Self::Ptr(name) => name.wire().to_vec(),
            Self::Txt(text) => text.clone(),
            Self::Srv { port, target } => {
                [&[0; 4], &port.to_be_bytes()[..], target.wire()].concat()
            }
        }
    }
}

struct MessageReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> MessageReader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..)?.get(..length)?;
        self.at += length;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    /// Reads a question, and adds it unless it is of another class.
    fn question(&mut self, questions: &mut Vec<Question>) -> Option<()> {
        let name = DomainName::read(self.bytes, &mut self.at)?;
        let (kind, class) = (self.number()?, self.number()?);
        if [INTERNET, ANY_CLASS].contains(&(class & !TOP_BIT)) {
            questions.push(Question {
                name,
                kind,
                unicast: class & TOP_BIT != 0,
            });
        }
        Some(())
    }

    /// Reads a record, and adds it unless it is of another class or type.
    fn record(&mut self, records: &mut Vec<ResourceRecord>) -> Option<()> {
        let name = DomainName::read(self.bytes, &mut self.at)?;
        let (kind, class) = (self.number()?, self.number()?);
        let ttl = u32::from_be_bytes(self.take(4)?.try_into().ok()?);
        let length = usize::from(self.number()?);
        let begin = self.at;
        let value = self.take(length)?;
        if class & !TOP_BIT != INTERNET {
            return Some(());
        }
        // A name in a value may have pointers, but must end where the value does.
        let name_at = |mut at| {
            let name = DomainName::read(self.bytes, &mut at)?;
            (at == begin + length).then_some(name)
        };
        let data = match kind {
            kind::A => RecordData::A(<[u8; 4]>::try_from(value).ok()?.into()),
            kind::AAAA => RecordData::Aaaa(<[u8; 16]>::try_from(value).ok()?.into()),
            kind::PTR => RecordData::Ptr(name_at(begin)?),
            kind::TXT => RecordData::Txt(value.to_vec()),
            kind::SRV => RecordData::Srv {
                port: u16::from_be_bytes(value.get(4..6)?.try_into().ok()?),
                target: name_at(begin + 6)?,
            },
            _ => return Some(()),
        };
        records.push(ResourceRecord {
            name,
            flush: class & TOP_BIT != 0,
            ttl,
            data,
        });
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name() -> impl Strategy<Value = DomainName> {
        prop::collection::vec(prop::collection::vec(any::<u8>(), 1..70), 0..6)
            .prop_map(DomainName::new)
    }

    fn record() -> impl Strategy<Value = ResourceRecord> {
        let data = prop_oneof![
            any::<[u8; 4]>().prop_map(|ip| RecordData::A(ip.into())),
            any::<[u8; 16]>().prop_map(|ip| RecordData::Aaaa(ip.into())),
            name().prop_map(RecordData::Ptr),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(RecordData::Txt),
            (any::<u16>(), name()).prop_map(|(port, target)| RecordData::Srv { port, target }),
        ];
        (name(), any::<bool>(), any::<u32>(), data).prop_map(|(name, flush, ttl, data)| {
            ResourceRecord {
                name,
                flush,
                ttl,
                data,
            }
        })
    }

    fn message() -> impl Strategy<Value = Message> {
        let question =
            (name(), any::<u16>(), any::<bool>()).prop_map(|(name, kind, unicast)| Question {
                name,
                kind,
                unicast,
            });
        let records = || prop::collection::vec(record(), 0..4);
        let questions = prop::collection::vec(question, 0..4);
        let head = (any::<u16>(), any::<bool>());
        (head, questions, records(), records(), records()).prop_map(
            |((id, is_response), questions, answers, authorities, additionals)| Message {
                id,
                is_response,
                questions,
                answers,
                authorities,
                additionals,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(message in message()) {
            prop_assert_eq!(Message::read(&message.write()), Some(message));
        }

        #[test]
        fn a_message_that_is_cut_is_none(message in message(), cut: prop::sample::Index) {
            let bytes = message.write();
            prop_assert_eq!(Message::read(&bytes[..cut.index(bytes.len())]), None);
        }

        #[test]
        fn any_bytes_are_survived(
            mut bytes in prop::collection::vec(any::<u8>(), 0..600),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            message in message(),
        ) {
            let _ = Message::read(&bytes);
            if let Some(flags) = bytes.get_mut(2..4) {
                flags.fill(0);
            }
            let _ = Message::read(&bytes);
            let mut bytes = message.write();
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some(message) = Message::read(&bytes) {
                // Without compression a name is up to 255 bytes long.
                prop_assert!(message.write().len() <= 256 * (bytes.len() + 1));
            }
        }
    }

    #[test]
    fn what_others_write_is_read() {
        // An answer as avahi sends it: names are compressed, and there is an NSEC record.
        let mut bytes = b"\0\0\x84\0\0\0\0\x02\0\0\0\x01".to_vec();
        bytes.extend(b"\x05_ncpu\x04_tcp\x05local\0\0\x0c\0\x01\0\0\x11\x94\0\x04\x01b\xc0\x0c");
        bytes.extend(b"\xc0\x28\0\x21\x80\x01\0\0\0\x78\0\x0a\0\0\0\0\x42\x72\x01h\xc0\x17");
        bytes.extend(b"\xc0\x28\0\x2f\x80\x01\0\0\0\x78\0\x03\xc0\x0c\0");
        let message = Message::read(&bytes).unwrap();
        assert!(message.is_response && message.additionals.is_empty());
        let told: Vec<_> = message
            .answers
            .iter()
            .map(|record| (record.name.to_string(), record.data.clone()))
            .collect();
        let instance = DomainName::new(["b", "_ncpu", "_tcp", "local"]);
        let srv = RecordData::Srv {
            port: 17010,
            target: DomainName::new(["h", "local"]),
        };
        assert_eq!(
            told,
            [
                ("_ncpu._tcp.local".into(), RecordData::Ptr(instance)),
                ("b._ncpu._tcp.local".into(), srv)
            ]
        );
    }

    #[test]
    fn many_items_that_are_not_there_cost_nothing() {
        assert_eq!(
            Message::read(b"\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"),
            None
        );
        // A name server's update, and an error.
        assert_eq!(Message::read(b"\0\0\x28\0\0\0\0\0\0\0\0\0"), None);
        assert_eq!(Message::read(b"\0\0\x84\x03\0\0\0\0\0\0\0\0"), None);
    }
}
