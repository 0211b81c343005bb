//! A disk image: a GUID partition table with its protective MBR (UEFI specification, chapter 5), and
//! one FAT32 partition from 1 MiB on, which firmware of either kind boots from and any desktop mounts.

pub(crate) mod bmap;
pub(crate) mod device;
mod fat;
mod overwrite;
pub(crate) mod table;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;

use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::{Partition, PartitionAttributes};
use sha2::{Digest as _, Sha256};
use uuid::{Builder, Uuid};

pub(crate) use fat::{Volume, Window};
pub(crate) use overwrite::overwrite;

/// Bytes of a sector.
pub(crate) const SECTOR: u64 = 512;
/// Where the partition begins: what every partitioning tool aligns to.
pub(crate) const START: u64 = 1 << 20;
/// Sectors of the backup table at the end: 128 entries of 128 bytes, and the header.
const BACKUP: u64 = 33;

/// Smaller ones cannot be FAT32, which has at least 65,525 clusters.
pub(crate) const MIN_SIZE: u64 = 36 << 20;
/// A FAT counts its sectors with 32 bits.
pub(crate) const MAX_SIZE: u64 = 1 << 40;

/// Why there is no disk image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "a size of {0} bytes is not between {MIN_SIZE} (36M, the least for FAT32) and {MAX_SIZE} (1T)"
    )]
    Size(u64),
    #[error("{need} bytes of files do not fit into an image of {size}: give --size {least}M or more", least = least_size(*.need) >> 20)]
    TooSmall { need: u64, size: u64 },
    #[error("cannot write the partition table")]
    Table(#[source] gpt::GptError),
    #[error("cannot write the protective MBR")]
    Mbr(#[source] gpt::mbr::MBRError),
    #[error("cannot write the image")]
    Write(#[from] io::Error),
    #[error("cannot write {name} into the FAT file system")]
    Fat { name: String, source: io::Error },
}

/// Names with `/` between directories, and what is in the files, in the order in which they are
/// written.
pub(crate) type FileList = Vec<(String, Vec<u8>)>;

/// What an image will be: where its partition lies, and the numbers by which it is known, which come
/// from what is in it.
pub(crate) struct Layout {
    size: u64,
    identity: [u8; 32],
}

impl Layout {
    /// For an image of `size` bytes with these files.
    pub(crate) fn new(size: u64, files: &FileList) -> Result<Self, Error> {
        let size = size / SECTOR * SECTOR;
        if !(MIN_SIZE..=MAX_SIZE).contains(&size) {
            return Err(Error::Size(size));
        }
        let cluster = fat::cluster_size(size);
        let need = files
            .iter()
            .map(|(_, bytes)| (bytes.len() as u64).next_multiple_of(cluster))
            .sum();
        if least_size(need) > size {
            return Err(Error::TooSmall { need, size });
        }
        let mut hash = Sha256::new_with_prefix(size.to_be_bytes());
        for (name, bytes) in files {
            for part in [name.as_bytes(), bytes] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
        }
        Ok(Self {
            size,
            identity: hash.finalize().into(),
        })
    }

    /// The partition's bytes.
    pub(crate) fn partition(&self) -> Range<u64> {
        START..self.size - BACKUP * SECTOR
    }

    /// The number of the FAT volume.
    pub(crate) fn volume_id(&self) -> u32 {
        let [a, b, c, d, ..] = self.identity;
        u32::from_be_bytes([a, b, c, d])
    }

    fn guid(&self, offset: usize) -> Uuid {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.identity[offset..offset + 16]);
        Builder::from_random_bytes(bytes).into_uuid()
    }

    /// Give the file its size and its partition table, with `boot_code` for a BIOS in front of it.
    pub(crate) fn write_table(&self, mut file: &File, boot_code: &[u8]) -> Result<(), Error> {
        file.set_len(self.size)?;
        let sectors = self.size / SECTOR - 1;
        let mut mbr = ProtectiveMBR::with_lb_size(u32::try_from(sectors).unwrap_or(u32::MAX));
        let mut code = [0; 440];
        let length = boot_code.len().min(code.len());
        code[..length].copy_from_slice(&boot_code[..length]);
        mbr.set_bootcode(code);
        mbr.overwrite_lba0(&mut file).map_err(Error::Mbr)?;

        let range = self.partition();
        let partition = Partition {
            part_type_guid: gpt::partition_types::EFI,
            part_guid: self.guid(16),
            first_lba: range.start / SECTOR,
            last_lba: range.end / SECTOR - 1,
            // The boot code looks for the partition with this flag.
            flags: PartitionAttributes::BOOTABLE.bits(),
            name: "cpu".to_owned(),
        };
        let mut table = gpt::GptConfig::new()
            .writable(true)
            .logical_block_size(LogicalBlockSize::Lb512)
            .create_from_device(file.try_clone()?, Some(self.guid(0)))
            .map_err(Error::Table)?;
        table
            .update_partitions(BTreeMap::from([(1, partition)]))
            .map_err(Error::Table)?;
        table.write().map_err(Error::Table)?;
        Ok(())
    }

    /// The bytes that a device must get for the image to be on it; all others are free room.
    /// `used` is how much of the partition is in use.
    pub(crate) fn mapped(&self, used: u64) -> [Range<u64>; 2] {
        [0..START + used, self.partition().end..self.size]
    }
}

/// The smallest image for files that take `need` bytes, in whole MiB: with the tables of the FAT, a
/// sixty-fourth, directories and what the boot loader adds.
fn least_size(need: u64) -> u64 {
    let with_tables = need + need / 32 + START + (1 << 20);
    with_tables.next_multiple_of(1 << 20).max(MIN_SIZE)
}

/// SHA-256 of a part of a file, and whether all of it is there.
fn hash_range(mut file: &File, range: &Range<u64>) -> io::Result<[u8; 32]> {
    file.seek(SeekFrom::Start(range.start))?;
    let mut hash = Sha256::new();
    let mut part = file.take(range.end - range.start);
    let mut buffer = vec![0; 1 << 16];
    let mut left = range.end - range.start;
    while left > 0 {
        match part.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => {
                hash.update(&buffer[..length]);
                left -= length as u64;
            }
        }
    }
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn files() -> FileList {
        let name = |name: &str| name.to_owned();
        vec![
            (name("kernel"), vec![1; 3_000_001]),
            (name("EFI/BOOT/BOOTX64.EFI"), vec![2; 700]),
            (name("a long name.with dots"), Vec::new()),
        ]
    }

    /// An image, and how much of its volume is in use.
    fn image(files: &FileList, size: u64) -> (File, Layout, u64) {
        let file = tempfile::tempfile().unwrap();
        let layout = Layout::new(size, files).unwrap();
        layout.write_table(&file, b"boot code").unwrap();
        let volume = Volume::format(&file, &layout).unwrap();
        let used = volume.fill(files, 1_700_000_000).unwrap();
        (file, layout, used)
    }

    fn bytes_of(mut file: &File) -> Vec<u8> {
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn other_readers_find_the_table_and_the_files() {
        let (file, layout, _) = image(&files(), MIN_SIZE);
        let bytes = bytes_of(&file);
        assert!(bytes.starts_with(b"boot code") && bytes[510..512] == [0x55, 0xaa]);
        let table = gpt::GptConfig::new()
            .only_valid_headers(true)
            .open_from_device(file.try_clone().unwrap())
            .unwrap();
        let partition = &table.partitions()[&1];
        assert_eq!(partition.part_type_guid, gpt::partition_types::EFI);
        assert_eq!((partition.first_lba, partition.flags), (2048, 4));
        let volume = fatfs::FileSystem::new(
            fat::Window::new(&file, layout.partition()),
            fatfs::FsOptions::new(),
        )
        .unwrap();
        for (name, expected) in files() {
            let mut found = Vec::new();
            let mut file = volume.root_dir().open_file(&name).unwrap();
            file.read_to_end(&mut found).unwrap();
            assert!(found == expected, "{name}");
        }
        let directory = volume.root_dir().open_dir("EFI/BOOT").unwrap();
        let names: Vec<_> = directory
            .iter()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, [".", "..", "BOOTX64.EFI"]);
    }

    #[test]
    fn same_files_give_the_same_bytes_and_others_another_identity() {
        let bytes = |files: &FileList| bytes_of(&image(files, MIN_SIZE).0);
        assert!(bytes(&files()) == bytes(&files()));
        let mut others = files();
        others[1].1[0] = 3;
        let id = |files: &FileList| Layout::new(MIN_SIZE, files).unwrap().guid(0);
        assert_ne!(id(&files()), id(&others));
    }

    #[test]
    fn what_is_mapped_is_all_that_matters() {
        let (file, layout, used) = image(&files(), MIN_SIZE);
        let bytes = bytes_of(&file);
        let [front, back] = layout.mapped(used);
        let range = |range: &Range<u64>| {
            usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()
        };
        let between = range(&front).end..range(&back).start;
        assert!(bytes[between].iter().all(|byte| *byte == 0));
        assert!(front.end < 6 << 20, "{front:?}");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_size_that_does() {
        assert!(matches!(
            Layout::new(MIN_SIZE - 1, &files()),
            Err(Error::Size(_))
        ));
        let big = vec![("big".to_owned(), vec![0; 60 << 20])];
        let Err(Error::TooSmall { need, .. }) = Layout::new(MIN_SIZE, &big) else {
            panic!("taken");
        };
        let least = least_size(need);
        image(&big, least);
        assert!(Layout::new(least - SECTOR, &big).is_err());
    }

    #[test]
    fn a_map_is_checked_by_its_own_hash() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[5; 10_000]).unwrap();
        let map = bmap::make(&file, &[0..4096, 8192..10_000]).unwrap();
        assert!(
            map.contains("<MappedBlocksCount>2</MappedBlocksCount>"),
            "{map}"
        );
        assert!(
            map.contains(">0-0</Range>") && map.contains(">2-2</Range>"),
            "{map}"
        );
        let (start, end) = ("<BmapFileChecksum>", "</BmapFileChecksum>");
        let at = map.find(start).unwrap() + start.len();
        let hash = &map[at..map.find(end).unwrap()];
        let zeroed = map.replacen(hash, &"0".repeat(64), 1);
        let expected = data_encoding::HEXLOWER.encode(&Sha256::digest(zeroed.as_bytes()));
        assert_eq!(hash, expected);
    }
}
