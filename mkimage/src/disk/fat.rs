//! The FAT32 file system of an image: formatted, then filled, all with one time.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use fatfs::{
    Date, DateTime, FatType, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider,
};

use super::{Error, FileList, Layout};
use crate::epoch;

/// A range of a file, as a disk of its own.
pub(crate) struct Window<'a> {
    file: &'a File,
    range: Range<u64>,
    position: u64,
    /// How many bytes may be read yet.
    budget: u64,
}

impl<'a> Window<'a> {
    pub(crate) fn new(file: &'a File, range: Range<u64>) -> Self {
        Self {
            file,
            range,
            position: 0,
            budget: u64::MAX,
        }
    }

    /// One that may be a stranger's. In a damaged file system a directory may have no end, and files may share their
    /// clusters. Of a whole one everything is read once, with an entry of the table for each cluster.
    pub(crate) fn untrusted(file: &'a File, range: Range<u64>) -> io::Result<Self> {
        let length = range.end.saturating_sub(range.start);
        Ok(Self {
            budget: length.min(file.metadata()?.len()).saturating_mul(4),
            ..Self::new(file, range)
        })
    }

    /// How much of a buffer lies within, once the file is positioned.
    fn prepare(&mut self, length: usize) -> io::Result<usize> {
        let at = self.range.start.saturating_add(self.position);
        let room = self.range.end.saturating_sub(at);
        self.file.seek(SeekFrom::Start(at))?;
        Ok(usize::try_from(room).map_or(length, |room| room.min(length)))
    }
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.prepare(buffer.len())?;
        let done = self.file.read(&mut buffer[..length])?;
        self.position += done as u64;
        // Even a short read takes as long as a sector.
        let left = self.budget.checked_sub((done as u64).max(super::SECTOR));
        self.budget = left.ok_or_else(|| io::Error::other("a directory or file has no end"))?;
        Ok(done)
    }
}

impl Write for Window<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let length = self.prepare(buffer.len())?;
        let done = self.file.write(&buffer[..length])?;
        self.position += done as u64;
        Ok(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let length = self.range.end - self.range.start;
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => length.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// The one time of all files. FAT begins with 1980.
#[derive(Debug)]
struct FixedTime(DateTime);

impl FixedTime {
    fn new(seconds: u32) -> Self {
        let part = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
        let [year, month, day, hour, min, sec] = epoch::civil(seconds.max(315_532_800)).map(part);
        Self(DateTime {
            date: Date { year, month, day },
            time: Time {
                hour,
                min,
                sec,
                millis: 0,
            },
        })
    }
}

impl TimeProvider for FixedTime {
    fn get_current_date(&self) -> Date {
        self.0.date
    }

    fn get_current_date_time(&self) -> DateTime {
        self.0
    }
}

/// Bytes of a cluster: small ones waste little, but a big volume has too many of them.
pub(super) fn cluster_size(volume: u64) -> u64 {
    match volume >> 20 {
        0..=256 => 512,
        257..=8192 => 4096,
        _ => 32_768,
    }
}

/// A partition that holds a FAT.
pub(crate) struct Volume<'a> {
    file: &'a File,
    range: Range<u64>,
}

impl<'a> Volume<'a> {
    /// Make an empty file system on the layout's partition.
    pub(crate) fn format(file: &'a File, layout: &Layout) -> Result<Self, Error> {
        let range = layout.partition();
        let size = range.end - range.start;
        let cluster = u32::try_from(cluster_size(size)).unwrap_or(512);
        let sectors = u32::try_from(size / super::SECTOR).map_err(|_| Error::Size(size))?;
        let options = FormatVolumeOptions::new()
            .fat_type(FatType::Fat32)
            .bytes_per_sector(512)
            .total_sectors(sectors)
            .bytes_per_cluster(cluster)
            .volume_id(layout.volume_id())
            .volume_label(*b"CPU        ");
        fatfs::format_volume(Window::new(file, range.clone()), options)?;
        let volume = Self { file, range };
        // Where the partition begins on the disk, which the crate cannot know.
        let start = u32::try_from(volume.range.start / super::SECTOR).unwrap_or(0);
        volume.put(HIDDEN_SECTORS, &start.to_le_bytes())?;
        Ok(volume)
    }

