//! Copies firmware files from a directory such as /lib/firmware, compressed or not, into the tree of an initramfs.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::archive::decompress::{self, Sum};
use crate::archive::newc::{EntryBody, FileTree};
use crate::read::{self, MAX_FILE};

/// Why there is no firmware.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file or directory that cannot be read.
    #[error("cannot read {0}")]
    Unread(PathBuf, #[source] io::Error),
    /// A file that ends in .xz or .zst and does not unpack.
    #[error("cannot unpack the firmware {0}; reinstall it, or give another --firmware")]
    Damaged(PathBuf, #[source] decompress::Error),
    /// More than memory should hold.
    #[error(
        "the firmware that the modules need from {0} is too much for memory: choose fewer with --modules"
    )]
    Memory(PathBuf, #[source] decompress::Error),
    /// A file that ends in .xz or .zst and is not compressed.
    #[error("the firmware {0} is not compressed as its name says")]
    Misnamed(PathBuf),
}

/// Put those firmware files into the tree that the directory has, and return the names of the others.
pub(crate) fn add(
    tree: &mut FileTree,
    names: impl IntoIterator<Item = String>,
    directory: &Path,
) -> Result<Vec<String>, Error> {
    fs::read_dir(directory).map_err(|source| Error::Unread(directory.to_owned(), source))?;
    let (mut missing, mut sum) = (Vec::new(), Sum::default());
    for name in names {
        let plain = Path::new(&name)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        let found = ["", ".xz", ".zst"]
            .map(|suffix| directory.join(format!("{name}{suffix}")))
            .into_iter()
            .find(|path| plain && path.is_file());
        let Some(path) = found else {
            missing.push(name);
            continue;
        };
        let packed =
            read::whole(&path, MAX_FILE).map_err(|source| Error::Unread(path.clone(), source))?;
        let length = packed.len();
        let is_compressed = path
            .extension()
            .is_some_and(|end| end == "xz" || end == "zst");
        let bytes = if is_compressed {
            match decompress::unpack_first(&packed, MAX_FILE) {
                Ok(Some(unpacked)) => unpacked.bytes,
                Ok(None) => return Err(Error::Misnamed(path)),
                Err(source) => return Err(Error::Damaged(path, source)),
            }
        } else {
            packed
        };
        sum.add(length, bytes.len())
            .map_err(|source| Error::Memory(directory.to_owned(), source))?;
        let place = format!("lib/firmware/{name}");
        for (end, _) in place.match_indices('/') {
            tree.insert(place[..end].to_owned(), (0o755, EntryBody::Directory));
        }
        tree.insert(place, (0o644, EntryBody::File(bytes)));
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Arch;
    use crate::archive::compress::Compression;

    #[test]
    fn firmware_is_found_and_what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("card")).unwrap();
        let packed = Compression::Zstd
            .apply(b"firmware".to_vec(), Arch::X86_64)
            .unwrap();
        fs::write(dir.path().join("card/a.bin.zst"), packed).unwrap();
        let mut tree = FileTree::new();
        let names = ["card/a.bin", "card/b.bin", "../../etc/passwd"];
        let missing = add(&mut tree, names.map(str::to_owned), dir.path()).unwrap();
        assert_eq!(missing, ["card/b.bin", "../../etc/passwd"]);
        assert!(
            matches!(&tree["lib/firmware/card/a.bin"].1, EntryBody::File(bytes) if bytes == b"firmware")
        );
        assert!(tree.contains_key("lib/firmware/card"));

        let mut cut = Compression::Xz.apply(vec![7; 9999], Arch::X86_64).unwrap();
        cut.truncate(40);
        let bomb = Compression::Xz
            .apply(vec![0; 40 << 20], Arch::X86_64)
            .unwrap();
        for (name, bytes) in [
            ("cut.bin", &cut[..]),
            ("plain.bin", b"not compressed"),
            ("bomb.bin", &bomb),
        ] {
            fs::write(dir.path().join(format!("{name}.xz")), bytes).unwrap();
            let error = add(&mut tree, [name.to_owned()], dir.path()).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
