//! The files of a kernel's package or directory, by name. Unpacked data are in one unnamed temporary file, so nothing remains,
//! however mkimage ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::archive::package::MAX_DATA;
use crate::read;

/// Why a file was not added.
#[derive(Debug)]
pub(super) enum Error {
    /// It could not be read.
    Read(io::Error),
    /// It could not be kept.
    Write(io::Error),
    /// All files together are too much for the disk.
    TooMuch,
}

/// How many bytes are copied at a time.
const CHUNK: usize = 1 << 16;

/// Files by names with `/`, without one at the beginning.
#[derive(Debug)]
pub(crate) enum Store {
    /// Those beneath a directory.
    Directory {
        root: PathBuf,
        names: BTreeSet<String>,
    },
    /// Those that were unpacked: where they are in the file, and how long.
    Unpacked {
        file: File,
        end: u64,
        names: BTreeMap<String, (u64, usize)>,
    },
}

impl Store {
    /// An empty one to unpack into.
    pub(super) fn unnamed() -> io::Result<Self> {
        Ok(Self::Unpacked {
            file: tempfile::tempfile()?,
            end: 0,
            names: BTreeMap::new(),
        })
    }

    /// All files beneath a directory. Symbolic links are left out: those of a kernel's modules lead to
    /// its source.
    pub(crate) fn directory(root: &Path) -> io::Result<Self> {
        let (mut names, mut pending) = (BTreeSet::new(), vec![String::new()]);
        while let Some(inner) = pending.pop() {
            for entry in fs::read_dir(root.join(&inner))? {
                let entry = entry?;
                let Ok(name) = entry.file_name().into_string() else {
                    continue;
                };
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    pending.push(format!("{inner}{name}/"));
                } else if kind.is_file() {
                    names.insert(format!("{inner}{name}"));
                }
            }
        }
        Ok(Self::Directory {
            root: root.to_owned(),
            names,
        })
    }

    /// Keep what a reader gives under a name.
    pub(super) fn add(&mut self, name: String, reader: &mut dyn Read) -> Result<(), Error> {
        let Self::Unpacked { file, end, names } = self else {
            return Err(Error::Write(io::ErrorKind::Unsupported.into()));
        };
        let (start, mut length) = (*end, 0);
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = reader.read(&mut buffer).map_err(Error::Read)?;
            if count == 0 {
                break;
            }
            if start + (length + count) as u64 > MAX_DATA {
                return Err(Error::TooMuch);
            }
            file.write_all(&buffer[..count]).map_err(Error::Write)?;
            length += count;
        }
        *end += length as u64;
        names.insert(name, (start, length));
        Ok(())
    }

    /// In their order.
    pub(crate) fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Self::Directory { names, .. } => Box::new(names.iter().map(String::as_str)),
            Self::Unpacked { names, .. } => Box::new(names.keys().map(String::as_str)),
        }
    }

    /// Whether it has a file of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        match self {
            Self::Directory { names, .. } => names.contains(name),
            Self::Unpacked { names, .. } => names.contains_key(name),
        }
    }

    /// The bytes of a file that has `max` or less.
    pub(crate) fn read(&self, name: &str, max: u64) -> io::Result<Vec<u8>> {
        match self {
            Self::Directory { root, .. } => read::whole(&root.join(name), max),
            Self::Unpacked { file, names, .. } => {
                let (start, length) = names.get(name).ok_or(io::ErrorKind::NotFound)?;
                read::within(*length as u64, max)?;
                let mut bytes = vec![0; *length];
                file.read_exact_at(&mut bytes, *start)?;
                Ok(bytes)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unpacked_together_has_a_limit() {
        let store = |end| Store::Unpacked {
            file: tempfile::tempfile().unwrap(),
            end,
            names: BTreeMap::new(),
        };
        let add = |mut store: Store| store.add("x".to_owned(), &mut &b"two"[..]);
        assert!(add(store(MAX_DATA - 3)).is_ok());
        assert!(matches!(add(store(MAX_DATA - 2)), Err(Error::TooMuch)));
    }
}
