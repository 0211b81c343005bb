//! The files of keys among the arguments by which an initramfs was made: so that `mkimage initramfs --again` makes one for whom it is
//! meant for now.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use super::{Product, RECORDS, join, recorded};
use crate::publish::{self, PUBLIC};
use crate::read::{self, MAX_KEYS};

/// Let the arguments by which the initramfs in `directory` was made, if they are known, name these lines of keys too. The lines are
/// kept beside the record: the file that they came from may go.
pub(crate) fn record_keys(directory: &Path, lines: &[u8]) -> anyhow::Result<()> {
    let Some(mut record) = KeyRecord::read(directory)? else {
        return Ok(());
    };
    let added = record.added();
    let mut all = Vec::new();
    if record.keys.contains(&added) {
        all = fs::read(&added)?;
    } else {
        record.keys.push(added.clone());
    }
    all.extend_from_slice(lines);
    publish::replace(&added, PUBLIC, &all)?;
    record.write()
}

/// Let these arguments name no file of keys that `without` takes one from: its other keys are kept beside the record. `list` is
/// that of the initramfs.
pub(crate) fn forget_keys(
    directory: &Path,
    list: &[u8],
    without: impl Fn(&[u8]) -> Option<Vec<u8>>,
) -> anyhow::Result<()> {
    let Some(mut record) = KeyRecord::read(directory)? else {
        return Ok(());
    };
    let mut others = Vec::new();
    record.keys.retain(|path| {
        let bytes = read::whole(&record.here.join(path), MAX_KEYS).unwrap_or_default();
        let left = without(&bytes);
        for left in left.iter().filter(|left| !left.trim_ascii().is_empty()) {
            others.extend_from_slice(left.trim_ascii_end());
            others.push(b'\n');
        }
        left.is_none()
    });
    let added = record.added();
    if record.keys.contains(&added) {
        others.splice(0..0, fs::read(&added)?);
    } else if !others.is_empty() || record.keys.is_empty() {
        record.keys.push(added.clone());
    }
    if record.keys == [added.as_path()] {
        others = list.to_vec();
    }
    if record.keys.contains(&added) {
        publish::replace(&added, PUBLIC, &others)?;
    }
    record.write()
}

/// The arguments by which an initramfs was made, and the files of keys among them.
struct KeyRecord {
    records: PathBuf,
    here: PathBuf,
    arguments: Vec<OsString>,
    keys: Vec<PathBuf>,
}

impl KeyRecord {
    fn read(directory: &Path) -> io::Result<Option<Self>> {
        let Some((here, words)) = recorded(directory, Product::Initramfs)? else {
            return Ok(None);
        };
        let (mut arguments, mut keys) = (Vec::new(), Vec::new());
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            if word == "--key" {
                keys.extend(words.next().map(PathBuf::from));
            } else if let Some(path) = word.as_bytes().strip_prefix(b"--key=") {
                keys.push(OsString::from_vec(path.to_vec()).into());
            } else {
                arguments.push(word);
            }
        }
        if keys.is_empty() {
            keys.push(directory.join("cpu_rsa.pub"));
        }
        let records = directory.join(RECORDS);
        Ok(Some(Self {
            records,
            here,
            arguments,
            keys,
        }))
    }

    /// The file of keys that belongs to the record.
    fn added(&self) -> PathBuf {
        self.records.join("added.pub")
    }

    fn write(self) -> anyhow::Result<()> {
        let option = |path: PathBuf| {
            let mut word = OsString::from("--key=");
            word.push(path);
            word
        };
        let mut words = vec![self.here.into_os_string()];
        words.extend(self.arguments);
        words.extend(self.keys.into_iter().map(option));
        let path = self.records.join(Product::Initramfs.command());
        Ok(publish::replace(&path, PUBLIC, &join(&words))?)
    }
}
