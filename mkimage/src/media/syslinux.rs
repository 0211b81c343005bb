//! SYSLINUX, which boots the FAT partition of an image under a BIOS: the boot code before the partition
//! table, and the loader on the partition. Its own installer does the second, without root.

use std::fs;
use std::path::Path;

use crate::disk;
use crate::progress::Progress;
use crate::tools::{self, Tool};

/// Where distributions have the boot code for a GUID partition table.
const BOOT_CODE: [&str; 3] = [
    "/usr/lib/syslinux/mbr/gptmbr.bin",
    "/usr/share/syslinux/gptmbr.bin",
    "/usr/lib/syslinux/bios/gptmbr.bin",
];

/// At most what there is room for.
pub(crate) fn boot_code() -> Result<Vec<u8>, tools::Error> {
    tools::require(&[
        Tool {
            program: "syslinux",
            package: "syslinux",
        },
        Tool {
            program: "mcopy",
            package: "mtools",
        },
    ])?;
    BOOT_CODE
        .iter()
        .find_map(|path| fs::read(path).ok())
        .filter(|code| code.len() <= 440)
        .ok_or_else(|| {
            tools::Error::Missing(vec![Tool {
                program: "gptmbr.bin",
                package: "syslinux-common",
            }])
        })
}

/// Put the loader onto an image's empty partition.
pub(crate) fn install(image: &Path, progress: Progress) -> Result<(), tools::Error> {
    let mut command = tools::command("syslinux");
    command
        .args(["--install", "--offset", &disk::START.to_string()])
        .arg(image);
    tools::run_short(command, progress)
}
