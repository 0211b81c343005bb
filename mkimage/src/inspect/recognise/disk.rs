//! Disk images: their partition tables, and the files of their FAT file systems. A damaged image may have directories
//! without an end, or the same clusters in many files.

use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _};
use std::os::unix::fs::FileExt as _;

use gpt::partition::Partition;

use super::super::report::{
    DiskReport, Error, FileContents, KeyFile, PartitionReport, VolumeEntry,
};
use super::{START, initramfs, is_kernel, kernel, keys};
use crate::archive::{self, decompress};
use crate::disk::{SECTOR, Window, table};
use crate::read::{MAX_FILE, MAX_KEYS};

/// A disk image that was compressed.
pub(super) struct UnpackedDisk {
    pub(super) by: &'static str,
    pub(super) file: File,
    pub(super) size: u64,
}

/// The longest image, and the most of it that may be anything but zeros.
const MAX_IMAGE: u64 = 1 << 30;
const MAX_IMAGE_DATA: u64 = 960 << 20;

/// The disk image that a file is when it is unpacked. It is mostly zeros, which are neither written nor counted.
pub(super) fn unpacked(packed: &File) -> Result<Option<UnpackedDisk>, Error> {
    let length = packed.metadata()?.len();
    let Ok((by, mut decoder)) = decompress::decoder(BufReader::new(packed)) else {
        return Ok(None);
    };
    let mut chunk = Vec::new();
    // Whoever unpacks it will report the damage.
    let read = (&mut decoder).take(START).read_to_end(&mut chunk);
    if read.is_err() || !table::is_there(&chunk) {
        return Ok(None);
    }
    let (file, mut size, mut data) = (tempfile::tempfile()?, 0, 0);
    let limit = decompress::allowed(length, MAX_IMAGE_DATA);
    while !chunk.is_empty() {
        if chunk.iter().any(|byte| *byte != 0) {
            file.write_all_at(&chunk, size)?;
            data += chunk.len() as u64;
        }
        size += chunk.len() as u64;
        for (bytes, limit) in [(data, limit), (size, MAX_IMAGE)] {
            if bytes > limit {
                let packed = length;
                return Err(Error::Unpack(decompress::Error::Bomb { packed, limit }));
            }
        }
        chunk.clear();
        (&mut decoder)
            .take(1 << 16)
            .read_to_end(&mut chunk)
            .map_err(|error| {
                decompress::in_reader(error).map_or_else(Error::Read, Error::Unpack)
            })?;
    }
    file.set_len(size)?;
    Ok(Some(UnpackedDisk { by, file, size }))
}

/// What is on a disk.
pub(super) fn report(file: &File) -> Result<DiskReport, Error> {
    let size = file.metadata()?.len();
    let table = table::read(file)?;
    let mut boot_code = [0; 440];
    let mut reader = file;
    reader.rewind()?;
    reader.read_exact(&mut boot_code)?;
    let partitions = table.partitions().iter();
    // Read at most the size of the disk in all: partitions that overlap would be read again and again.
    let mut left = size;
    Ok(DiskReport {
        guid: *table.guid(),
        has_boot_code: boot_code.iter().any(|byte| *byte != 0),
        partitions: partitions
            .map(|(number, partition)| self::partition(file, *number, partition, &mut left))
            .collect(),
    })
}

fn partition(file: &File, number: u32, partition: &Partition, left: &mut u64) -> PartitionReport {
    let (first, last) = (partition.first_lba, partition.last_lba);
    let files = table::range(partition).map(|range| {
        let rest = left.checked_sub(range.end.saturating_sub(range.start));
        *left = rest.ok_or_else(|| io::Error::other("the partitions are larger than the disk"))?;
        let window = Window::untrusted(file, range)?;
        let volume = fatfs::FileSystem::new(window, fatfs::FsOptions::new())?;
        let mut found = VolumeFiles::default();
        directory(&volume.root_dir(), "", 0, &mut found);
        Ok(found.entries)
    });
    PartitionReport {
        number,
        name: partition.name.clone(),
        kind: partition.part_type_guid.guid,
        is_bootable: partition.flags & 4 != 0,
        first_sector: first,
        bytes: last
            .saturating_sub(first)
            .saturating_add(1)
            .saturating_mul(SECTOR),
        files,
    }
}

/// How deep directories are followed; a damaged one may contain itself.
const MAX_DEPTH: usize = 8;
/// How many files are told of.
const MAX_ENTRIES: usize = 1 << 14;
/// How many directories are looked into; in a damaged one, each may contain all others.
const MAX_DIRECTORIES: usize = 1 << 10;
/// How many public keys are told of.
const MAX_PUBLIC: usize = 1 << 12;

