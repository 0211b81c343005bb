//! Files of a volume: a header with two checksums, and sections or other content.

use uuid::Uuid;

use super::section::{NOT_AS_READ, Sections, first_difference};
use crate::rom::checksum::checksum8;
use crate::rom::error::Error;
use crate::rom::names;
use crate::rom::reader::{Reader, View};

/// Bytes before what a file contains, and those of a file with a size of 64 bits.
pub(in crate::rom) const HEADER: usize = 24;
const LARGE_HEADER: usize = 32;
/// The most bytes with the short one.
const LARGEST: usize = 0xff_fffe;
/// Attributes of a file (FFS_ATTRIB_*): size of 64 bits, must not move, has a checksum.
const LARGE: u8 = 0x01;
const FIXED: u8 = 0x04;
const CHECKSUM: u8 = 0x40;
/// The checksum of a file that has none.
const NO_CHECKSUM: u8 = 0xaa;
/// The state of a file that is whole, where erased bits are zeros.
const WHOLE: u8 = 0x07;

/// The type of files with data.
pub(in crate::rom) const FREEFORM: u8 = 0x02;
/// The type of the file that starts drivers (EFI_FV_FILETYPE_DXE_CORE).
pub(in crate::rom) const DXE_CORE: u8 = 0x05;
/// The type of files that fill gaps (EFI_FV_FILETYPE_FFS_PAD).
pub(in crate::rom) const PAD: u8 = 0xf0;

/// A file of a volume.
#[derive(Debug, Clone)]
pub(in crate::rom) struct FirmwareFile {
    /// From the beginning of the volume.
    pub(in crate::rom) offset: usize,
    pub(in crate::rom) name: Uuid,
    pub(in crate::rom) kind: u8,
    attributes: u8,
    state: u8,
    /// The content, if it is none of sections.
    pub(in crate::rom) raw: Vec<u8>,
    pub(in crate::rom) sections: Option<Sections>,
}

impl FirmwareFile {
    /// The file at an offset, and how long it is.
    pub(in crate::rom) fn parse(
        view: View<'_>,
        at: usize,
        erased: u8,
        large_files: bool,
        reader: &mut Reader,
    ) -> Result<(Self, usize), Error> {
        const SHORT: &str = "the header of a file is truncated";
        let name = view.guid(at, SHORT)?;
        let byte = |offset| {
            view.number(at + offset, 1, SHORT)
                .map(|byte| byte.to_le_bytes()[0])
        };
        let (kind, attributes, state) = (byte(18)?, byte(19)?, byte(23)?);
        let is_large = attributes & LARGE != 0;
        if is_large && !large_files {
            let what = "a large file in a volume of format FFS2";
            return Err(Error::Format(what, view.at(at)));
        }
        let header = if is_large { LARGE_HEADER } else { HEADER };
        let size = if is_large {
            view.number(at + HEADER, 8, SHORT)?
        } else {
            view.number(at + 20, 3, SHORT)?
        };
        let room = view.len() - at;
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        if length > room {
            return Err(Error::Truncated {
                what: "a file",
                length: size,
                room,
                at: view.at(at),
            });
        }
        if length < header {
            let what = "a file that is smaller than its own header";
            return Err(Error::Format(what, view.at(at)));
        }
        if state ^ erased != WHOLE {
            let what = "a file that was not written completely, or was deleted";
            return Err(Error::Format(what, view.at(at + 23)));
        }
        let whole = view.slice(at, at + length);
        if header_checksum(&whole.bytes[..header]) != whole.bytes[16] {
            let what = "the checksum of a file's header is wrong";
            return Err(Error::Format(what, whole.at(16)));
        }
        let content = whole.slice(header, length);
        if body_checksum(attributes, content.bytes) != whole.bytes[17] {
            return Err(Error::Format(
                "the checksum of a file is wrong",
                whole.at(17),
            ));
        }
        let mut file = Self {
            offset: at,
            name,
            kind,
            attributes,
            state,
            raw: Vec::new(),
            sections: None,
        };
        // The types of files that consist of sections.
        match kind {
            // Some vendors' have content of another form.
            FREEFORM => file.sections = Sections::parse(content, reader).ok(),
            0x03..=0x0f => file.sections = Some(Sections::parse(content, reader)?),
            _ => {}
        }
        if file.sections.is_none() {
            file.raw = content.bytes.to_vec();
        }
        Ok((file, length))
    }

    /// A file by itself, as tools extract it from a volume or make it for one.
    pub(in crate::rom) fn parse_alone(bytes: &[u8]) -> Result<Self, Error> {
        let view = View::image(bytes);
        // The state is that of the volume that it was in, or what edk2's GenFfs writes, zeros being erased.
        let erased = match bytes.get(23) {
            Some(state) if *state ^ WHOLE == 0xff => 0xff,
            _ => 0,
        };
        let mut reader = Reader::new(bytes.len());
        let (file, length) = Self::parse(view, 0, erased, true, &mut reader)?;
        if length < bytes.len() {
            let what = "more bytes than the file has";
            return Err(Error::Format(what, view.at(length)));
        }
        let mut written = Vec::new();
        file.write(&mut written);
        match first_difference(&written, bytes) {
            Some(offset) => Err(Error::Format(NOT_AS_READ, view.at(offset))),
            None => Ok(file),
        }
    }

