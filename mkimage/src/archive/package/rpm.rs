//! A package of rpm (github.com/rpm-software-management/rpm, docs/manual/format_v4.md): a lead that says nothing, two headers, of which
//! the first has the signatures, and a compressed cpio archive. No signature is checked, as for other packages.

use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom};

use super::{Error, Files, MAX_DATA, check_machine, cpio_files};
use crate::arch::Arch;
use crate::archive::decompress;

/// Bytes of the lead, of a header's beginning, and of an entry of its index.
const LEAD: u64 = 96;
const INTRO: usize = 16;
const ENTRY: usize = 16;
/// More than rpm itself takes, and more than a header with the names of many files has.
const MAX_ENTRIES: usize = 0xffff;
const MAX_STORE: usize = 32 << 20;
/// RPMTAG_ARCH, a string.
const TAG_ARCH: u32 = 1022;

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
    cpio_files::read(payload.map_err(Error::Unpack)?, |name, contents| {
        files.add(name, contents)
    })
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
        let entry = self.index.chunks_exact(ENTRY);
        let entry = { entry }.find(|entry| number(entry, 0) == tag)?;
        let value = self.store.get(number(entry, 8) as usize..)?;
        let end = value.iter().position(|byte| *byte == 0)?;
        Some(String::from_utf8_lossy(&value[..end]).into_owned())
    }
}

/// Four bytes, the most significant one first.
fn number(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..at + 4).unwrap_or_default();
    bytes.try_into().map_or(0, u32::from_be_bytes)
}
