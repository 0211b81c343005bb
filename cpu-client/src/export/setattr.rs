//! setattr: changes modes, owners, sizes and times.

use ninep::errno::Errno;
use ninep::msg::{SetAttr, Time};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Result;

use super::node::Node;
use super::owner::change_owner;
use super::stat::mode;
use super::{Export, File, os};

/// One time in a setattr, as utimensat(2) takes it.
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
    /// Applies a setattr. The owner comes first, since changing it clears set-user-ID and set-group-ID, which the mode may
    /// set; the times come last, since changing the size changes them.
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
        // Truncation has updated mtime already; setting it again would need more rights.
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
            // This is how a chown(2) arrives that changes neither owner nor group.
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

    /// Sets the size, through `file` if that is open for writing, else if the file may be opened for writing. The latter
    /// is for `O_RDONLY | O_TRUNC`, with which Linux truncates too.
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
