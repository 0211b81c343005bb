//! Extended attributes, which in 9P are read from a fid of their own.

use bytes::BytesMut;

use super::{FuseFront, FuseStep};
use crate::errno::Errno;
use crate::msg::Request;

impl FuseFront {
    /// An attribute, or the list of all, has this length. The kernel has room for `size`, or asks for the length alone.
    pub(super) fn xattr_found(&mut self, unique: u64, fid: u32, size: u32, length: u64) {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        if size == 0 || length > size || length == 0 {
            self.clunk(0, fid);
            return match (size, length) {
                (0, length) => self.answer(unique, |out| {
                    out.u32(length);
                    out.u32(0);
                }),
                (_, 0) => self.answer(unique, |_| {}),
                _ => self.fail(unique, Errno::ERANGE),
            };
        }
        self.read_xattr(unique, fid, length, BytesMut::new());
    }

    /// Asks for the rest of it.
    pub(super) fn read_xattr(&mut self, unique: u64, fid: u32, length: u32, got: BytesMut) {
        let offset = u64::try_from(got.len()).unwrap_or(u64::MAX);
        let count = length.saturating_sub(u32::try_from(got.len()).unwrap_or(u32::MAX));
        let step = FuseStep::XattrRead { fid, length, got };
        self.send(unique, step, &Request::Read { fid, offset, count });
    }
}
