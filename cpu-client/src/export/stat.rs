//! Attributes from the system to the wire, and the identity of files.
//!
//! **qid.path** is the inode number from [`super::inode`] minus 2, which Linux's client adds (`QID2INO`).
//!
//! **qid.version** is a hash of size, mtime and ctime, one of which changes with every change of the file. It is never 0
//! except for open files, since 0 tells Linux's client to cache nothing.

use std::os::fd::AsFd;

use ninep::msg::{Attr, Qid, Statfs, Time};
use rustix::fs::{AtFlags, FileType, Mode, Statx, StatxAttributes, StatxFlags, StatxTimestamp};
use rustix::io::Result;

pub(super) const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// The type of file system in statfs: `CEPH_SUPER_MAGIC` of Linux's `magic.h`. Programs that depend on it must assume that
/// others change files without an inotify event. They do not assume that for `V9FS_MAGIC`, nor for the type of the file
/// system here; and for NFS, cargo takes no locks. What programs do with this one is in docs/conformance.md.
const F_TYPE: u32 = 0x00c3_6400;

pub(super) fn stat(fd: impl AsFd) -> Result<Statx> {
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, WANTED)
}

/// The device number.
pub(super) fn device(stat: &Statx) -> u64 {
    u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor)
}

/// Whether a file is known not to be mounted on its name (Linux 5.8).
pub(super) fn is_in_place(stat: &Statx) -> bool {
    let mounted = StatxAttributes::MOUNT_ROOT;
    stat.stx_attributes_mask.contains(mounted) && !stat.stx_attributes.contains(mounted)
}

/// What identifies a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct FileId {
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl FileId {
    pub(super) fn new(stat: &Statx) -> Self {
        Self {
            device: device(stat),
            inode: stat.stx_ino,
        }
    }
}

/// The qid.path that Linux's client shows as this inode number.
pub(super) fn path(number: u64) -> u64 {
    number.wrapping_sub(2)
}

pub(super) fn qid(number: u64, stat: &Statx) -> Qid {
    let time = |t: &StatxTimestamp| t.tv_sec.cast_unsigned() << 30 ^ u64::from(t.tv_nsec);
    let change = mix(mix(time(&stat.stx_mtime)) ^ time(&stat.stx_ctime)) ^ mix(stat.stx_size);
    let version = (change >> 32) as u32;
    Qid {
        kind: match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::Directory => Qid::DIR,
            FileType::Symlink => Qid::SYMLINK,
            _ => Qid::FILE,
        },
        version: version.max(1),
        path: path(number),
    }
}

fn time(t: &StatxTimestamp) -> Time {
    Time {
        sec: t.tv_sec.cast_unsigned(),
        nsec: t.tv_nsec.into(),
    }
}

pub(super) fn attr(qid: Qid, size: u64, stat: &Statx) -> Attr {
    let (major, minor) = (
        u64::from(stat.stx_rdev_major),
        u64::from(stat.stx_rdev_minor),
    );
    let has_btime = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    Attr {
        valid: Attr::BASIC | if has_btime { Attr::BTIME } else { 0 },
        qid,
        mode: stat.stx_mode.into(),
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        nlink: stat.stx_nlink.into(),
        rdev: (minor & 0xff) | major << 8 | (minor & !0xff) << 12,
        size,
        blksize: stat.stx_blksize.into(),
        blocks: stat.stx_blocks,
        atime: time(&stat.stx_atime),
        mtime: time(&stat.stx_mtime),
        ctime: time(&stat.stx_ctime),
        btime: time(&stat.stx_btime),
        generation: 0,
        data_version: 0,
    }
}

pub(super) fn statfs(fd: impl AsFd) -> Result<Statfs> {
    let stat = rustix::fs::fstatvfs(fd)?;
    let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Ok(Statfs {
        magic: F_TYPE,
        bsize: narrow(stat.f_frsize),
        blocks: stat.f_blocks,
        bfree: stat.f_bfree,
        bavail: stat.f_bavail,
        files: stat.f_files,
        ffree: stat.f_ffree,
        fsid: stat.f_fsid,
        namelen: narrow(stat.f_namemax),
    })
}

/// The permission bits of a mode, with set-user-ID, set-group-ID and sticky.
pub(super) fn mode(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

/// Makes every bit of the result depend on every bit of `x` (the finalizer of SplitMix64). 0 stays 0.
pub(super) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
