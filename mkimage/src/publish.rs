//! Writes files, whole or not at all; private ones are private from their first byte.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags, renameat_with};

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
    /// A device, a pipe or a socket, whose name a file would take.
    #[error("{0} is no file, and is not replaced by one: choose another name with -o")]
    Special(PathBuf),
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

/// A file that has no name until it is [published](Draft::publish): nothing of it is left behind, however
/// mkimage ends before that.
pub(crate) struct Draft {
    file: File,
    path: PathBuf,
}

impl Draft {
    /// Begin what shall become `path`. Its directory is made when it is missing.
    pub(crate) fn new(path: &Path) -> Result<Self, Error> {
        if fs::metadata(path).is_ok_and(|it| !it.is_file() && !it.is_dir()) {
            return Err(Error::Special(path.to_owned()));
        }
        let directory = directory_of(path);
        let file = fs::create_dir_all(directory).and_then(|()| tempfile::tempfile_in(directory));
        Ok(Self {
            file: file.map_err(failed(path))?,
            path: path.to_owned(),
        })
    }

    /// To read and write.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// A name by which other programs can open it.
    pub(crate) fn name(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// The error of a failed write to it.
    pub(crate) fn failed(&self, source: io::Error) -> Error {
        failed(&self.path)(source)
    }

    /// What shall become `path`, in a directory that is not there yet but will be in the one of `beside`.
    pub(crate) fn for_later(path: &Path, beside: &Path) -> Result<Self, Error> {
        Ok(Self {
            path: path.to_owned(),
            ..Self::new(beside)?
        })
    }

    /// Give it its name, in place of what had it. `mode` are its permission bits, whatever the umask.
    pub(crate) fn publish(self, mode: u32) -> Result<(), Error> {
        let failed = failed(&self.path);
        self.file
            .set_permissions(Permissions::from_mode(mode))
            .map_err(&failed)?;
        self.file.sync_all().map_err(&failed)?;
        let link = |to: &Path| {
            let (from, follow) = (self.name(), AtFlags::SYMLINK_FOLLOW);
            rustix::fs::linkat(CWD, from, CWD, to, follow).map_err(io::Error::from)
        };
        match link(&self.path) {
            // A link cannot take the place of a file, only a rename can. The name in between is always
            // the same one, so that a run that ends just here leaves nothing for ever.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let between = staging(&self.path);
                match fs::remove_file(&between) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                    _ => link(&between).and_then(|()| fs::rename(&between, &self.path)),
                }
            }
            // The file system does not support linking an unnamed file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.copy(mode),
            linked => linked,
        }
        .map_err(&failed)
    }

    fn copy(&self, mode: u32) -> io::Result<()> {
        let mut named = tempfile::NamedTempFile::new_in(directory_of(&self.path))?;
        (&self.file).rewind()?;
        io::copy(&mut &self.file, &mut named)?;
        named
            .as_file()
            .set_permissions(Permissions::from_mode(mode))?;
        named.as_file().sync_all()?;
        named.persist(&self.path)?;
        Ok(())
    }
}

/// Write a file that is there afterwards as it was, or whole, never in part. Its directory is made
/// when it is missing. `mode` are its permission bits, whatever the umask.
pub(crate) fn replace(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), Error> {
    let draft = Draft::new(path)?;
    draft
        .file()
        .write_all(bytes)
        .map_err(|error| draft.failed(error))?;
    draft.publish(mode)
}

/// Put a directory with these files, which are for later, in place of what has its name. Each draft's
/// path is in [`staging`] of the directory.
pub(crate) fn publish_directory(path: &Path, drafts: Vec<(Draft, u32)>) -> Result<(), Error> {
    let failed = failed(path);
    let staging = staging(path);
    let clean = || match fs::remove_dir_all(&staging) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    clean()
        .and_then(|()| fs::create_dir(&staging))
        .map_err(&failed)?;
    for (draft, mode) in drafts {
        draft.publish(mode)?;
    }
    let exchanged = renameat_with(CWD, &staging, CWD, path, RenameFlags::EXCHANGE);
    match exchanged.map_err(io::Error::from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(&staging, path),
        exchanged => exchanged,
    }
    .and_then(|()| clean())
    .map_err(&failed)
}

/// Where the files of a directory are put together. The name is always the same one: see
/// [`Draft::publish`].
pub(crate) fn staging(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

/// Remove a file of an earlier run, if there is one.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path)(error)),
        _ => Ok(()),
    }
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
    fn a_device_or_a_pipe_keeps_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let (pipe, link) = (dir.path().join("pipe"), dir.path().join("link"));
        rustix::fs::mknodat(
            CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        for path in [pipe, link] {
            let error = replace(&path, PUBLIC, b"one").unwrap_err().to_string();
            assert!(error.contains("is no file"), "{error}");
            assert!(!fs::symlink_metadata(&path).unwrap().is_file());
        }
    }

    #[test]
    fn a_directory_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundle");
        for names in [&["one", "two"][..], &["two", "three"]] {
            let drafts = names.iter().map(|name| {
                let draft = Draft::for_later(&staging(&path).join(name), &path).unwrap();
                draft.file().write_all(name.as_bytes()).unwrap();
                (draft, PUBLIC)
            });
            publish_directory(&path, drafts.collect()).unwrap();
            assert_eq!(fs::read_dir(&path).unwrap().count(), 2);
            assert_eq!(fs::read(path.join(names[1])).unwrap(), names[1].as_bytes());
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
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
