//! Which directories can be watched: those of local file systems, where every change passes through this kernel's inotify(7),
//! and where two names that differ are two names.

use rustix::fs::{FileType, OFlags};

use super::super::node::Node;
use super::super::{Export, stat};

/// `f_type` of statfs(2), from Linux's `magic.h`; some are defined where the file system is. Others change files without
/// events: those of networks, FUSE and the kernel, and overlayfs by its layers. In vfat and exfat, a file answers to several
/// names. ZFS has names that no listing shows (`.zfs`), may tell no cases apart, and `zfs rollback` makes no events.
const LOCAL: [i64; 13] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0xf2f5_2010, // f2fs
    0xca45_1a4e, // bcachefs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x3153_464a, // jfs
    0x3434,      // nilfs
    0x2405_1905, // ubifs
    0x7371_7368, // squashfs
    0xe0f5_e1e2, // erofs
    0x9660,      // iso9660
];

/// `FS_CASEFOLD_FL`: names that differ in upper and lower case are the same.
const CASEFOLD: u32 = 0x4000_0000;

impl Export {
    /// Whether the peer may be told that `node`, a directory of a local file system, is watched. What a rule keeps from the peer would have to be kept from its
    /// listing too.
    pub(in super::super) fn is_watchable(&self, node: &Node) -> bool {
        node.kind() == FileType::Directory
            && !node.is_of_kernel()
            && !node.access().is_outside()
            && !node.access().is_hidden()
            && self.tells_names_apart(node)
    }

    fn tells_names_apart(&self, node: &Node) -> bool {
        let fd = self.reopen(node, OFlags::RDONLY | OFlags::DIRECTORY);
        let is_there = |fd: &_| stat::stat(fd).is_ok_and(|stat| stat.stx_nlink > 0);
        fd.is_ok_and(|fd| {
            let flags = rustix::fs::ioctl_getflags(&fd);
            // An error means that the file system has no flags.
            is_there(&fd) && flags.map_or(true, |flags| flags.bits() & CASEFOLD == 0)
        })
    }
}

/// Whether a file is on a local file system. Others may ask a server for this.
pub(super) fn is_local(node: &Node) -> bool {
    #[expect(clippy::useless_conversion, reason = "narrower on some architectures")]
    let kind = rustix::fs::fstatfs(node.fd()).map(|stat| i64::from(stat.f_type));
    // The type is signed on some systems.
    kind.is_ok_and(|kind| LOCAL.contains(&(kind & 0xffff_ffff)))
}
