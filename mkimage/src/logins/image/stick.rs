//! The list of keys on a stick: in the initramfs beside its kernel, and in the unified kernel image for UEFI. Both have one if the
//! kernel is a distribution's; a kernel that mkimage has built has it inside.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use clap::ValueEnum as _;
use fatfs::{FileSystem, FsOptions};

use super::{Error, ListEdit, edit_bytes};
use crate::arch::Arch;
use crate::disk::{self, FileList, Window, table};
use crate::publish::Draft;
use crate::read::{self, MAX_FILE};

/// The new form of a stick's image.
pub(crate) struct ChangedStick {
    pub(crate) image: Draft,
    /// Up to where its partition has anything but zeros.
    pub(crate) end: u64,
    /// The partition.
    pub(crate) partition: Range<u64>,
}

/// The image with another list; `None` if nothing changes.
pub(super) fn edit(
    file: &File,
    path: &Path,
    edit: &mut ListEdit<'_>,
) -> Result<Option<ChangedStick>, Error> {
    let size = file.metadata()?.len();
    let table = table::read(file)?;
    let ranges = table.partitions().values().filter_map(table::range);
    for partition in ranges.filter(|range| range.start < range.end) {
        if partition.end > size {
            return Err(Error::Truncated(size, partition.end));
        }
        let Some(found) = read_files(file, partition.clone())? else {
            continue;
        };
        let (mut changed, mut lists) = (FileList::new(), 0);
        for (name, bytes) in found {
            match edit_bytes(&bytes, edit) {
                // The kernel beside an initramfs.
                Err(Error::InKernel) => continue,
                Ok(None) => {}
                Ok(Some(bytes)) => changed.push((name, bytes)),
                Err(error) => return Err(Error::File(name, Box::new(error))),
            }
            lists += 1;
        }
        if lists == 0 {
            return Err(Error::InKernel);
        }
        if changed.is_empty() {
            return Ok(None);
        }
        let image = Draft::new(path)?;
        copy(file, size, image.file()).map_err(|error| image.failed(error))?;
        let overwritten = disk::overwrite(image.file(), partition.clone(), &changed);
        // An error of the system is one of the disk that has the image.
        overwritten.map_err(|error| match error.raw_os_error() {
            Some(_) => image.failed(error).into(),
            None => Error::Full(error),
        })?;
        let end = end(image.file(), &partition)?;
        return Ok(Some(ChangedStick {
            image,
            end,
            partition,
        }));
    }
    Err(Error::Unknown)
}

