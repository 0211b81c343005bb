//! Writes a tar archive (ustar, tar(5)) of one directory. The same files give the same bytes: the owner is root, the time is
//! the given one.

use std::fs::File;
use std::io;
use std::path::Path;

use tar::{Builder, EntryType, Header};

/// Write the archive. `mode` says the permission bits of a file by its name; `epoch` is the time of every
/// entry, in seconds since 1970.
pub(crate) fn pack(
    directory: &str,
    files: &[(String, Vec<u8>)],
    mode: impl Fn(&str) -> u32,
    epoch: u32,
    to: &File,
) -> io::Result<()> {
    let mut archive = Builder::new(to);
    let header = |kind, mode, size: usize| {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(u64::from(epoch));
        header.set_size(size as u64);
        header
    };
    let mut top = header(EntryType::Directory, 0o755, 0);
    archive.append_data(&mut top, Path::new(directory), io::empty())?;
    for (name, bytes) in files {
        let mut header = header(EntryType::Regular, mode(name), bytes.len());
        archive.append_data(
            &mut header,
            Path::new(directory).join(name),
            bytes.as_slice(),
        )?;
    }
    archive.finish()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};

    use super::*;

    #[test]
    fn another_reader_finds_the_files_in_their_order_with_modes_owner_and_time() {
        let whole = tempfile::tempfile().unwrap();
        let files = ["b", "a"].map(|name| (name.to_owned(), name.as_bytes().to_vec()));
        let mode = |name: &str| if name == "b" { 0o755 } else { 0o600 };
        pack("top", &files, mode, 7, &whole).unwrap();
        (&whole).rewind().unwrap();
        let found: Vec<_> = tar::Archive::new(&whole)
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut contents = String::new();
                entry.read_to_string(&mut contents).unwrap();
                let name = entry.path().unwrap().display().to_string();
                let header = entry.header();
                let owner = (header.uid().unwrap(), header.gid().unwrap());
                assert_eq!((owner, header.mtime().unwrap()), ((0, 0), 7));
                (name, header.mode().unwrap(), contents)
            })
            .collect();
        let expected = [
            ("top", 0o755, ""),
            ("top/b", 0o755, "b"),
            ("top/a", 0o600, "a"),
        ];
        let expected = expected.map(|(name, mode, text)| (name.to_owned(), mode, text.to_owned()));
        assert_eq!(found, expected);
    }
}
