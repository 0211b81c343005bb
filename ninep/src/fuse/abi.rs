//! Messages of /dev/fuse: `include/uapi/linux/fuse.h` of the Linux kernel, in the machine's byte order.

use std::time::Duration;

use crate::msg::{Attr, Statfs, Time};

macro_rules! opcodes {
    ($($name:ident = $number:literal,)*) => {
        /// What the kernel asks for (`enum fuse_opcode`).
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Opcode { $($name,)* }

        impl Opcode {
            fn new(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

opcodes! {
    Lookup = 1, Forget = 2, Getattr = 3, Setattr = 4, Readlink = 5, Symlink = 6, Mknod = 8, Mkdir = 9, Unlink = 10,
    Rmdir = 11, Rename = 12, Link = 13, Open = 14, Read = 15, Write = 16, Statfs = 17, Release = 18, Fsync = 20,
    Setxattr = 21, Getxattr = 22, Listxattr = 23, Removexattr = 24, Flush = 25, Init = 26, Opendir = 27, Readdir = 28,
    Releasedir = 29, Fsyncdir = 30, Getlk = 31, Setlk = 32, Setlkw = 33, Create = 35, Interrupt = 36, Destroy = 38,
    BatchForget = 42, Rename2 = 45,
}

/// The size of `fuse_in_header`.
pub(super) const IN_HEADER: usize = 40;
/// The size of `fuse_out_header`.
const OUT_HEADER: usize = 16;

// Flags of INIT. Those from 32 on are in its second word.
pub(super) const ASYNC_READ: u64 = 1;
pub(super) const POSIX_LOCKS: u64 = 1 << 1;
pub(super) const ATOMIC_O_TRUNC: u64 = 1 << 3;
pub(super) const BIG_WRITES: u64 = 1 << 5;
pub(super) const FLOCK_LOCKS: u64 = 1 << 10;
pub(super) const AUTO_INVAL_DATA: u64 = 1 << 12;
pub(super) const ASYNC_DIO: u64 = 1 << 15;
pub(super) const PARALLEL_DIROPS: u64 = 1 << 18;
pub(super) const MAX_PAGES: u64 = 1 << 22;
pub(super) const INIT_EXT: u64 = 1 << 30;
pub(super) const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;

// Flags of a reply to an open.
pub(super) const FOPEN_DIRECT_IO: u32 = 1;
pub(super) const FOPEN_KEEP_CACHE: u32 = 1 << 1;

// Which fields of a setattr are valid (`FATTR_*`).
pub(super) const FATTR_FH: u32 = 1 << 6;
/// Fields whose bits 9P has too, in the order mode, uid, gid, size, atime, mtime.
pub(super) const FATTR_COMMON: u32 = 0x3f;
pub(super) const FATTR_ATIME_NOW: u32 = 1 << 7;
pub(super) const FATTR_MTIME_NOW: u32 = 1 << 8;
pub(super) const FATTR_CTIME: u32 = 1 << 10;

/// The fields of `fuse_in_header` that matter here.
#[derive(Debug, Clone, Copy)]
pub(super) struct InHeader {
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl InHeader {
    /// Which operation it is; none if this front has none of this number.
    pub(super) fn operation(&self) -> Option<Opcode> {
        Opcode::new(self.opcode)
    }
}

/// The fields of a request that have not been read yet. Past its end there are zeros: older kernels send shorter requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    /// The next `n` bytes.
    pub(super) fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        head
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let bytes = self.take(N);
        if let Some(to) = array.get_mut(..bytes.len()) {
            to.copy_from_slice(bytes);
        }
        array
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_ne_bytes(self.array())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_ne_bytes(self.array())
    }

    /// The bytes up to the next NUL.
    pub(super) fn string(&mut self) -> &'a [u8] {
        let end = self.0.iter().position(|&b| b == 0);
        let text = self.take(end.unwrap_or(self.0.len()));
        self.take(1);
        text
    }

    pub(super) fn header(&mut self) -> InHeader {
        let _length = self.u32();
        let opcode = self.u32();
        let (unique, node) = (self.u64(), self.u64());
        let (uid, gid) = (self.u32(), self.u32());
        // The process, and what extends the request.
        self.take(8);
        InHeader {
            opcode,
            unique,
            node,
            uid,
            gid,
        }
    }
}

/// A reply that is being written.
#[derive(Debug)]
pub(super) struct ReplyWriter(Vec<u8>);

impl ReplyWriter {
    /// Begins the reply to a request, with an error number of errno(3), or 0.
    pub(super) fn new(unique: u64, errno: u32) -> Self {
        let mut out = Self(Vec::with_capacity(160));
        out.u32(0);
        out.u32(errno.wrapping_neg());
        out.u64(unique);
        out
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_ne_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_ne_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_ne_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Bytes so far, without the header.
    pub(super) fn len(&self) -> usize {
        self.0.len().saturating_sub(OUT_HEADER)
    }

    /// `fuse_attr`.
    fn attr(&mut self, attr: &Attr) {
        let number = |wide: u64| u32::try_from(wide).unwrap_or(u32::MAX);
        let seconds = [attr.atime.sec, attr.mtime.sec, attr.ctime.sec];
        self.u64(ino(attr.qid.path));
        self.u64(attr.size);
        self.u64(attr.blocks);
        for sec in seconds {
            self.u64(sec);
        }
        let parts = [attr.atime.nsec, attr.mtime.nsec, attr.ctime.nsec];
        for nsec in parts {
            self.u32(number(nsec));
        }
        self.u32(attr.mode);
        self.u32(number(attr.nlink));
        self.u32(attr.uid);
        self.u32(attr.gid);
        self.u32(number(attr.rdev));
        self.u32(number(attr.blksize));
        self.u32(0);
    }

    /// `fuse_attr_out`: attributes that may be kept for some time.
    pub(super) fn attr_out(&mut self, attr: &Attr, ttl: Duration) {
        self.u64(ttl.as_secs());
        self.u32(ttl.subsec_nanos());
        self.u32(0);
        self.attr(attr);
    }

    /// `fuse_entry_out`: a name and attributes that may be kept for some time. KernelNode 0: there is no file of this name.
    pub(super) fn entry_out(&mut self, node: u64, attr: &Attr, ttl: Duration) {
        self.u64(node);
        self.u64(0);
        self.u64(ttl.as_secs());
        self.u64(ttl.as_secs());
        self.u32(ttl.subsec_nanos());
        self.u32(ttl.subsec_nanos());
        self.attr(attr);
    }

    /// `fuse_open_out`.
    pub(super) fn open_out(&mut self, handle: u64, flags: u32) {
        self.u64(handle);
        self.u32(flags);
        self.u32(0);
    }

    /// `fuse_statfs_out`.
    pub(super) fn statfs_out(&mut self, stat: &Statfs) {
        let all = [stat.blocks, stat.bfree, stat.bavail, stat.files, stat.ffree];
        for value in all {
            self.u64(value);
        }
        self.u32(stat.bsize);
        self.u32(stat.namelen);
        self.u32(stat.bsize);
        self.bytes(&[0; 28]);
    }

    /// `fuse_dirent`: false, and nothing appended, if there would be more than `max` bytes.
    pub(super) fn dirent(
        &mut self,
        (path, offset, kind): (u64, u64, u8),
        name: &[u8],
        max: usize,
    ) -> bool {
        let size = (24 + name.len()).next_multiple_of(8);
        if self.len() + size > max {
            return false;
        }
        let end = self.0.len() + size;
        self.u64(ino(path));
        self.u64(offset);
        self.u32(u32::try_from(name.len()).unwrap_or(u32::MAX));
        self.u32(kind.into());
        self.bytes(name);
        self.0.resize(end, 0);
        true
    }

    /// The whole reply, but for `data` that follows it.
    pub(super) fn finish(mut self, data: usize) -> Vec<u8> {
        let length = u32::try_from(self.0.len() + data).unwrap_or(u32::MAX);
        if let Some(size) = self.0.first_chunk_mut() {
            *size = length.to_ne_bytes();
        }
        self.0
    }
}

/// The inode number that Linux's 9P client shows for a qid path (`v9fs_qid2ino`). The server reckons with it.
fn ino(path: u64) -> u64 {
    path.wrapping_add(2)
}

/// Seconds and nanoseconds as 9P has them.
pub(super) fn time(sec: u64, nsec: u32) -> Time {
    Time {
        sec,
        nsec: nsec.into(),
    }
}