    /// For a volume with such erased bytes, which has not placed it yet.
    pub(in crate::rom) fn unplaced(mut self, erased: u8) -> Self {
        self.offset = 0;
        self.state = WHOLE ^ erased;
        self
    }

    /// A file that fills a gap of so many bytes.
    pub(in crate::rom) fn pad(offset: usize, length: usize, erased: u8) -> Self {
        Self {
            offset,
            name: Uuid::from_bytes([0xff; 16]),
            kind: PAD,
            attributes: 0,
            state: WHOLE ^ erased,
            raw: vec![erased; length.saturating_sub(HEADER)],
            sections: None,
        }
    }

    pub(in crate::rom) fn write(&self, to: &mut Vec<u8>) {
        let begin = to.len();
        to.resize(begin + self.header_length(), 0);
        to.extend(&self.raw);
        if let Some(sections) = &self.sections {
            sections.write(to);
        }
        let length = to.len() - begin;
        let content = begin + self.header_length();
        let file = &mut to[begin..];
        file[..16].copy_from_slice(&self.name.to_bytes_le());
        file[18] = self.kind;
        file[19] = self.attributes;
        if self.is_large() {
            file[HEADER..LARGE_HEADER].copy_from_slice(&(length as u64).to_le_bytes());
        } else {
            file[20..23].copy_from_slice(&length.to_le_bytes()[..3]);
        }
        file[23] = self.state;
        file[17] = body_checksum(self.attributes, &file[content - begin..]);
        file[16] = header_checksum(&file[..content - begin]);
    }

    /// Give it the long header if its size takes that, or say by how many bytes it is too long if there must be none.
    pub(in crate::rom) fn fit_size(&mut self, large_files: bool) -> Result<(), usize> {
        if !large_files {
            self.attributes &= !LARGE;
        }
        match self.length().saturating_sub(LARGEST) {
            0 => {}
            _ if large_files => self.attributes |= LARGE,
            more => return Err(more),
        }
        Ok(())
    }

    fn is_large(&self) -> bool {
        self.attributes & LARGE != 0
    }

    /// Bytes before the content.
    pub(in crate::rom) fn header_length(&self) -> usize {
        if self.is_large() {
            LARGE_HEADER
        } else {
            HEADER
        }
    }

    /// All bytes, header included.
    pub(in crate::rom) fn length(&self) -> usize {
        let sections = self.sections.as_ref();
        let content = sections.map_or(self.raw.len(), Sections::length);
        self.header_length() + content
    }

    /// The content, as it is in the image.
    pub(in crate::rom) fn content(&self) -> Vec<u8> {
        match &self.sections {
            Some(sections) => sections.to_bytes(),
            None => self.raw.clone(),
        }
    }

    /// Of what the offset of its content in the volume must be a multiple (FFS_ATTRIB_DATA_ALIGNMENT).
    pub(in crate::rom) fn alignment(&self) -> usize {
        let exponent: u32 = match (self.attributes >> 3 & 7, self.attributes & 0x02 != 0) {
            (0, false) => 0,
            (1, false) => 4,
            (2, false) => 7,
            (step @ 3..=4, false) => u32::from(step) + 6,
            (5, false) => 12,
            (step, false) => u32::from(step) + 9,
            (step, true) => u32::from(step) + 17,
        };
        1 << exponent
    }

    /// Whether it must stay where it is.
    pub(in crate::rom) fn is_fixed(&self) -> bool {
        self.attributes & FIXED != 0 && self.offset != 0
    }

    /// Whether it only fills a gap: some vendors keep data in pads.
    pub(in crate::rom) fn is_gap(&self, erased: u8) -> bool {
        self.kind == PAD && self.raw.iter().all(|byte| *byte == erased)
    }

    /// What people know it by.
    pub(in crate::rom) fn title(&self) -> String {
        let known = || names::of(self.name).map(str::to_owned);
        let name = self.user_interface().or_else(known);
        name.unwrap_or_else(|| self.name.to_string())
    }

    /// By the section with its name.
    pub(in crate::rom) fn user_interface(&self) -> Option<String> {
        self.sections.as_ref()?.user_interface()
    }
}

/// Of the header without state and checksum of the content.
fn header_checksum(header: &[u8]) -> u8 {
    let counted = [&header[..16], &header[18..23], &header[HEADER..]].concat();
    checksum8(&counted)
}

fn body_checksum(attributes: u8, content: &[u8]) -> u8 {
    if attributes & CHECKSUM == 0 {
        NO_CHECKSUM
    } else {
        checksum8(content)
    }
}

#[cfg(test)]
pub(in crate::rom) mod testing {
    use super::*;

    pub(crate) fn file(name: u8, kind: u8, sections: Sections) -> FirmwareFile {
        FirmwareFile {
            offset: 0,
            name: Uuid::from_bytes([name; 16]),
            kind,
            attributes: 0,
            state: WHOLE ^ 0xff,
            raw: Vec::new(),
            sections: Some(sections),
        }
    }

    pub(crate) fn with_attributes(file: FirmwareFile, attributes: u8) -> FirmwareFile {
        FirmwareFile { attributes, ..file }
    }
}
