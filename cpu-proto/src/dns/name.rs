//! Domain names. A label is any bytes: the one of a service's instance may contain blanks and dots.

use std::fmt;

/// The most bytes of a label.
const MAX_LABEL: usize = 63;
/// The most bytes of a name, with the lengths of its labels.
const MAX_NAME: usize = 255;
/// The most pointers in a name: as many as labels fit into it. A longer chain would make each of its many readers slow.
const MAX_POINTERS: usize = 127;

/// A domain name. Letters of ASCII are equal to their capitals.
#[derive(Clone, Debug, Eq)]
pub struct DomainName(
    /// As in a message without compression: each label after its length, and a zero.
    Vec<u8>,
);

impl DomainName {
    /// A name of these labels. Of one that is too long the beginning is taken; labels without room are left out.
    pub fn new<L: AsRef<[u8]>>(labels: impl IntoIterator<Item = L>) -> Self {
        let mut wire = Vec::new();
        for label in labels {
            let label = label.as_ref();
            let label = &label[..label.len().min(MAX_LABEL)];
            if !label.is_empty() && wire.len() + label.len() + 2 <= MAX_NAME {
                wire.push(u8::try_from(label.len()).unwrap_or_default());
                wire.extend_from_slice(label);
            }
        }
        wire.push(0);
        Self(wire)
    }

    /// Its labels.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (&length, after) = rest.split_first()?;
            let (label, after) = after.split_at_checked(length.into())?;
            rest = after;
            Some(label).filter(|label| !label.is_empty())
        })
    }

    /// As in a message without compression.
    pub(super) fn wire(&self) -> &[u8] {
        &self.0
    }

    /// Reads the name that begins at `at`, and moves `at` behind it.
    pub(super) fn read(message: &[u8], at: &mut usize) -> Option<Self> {
        let mut wire = Vec::new();
        let (mut position, mut end) = (*at, None);
        let mut pointers = 0..MAX_POINTERS;
        // A pointer leads to what is before everything that has been read of this name, so there are no circles.
        let mut begin = position;
        loop {
            let length = usize::from(*message.get(position)?);
            match length {
                0 => {
                    wire.push(0);
                    *at = end.unwrap_or(position + 1);
                    return Some(Self(wire));
                }
                1..=MAX_LABEL => {
                    let label = message.get(position..=position + length)?;
                    if wire.len() + label.len() >= MAX_NAME {
                        return None;
                    }
                    wire.extend_from_slice(label);
                    position += label.len();
                }
                0xc0.. => {
                    pointers.next()?;
                    let low = usize::from(*message.get(position + 1)?);
                    end.get_or_insert(position + 2);
                    position = (length & 0x3f) << 8 | low;
                    if position >= begin {
                        return None;
                    }
                    begin = position;
                }
                _ => return None,
            }
        }
    }
}

impl PartialEq for DomainName {
    fn eq(&self, other: &Self) -> bool {
        // The lengths of labels are less than any letter.
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl fmt::Display for DomainName {
    /// The labels with dots between them, not to be read back. Not safe for a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (label, dot) in self
            .labels()
            .zip(std::iter::once("").chain(std::iter::repeat(".")))
        {
            write!(f, "{dot}{}", String::from_utf8_lossy(label))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_limits_and_no_capitals() {
        let name = DomainName::new(["Board 7.1", "_ncpu", "_tcp", "local"]);
        assert_eq!(name.to_string(), "Board 7.1._ncpu._tcp.local");
        assert_eq!(
            name,
            DomainName::new(["BOARD 7.1", "_NCPU", "_tcp", "LOCAL"])
        );
        assert_ne!(
            name,
            DomainName::new(["Board 7", "1", "_ncpu", "_tcp", "local"])
        );
        let long = DomainName::new([[b'x'; 70]; 5]);
        assert_eq!(long.labels().map(<[u8]>::len).collect::<Vec<_>>(), [63; 3]);
        assert_eq!(DomainName::new([""; 2]).wire(), [0]);
    }

    #[test]
    fn a_chain_of_pointers_has_an_end() {
        // Each pointer leads to the one before, and the first to a name.
        let mut message = b"\x01a\0\xc0\0".to_vec();
        while message.len() < 9000 {
            let before = u16::try_from(message.len() - 2).unwrap();
            message.extend((0xc000 | before).to_be_bytes());
        }
        let read = |pointers| DomainName::read(&message, &mut (1 + 2 * pointers));
        assert_eq!(read(MAX_POINTERS), Some(DomainName::new(["a"])));
        assert_eq!(read(MAX_POINTERS + 1), None);
        assert_eq!(read(4499), None);
    }

    #[test]
    fn pointers_lead_backwards() {
        //            0         6       13
        let message = b"\x05local\0\x04host\xc0\0\xc0\x07";
        let read = |mut at| DomainName::read(message, &mut at).map(|name| (name.to_string(), at));
        assert_eq!(read(7), Some(("host.local".into(), 14)));
        assert_eq!(read(14), Some(("host.local".into(), 16)));
        for circle in [
            &b"\xc0\0"[..],
            b"\x01a\xc0\0",
            b"\xc0\x02\xc0\0",
            b"\xc0",
            b"\x80x",
            b"\x05ab",
        ] {
            assert_eq!(DomainName::read(circle, &mut 0), None, "{circle:?}");
        }
        // Labels that pointers put together are counted.
        let mut message = vec![63; 64];
        message.push(0);
        let mut begins = vec![0];
        for _ in 0..3 {
            let before = u8::try_from(begins[begins.len() - 1]).unwrap();
            begins.push(message.len());
            message.extend([63; 64]);
            message.extend([0xc0, before]);
        }
        let labels = begins.into_iter().map(|mut begin| {
            let name = DomainName::read(&message, &mut begin);
            name.map_or(0, |name| name.labels().count())
        });
        assert_eq!(labels.collect::<Vec<_>>(), [1, 2, 3, 0]);
    }
}
