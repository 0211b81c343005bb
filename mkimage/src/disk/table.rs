//! Reads the GUID partition table of an image, which may be a stranger's.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use gpt::GptDisk;

use super::SECTOR;

/// Why it cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("its partition table cannot be read")]
    Read(#[from] io::Error),
    #[error("its partition table is damaged")]
    Damaged(#[source] gpt::GptError),
    #[error("its partition table is not one of up to 1024 entries of 128 bytes")]
    Odd,
}

/// How many entries a partition table may have, and how long they are (UEFI specification, chapter 5.3.2). The crate
/// would read any number of them, and panic at any other length.
const MAX_PARTITIONS: u32 = 1024;
const ENTRY_SIZE: u32 = 128;

/// Whether an image that begins with these bytes has such a table.
pub(crate) fn is_there(bytes: &[u8]) -> bool {
    bytes.get(512..520) == Some(b"EFI PART")
}

/// The table.
pub(crate) fn read(file: &File) -> Result<GptDisk<File>, Error> {
    let size = file.metadata()?.len();
    for at in [SECTOR, size.saturating_sub(SECTOR) / SECTOR * SECTOR] {
        let mut header = [0; 92];
        file.read_exact_at(&mut header, at)?;
        if !has_usual_table(&header) {
            return Err(Error::Odd);
        }
    }
    gpt::GptConfig::new()
        .open_from_device(file.try_clone()?)
        .map_err(Error::Damaged)
}

/// Where a partition is, in bytes; `None` when the table says nonsense.
pub(crate) fn range(partition: &gpt::partition::Partition) -> Option<Range<u64>> {
    let start = partition.first_lba.checked_mul(SECTOR)?;
    let end = partition.last_lba.checked_add(1)?.checked_mul(SECTOR)?;
    Some(start..end)
}

/// Whether the header that begins with these bytes, at a sector, has a table that can be read.
fn has_usual_table(header: &[u8]) -> bool {
    let number = |at| {
        let bytes = header.get(at..at + 4).unwrap_or_default();
        bytes.try_into().map_or(0, u32::from_le_bytes)
    };
    !header.starts_with(b"EFI PART") || (number(80) <= MAX_PARTITIONS && number(84) == ENTRY_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_the_crate_cannot_read_is_refused() {
        let usual = |count: u32, size: u32| {
            let mut header = [0; 92];
            header[..8].copy_from_slice(b"EFI PART");
            header[80..84].copy_from_slice(&count.to_le_bytes());
            header[84..88].copy_from_slice(&size.to_le_bytes());
            has_usual_table(&header)
        };
        assert!(usual(128, 128) && has_usual_table(&[0; 92]));
        assert!(!usual(128, 256) && !usual(u32::MAX, 128));
    }
}
