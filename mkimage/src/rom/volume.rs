//! Firmware volumes, in the formats FFS2 and FFS3.

pub(super) mod file;
pub(super) mod section;

use uuid::{Uuid, uuid};

use self::file::FirmwareFile;
use self::section::{NOT_AS_READ, first_difference};
use super::checksum::checksum16;
use super::error::Error;
use super::reader::{Reader, View};

/// Formats of a volume's files.
const FFS2: Uuid = uuid!("8c8ce578-8a3d-4f1c-9935-896185c32dd3");
const FFS3: Uuid = uuid!("5473c07a-3dcb-4dca-bd6f-1e9689e7349a");

/// Where `_FVH` is in the header of a volume.
const SIGNATURE: usize = 40;
/// Bytes of the shortest header: without the map of blocks.
const SHORTEST: usize = 56;
/// Bytes of the longest header that is believed.
const LONGEST: usize = 4096;
/// In the attributes of a volume (EFI_FVB_ERASE_POLARITY): erased bits are ones.
const ERASED_ONES: u64 = 0x800;
/// The same (EFI_FVB2_WEAK_ALIGNMENT): files may have a larger alignment than the volume.
const WEAK_ALIGNMENT: u64 = 1 << 31;

/// A volume.
#[derive(Debug, Clone)]
pub(super) struct FirmwareVolume {
    /// All that is before the first file.
    header: Vec<u8>,
    /// In the order of their offsets, without gaps: pads fill them.
    pub(super) files: Vec<FirmwareFile>,
    length: usize,
    /// What erased bytes are.
    pub(super) erased: u8,
    /// Whether files may have a size of 64 bits.
    pub(super) large_files: bool,
    /// If the files are not looked into: what follows the header.
    opaque: Option<Vec<u8>>,
}

/// The offset of the next volume's header, at or after an offset. What looks like one may still be damaged.
pub(super) fn find(bytes: &[u8], from: usize) -> Option<usize> {
    let first = from.next_multiple_of(8);
    let last = bytes.len().checked_sub(SHORTEST)?;
    (first..=last)
        .step_by(8)
        .find(|at| bytes[at + SIGNATURE..].starts_with(b"_FVH") && is_volume(bytes, *at))
}

/// Whether the fields of the header that are always the same are so: programs contain the signature too.
fn is_volume(bytes: &[u8], at: usize) -> bool {
    let view = View::image(bytes);
    let field = |offset, size| view.number(at + offset, size, "").unwrap_or(u64::MAX);
    (SHORTEST as u64..=LONGEST as u64).contains(&field(48, 2))
        && field(48, 2).is_multiple_of(2)
        && field(54, 1) == 0
        && field(55, 1) == 2
}

/// How long a volume that could not be read says it is, but not longer than the image and not shorter than its header.
pub(super) fn length_at_most(bytes: &[u8], at: usize) -> usize {
    let length = View::image(bytes).number(at + 32, 8, "").unwrap_or(0);
    let room = bytes.len() - at;
    usize::try_from(length)
        .unwrap_or(room)
        .clamp(SHORTEST, room.max(SHORTEST))
        .min(room)
}

impl FirmwareVolume {
    /// The volume at an offset of an image, if it would be written as it is.
    pub(super) fn parse_faithfully(
        image: &[u8],
        at: usize,
        reader: &mut Reader,
    ) -> Result<Self, Error> {
        let view = View::image(image);
        let volume = Self::parse_some(view.slice(at, image.len()), reader)?;
        let mut written = Vec::with_capacity(volume.length);
        volume.write(&mut written);
        let read = view.slice(at, at + volume.length);
        match first_difference(&written, read.bytes) {
            Some(offset) => Err(Error::Format(NOT_AS_READ, read.at(offset))),
            None => Ok(volume),
        }
    }

    /// The volume that fills a section; `None` if there is none in it.
    pub(super) fn parse(view: View<'_>, reader: &mut Reader) -> Result<Option<Self>, Error> {
        if view.bytes.get(SIGNATURE..SIGNATURE + 4) != Some(b"_FVH") {
            return Ok(None);
        }
        let volume = Self::parse_some(view, reader)?;
        if volume.length < view.len() {
            let what = "a volume that ends before its section does";
            return Err(Error::Format(what, view.at(volume.length)));
        }
        Ok(Some(volume))
    }

