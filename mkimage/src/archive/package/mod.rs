//! The files of a distribution's package, which may be a stranger's. It is known by its first bytes; each format is a file of this
//! directory, and so are the two archives that packages have inside.

mod cpio_files;
mod deb;
mod pkginfo;
mod rpm;
mod tar_files;

use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::{Component, Path};

use cpu_proto::printable;

use super::decompress;
use crate::arch::Arch;

/// Longer than any description of a package.
const MAX_CONTROL: u64 = 1 << 20;
/// A kernel package unpacks to 100 MB, with modules that are not compressed to 500 MB. Most of it is kept on disk.
pub(crate) const MAX_DATA: u64 = 960 << 20;
/// Some 5,000 files are in one, with names of 400 kB.
const MAX_FILES: usize = 1 << 15;
const MAX_NAMES: usize = 4 << 20;
/// The kernel's own limit, PATH_MAX.
const MAX_NAME: u64 = 4096;

/// Why a package cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "it is no package of Debian or Ubuntu (.deb), Fedora or openSUSE (.rpm), Alpine (.apk) or Arch (.pkg.tar.zst)"
    )]
    Format,
    #[error("it is no regular file")]
    NoFile,
    #[error(
        "it is a package of {0}, which mkimage cannot read: unpack it yourself, and give --kernel and --modules-dir"
    )]
    Version(&'static str),
    #[error("it is a package for {got}, and the machine is {wanted} (--arch)")]
    Machine { got: String, wanted: Arch },
    #[error("it has {0}, of a kind that mkimage cannot read")]
    Member(String),
    #[error("it has two members {0}")]
    Twice(String),
    #[error(
        "it has more than {MAX_FILES} files, or names of more than {MAX_NAMES} bytes: do not use it, or unpack it \
         yourself (dpkg-deb -x, rpm2cpio, tar -x)"
    )]
    Files,
    #[error(transparent)]
    Unpack(decompress::Error),
    #[error("cannot read it")]
    Open(#[source] io::Error),
    #[error("it is damaged or truncated")]
    Damaged(#[source] io::Error),
    #[error("a file in it has a name of {0} bytes")]
    LongName(u64),
    #[error("cannot keep what is in it in {} ($TMPDIR)", std::env::temp_dir().display())]
    Keep(#[source] io::Error),
    #[error(
        "with what was unpacked before, it has more than {MAX_DATA} bytes for a kernel: it is damaged, or made to \
         exhaust the disk; if you trust it, unpack it yourself, and give --kernel and --modules-dir"
    )]
    TooMuch,
}

/// What a failure to read means.
pub(crate) fn unread(error: io::Error) -> Error {
    decompress::in_reader(error).map_or_else(Error::Damaged, Error::Unpack)
}

/// Takes a file of a package: its path from the root without the first `/`, and what is in it.
type Keep<'a> = dyn FnMut(String, &mut dyn Read) -> Result<(), Error> + 'a;

/// Give every regular file of a package for `arch` to `keep`. Paths with `..` in them are left out.
pub(crate) fn unpack(path: &Path, arch: Arch, keep: &mut Keep<'_>) -> Result<(), Error> {
    // A FIFO would be waited for.
    if !path.metadata().map_err(Error::Open)?.is_file() {
        return Err(Error::NoFile);
    }
    let mut file = File::open(path).map_err(Error::Open)?;
    let mut start = Vec::new();
    let read = (&file).take(6).read_to_end(&mut start);
    read.and_then(|_| file.rewind()).map_err(Error::Open)?;
    let mut files = Files {
        keep,
        count: 0,
        names: 0,
    };
    match start.as_slice() {
        b"!<arch" => deb::unpack(file, arch, &mut files),
        [0xed, 0xab, 0xee, 0xdb, ..] => rpm::unpack(file, arch, &mut files),
        [b'A', b'D', b'B', ..] => Err(Error::Version("version 3 of apk")),
        _ if decompress::is_compressed(&start) => pkginfo::unpack(file, arch, &mut files),
        _ => Err(Error::Format),
    }
}

/// The files that go through, within limits.
struct Files<'a, 'k> {
    keep: &'a mut Keep<'k>,
    count: usize,
    names: usize,
}

impl Files<'_, '_> {
    fn add(&mut self, name: &str, contents: &mut dyn Read) -> Result<(), Error> {
        self.count += 1;
        self.names += name.len();
        if self.count > MAX_FILES || self.names > MAX_NAMES {
            return Err(Error::Files);
        }
        match plain(Path::new(name)) {
            Some(name) => (self.keep)(name, contents),
            None => Ok(()),
        }
    }
}

/// A path without `.` and the first `/`; `None` when it has `..` in it, or characters that a terminal would act on.
fn plain(path: &Path) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::CurDir | Component::RootDir => {}
            Component::Normal(name) => {
                parts.push(name.to_str().filter(|it| !it.contains(char::is_control))?);
            }
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

/// Refuse a package for another architecture.
fn check_machine(got: &str, expected: &str, wanted: Arch) -> Result<(), Error> {
    if got == expected {
        return Ok(());
    }
    // Longer names are none of a machine, and no lines of a message.
    let got = printable(got).chars().take(40).collect();
    Err(Error::Machine { got, wanted })
}

#[cfg(test)]
pub(crate) mod tests;
