//! Reads directories. Each Treaddir continues where the last one ended, so no entries are kept here. The offsets that the
//! peer gets are numbers of entries, not the file system's cookies ([`super::cookies`]).

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use ninep::errno::Errno;
use ninep::fs::{DirSink, Result};
use ninep::msg::{DirEntry, Qid};
use ninep::wire::Str;
use rustix::fs::{FileType, RawDir, SeekFrom};

use super::cookies::{CookieTotal, Cookies};
use super::os;

/// The size of the buffer for getdents64(2).
const BATCH: usize = 16 * 1024;
/// The size of a `linux_dirent64` with the longest name of most file systems.
const MAX_ENTRY: usize = 280;

/// An open directory.
pub(super) struct DirStream(Mutex<DirReader>);

/// A position in a directory: the number of entries before it, and the file system's cookie.
type Position = (u64, u64);

struct DirReader {
    /// The position of the descriptor, if it is known.
    at: Option<Position>,
    /// Where the last reply began. The peer may ask for it again.
    last: Position,
    cookies: Cookies,
}

impl DirStream {
    pub(super) fn new(total: CookieTotal) -> Self {
        Self(Mutex::new(DirReader {
            at: None,
            last: (0, 0),
            cookies: Cookies::new(total),
        }))
    }

    /// Fills `sink` from `offset` on. `path` returns the qid.path for a name and inode number.
    pub(super) fn read(
        &self,
        fd: impl AsFd,
        offset: u64,
        sink: &mut DirSink<'_>,
        path: impl Fn(&[u8], u64) -> u64,
    ) -> Result<()> {
        let mut reader = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = reader.at.take();
        let mut position = match at {
            Some(position) if position.0 == offset && offset != 0 => position,
            _ => reader.seek(fd.as_fd(), offset)?,
        };
        reader.last = position;
        reader.fill(fd.as_fd(), &mut position, sink, path)?;
        reader.at = Some(position);
        Ok(())
    }
}

impl DirReader {
    /// Seeks to the position after `number` entries, or to the end.
    fn seek(&self, fd: BorrowedFd<'_>, number: u64) -> Result<Position> {
        let (mut at, mut cookie) = self.cookies.before(number);
        if (at..=number).contains(&self.last.0) {
            (at, cookie) = self.last;
        }
        rustix::fs::seek(fd, SeekFrom::Start(cookie)).map_err(os)?;
        let mut batch = [MaybeUninit::uninit(); BATCH];
        let mut entries = RawDir::new(fd, &mut batch);
        while at < number {
            let Some(entry) = entries.next() else {
                return Ok((number, cookie));
            };
            cookie = entry.map_err(os)?.next_entry_cookie();
            at += 1;
        }
        // The kernel may have read more entries than that.
        rustix::fs::seek(fd, SeekFrom::Start(cookie)).map_err(os)?;
        Ok((number, cookie))
    }

    fn fill(
        &mut self,
        fd: BorrowedFd<'_>,
        position: &mut Position,
        sink: &mut DirSink<'_>,
        path: impl Fn(&[u8], u64) -> u64,
    ) -> Result<()> {
        let mut batch = [MaybeUninit::uninit(); BATCH];
        let available = sink.available();
        loop {
            // On the wire an entry has 24 + n bytes; in getdents64's buffer it has 20 + n, rounded up to a multiple of 8.
            // That is at most 7/6 as many on the wire, so everything that is read fits into the reply: no entry is read
            // twice, and none is kept.
            let fits = (sink.available() / 7 * 6).min(BATCH);
            let full = fits < MAX_ENTRY && sink.available() < available;
            let Some(batch) = batch.get_mut(..fits).filter(|_| !full) else {
                return Ok(());
            };
            match self.one_batch(fd, batch, position, sink, &path) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                // The next entry does not fit into the buffer, because its name is longer (vfat's may be).
                Err(Errno::EINVAL) if sink.available() < available => return Ok(()),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Returns whether there may be more entries.
    fn one_batch(
        &mut self,
        fd: BorrowedFd<'_>,
        batch: &mut [MaybeUninit<u8>],
        position: &mut Position,
        sink: &mut DirSink<'_>,
        path: &impl Fn(&[u8], u64) -> u64,
    ) -> Result<bool> {
        let mut entries = RawDir::new(fd, batch);
        loop {
            let entry = match entries.next() {
                None => return Ok(false),
                Some(entry) => entry.map_err(os)?,
            };
            let name = entry.file_name().to_bytes();
            let kind = entry.file_type();
            let pushed = sink.push(&DirEntry {
                qid: Qid {
                    kind: match kind {
                        FileType::Directory => Qid::DIR,
                        FileType::Symlink => Qid::SYMLINK,
                        _ => Qid::FILE,
                    },
                    version: 0,
                    path: path(name, entry.ino()),
                },
                offset: position.0 + 1,
                kind: d_type(kind),
                name: Str::new(name).ok_or(Errno::EIO)?,
            });
            if !pushed {
                return Err(Errno::EIO);
            }
            *position = (position.0 + 1, entry.next_entry_cookie());
            self.cookies.record(position.0, position.1);
            if entries.is_buffer_empty() {
                return Ok(true);
            }
        }
    }
}

/// The `DT_*` of readdir(3), which is the type in a mode, shifted. 0 is `DT_UNKNOWN`.
fn d_type(kind: FileType) -> u8 {
    if kind == FileType::Unknown {
        return 0;
    }
    u8::try_from(kind.as_raw_mode() >> 12 & 0xf).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_those_of_readdir() {
        for (kind, number) in [
            (FileType::Unknown, libc::DT_UNKNOWN),
            (FileType::RegularFile, libc::DT_REG),
            (FileType::Directory, libc::DT_DIR),
            (FileType::Symlink, libc::DT_LNK),
            (FileType::Fifo, libc::DT_FIFO),
            (FileType::Socket, libc::DT_SOCK),
            (FileType::CharacterDevice, libc::DT_CHR),
            (FileType::BlockDevice, libc::DT_BLK),
        ] {
            assert_eq!(d_type(kind), number, "{kind:?}");
        }
    }
}
