//! The machine's root: the kernel's rootfs, into which it has unpacked the initramfs, or a disk.

use std::path::Path;

use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};

/// From linux/magic.h: the root of an initramfs, where it is not a tmpfs.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

/// Whether `/` is in memory.
pub(crate) fn is_in_memory() -> bool {
    let kind = statfs(Path::new("/")).map(|fs| fs.filesystem_type());
    kind.is_ok_and(|kind| [TMPFS_MAGIC, RAMFS_MAGIC].contains(&kind))
}
