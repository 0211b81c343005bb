//! A package of Alpine (apk-package(5), version 2) or of Arch (makepkg(8)): a compressed tar archive whose file `.PKGINFO` says what it
//! is for. Alpine's is made of several gzip files, which unpack to one archive.

use std::fs::File;
use std::io::{BufReader, Read};

use super::{Error, Files, MAX_CONTROL, MAX_DATA, check_machine, tar_files, unread};
use crate::arch::Arch;
use crate::archive::decompress;

/// Give its files to `files`.
pub(super) fn unpack(file: File, arch: Arch, files: &mut Files<'_, '_>) -> Result<(), Error> {
    let packed = file.metadata().map_err(Error::Open)?.len();
    let archive = decompress::reader(BufReader::new(file), packed, MAX_DATA);
    let mut is_checked = false;
    tar_files::read(archive.map_err(Error::Unpack)?, |name, contents| {
        if name == ".PKGINFO" {
            is_checked = true;
            return check(contents, arch);
        }
        // The names of what the package manager reads begin with a dot, and come first.
        if name.starts_with('.') && !name.starts_with("./") {
            return Ok(());
        }
        if !is_checked {
            return Err(Error::Format);
        }
        files.add(name, contents)
    })?;
    if is_checked {
        Ok(())
    } else {
        Err(Error::Format)
    }
}

fn check(info: &mut dyn Read, arch: Arch) -> Result<(), Error> {
    let mut text = String::new();
    let mut info = info.take(MAX_CONTROL);
    info.read_to_string(&mut text).map_err(unread)?;
    let mut pairs = text.lines().filter_map(|line| line.split_once('='));
    let got = pairs.find(|(key, _)| key.trim() == "arch");
    let (_, got) = got.ok_or(Error::Format)?;
    check_machine(got.trim(), arch.facts().name, arch)
}
