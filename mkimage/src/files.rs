//! Writing files: whole or not at all, and private ones private from their first byte.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Permission bits of private keys, and of images: the machine's host key is inside.
pub(crate) const PRIVATE: u32 = 0o600;
/// Permission bits of everything else.
pub(crate) const PUBLIC: u32 = 0o644;

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nothing was touched.
    #[error("{0} exists and is never overwritten: remove it, or choose another directory with -o")]
    Exists(PathBuf),
    /// A full disk, a missing permission, and the like.
    #[error("cannot write {path}")]
    Write {
        /// What was being written.
        path: PathBuf,
        source: io::Error,
    },
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::Write {
        path: path.to_owned(),
        source,
    }
}

/// Write a file that is there afterwards as it was, or whole, never in part. Its directory is made
/// when it is missing. `mode` are its permission bits, whatever the umask.
pub(crate) fn replace(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), Error> {
    let failed = failed(path);
    let directory = directory_of(path);
    fs::create_dir_all(directory).map_err(&failed)?;
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(&failed)?;
    file.write_all(bytes).map_err(&failed)?;
    file.as_file()
        .set_permissions(Permissions::from_mode(mode))
        .map_err(&failed)?;
    file.as_file().sync_all().map_err(&failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Write a file that must not exist yet, with these permission bits whatever the umask.
pub(crate) fn create(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), Error> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::Exists(path.to_owned()),
            _ => failed(path)(error),
        })?;
    let write = |file: &mut File| {
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write(&mut file).map_err(failed(path))
}

/// The directory that holds a file: `.` for a bare name.
pub(crate) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replace_leaves_nothing_else_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/file");
        replace(&path, PUBLIC, b"one").unwrap();
        replace(&path, PRIVATE, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            PRIVATE
        );
        assert_eq!(fs::read_dir(dir.path().join("made")).unwrap().count(), 1);
    }

    #[test]
    fn create_refuses_what_exists_and_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        create(&path, PRIVATE, b"first").unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            PRIVATE
        );
        assert!(matches!(
            create(&path, PRIVATE, b"second"),
            Err(Error::Exists(_))
        ));
        assert_eq!(fs::read(&path).unwrap(), b"first");
    }
}