/// What was found so far.
#[derive(Default)]
struct VolumeFiles {
    entries: Vec<VolumeEntry>,
    directories: usize,
    keys: usize,
    initramfs: bool,
}

impl VolumeFiles {
    fn is_full(&self) -> bool {
        self.entries.len() >= MAX_ENTRIES
            || self.directories >= MAX_DIRECTORIES
            || self.keys >= MAX_PUBLIC
    }
}

fn directory(
    directory: &fatfs::Dir<'_, Window<'_>>,
    path: &str,
    depth: usize,
    found: &mut VolumeFiles,
) {
    for entry in directory.iter() {
        let entry = match entry {
            _ if found.is_full() => Err(io::Error::other(
                "there are too many files, directories or keys",
            )),
            entry => entry,
        };
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                let path = path.to_owned();
                return found.entries.push(VolumeEntry::Damaged { path, error });
            }
        };
        let name = format!("{path}/{}", entry.file_name().escape_debug());
        if entry.is_dir() {
            if !name.ends_with("/.") && !name.ends_with("/..") && depth < MAX_DEPTH {
                found.directories += 1;
                self::directory(&entry.to_dir(), &name, depth + 1, found);
            }
            continue;
        }
        let mut bytes = Vec::new();
        let contents = match entry.to_file().take(MAX_FILE).read_to_end(&mut bytes) {
            Err(error) => FileContents::Unreadable(error),
            Ok(length) if (length as u64) < entry.len().min(MAX_FILE) => {
                FileContents::Short(length)
            }
            Ok(_) if is_kernel(&bytes) => FileContents::Kernel(kernel(&bytes)),
            // A damaged directory may have thousands of that name.
            Ok(_) if name == "/cpuinitrd" && !std::mem::replace(&mut found.initramfs, true) => {
                let parts = archive::read(&bytes).map_err(Error::from);
                FileContents::Initramfs(parts.and_then(|parts| initramfs(&parts)))
            }
            Ok(length) if length as u64 <= MAX_KEYS => FileContents::Keys(keys(&bytes)),
            Ok(_) => FileContents::Keys(KeyFile::Public(Vec::new())),
        };
        if let FileContents::Keys(KeyFile::Public(keys)) = &contents {
            found.keys += keys.len();
        }
        found.entries.push(VolumeEntry::File {
            path: name,
            bytes: entry.len(),
            contents,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// A FAT32 file system at the usual place of a disk, and the bytes of its cluster 2, which is its root.
    fn volume(fill: impl Fn(&fatfs::Dir<'_, Window<'_>>)) -> (File, u64) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(40 << 20).unwrap();
        let range = 1 << 20..40 << 20;
        let options = fatfs::FormatVolumeOptions::new()
            .fat_type(fatfs::FatType::Fat32)
            .bytes_per_cluster(512);
        fatfs::format_volume(Window::new(&file, range.clone()), options).unwrap();
        let window = Window::new(&file, range);
        let system = fatfs::FileSystem::new(window, fatfs::FsOptions::new()).unwrap();
        fill(&system.root_dir());
        system.unmount().unwrap();
        let mut boot = [0; 64];
        file.read_exact_at(&mut boot, 1 << 20).unwrap();
        let sectors = u64::from(u16::from_le_bytes([boot[14], boot[15]]))
            + u64::from(boot[16])
                * u64::from(u32::from_le_bytes([boot[36], boot[37], boot[38], boot[39]]));
        (file, (1 << 20) + sectors * SECTOR)
    }

    fn files(file: &File) -> Vec<VolumeEntry> {
        let partition = Partition {
            first_lba: (1 << 20) / SECTOR,
            last_lba: (40 << 20) / SECTOR - 1,
            ..Partition::zero()
        };
        let mut left = 40 << 20;
        let found = super::partition(file, 1, &partition, &mut left);
        // A second one in the same place is not looked at.
        let again = super::partition(file, 2, &partition, &mut left);
        assert!(again.files.unwrap().is_err());
        found.files.unwrap().unwrap()
    }

    #[test]
    fn directories_that_contain_themselves_have_an_end() {
        let (file, root) = volume(|root| {
            let made = root.create_dir("dir").unwrap();
            made.create_file("file").unwrap().write_all(b"x").unwrap();
        });
        assert_eq!(files(&file).len(), 1);
        // Sixteen directory entries, each of which points to the root.
        let mut entry = [0; 32];
        entry[..11].copy_from_slice(b"DIR        ");
        (entry[11], entry[26]) = (0x10, 2);
        file.write_all_at(&entry.repeat(15), root).unwrap();
        let found = files(&file);
        let ends = matches!(found.last(), Some(VolumeEntry::Damaged { .. }));
        assert!(ends && found.len() < MAX_ENTRIES, "{}", found.len());
    }
}
