//! Directories are listed when a name in them is looked up for the first time, and when they are opened.

use std::sync::Arc;

use bytes::Bytes;

use super::facts::Moment;
use super::listing::Listing;
use super::{MAX_UNLISTED, Mirror, MirrorFid, OWN_FIDS, ReplyFate, RequestFate, What};
use crate::msg::{KEEP_NAME, ListEntry, NO_TAG, Qid, Reply, Request};
use crate::wire::{BodyReader, Data, WalkVec, Wire};

impl Mirror {
    /// Requests with which a directory is listed, in which the kernel is about to look a name up by `fid`. They come
    /// before that request.
    pub(in crate::relay) fn list_first(&mut self, fid: u32, out: &mut Vec<Bytes>) {
        let Some(dir) = self.fids.get(&fid).and_then(MirrorFid::dir) else {
            return;
        };
        if self.store.is_listed(dir) || self.unlisted.contains(&dir) {
            return;
        }
        let Some(tag) = self.own_tag() else {
            return;
        };
        self.set_unlisted(dir);
        // A fid of its own, since the kernel may clunk the other meanwhile.
        let newfid = OWN_FIDS | u32::from(tag);
        let names = WalkVec::default();
        let requests = [
            (NO_TAG, Request::Walk { fid, newfid, names }),
            (
                tag,
                Request::List {
                    fid: newfid,
                    open: 0,
                },
            ),
        ];
        self.record(tag, What::List(dir, None));
        for (tag, request) in requests {
            self.push(tag, &request, out);
        }
    }

    pub(super) fn set_unlisted(&mut self, dir: u64) {
        if self.unlisted.len() >= MAX_UNLISTED {
            self.unlisted.clear();
        }
        self.unlisted.insert(dir);
    }

    pub(super) fn open<'a>(&mut self, tag: u16, fid: u32, dir: u64, flags: u32) -> RequestFate<'a> {
        // Who opens a directory often wants more of its files than their attributes (ls -l).
        let listing = self.store.listing(dir);
        if let Some(listing) = listing.filter(|_| self.store.is_detailed(dir)) {
            let qid = Qid {
                kind: Qid::DIR,
                version: 0,
                path: dir,
            };
            if let Some(fid) = self.fids.get_mut(&fid) {
                fid.listing = Some(listing);
                fid.is_read = false;
            }
            let reply = self.encode(tag, &Reply::Lopen { qid, iounit: 0 });
            return RequestFate::Answer(reply, Some(Request::Lopen { fid, flags }));
        }
        self.record(tag, What::List(dir, Some(fid)));
        RequestFate::Instead(Request::List { fid, open: 1 })
    }

    /// The entries from `offset` on, if they are known. At the beginning, those that there are now (rewinddir(3)).
    pub(super) fn readdir(&mut self, tag: u16, fid: u32, offset: u64, count: u32) -> Option<Bytes> {
        let state = self.fids.get_mut(&fid)?;
        if offset == 0 && std::mem::replace(&mut state.is_read, true) {
            state.listing = self.store.listing(state.qid.path);
        }
        let listing = state.listing.clone()?;
        Some(match listing.read(offset, count) {
            Ok(data) => self.encode(tag, &Reply::Readdir { data: Data(data) }),
            Err(errno) => self.error(tag, errno),
        })
    }

    pub(super) fn listed(
        &mut self,
        tag: u16,
        sent: Moment,
        (dir, open): (u64, Option<u32>),
        (kept, qid, data): (u8, Qid, &[u8]),
    ) -> ReplyFate {
        let is_told = kept == KEEP_NAME && qid.path == dir;
        let data = Some(data).filter(|_| is_told);
        let listing = self.keep_listing(dir, open.is_some(), sent, data);
        let Some(fid) = open else {
            return ReplyFate::Taken;
        };
        if let Some(fid) = self.fids.get_mut(&fid) {
            fid.listing = listing;
            fid.is_read = false;
        }
        ReplyFate::Instead(self.encode(tag, &Reply::Lopen { qid, iounit: 0 }))
    }

    /// Keeps the listing of a directory, if the server has told it.
    pub(super) fn keep_listing(
        &mut self,
        dir: u64,
        detailed: bool,
        sent: Moment,
        data: Option<&[u8]>,
    ) -> Option<Arc<Listing>> {
        let mut entries = Vec::new();
        let mut rest = BodyReader::new(data.unwrap_or_default());
        while !rest.is_empty() {
            match ListEntry::get(&mut rest) {
                Ok(entry) => entries.push(entry),
                Err(_) => break,
            }
        }
        let mut listing = None;
        if data.is_some() && rest.is_empty() {
            let now = self.moment();
            listing = self.store.listed(dir, &entries, detailed, sent, now);
        }
        if self.store.is_listed(dir) {
            self.unlisted.remove(&dir);
        } else {
            // It is too large, cannot be watched, or changes all the time.
            self.set_unlisted(dir);
        }
        listing
    }
}
