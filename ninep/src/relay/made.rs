//! The attributes that come with the reply to a create or a setattr. The kernel walks to a file that it has created and asks for its
//! attributes, and asks for those of a file after it has changed them: with them, none of this costs a round trip.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::{LOOKUP_TTL, Relay};
use crate::msg::{Attr, NO_TAG, Reply, Request};
use crate::wire::WalkVec;

/// A file that was just created. Like cached attributes, this counts for a moment only, and until something may have changed.
#[derive(Debug)]
pub(super) struct MadeFile {
    /// The qid path of its directory, and its name there.
    place: (u64, Arc<[u8]>),
    attr: Attr,
    until: Instant,
}

impl Relay {
    /// The request that brings the attributes too, if there is one and the server knows it.
    pub(super) fn with_getattr<'a>(
        &mut self,
        tag: u16,
        request: &Request<'a>,
    ) -> Option<Request<'a>> {
        self.mirror.as_ref()?;
        let (fid, request) = match *request {
            Request::Lcreate {
                fid,
                name,
                flags,
                mode,
                gid,
            } => (
                fid,
                Request::Lcreategetattr {
                    fid,
                    name,
                    flags,
                    mode,
                    gid,
                },
            ),
            Request::Setattr { fid, attr } => (fid, Request::Setgetattr { fid, attr }),
            _ => return None,
        };
        self.changing.insert(tag, fid);
        Some(request)
    }

    /// Keeps the attributes that came with the reply to a create or a setattr of `fid`.
    pub(super) fn changed_with_attr(
        &mut self,
        fid: u32,
        reply: &Reply<'_>,
        attr: Attr,
        now: Instant,
    ) {
        if !matches!(reply, Reply::Lcreate { .. }) {
            return self.cache_attr_once(fid, attr, now);
        }
        let place = self.mirror.as_ref().and_then(|mirror| mirror.place(fid));
        if let Some(place) = place
            && attr.valid & Attr::BASIC == Attr::BASIC
        {
            let until = now + LOOKUP_TTL;
            self.made = Some(MadeFile { place, attr, until });
        }
    }

    /// Whether this was a walk to the file that was just created, which is answered now. The server walks there at once: if it finds
    /// another file, the requests for it fail with `ESTALE`, also those of the program that has created it.
    pub(super) fn walks_to_made(
        &mut self,
        tag: u16,
        request: &Request<'_>,
        now: Instant,
        out: &mut Vec<Bytes>,
    ) -> bool {
        let Request::Walk { fid, newfid, names } = *request else {
            return false;
        };
        let mut all = names.iter();
        let (Some(name), None, Some(mirror)) = (all.next(), all.next(), &mut self.mirror) else {
            return false;
        };
        let is_it = |made: &mut MadeFile| {
            now < made.until
                && newfid != fid
                && mirror.dir(fid) == Some(made.place.0)
                && *made.place.1 == *name.bytes()
        };
        let Some(MadeFile { place, attr, .. }) = self.made.take_if(is_it) else {
            return false;
        };
        let qid = attr.qid;
        mirror.walked_to(tag, newfid, qid, place);
        self.forget(fid);
        self.forget(newfid);
        self.missing.set_file(newfid, qid.path);
        let bind = Request::Bind {
            fid,
            newfid,
            name,
            path: qid.path,
            btime: attr.btime,
        };
        self.send(NO_TAG, &bind, out);
        self.cache_attr(newfid, attr, now);
        let mut qids = WalkVec::default();
        qids.push(qid);
        self.reply_locally(tag, &Reply::Walk { qids });
        true
    }
}

/// The reply that the kernel waits for, and the attributes that came with it.
pub(super) fn without_attr<'a>(reply: &Reply<'a>) -> Option<(Reply<'a>, Attr)> {
    match *reply {
        Reply::Lcreategetattr { qid, iounit, attr } => Some((Reply::Lcreate { qid, iounit }, attr)),
        Reply::Setgetattr { attr } => Some((Reply::Setattr {}, attr)),
        _ => None,
    }
}
