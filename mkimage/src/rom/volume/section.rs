//! Sections of files: leaves, and those that contain more sections or a volume, compressed or not.

#[cfg(test)]
pub(in crate::rom) mod testing;

use cpu_proto::printable;
use uuid::{Uuid, uuid};

use super::FirmwareVolume;
use crate::rom::codec::Codec;
use crate::rom::error::Error;
use crate::rom::reader::{Reader, View};

/// Types of sections (EFI_SECTION_*) that are looked into.
pub(in crate::rom) const COMPRESSION: u8 = 0x01;
pub(in crate::rom) const GUID_DEFINED: u8 = 0x02;
const DISPOSABLE: u8 = 0x03;
pub(in crate::rom) const PE32: u8 = 0x10;
pub(in crate::rom) const TE: u8 = 0x12;
pub(in crate::rom) const USER_INTERFACE: u8 = 0x15;
pub(in crate::rom) const VOLUME_IMAGE: u8 = 0x17;

/// Types of compression in a section of the type COMPRESSION (EFI_NOT_COMPRESSED, EFI_STANDARD_COMPRESSION).
const NOT_COMPRESSED: u8 = 0;
const STANDARD: u8 = 1;

/// A GUID-defined section of plain sections after their CRC32.
const CRC32: Uuid = uuid!("fc1bcdb0-7d31-49aa-936a-a4600d9dd083");

/// Bytes before what a section contains: size and type.
const HEADER: usize = 4;
/// The same with a size of 32 bits, for what does not fit into 24.
const EXTENDED_HEADER: usize = 8;
/// The size that says that there is one of 32 bits.
const EXTENDED: usize = 0xff_ffff;

/// Sections one after the other, each beginning at a multiple of four.
#[derive(Debug, Clone)]
pub(in crate::rom) struct Sections {
    pub(in crate::rom) list: Vec<Section>,
    /// Between sections.
    fill: u8,
    /// After the last one.
    tail: Vec<u8>,
}

/// One section.
#[derive(Debug, Clone)]
pub(in crate::rom) struct Section {
    pub(in crate::rom) kind: u8,
    extended: bool,
    /// What is between the common header and the content.
    pub(in crate::rom) header: Vec<u8>,
    pub(in crate::rom) content: Content,
}

/// What a section contains.
#[derive(Debug, Clone)]
pub(in crate::rom) enum Content {
    /// A leaf, or what is not looked into.
    Bytes(Vec<u8>),
    Volume(Box<FirmwareVolume>),
    Sections(Sections),
    Packed(Box<Packed>),
}

/// Compressed sections.
#[derive(Debug, Clone)]
pub(in crate::rom) struct Packed {
    pub(in crate::rom) codec: Codec,
    /// As it is in the image.
    pub(in crate::rom) bytes: Vec<u8>,
    /// As [`Self::bytes`] unpacks to.
    pub(in crate::rom) sections: Sections,
}

impl Sections {
    /// Read them, to the end of the view.
    pub(in crate::rom) fn parse(view: View<'_>, reader: &mut Reader) -> Result<Self, Error> {
        let mut list = Vec::new();
        let mut fill = 0;
        let mut at = 0;
        let mut end = 0;
        while at + HEADER <= view.len() {
            reader.count(view.at(at))?;
            if at > end {
                fill = view.bytes[end];
            }
            let (section, length) = Section::parse(view, at, reader)?;
            list.push(section);
            end = at + length;
            at = end.next_multiple_of(4);
        }
        Ok(Self {
            list,
            fill,
            tail: view.bytes[end..].to_vec(),
        })
    }

    /// Append them to what begins at a multiple of four.
    pub(in crate::rom) fn write(&self, to: &mut Vec<u8>) {
        let start = to.len();
        for section in &self.list {
            let length = to.len() - start;
            to.resize(start + length.next_multiple_of(4), self.fill);
            section.write(to);
        }
        to.extend(&self.tail);
    }

    /// These bytes and no more.
    pub(in crate::rom) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.length());
        self.write(&mut bytes);
        bytes
    }

    /// How many bytes they are.
    pub(in crate::rom) fn length(&self) -> usize {
        let sections = self.list.iter().fold(0_usize, |length, section| {
            length.next_multiple_of(4) + section.length()
        });
        sections + self.tail.len()
    }

    /// The name that people know the file by.
    pub(in crate::rom) fn user_interface(&self) -> Option<String> {
        self.list
            .iter()
            .find_map(|section| match (&section.content, section.kind) {
                (Content::Bytes(bytes), USER_INTERFACE) => Some(utf16(bytes)),
                (Content::Sections(inner), _) => inner.user_interface(),
                (Content::Packed(packed), _) => packed.sections.user_interface(),
                _ => None,
            })
    }
}

