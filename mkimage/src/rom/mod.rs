//! ROM images of UEFI firmware, as the UEFI Platform Initialization Specification (volume 3) describes them: a tree of
//! firmware volumes, files and sections that is read, edited and written. No I/O. The bytes may come from anybody.

mod brotli;
mod checksum;
mod codec;
mod edit;
mod error;
mod guard;
mod layout;
mod list;
mod names;
mod program;
mod reader;
#[cfg(test)]
mod tests;
mod tiano;
mod verify;
mod volume;

pub(crate) use self::edit::{Edit, apply};
pub(crate) use self::error::Error;
pub(crate) use self::list::tree;

use std::collections::BTreeSet;
use std::ops::Range;

use uuid::Uuid;

use self::reader::Reader;
use self::volume::FirmwareVolume;
use self::volume::file::{DXE_CORE, FirmwareFile};

/// For the image of a chip; QEMU's for ARM has 64 MiB.
pub(crate) const MAX_ROM: u64 = 128 << 20;

/// Whether an image would be written as it was read. For the fuzzer, which has its tree made too.
pub fn is_kept(image: &[u8]) -> bool {
    let rom = Rom::parse(image);
    drop(tree(&rom, image));
    rom.write() == image
}

/// The image without the files of these names, patterns or GUIDs, if they may be removed. For the fuzzer.
pub fn without(image: &[u8], words: &[&str]) -> Option<Vec<u8>> {
    let edit = Edit {
        remove: words.iter().map(|word| (*word).to_owned()).collect(),
        ..Edit::default()
    };
    apply(image, &edit).ok()
}

/// What is in an image that has a firmware volume, even one that cannot be read.
///
/// # Errors
///
/// If it has none.
pub(crate) fn readable(image: &[u8]) -> Result<Rom, Error> {
    let rom = Rom::parse(image);
    let is_raw = |area: &Area| matches!(area.content, AreaContent::Raw(_));
    if rom.areas.iter().all(is_raw) {
        guard::check(image)?;
        return Err(Error::NoVolume);
    }
    Ok(rom)
}

/// What a chip contains, in the order of the bytes and without gaps.
#[derive(Debug)]
pub(crate) struct Rom {
    areas: Vec<Area>,
}

/// What an edit comes to in a ROM.
#[derive(Debug)]
struct Changes<'a> {
    /// The part of the image that is edited.
    within: Range<usize>,
    remove: BTreeSet<Uuid>,
    replace: Option<(Uuid, &'a [u8])>,
    /// Files for the volume with the DXE core.
    insert: Vec<FirmwareFile>,
}

impl Changes<'_> {
    /// Whether an area is in the part that is edited.
    fn reach(&self, area: &Area) -> bool {
        self.within.start <= area.offset && area.offset + area.length() <= self.within.end
    }

    /// The files that are inserted into a volume.
    fn insertions(&self, volume: &FirmwareVolume) -> &[FirmwareFile] {
        let mut kinds = volume.files.iter().map(|file| file.kind);
        if kinds.any(|kind| kind == DXE_CORE) {
            &self.insert
        } else {
            &[]
        }
    }

    /// Whether a file of this name is inserted.
    fn inserts(&self, name: Uuid) -> bool {
        self.insert.iter().any(|file| file.name == name)
    }
}

/// A piece of the chip.
#[derive(Debug)]
struct Area {
    /// From the beginning of the image.
    offset: usize,
    content: AreaContent,
}

#[derive(Debug)]
enum AreaContent {
    /// Nothing that is read: kept as it is.
    Raw(Vec<u8>),
    Volume(FirmwareVolume),
    /// What looks like a firmware volume and could not be read: kept as it is.
    Unread(Vec<u8>, Error),
}

impl Area {
    fn length(&self) -> usize {
        match &self.content {
            AreaContent::Raw(bytes) | AreaContent::Unread(bytes, _) => bytes.len(),
            AreaContent::Volume(volume) => volume.length(),
        }
    }
}

impl Rom {
    /// Read an image. What is not understood becomes an area that is kept as it is.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let mut reader = Reader::new(bytes.len());
        let mut areas = Vec::new();
        let mut begin = 0;
        let mut at = 0;
        while let Some(offset) = volume::find(bytes, at) {
            let (length, content) =
                match FirmwareVolume::parse_faithfully(bytes, offset, &mut reader) {
                    Ok(volume) => (volume.length(), AreaContent::Volume(volume)),
                    Err(error) => {
                        let length = volume::length_at_most(bytes, offset);
                        let bytes = bytes[offset..offset + length].to_vec();
                        (length, AreaContent::Unread(bytes, error))
                    }
                };
            if begin < offset {
                areas.push(Area {
                    offset: begin,
                    content: AreaContent::Raw(bytes[begin..offset].to_vec()),
                });
            }
            areas.push(Area { offset, content });
            at = offset + length;
            begin = at;
        }
        if begin < bytes.len() {
            areas.push(Area {
                offset: begin,
                content: AreaContent::Raw(bytes[begin..].to_vec()),
            });
        }
        Self { areas }
    }

    /// The image.
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.areas.iter().map(Area::length).sum());
        for area in &self.areas {
            match &area.content {
                AreaContent::Raw(raw) | AreaContent::Unread(raw, _) => bytes.extend(raw),
                AreaContent::Volume(volume) => volume.write(&mut bytes),
            }
        }
        bytes
    }

    fn volumes(&self) -> impl Iterator<Item = &FirmwareVolume> {
        self.areas.iter().filter_map(|area| match &area.content {
            AreaContent::Volume(volume) => Some(volume),
            _ => None,
        })
    }

    /// Why it must not be edited, if something in it was not understood.
    fn not_understood(&self) -> Option<&Error> {
        self.areas.iter().find_map(|area| match &area.content {
            AreaContent::Unread(_, error) => Some(error),
            _ => None,
        })
    }
}
