//! Attributes from the system to the wire and back.
//!
//! **qid.path** is the number that [`super::inode`] gives the file, less the 2 that Linux's client adds (`QID2INO`).
//!
//! **qid.version** is a hash of size, mtime and ctime, which the kernel updates with every change;
//! never 0, which tells Linux's client not to cache. That of an open file always is.

use std::os::fd::AsFd;

use ninep::errno::Errno;
use ninep::msg::{Attr, Qid, SetAttr, Statfs, Time};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Statx, StatxFlags, StatxTimestamp, Timespec, Timestamps,
    UTIME_NOW, UTIME_OMIT,
};
use rustix::io::Result;

use super::inode::mix;
use super::node::Node;
use super::owner::change_owner;
use super::{Export, File, os};

pub(super) const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// `CEPH_SUPER_MAGIC` of Linux's `magic.h`: what statfs says the file system is. Programs that choose by it must take it for
/// one that others change without a word to inotify, which `V9FS_MAGIC` and the number of the file system underneath do not
/// say; NFS's makes cargo take no locks. What they do with this one: docs/conformance.md.
const F_TYPE: u32 = 0x00c3_6400;

pub(super) fn stat(fd: impl AsFd) -> Result<Statx> {
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, WANTED)
}

/// The device as one number.
pub(super) fn device(stat: &Statx) -> u64 {
    u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor)
}

/// The path of a qid that Linux's client shows as this inode number.
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

/// The permission bits of a mode.
pub(super) fn mode(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

/// What a setattr says of one time.
fn new_time(valid: u32, change: u32, given: u32, time: Time) -> ninep::fs::Result<Timespec> {
    let nsec = match () {
        () if valid & change == 0 => UTIME_OMIT,
        () if valid & given == 0 => UTIME_NOW,
        () if time.nsec < 1_000_000_000 => time.nsec.cast_signed(),
        () => return Err(Errno::EINVAL),
    };
    Ok(Timespec {
        tv_sec: time.sec.cast_signed(),
        tv_nsec: nsec,
    })
}

impl Export {
    /// setattr: the owner first, since changing it clears the set-id bits that a mode may bring;
    /// the times last, since changing the size sets them.
    pub(super) fn change(
        &self,
        node: &Node,
        file: Option<&File>,
        attr: &SetAttr,
    ) -> ninep::fs::Result<()> {
        let asks = |bits: u32| attr.valid & bits != 0;
        if asks(SetAttr::UID | SetAttr::GID) {
            self.chown(node, attr)?;
        }
        if asks(SetAttr::MODE) {
            self.chmod(node, mode(attr.mode)).map_err(os)?;
        }
        if asks(SetAttr::SIZE) {
            self.truncate(node, file, attr.size)?;
        }
        let atime = new_time(attr.valid, SetAttr::ATIME, SetAttr::ATIME_SET, attr.atime)?;
        // A new size has brought a new mtime, which only the owner could set otherwise.
        let mtime_valid = if asks(SetAttr::SIZE) && !asks(SetAttr::MTIME_SET) {
            attr.valid & !SetAttr::MTIME
        } else {
            attr.valid
        };
        let mtime = new_time(mtime_valid, SetAttr::MTIME, SetAttr::MTIME_SET, attr.mtime)?;
        if atime.tv_nsec != UTIME_OMIT || mtime.tv_nsec != UTIME_OMIT {
            let times = Timestamps {
                last_access: atime,
                last_modification: mtime,
            };
            self.set_times(node, &times).map_err(os)?;
        }
        if attr.valid == SetAttr::CTIME {
            // What chown(2) without an owner does, and how it arrives here.
            change_owner(node, None, None)?;
        }
        Ok(())
    }

    fn chmod(&self, node: &Node, mode: Mode) -> Result<()> {
        match &self.proc {
            Some(proc) => rustix::fs::chmodat(proc, node.number(), mode, AtFlags::empty()),
            None => rustix::fs::fchmod(self.reopen(node, OFlags::RDONLY)?, mode),
        }
    }

    /// Through `file` if it is open for writing, or else by the rights to the file itself: so Linux
    /// truncates what is opened with `O_RDONLY | O_TRUNC`.
    pub(super) fn truncate(
        &self,
        node: &Node,
        file: Option<&File>,
        size: u64,
    ) -> ninep::fs::Result<()> {
        match node.kind() {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        match file.map(|file| rustix::fs::ftruncate(&file.fd, size)) {
            None | Some(Err(rustix::io::Errno::INVAL)) => self
                .reopen(node, OFlags::WRONLY)
                .and_then(|fd| rustix::fs::ftruncate(fd, size)),
            Some(result) => result,
        }
        .map_err(os)
    }

    fn set_times(&self, node: &Node, times: &Timestamps) -> Result<()> {
        match &self.proc {
            Some(proc) => rustix::fs::utimensat(proc, node.number(), times, AtFlags::empty()),
            // Linux 5.8.
            None => rustix::fs::utimensat(node.fd(), c"", times, AtFlags::EMPTY_PATH),
        }
    }
}
