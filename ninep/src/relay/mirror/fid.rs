//! What the mirror knows of a fid of the kernel's.

use std::sync::Arc;

use super::ahead::ReadAhead;
use super::listing::Listing;
use super::open::Reads;
use crate::msg::Qid;

/// A fid, and the file that it stands for.
#[derive(Debug, Clone)]
pub(super) struct MirrorFid {
    pub(super) qid: Qid,
    /// The directory in which it was found, and its name there.
    pub(super) place: Option<(u64, Arc<[u8]>)>,
    /// Of a directory that was opened: what is read from it.
    pub(super) listing: Option<Arc<Listing>>,
    /// Of a file that was opened.
    pub(super) reads: Reads,
    /// Of a file that was opened: how it is read ahead.
    pub(super) ahead: ReadAhead,
    /// Whether reading has begun.
    pub(super) is_read: bool,
    /// Whether it is the value of an extended attribute, which its clunk sets.
    pub(super) sets_xattr: bool,
    /// Whether it is the list of the extended attributes of a file without any, of which the server does not know.
    pub(super) is_empty_list: bool,
}

impl MirrorFid {
    pub(super) fn new(qid: Qid, place: Option<(u64, Arc<[u8]>)>) -> Self {
        Self {
            qid,
            place,
            listing: None,
            reads: Reads::Server,
            ahead: ReadAhead::default(),
            is_read: false,
            sets_xattr: false,
            is_empty_list: false,
        }
    }

    pub(super) fn place(&self) -> Option<(u64, &[u8])> {
        self.place.as_ref().map(|(dir, name)| (*dir, &**name))
    }

    pub(super) fn dir(&self) -> Option<u64> {
        (self.qid.kind == Qid::DIR).then_some(self.qid.path)
    }
}
