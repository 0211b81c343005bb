//! Writes newc archives, as the kernel unpacks them (Documentation/driver-api/early-userspace/buffer-format.rst). The same
//! tree gives the same bytes: every owner is root, every time is the given one, and entries are sorted by name. No I/O.

use std::collections::BTreeMap;
use std::io::{self, Write as _};

use cpio::newc::{Builder, ModeFileType, trailer};

/// Bytes of an entry's header: six of magic, thirteen numbers of eight hexadecimal digits.
pub(crate) const HEADER: usize = 110;

/// The numbers of a header; `None` if it is none.
pub(crate) fn header_numbers(header: &[u8; HEADER]) -> Option<[u32; 13]> {
    let (magic, digits) = header.split_at(6);
    if !matches!(magic, b"070701" | b"070702") || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut numbers = [0; 13];
    for (number, digits) in numbers.iter_mut().zip(digits.chunks_exact(8)) {
        *number = u32::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(numbers)
}

/// Why there is no archive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0} is too big for a newc archive, which counts to 4 GiB")]
    TooBig(String),
    #[error("cannot pack the archive")]
    Write(#[from] io::Error),
}

/// One file of the archive.
#[derive(Debug)]
pub(crate) enum EntryBody {
    Directory,
    File(Vec<u8>),
    CharDevice {
        major: u32,
        minor: u32,
    },
    /// To this path.
    Symlink(String),
}

/// Names without a leading `/`, with permission bits. The order of the names puts a directory before
/// what is in it.
pub(crate) type FileTree = BTreeMap<String, (u32, EntryBody)>;

/// The archive's bytes. `epoch` is the time of every entry, in seconds since 1970.
pub(crate) fn pack(tree: FileTree, epoch: u32) -> Result<Vec<u8>, Error> {
    let mut archive = Vec::new();
    append(&mut archive, tree, epoch)?;
    Ok(archive)
}

/// Add the archive's bytes to others. Each file is dropped as soon as it is in: all modules of a kernel are not twice in
/// memory.
pub(crate) fn append(archive: &mut Vec<u8>, tree: FileTree, epoch: u32) -> Result<(), Error> {
    // The kernel takes two entries with the same inode number and more than one link for one file.
    for (inode, (name, (mode, body))) in (1..).zip(tree) {
        let entry = Builder::new(&name).ino(inode).mtime(epoch).mode(mode);
        let (entry, contents) = match &body {
            EntryBody::Directory => (
                entry.nlink(2).set_mode_file_type(ModeFileType::Directory),
                &[][..],
            ),
            EntryBody::File(bytes) => (
                entry.set_mode_file_type(ModeFileType::Regular),
                bytes.as_slice(),
            ),
            EntryBody::Symlink(to) => (
                entry.set_mode_file_type(ModeFileType::Symlink),
                to.as_bytes(),
            ),
            EntryBody::CharDevice { major, minor } => {
                let entry = entry.rdev_major(*major).rdev_minor(*minor);
                (entry.set_mode_file_type(ModeFileType::Char), &[][..])
            }
        };
        let size = u32::try_from(contents.len()).map_err(|_| Error::TooBig(name))?;
        let mut writer = entry.write(&mut *archive, size);
        writer.write_all(contents)?;
        writer.finish()?;
    }
    trailer(&mut *archive)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use cpio::newc::Reader;

    use super::*;

    fn tree() -> FileTree {
        let file = |bytes: &[u8]| EntryBody::File(bytes.to_vec());
        let device = EntryBody::CharDevice { major: 5, minor: 1 };
        let entries = [
            ("init", 0o755, file(b"\x7fELF and more")),
            ("dev/console", 0o600, device),
            ("dev", 0o755, EntryBody::Directory),
            ("tmp", 0o1777, EntryBody::Directory),
            ("empty", 0o644, file(b"")),
            ("link", 0o777, EntryBody::Symlink("/init".to_owned())),
        ];
        entries
            .map(|(name, mode, body)| (name.to_owned(), (mode, body)))
            .into()
    }

    #[test]
    fn another_reader_finds_what_was_packed() {
        let packed = pack(tree(), 7).unwrap();
        let mut archive = packed.as_slice();
        let mut found = Vec::new();
        loop {
            let mut reader = Reader::new(archive).unwrap();
            let mut contents = String::new();
            io::Read::read_to_string(&mut reader, &mut contents).unwrap();
            let entry = reader.entry();
            if entry.is_trailer() {
                break;
            }
            assert_eq!((entry.uid(), entry.gid(), entry.mtime()), (0, 0, 7));
            let device = (entry.rdev_major(), entry.rdev_minor());
            found.push((entry.name().to_owned(), entry.mode(), device, contents));
            archive = reader.finish().unwrap();
        }
        let expected = [
            ("dev", 0o040_755, (0, 0), ""),
            ("dev/console", 0o020_600, (5, 1), ""),
            ("empty", 0o100_644, (0, 0), ""),
            ("init", 0o100_755, (0, 0), "\x7fELF and more"),
            ("link", 0o120_777, (0, 0), "/init"),
            ("tmp", 0o041_777, (0, 0), ""),
        ];
        let expected = expected.map(|(name, mode, device, contents)| {
            (name.to_owned(), mode, device, contents.to_owned())
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn same_tree_and_time_give_the_same_bytes() {
        assert_eq!(pack(tree(), 7).unwrap(), pack(tree(), 7).unwrap());
        assert_ne!(pack(tree(), 7).unwrap(), pack(tree(), 8).unwrap());
    }
}