    /// Write the files; whatever was there before gets the one time too. Returns how many bytes of the
    /// volume are in use, from its beginning.
    pub(crate) fn fill(&self, files: &FileList, seconds: u32) -> Result<u64, Error> {
        // The crate wants a 'static reference, and the program makes one image.
        let time: &'static FixedTime = Box::leak(Box::new(FixedTime::new(seconds)));
        let options = FsOptions::new().time_provider(time);
        let window = Window::new(self.file, self.range.clone());
        let system = FileSystem::new(window, options)?;
        let root = system.root_dir();
        for entry in root.iter() {
            let entry = entry?;
            if entry.is_file() {
                set_times(&mut entry.to_file(), time.0);
            }
        }
        for (name, bytes) in files {
            let write = || -> io::Result<()> {
                for (end, _) in name.match_indices('/') {
                    root.create_dir(&name[..end])?;
                }
                let mut file = root.create_file(name)?;
                file.truncate()?;
                file.write_all(bytes)?;
                set_times(&mut file, time.0);
                file.flush()
            };
            write().map_err(|source| Error::Fat {
                name: name.clone(),
                source,
            })?;
        }
        let stats = system.stats()?;
        let clusters = u64::from(stats.total_clusters());
        let free = u64::from(stats.free_clusters());
        let cluster = u64::from(stats.cluster_size());
        drop(root);
        system.unmount()?;
        // Clusters are allocated from the first one on and never freed; before them
        // are the tables.
        let tables = self.range.end - self.range.start - clusters * cluster;
        let used = (tables + (clusters - free) * cluster).next_multiple_of(4096);
        self.tidy(tables, usize::try_from(cluster).unwrap_or(512))?;
        Ok(used)
    }

    /// What the crate leaves otherwise than checkers expect: the copy of the boot sector is that of the
    /// volume before the boot loader came; and in directories "." and ".." have long names, behind which
    /// they are not where they must be, first and second.
    fn tidy(&self, data: u64, cluster: usize) -> io::Result<()> {
        let mut boot = [0; 512];
        self.get(0, &mut boot)?;
        self.put(BACKUP_BOOT_SECTOR, &boot)?;

        let reserved = u16::from_le_bytes([boot[14], boot[15]]);
        let table = u64::from(reserved) * super::SECTOR;
        let root = u32::from_le_bytes([boot[44], boot[45], boot[46], boot[47]]);
        let mut directories = vec![root];
        while let Some(first) = directories.pop() {
            let mut number = first;
            // End of chain is from 0x0fff_fff8 on.
            while (2..0x0fff_fff8).contains(&number) {
                let at = data + u64::from(number - 2) * cluster as u64;
                let mut entries = vec![0; cluster];
                self.get(at, &mut entries)?;
                let (all, _) = entries.as_chunks_mut::<32>();
                if let [long, dot, longer, dots, ..] = &mut all[..]
                    && dot.starts_with(b".          ")
                    && dots.starts_with(b"..         ")
                {
                    (*long, *dot) = (*dot, *dots);
                    (longer[0], dots[0]) = (DELETED, DELETED);
                    // The root is written as cluster 0 there.
                    if cluster_of(dot) == root {
                        (dot[20], dot[21], dot[26], dot[27]) = (0, 0, 0, 0);
                    }
                }
                for entry in all {
                    let is_directory = entry[11] & 0x3f == 0x10;
                    if is_directory && !matches!(entry[0], 0 | DELETED | b'.') {
                        directories.push(cluster_of(entry));
                    }
                }
                self.put(at, &entries)?;
                let mut next = [0; 4];
                self.get(table + u64::from(number) * 4, &mut next)?;
                number = u32::from_le_bytes(next) & 0x0fff_ffff;
            }
        }
        Ok(())
    }

    fn get(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, self.range.start + at)
    }

    fn put(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.range.start + at)
    }
}

/// The first cluster of what a directory entry stands for.
fn cluster_of(entry: &[u8; 32]) -> u32 {
    u32::from_le_bytes([entry[26], entry[27], entry[20], entry[21]])
}

/// Places in a FAT32 volume (Microsoft's FAT specification 1.03): BPB_HiddSec, and the sector that
/// BPB_BkBootSec of the crate's volumes names.
const HIDDEN_SECTORS: u64 = 28;
const BACKUP_BOOT_SECTOR: u64 = 6 * super::SECTOR;
/// First byte of a directory entry that is none any more.
const DELETED: u8 = 0xe5;

#[expect(
    deprecated,
    reason = "meant for implementers of time providers; the boot loader's files came without one"
)]
fn set_times(file: &mut fatfs::File<'_, Window<'_>>, time: DateTime) {
    file.set_created(time);
    file.set_accessed(time.date);
    file.set_modified(time);
}
