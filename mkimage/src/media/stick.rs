//! The image of a stick: the files in a partition that BIOS and UEFI boot from, its block map and its
//! compressed form.

use std::path::Path;

use anyhow::Result;

use super::syslinux;
use crate::arch::Arch;
use crate::archive::compress;
use crate::disk::{self, Layout, Volume, bmap};
use crate::epoch;
use crate::progress::Progress;
use crate::publish::Draft;

/// An image that has no names yet.
pub(crate) struct StickImage {
    pub(crate) disk: Draft,
    pub(crate) xz: Draft,
    pub(crate) map: String,
}

/// Make the image, its map and its compressed form, the files to be in `directory`.
pub(crate) fn make(
    arch: Arch,
    directory: &Path,
    size: u64,
    files: disk::FileList,
    progress: Progress,
) -> Result<StickImage> {
    let layout = Layout::new(size, &files)?;
    let image = Draft::new(&directory.join("usbstick"))?;
    let failed = |error: disk::Error| match error {
        disk::Error::Write(source) | disk::Error::Fat { source, .. } => {
            anyhow::Error::from(image.failed(source))
        }
        error => error.into(),
    };
    let bios = arch.facts().has_bios;
    let boot_code = if bios {
        syslinux::boot_code()?
    } else {
        Vec::new()
    };
    layout
        .write_table(image.file(), &boot_code)
        .map_err(failed)?;
    let volume = Volume::format(image.file(), &layout).map_err(failed)?;
    if bios {
        syslinux::install(&image.name(), progress)?;
    }
    let used = volume
        .fill(&files, epoch::from_environment()?)
        .map_err(failed)?;
    drop(files);
    let mapped = layout.mapped(used);
    let map = bmap::make(image.file(), &mapped).map_err(|error| image.failed(error))?;

    let xz = Draft::new(&directory.join("usbstick.xz"))?;
    let steps = size.div_ceil(1 << 20);
    let mut task = progress.task("compressing", Some(steps));
    compress::xz_file(image.file(), used, xz.file(), || task.step())
        .map_err(|error| xz.failed(error))?;
    drop(task);
    Ok(StickImage {
        disk: image,
        xz,
        map,
    })
}