/// Text for people.
fn utf16(bytes: &[u8]) -> String {
    let units = bytes
        .chunks_exact(2)
        .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
        .take_while(|unit| *unit != 0)
        .take(256);
    let text: String = char::decode_utf16(units)
        .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    printable(&text)
}

impl Section {
    /// The section at an offset, and how long it is.
    fn parse(view: View<'_>, at: usize, reader: &mut Reader) -> Result<(Self, usize), Error> {
        const SHORT: &str = "the header of a section is truncated";
        let mut size = view.number(at, 3, SHORT)?;
        let kind = view.number(at + 3, 1, SHORT)?.to_le_bytes()[0];
        let extended = size == EXTENDED as u64;
        let mut start = HEADER;
        if extended {
            size = view.number(at + HEADER, 4, SHORT)?;
            start = EXTENDED_HEADER;
        }
        let room = view.len() - at;
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        if length > room {
            return Err(Error::Truncated {
                what: "a section",
                length: size,
                room,
                at: view.at(at),
            });
        }
        if length < start {
            let what = "a section that is smaller than its own header";
            return Err(Error::Format(what, view.at(at)));
        }
        let whole = view.slice(at, at + length);
        let (header, content) = reader.inside(view.at(at), |reader| {
            Self::content(kind, whole, start, reader)
        })?;
        let section = Self {
            kind,
            extended,
            header: whole.bytes[start..header].to_vec(),
            content,
        };
        Ok((section, length))
    }

    /// Where what the whole section contains begins, and what it is.
    fn content(
        kind: u8,
        whole: View<'_>,
        start: usize,
        reader: &mut Reader,
    ) -> Result<(usize, Content), Error> {
        const SHORT: &str = "the header of a section is truncated";
        let rest = |from| whole.slice(from, whole.len());
        let leaf = |from| (from, Content::Bytes(rest(from).bytes.to_vec()));
        match kind {
            DISPOSABLE => Ok((
                start,
                Content::Sections(Sections::parse(rest(start), reader)?),
            )),
            VOLUME_IMAGE => {
                let volume = FirmwareVolume::parse(rest(start), reader)?;
                Ok(match volume {
                    Some(volume) => (start, Content::Volume(Box::new(volume))),
                    None => leaf(start),
                })
            }
            COMPRESSION => {
                let size = whole.number(start, 4, SHORT)?;
                let from = start + 5;
                let by = whole.number(start + 4, 1, SHORT)?;
                if by == u64::from(NOT_COMPRESSED) && size == (whole.len() - from) as u64 {
                    let content = Sections::parse(rest(from), reader)?;
                    return Ok((from, Content::Sections(content)));
                }
                if by == u64::from(STANDARD) {
                    // What one window reads may be meant for the other, and be no sections.
                    for codec in [Codec::Standard, Codec::Tiano] {
                        if let Ok(packed) = Packed::parse(codec, rest(from), reader)
                            && packed.sections.length() as u64 == size
                        {
                            return Ok((from, Content::Packed(Box::new(packed))));
                        }
                    }
                }
                Ok(leaf(start))
            }
            GUID_DEFINED => {
                let guid = whole.guid(start, SHORT)?;
                let from = usize::try_from(whole.number(start + 16, 2, SHORT)?).unwrap_or(0);
                whole.number(start + 18, 2, SHORT)?;
                if from < start + 20 || from > whole.len() {
                    let what = "a section whose content is said to be outside of it";
                    return Err(Error::Format(what, whole.at(0)));
                }
                if guid == CRC32 && from == start + 24 {
                    let content = Sections::parse(rest(from), reader)?;
                    if whole.number(start + 20, 4, SHORT)? != u64::from(crc32(rest(from).bytes)) {
                        return Err(Error::Format(
                            "the CRC32 of a section is wrong",
                            whole.at(0),
                        ));
                    }
                    return Ok((from, Content::Sections(content)));
                }
                let Some(codec) = Codec::of(guid) else {
                    return Ok(leaf(from));
                };
                match Packed::parse(codec, rest(from), reader) {
                    Ok(packed) => Ok((from, Content::Packed(Box::new(packed)))),
                    // It stays as it is in any case.
                    Err(_) if codec.is_only_read() => Ok(leaf(from)),
                    Err(error) => Err(error),
                }
            }
            _ => Ok(leaf(start)),
        }
    }

