//! The first request of the kernel: what both can do, and how large messages are.

use bytes::Bytes;

use super::abi::{self, Fields};
use super::reply::PAGE;
use super::{FuseFront, FuseStep, Op};
use crate::errno::Errno;
use crate::msg::{NO_TAG, Request, VERSION};
use crate::wire::Str;

/// The latest `minor` that this front knows, of Linux 6.6.
const MINOR: u32 = 39;
/// How many reads ahead and writes behind the kernel may have under way.
const BACKGROUND: u16 = 64;

impl FuseFront {
    pub(super) fn initialize(&mut self, unique: u64, mut fields: Fields<'_>) {
        let (major, minor) = (fields.u32(), fields.u32());
        let (readahead, low) = (fields.u32(), fields.u32());
        let high = fields.u32();
        // 7.23 is that of Linux 3.15; the replies have their present size since then.
        if major != 7 || minor < 23 {
            return self.fail(unique, Errno::EPROTO);
        }
        let mut kernel_flags = u64::from(low);
        if kernel_flags & abi::INIT_EXT != 0 {
            kernel_flags |= u64::from(high) << 32;
        }
        let step = FuseStep::Version {
            kernel_flags,
            minor,
            readahead,
        };
        let request = Request::Version {
            msize: self.options.msize,
            version: Str::new(VERSION).unwrap_or_default(),
        };
        request.encode(NO_TAG, &mut self.frame);
        let message = Bytes::copy_from_slice(self.frame.finish());
        self.requests.push(message);
        self.init = Some(Op { unique, step });
    }

    pub(super) fn initialized(
        &mut self,
        unique: u64,
        kernel_flags: u64,
        minor: u32,
        readahead: u32,
    ) {
        let mut wanted = abi::ASYNC_READ
            | abi::POSIX_LOCKS
            | abi::FLOCK_LOCKS
            | abi::ATOMIC_O_TRUNC
            | abi::BIG_WRITES
            | abi::AUTO_INVAL_DATA
            | abi::ASYNC_DIO
            | abi::PARALLEL_DIROPS
            | abi::MAX_PAGES
            | abi::INIT_EXT;
        let (mut flags, direct) = (abi::FOPEN_DIRECT_IO, abi::DIRECT_IO_ALLOW_MMAP);
        if self.options.pages {
            // Reads and writes come here, and mapped pages are kept. Kernels before 6.6 can't do both.
            flags = abi::FOPEN_KEEP_CACHE;
            if kernel_flags & direct != 0 {
                wanted |= direct;
                flags |= abi::FOPEN_DIRECT_IO;
            }
        }
        self.open_flags = flags;
        let agreed = wanted & kernel_flags;
        let low = |wide: u64| u32::try_from(wide & u64::from(u32::MAX)).unwrap_or_default();
        let payload = self.payload;
        self.answer(unique, |out| {
            // `fuse_init_out`: the last but one is the granularity of times in nanoseconds.
            out.u32(7);
            out.u32(minor.min(MINOR));
            out.u32(readahead);
            out.u32(low(agreed));
            out.u16(BACKGROUND);
            out.u16(BACKGROUND / 4 * 3);
            out.u32(payload);
            out.u32(1);
            out.u16(u16::try_from(payload / PAGE).unwrap_or(u16::MAX));
            out.u16(0);
            out.u32(low(agreed >> 32));
            out.bytes(&[0; 28]);
        });
    }
}