    /// The volume at the beginning of the view.
    fn parse_some(view: View<'_>, reader: &mut Reader) -> Result<Self, Error> {
        const SHORT: &str = "the header of a volume is truncated";
        let format = view.guid(16, SHORT)?;
        let size = view.number(32, 8, SHORT)?;
        let attributes = view.number(44, 4, SHORT)?;
        let header = usize::try_from(view.number(48, 2, SHORT)?).unwrap_or(0);
        let extension = usize::try_from(view.number(52, 2, SHORT)?).unwrap_or(0);
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        if length > view.len() {
            return Err(Error::Truncated {
                what: "a volume",
                length: size,
                room: view.len(),
                at: view.at(0),
            });
        }
        if header < SHORTEST || header > length {
            let what = "a volume that is smaller than its own header";
            return Err(Error::Format(what, view.at(0)));
        }
        let view = view.slice(0, length);
        if checksum16(&view.bytes[..header]) != 0 {
            let what = "the checksum of a volume's header is wrong";
            return Err(Error::Format(what, view.at(50)));
        }
        let mut first = header;
        let is_read = format == FFS2 || format == FFS3;
        if is_read && extension > 0 {
            const SHORT: &str = "the extended header of a volume is truncated";
            let more = usize::try_from(view.number(extension + 16, 4, SHORT)?).unwrap_or(0);
            first = extension
                .checked_add(more)
                .filter(|end| *end <= length && more >= 20 && extension >= header)
                .ok_or(Error::Format(SHORT, view.at(extension)))?;
        }
        let first = first.next_multiple_of(8).min(length);
        let mut volume = Self {
            header: view.bytes[..first].to_vec(),
            files: Vec::new(),
            length,
            erased: if attributes & ERASED_ONES == 0 {
                0
            } else {
                0xff
            },
            large_files: format == FFS3,
            opaque: None,
        };
        if is_read {
            reader.inside(view.at(0), |reader| volume.parse_files(view, first, reader))?;
        } else {
            volume.opaque = Some(view.bytes[first..].to_vec());
        }
        Ok(volume)
    }

    fn parse_files(
        &mut self,
        view: View<'_>,
        first: usize,
        reader: &mut Reader,
    ) -> Result<(), Error> {
        let is_erased = |bytes: &[u8]| bytes.iter().all(|byte| *byte == self.erased);
        let mut at = first;
        while at < view.len() {
            let rest = &view.bytes[at..];
            if is_erased(&rest[..rest.len().min(file::HEADER)]) {
                if let Some(data) = rest.iter().position(|byte| *byte != self.erased) {
                    let what = "data in the free space of a volume";
                    return Err(Error::Format(what, view.at(at + data)));
                }
                break;
            }
            reader.count(view.at(at))?;
            let (file, length) =
                FirmwareFile::parse(view, at, self.erased, self.large_files, reader)?;
            self.files.push(file);
            at = (at + length).next_multiple_of(8);
        }
        Ok(())
    }

    /// Append it.
    pub(super) fn write(&self, to: &mut Vec<u8>) {
        let start = to.len();
        to.extend(&self.header);
        if let Some(bytes) = &self.opaque {
            to.extend(bytes);
        }
        for file in &self.files {
            to.resize(start + file.offset, self.erased);
            file.write(to);
        }
        to.resize(start + self.length, self.erased);
    }

    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// All that is before the first file.
    pub(super) fn header(&self) -> &[u8] {
        &self.header
    }

    /// Where files may begin.
    pub(super) fn first(&self) -> usize {
        self.header.len()
    }

    /// Whether the files were read.
    pub(super) fn is_read(&self) -> bool {
        self.opaque.is_none()
    }

    /// The format of its files.
    pub(super) fn format(&self) -> Uuid {
        let bytes = self
            .header
            .get(16..32)
            .and_then(|bytes| bytes.try_into().ok());
        Uuid::from_bytes_le(bytes.unwrap_or_default())
    }

    /// Bytes after the last file, and in pads.
    pub(super) fn free(&self) -> usize {
        let files = self.files.iter().filter(|file| !file.is_gap(self.erased));
        let used: usize = files.map(|file| file.length().next_multiple_of(8)).sum();
        if self.is_read() {
            self.length.saturating_sub(self.header.len() + used)
        } else {
            0
        }
    }

    /// Of what its own offset is a multiple (EFI_FVB2_ALIGNMENT).
    pub(super) fn alignment(&self) -> usize {
        1 << (self.attributes() >> 16 & 0x1f)
    }

    /// Whether it keeps the alignment of a file's content.
    pub(super) fn aligns(&self, file: &FirmwareFile) -> bool {
        file.alignment() <= self.alignment() || self.attributes() & WEAK_ALIGNMENT != 0
    }

    fn attributes(&self) -> u64 {
        View::image(&self.header).number(44, 4, "").unwrap_or(0)
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// A volume of these files, one after the other.
    pub(crate) fn volume(length: usize, files: Vec<FirmwareFile>) -> FirmwareVolume {
        let mut header = vec![0; 16];
        header.extend(FFS2.to_bytes_le());
        header.extend((length as u64).to_le_bytes());
        header.extend(b"_FVH");
        header.extend(0x0004_feff_u32.to_le_bytes());
        header.extend([72, 0, 0, 0, 0, 0, 0, 2]);
        header.extend(u32::try_from(length / 8).unwrap().to_le_bytes());
        header.extend(8_u32.to_le_bytes());
        header.extend([0; 8]);
        let sum = checksum16(&header).to_le_bytes();
        header[50..52].copy_from_slice(&sum);
        let mut volume = FirmwareVolume {
            header,
            files: Vec::new(),
            length,
            erased: 0xff,
            large_files: false,
            opaque: None,
        };
        let mut at = volume.first();
        for mut file in files {
            file.offset = at;
            at = (at + file.length()).next_multiple_of(8);
            volume.files.push(file);
        }
        assert!(at <= length, "{at}");
        volume
    }
}