/// The files that may have a list; `None` if this is no FAT file system, or has none of them.
fn read_files(file: &File, range: Range<u64>) -> io::Result<Option<FileList>> {
    let window = Window::untrusted(file, range)?;
    let Ok(system) = FileSystem::new(window, FsOptions::new()) else {
        return Ok(None);
    };
    let programs = Arch::value_variants()
        .iter()
        .map(|arch| arch.facts().efi_program);
    let mut found = FileList::new();
    for name in std::iter::once("cpuinitrd").chain(programs) {
        match system.root_dir().open_file(name) {
            Ok(file) => found.push((name.to_owned(), read::to_end(file, MAX_FILE)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok((!found.is_empty()).then_some(found))
}

const CHUNK: usize = 1 << 16;

/// Copy an image; its zeros stay holes.
fn copy(mut from: &File, size: u64, to: &File) -> io::Result<()> {
    from.rewind()?;
    let (mut at, mut chunk) = (0, Vec::new());
    while from.take(CHUNK as u64).read_to_end(&mut chunk)? > 0 {
        if chunk.iter().any(|byte| *byte != 0) {
            to.write_all_at(&chunk, at)?;
        }
        at += chunk.len() as u64;
        chunk.clear();
    }
    to.set_len(size)
}

/// Up to where a range of a file has anything but zeros.
fn end(file: &File, range: &Range<u64>) -> io::Result<u64> {
    let (mut at, mut end, mut chunk) = (range.start, range.start, vec![0; CHUNK]);
    while at < range.end {
        let length = (range.end - at).min(CHUNK as u64);
        let part = &mut chunk[..usize::try_from(length).unwrap_or(CHUNK)];
        file.read_exact_at(part, at)?;
        if let Some(last) = part.iter().rposition(|byte| *byte != 0) {
            end = at + last as u64 + 1;
        }
        at += length;
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::compress::Compression;
    use crate::archive::newc::{self, EntryBody};
    use crate::disk::{Layout, MIN_SIZE, Volume};
    use crate::kernel;
    use crate::media::uki;

    fn initramfs(list: &[u8]) -> Vec<u8> {
        let file = (0o644, EntryBody::File(list.to_vec()));
        let archive = newc::pack([("key.pub".to_owned(), file)].into(), 7).unwrap();
        Compression::Xz.apply(archive, Arch::Aarch64).unwrap()
    }

    fn files(list: &[u8]) -> FileList {
        let (initrd, kernel) = (initramfs(list), kernel::image::tests::kernel(Arch::X86_64));
        let stub = Some(uki::tests::stub(3));
        let unified = uki::build(Arch::X86_64, stub, &kernel, &initrd, "quiet").unwrap();
        [
            ("cpukernel", kernel),
            ("EFI/BOOT/BOOTX64.EFI", unified),
            ("cpuinitrd", initrd),
            ("README", b"text".to_vec()),
        ]
        .map(|(name, bytes)| (name.to_owned(), bytes))
        .into()
    }

    fn stick(files: &FileList) -> File {
        let image = tempfile::tempfile().unwrap();
        let layout = Layout::new(MIN_SIZE, files).unwrap();
        layout.write_table(&image, b"boot code").unwrap();
        let volume = Volume::format(&image, &layout).unwrap();
        volume.fill(files, 1_700_000_000).unwrap();
        image
    }

    /// The stick with two more bytes in its lists, if they are not there.
    fn edited(image: &File) -> Result<Option<ChangedStick>, Error> {
        let dir = tempfile::tempdir().unwrap();
        let mut add = |old: &[u8]| Ok((!old.ends_with(b"b\n")).then(|| [old, b"b\n"].concat()));
        edit(image, &dir.path().join("usbstick"), &mut add)
    }

    #[test]
    fn both_lists_of_a_stick_get_the_key_and_nothing_else_changes() {
        let before = stick(&files(b"a\n"));
        let changed = edited(&before).unwrap().unwrap();
        let range = changed.partition.clone();
        assert!(changed.end > range.start && changed.end < range.end);
        let volume = Window::new(changed.image.file(), range.clone());
        let system = FileSystem::new(volume, FsOptions::new()).unwrap();
        for (name, expected) in files(b"a\nb\n") {
            let file = system.root_dir().open_file(&name).unwrap();
            assert!(read::to_end(file, MAX_FILE).unwrap() == expected, "{name}");
        }
        let start = |file: &File| {
            let mut bytes = vec![0; 1 << 20];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        assert!(start(&before) == start(changed.image.file()));
        assert!(edited(changed.image.file()).unwrap().is_none());
    }

    #[test]
    fn one_list_without_the_key_is_enough_to_change_the_stick() {
        let mut mixed = files(b"a\n");
        mixed[2].1 = initramfs(b"a\nb\n");
        let changed = edited(&stick(&mixed)).unwrap().unwrap();
        assert!(edited(changed.image.file()).unwrap().is_none());
    }

    #[test]
    fn a_stick_without_a_list_or_with_a_damaged_one_is_refused() {
        let mut inside = files(b"a\n");
        inside[1].1 = inside[0].1.clone();
        inside.remove(2);
        assert!(matches!(edited(&stick(&inside)), Err(Error::InKernel)));
        inside.truncate(1);
        assert!(matches!(edited(&stick(&inside)), Err(Error::Unknown)));
        let mut cut = files(b"a\n");
        cut[2].1.truncate(100);
        let Err(error) = edited(&stick(&cut)) else {
            panic!("it was taken");
        };
        assert!(error.to_string().contains("cpuinitrd cannot"), "{error}");
        let image = stick(&files(b"a\n"));
        let cut = tempfile::tempfile().unwrap();
        copy(&image, MIN_SIZE, &cut).unwrap();
        cut.set_len(MIN_SIZE / 2).unwrap();
        assert!(matches!(edited(&cut), Err(Error::Truncated(..))));
        for at in [600, 1024, (1 << 20) + 11, (1 << 20) + 13, (1 << 20) + 36] {
            let damaged = tempfile::tempfile().unwrap();
            copy(&image, MIN_SIZE, &damaged).unwrap();
            damaged.write_all_at(&[0xff; 8], at).unwrap();
            let _ = edited(&damaged);
        }
    }
}
