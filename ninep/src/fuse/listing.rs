//! Entries of a directory.

use bytes::Bytes;

use super::{FuseFront, FuseReply, abi};
use crate::errno::Errno;
use crate::msg::DirEntry;
use crate::wire::{BodyReader, Wire as _};

impl FuseFront {
    /// Answers with the entries of a readdir of 9P, as many as there is room for.
    pub(super) fn listing(&mut self, unique: u64, data: &[u8], max: usize) {
        let mut entries = BodyReader::new(data);
        let mut broken = false;
        let mut out = abi::ReplyWriter::new(unique, 0);
        while !entries.is_empty() {
            let Ok(entry) = DirEntry::get(&mut entries) else {
                broken = true;
                break;
            };
            let name = entry.name.bytes();
            // The kernel would refuse the whole listing.
            if name.is_empty() || name.contains(&b'/') || name.len() > 1024 {
                continue;
            }
            let numbers = (entry.qid.path, entry.offset, entry.kind);
            if !out.dirent(numbers, name, max) {
                break;
            }
        }
        if broken && out.len() == 0 {
            return self.fail(unique, Errno::EIO);
        }
        let (head, data) = (out.finish(0), Bytes::new());
        self.replies.push(FuseReply { head, data });
    }
}
