//! A package of rpm (github.com/rpm-software-management/rpm, docs/manual/format_v4.md and format_v6.md): a lead that says nothing, two
//! headers, of which the first has the signatures, and a compressed cpio archive. No signature is checked, as for other packages.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom};

use super::cpio_files::{self, RpmFile};
use super::{Error, Files, MAX_DATA, MAX_FILES, MAX_NAMES, check_machine};
use crate::arch::Arch;
use crate::archive::decompress;

/// Bytes of the lead, of a header's beginning, and of an entry of its index.
const LEAD: u64 = 96;
const INTRO: usize = 16;
const ENTRY: usize = 16;
/// More than rpm itself takes, and more than a header with the names of many files has.
const MAX_ENTRIES: usize = 0xffff;
const MAX_STORE: usize = 32 << 20;
/// With directories and links.
const MAX_LISTED: usize = 4 * MAX_FILES;
/// Tags (include/rpm/rpmtag.h): a string, and what there is of every file.
pub(super) const TAG_ARCH: u32 = 1022;
pub(super) const TAG_FILE_MODES: u32 = 1030;
pub(super) const TAG_FILE_DEVICES: u32 = 1095;
pub(super) const TAG_FILE_INODES: u32 = 1096;
pub(super) const TAG_DIRECTORY_INDEXES: u32 = 1116;
pub(super) const TAG_BASE_NAMES: u32 = 1117;
pub(super) const TAG_DIRECTORY_NAMES: u32 = 1118;
pub(super) const TAG_LONG_FILE_SIZES: u32 = 5008;

/// Give its files to `files`.
pub(super) fn unpack(mut file: File, arch: Arch, files: &mut Files<'_, '_>) -> Result<(), Error> {
    let whole = file.metadata().map_err(Error::Open)?.len();
    file.seek(SeekFrom::Start(LEAD)).map_err(Error::Open)?;
    let signatures = RpmHeader::read(&mut file)?;
    let padding = signatures.length.next_multiple_of(8) - signatures.length;
    let padding = i64::try_from(padding).unwrap_or_default();
    file.seek_relative(padding).map_err(Error::Open)?;
    let header = RpmHeader::read(&mut file)?;
    let got = header.string(TAG_ARCH).ok_or(Error::Format)?;
    check_machine(&got, arch.facts().name, arch)?;
    let start = file.stream_position().map_err(Error::Open)?;
    // The header has the name of the compression too; the kernel's reader knows it by its first bytes.
    let packed = whole.saturating_sub(start);
    let payload = decompress::reader(BufReader::new(file), packed, MAX_DATA);
    let listed = header.files().unwrap_or_default();
    cpio_files::read(
        payload.map_err(Error::Unpack)?,
        &listed,
        |name, contents| files.add(name, contents),
    )
}

/// A header: an index of tags, and the store with their values.
struct RpmHeader {
    index: Vec<u8>,
    store: Vec<u8>,
    length: usize,
}

impl RpmHeader {
    fn read(file: &mut File) -> Result<Self, Error> {
        let mut intro = [0; INTRO];
        file.read_exact(&mut intro).map_err(Error::Damaged)?;
        let [entries, store] = [8, 12].map(|at| number(&intro, at) as usize);
        // Its magic, with version 1.
        let is_header = intro.starts_with(b"\x8e\xad\xe8\x01");
        if !is_header || entries > MAX_ENTRIES || store > MAX_STORE {
            return Err(Error::Format);
        }
        let mut part = |length: usize| {
            let mut bytes = Vec::new();
            let read = file.by_ref().take(length as u64).read_to_end(&mut bytes);
            match read {
                Ok(got) if got == length => Ok(bytes),
                Ok(_) => Err(Error::Damaged(io::ErrorKind::UnexpectedEof.into())),
                Err(error) => Err(Error::Damaged(error)),
            }
        };
        let length = INTRO + entries * ENTRY + store;
        Ok(Self {
            index: part(entries * ENTRY)?,
            store: part(store)?,
            length,
        })
    }

    /// The value of a tag that is a string.
    fn string(&self, tag: u32) -> Option<String> {
        let value = self.strings(tag)?.into_iter().next()?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    /// The values of a tag that are strings, each of which ends with a zero.
    fn strings(&self, tag: u32) -> Option<Vec<&[u8]>> {
        let (value, count) = self.value(tag)?;
        let strings = value.split_inclusive(|byte| *byte == 0).take(count);
        strings.map(|it| it.strip_suffix(b"\0")).collect()
    }

    /// The values of a tag that are numbers of so many bytes.
    fn numbers(&self, tag: u32, size: usize) -> Option<Vec<u64>> {
        let (value, count) = self.value(tag)?;
        let numbers = value.chunks_exact(size).take(count);
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0, |all, byte| all << 8 | u64::from(*byte))
        };
        Some(numbers.map(number).collect())
    }

    /// Where the values of a tag begin, and how many there are.
    fn value(&self, tag: u32) -> Option<(&[u8], usize)> {
        let entry = self.index.chunks_exact(ENTRY);
        let entry = { entry }.find(|entry| number(entry, 0) == tag)?;
        let value = self.store.get(number(entry, 8) as usize..)?;
        let count = number(entry, 12) as usize;
        (count <= MAX_LISTED).then_some((value, count))
    }

    /// The files in their order, if the payload may leave out their names and sizes.
    fn files(&self) -> Option<Vec<RpmFile>> {
        let sizes = self.numbers(TAG_LONG_FILE_SIZES, 8)?;
        let modes = self.numbers(TAG_FILE_MODES, 2)?;
        let devices = self.numbers(TAG_FILE_DEVICES, 4)?;
        let inodes = self.numbers(TAG_FILE_INODES, 4)?;
        let directories = self.strings(TAG_DIRECTORY_NAMES)?;
        let indexes = self.numbers(TAG_DIRECTORY_INDEXES, 4)?;
        let names = self.strings(TAG_BASE_NAMES)?;
        let (mut files, mut length) = (Vec::new(), 0);
        for (at, name) in names.into_iter().enumerate() {
            let directory = directories.get(usize::try_from(*indexes.get(at)?).ok()?)?;
            length += directory.len() + name.len();
            if length > MAX_NAMES {
                return None;
            }
            files.push(RpmFile {
                name: String::from_utf8_lossy(&[directory, name].concat()).into_owned(),
                mode: u32::try_from(*modes.get(at)?).ok()?,
                length: *sizes.get(at)?,
            });
        }
        // Of the names of one file, the last has its contents.
        let mut seen = HashSet::new();
        for (at, file) in files.iter_mut().enumerate().rev() {
            let id = (devices.get(at)?, inodes.get(at)?);
            if file.is_regular() && !seen.insert(id) {
                file.length = 0;
            }
        }
        Some(files)
    }
}

/// Four bytes, the most significant one first.
fn number(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..at + 4).unwrap_or_default();
    bytes.try_into().map_or(0, u32::from_be_bytes)
}