    /// How many bytes it is, and whether its size takes 32 bits.
    fn size(&self) -> (usize, bool) {
        let length = HEADER + self.header.len() + self.content.length();
        if self.extended || length >= EXTENDED {
            (length + EXTENDED_HEADER - HEADER, true)
        } else {
            (length, false)
        }
    }

    fn length(&self) -> usize {
        self.size().0
    }

    fn write(&self, to: &mut Vec<u8>) {
        let (length, extended) = self.size();
        let size = if extended { EXTENDED } else { length };
        to.extend(size.to_le_bytes()[..3].iter().chain([&self.kind]));
        if extended {
            // More than 4 GiB cannot be read.
            to.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        }
        let header = to.len();
        to.extend(&self.header);
        let start = to.len();
        self.content.write(to);
        if let Content::Sections(_) = self.content {
            // The two that say something about what they contain.
            if self.kind == COMPRESSION && self.header.len() == 5 {
                let size = u32::try_from(to.len() - start).unwrap_or(u32::MAX);
                to[header..header + 4].copy_from_slice(&size.to_le_bytes());
            } else if self.kind == GUID_DEFINED && self.header.len() == 24 {
                let sum = crc32(&to[start..]);
                to[header + 20..start].copy_from_slice(&sum.to_le_bytes());
            }
        }
    }

    /// Compress what its sections are now; nothing to do without compression. What is only read becomes a section that says
    /// that it is not compressed, if it is of the type that can.
    pub(in crate::rom) fn pack(&mut self) -> Result<(), Error> {
        let Content::Packed(packed) = &mut self.content else {
            return Ok(());
        };
        if !packed.codec.is_only_read() {
            let bytes = packed.sections.to_bytes();
            packed.bytes = packed
                .codec
                .pack(&bytes, &packed.bytes)
                .map_err(Error::Pack)?;
        } else if let (COMPRESSION, [_, _, _, _, by]) = (self.kind, &mut self.header[..]) {
            *by = NOT_COMPRESSED;
            self.content = Content::Sections(packed.sections.clone());
        } else {
            return Err(Error::OnlyRead(packed.codec.name()));
        }
        Ok(())
    }

    /// What kind it is, for people.
    pub(in crate::rom) fn name(&self) -> &'static str {
        match self.kind {
            COMPRESSION if matches!(self.content, Content::Sections(_)) => "not compressed",
            COMPRESSION | GUID_DEFINED => match &self.content {
                Content::Packed(packed) => packed.codec.name(),
                _ if self.kind == COMPRESSION => "compressed (not looked into)",
                Content::Sections(_) => "CRC32",
                _ => "GUID-defined (not looked into)",
            },
            DISPOSABLE => "disposable",
            PE32 => "PE32",
            0x11 => "position-independent code",
            TE => "TE",
            0x13 | 0x1b | 0x1c => "dependencies",
            0x14 => "version",
            USER_INTERFACE => "name",
            0x16 => "16-bit program",
            VOLUME_IMAGE => "volume",
            0x18 => "GUID and data",
            0x19 => "data",
            _ => "section",
        }
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut sum = flate2::Crc::new();
    sum.update(bytes);
    sum.sum()
}

impl Content {
    fn length(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Packed(packed) => packed.bytes.len(),
            Self::Sections(sections) => sections.length(),
            Self::Volume(volume) => volume.length(),
        }
    }

    /// As it is in the image.
    fn write(&self, to: &mut Vec<u8>) {
        match self {
            Self::Bytes(bytes) => to.extend(bytes),
            Self::Packed(packed) => to.extend(&packed.bytes),
            Self::Sections(sections) => sections.write(to),
            Self::Volume(volume) => volume.write(to),
        }
    }
}

impl Packed {
    fn parse(codec: Codec, view: View<'_>, reader: &mut Reader) -> Result<Self, Error> {
        let at = view.at(0);
        let bytes = reader.unpack(at, |limit| codec.unpack(view.bytes, limit))?;
        let inner = View::unpacked(&bytes, at);
        let sections = Sections::parse(inner, reader)?;
        if let Some(offset) = first_difference(&sections.to_bytes(), &bytes) {
            return Err(Error::Format(NOT_AS_READ, inner.at(offset)));
        }
        Ok(Self {
            codec,
            bytes: view.bytes.to_vec(),
            sections,
        })
    }
}

/// What has a peculiarity that would be lost when it is written.
pub(in crate::rom) const NOT_AS_READ: &str =
    "it is not as the specification says, and would change by being written";

/// Where two byte strings differ.
pub(in crate::rom) fn first_difference(left: &[u8], right: &[u8]) -> Option<usize> {
    if left == right {
        return None;
    }
    let same = left.iter().zip(right).take_while(|(a, b)| a == b).count();
    Some(same)
}
