//! Firmware files of a directory such as /lib/firmware, compressed or not, put into the tree of an initramfs.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::archive::compress;
use crate::archive::newc::{EntryBody, FileTree};

/// A file or directory that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path}")]
pub(crate) struct Error {
    path: PathBuf,
    source: io::Error,
}

/// Put those firmware files into the tree that the directory has, and return the names of the others.
pub(crate) fn add(
    tree: &mut FileTree,
    names: impl IntoIterator<Item = String>,
    directory: &Path,
) -> Result<Vec<String>, Error> {
    fs::read_dir(directory).map_err(|source| Error {
        path: directory.to_owned(),
        source,
    })?;
    let mut missing = Vec::new();
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
        let packed = fs::read(&path).map_err(|source| Error {
            path: path.clone(),
            source,
        })?;
        let bytes = match compress::unpack_first(&packed) {
            Ok(Some(unpacked))
                if path
                    .extension()
                    .is_some_and(|end| end == "xz" || end == "zst") =>
            {
                unpacked.bytes
            }
            _ => packed,
        };
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
    }
}
