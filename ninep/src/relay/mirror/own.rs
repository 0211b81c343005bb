//! Requests of the mirror's own: their tags and fids, which the kernel does not use.

use bytes::Bytes;

use super::Mirror;
use crate::msg::{NO_TAG, OWN_TAGS, Request};

/// The first fid of the mirror's own requests. The kernel takes the lowest that are free.
pub(super) const OWN_FIDS: u32 = 0xfff0_0000;
/// Maximum number of requests that nobody waits for, in flight at one time.
pub(super) const MAX_OWN: usize = 16;

impl Mirror {
    /// Appends an own request to `out`.
    pub(super) fn push(&mut self, tag: u16, request: &Request<'_>, out: &mut Vec<Bytes>) {
        request.encode(tag, &mut self.frame);
        out.push(Bytes::copy_from_slice(self.frame.finish()));
    }

    /// A tag for an own request.
    pub(super) fn own_tag(&mut self) -> Option<u16> {
        if self.own.len() >= MAX_OWN {
            return None;
        }
        // Not one that was just free: the clunk of its fid may still be under way.
        let tags = NO_TAG - OWN_TAGS;
        let mut all = (1..=tags).map(|n| OWN_TAGS + (self.last_own + n) % tags);
        let tag = all.find(|tag| !self.own.contains(tag))?;
        self.last_own = tag - OWN_TAGS;
        self.own.push(tag);
        Some(tag)
    }

    /// Own requests that follow from what was answered.
    pub(in crate::relay) fn take_requests(&mut self, out: &mut Vec<Bytes>) {
        for fid in std::mem::take(&mut self.done) {
            self.push(NO_TAG, &Request::Clunk { fid }, out);
        }
        self.fetch_more(out);
        self.replay_more(out);
    }
}
