//! Answers the kernel's requests from what the server allows to keep ([`WATCHED`](crate::msg::WATCHED)).
//!
//! * **Order.** The server sends an Rforget before every reply that it makes after a change. So what was kept from a reply
//!   is right at every point of the stream until an Rforget takes it back, and a reply may be kept if no Rforget that
//!   concerns it has arrived since its request was sent. [`Moment`]s count requests and Rforgets.
//! * **Own changes.** A request that changes something makes what it concerns be forgotten, when it is sent and when it is
//!   answered.
//! * **Fids.** A walk that is answered here is performed by the server later (Tbind, before the next request). If the file
//!   has gone by then, the requests that use the fid fail with `ESTALE`, at which Linux walks again.
//! * **Contents.** An open brings the beginning of the file; what is read is kept (`open`), and more is read than asked for (`ahead`).
//! * **Listings.** The first time that a name in a directory is looked up, the directory is listed as well. To open a
//!   directory is to list it.
//!
//! No I/O and no clock, as in the relay.

mod ahead;
mod changed;
mod contents;
mod directories;
mod facts;
mod fetch;
mod fid;
mod listing;
mod open;
mod own;
mod reading_on;
mod replay;
mod replies;
mod store;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::errno::Errno;
use crate::fs::OpenFlags;
use crate::msg::{Attr, FORGET_ALL, FORGET_REMOVED, FetchTotals, Qid, Reply, Request};
use crate::wire::{Data, Frame, Name, Str, WalkVec};
use changed::{Changed, in_dir};
pub use contents::ContentBudget;
use facts::Moment;
use fetch::{Fetching, SentFetch};
use fid::MirrorFid;
use open::{SentRead, is_locking};
use own::OWN_FIDS;
use reading_on::ReadingOn;
use replay::Replaying;
use store::{Found, KeptDirs};

/// Maximum number of directories that are known not to be listed.
const MAX_UNLISTED: usize = 4096;

/// What the mirror makes of a request.
#[derive(Debug)]
pub(super) enum RequestFate<'a> {
    /// It goes to the server as it is.
    Pass,
    /// Another goes in its place, with the same tag.
    Instead(Request<'a>),
    /// This is the reply. The server is to perform the other request, without a reply, before the next one.
    Answer(Bytes, Option<Request<'a>>),
    /// This is the reply, in pieces.
    Data(Vec<Bytes>),
    /// It is answered when the part of the file has come that it is for ([`Mirror::end_waiting`]).
    Wait,
}

/// What becomes of a reply.
#[derive(Debug)]
pub(super) enum ReplyFate {
    /// It goes to the kernel as it is.
    Pass,
    /// This goes in its place.
    Instead(Bytes),
    /// The attributes of the new fid that a walk was for.
    Walked(Attr),
    /// It was for the mirror.
    Taken,
}

/// A request that was sent.
#[derive(Debug)]
struct Sent {
    at: Moment,
    what: What,
}

#[derive(Debug)]
enum What {
    Attach(u32),
    Walk(u32, usize),
    Lookup(u32, Option<u64>, Arc<[u8]>),
    Getattr(u32),
    /// An open for reading, and how much of the file comes with it.
    Open(u32, u32),
    Read(SentRead),
    /// The same of the mirror's own, and the qid path of the file.
    ReadOn(SentRead, u64),
    Lock(u32),
    Fetch(SentFetch),
    Replay,
    Xattr(u32, Box<[u8]>),
    Readlink(u32),
    /// A listing of a directory, and the fid that it opens.
    List(u64, Option<u32>),
    Create(u32, Option<u64>, Arc<[u8]>),
    Change,
}

/// The mirror of one mount.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    now: Moment,
    store: KeptDirs,
    fids: HashMap<u32, MirrorFid>,
    sent: HashMap<u16, Sent>,
    /// What requests in flight change.
    changing: HashMap<u16, Vec<Changed>>,
    /// Directories that were not listed when this was asked for, or that are being listed.
    unlisted: HashSet<u64>,
    /// The tags of own requests in flight.
    own: Vec<u16>,
    /// The last of them that was given out, counted from the first.
    last_own: u16,
    /// Fids of own requests that have been answered, to be clunked.
    done: Vec<u32>,
    fetching: Fetching,
    replaying: Replaying,
    reading_on: ReadingOn,
    pub(super) fetched: FetchTotals,
    /// Whether the open that was answered last is the first of what was fetched.
    pub(super) is_first_use: bool,
    /// The largest message.
    msize: u32,
    frame: Frame,
}

impl Mirror {
    pub(super) fn new(msize: u32, budget: Arc<ContentBudget>) -> Self {
        Self {
            msize,
            store: KeptDirs::new(budget),
            ..Self::default()
        }
    }

    fn moment(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    fn encode(&mut self, tag: u16, reply: &Reply<'_>) -> Bytes {
        reply.encode(tag, &mut self.frame);
        Bytes::copy_from_slice(self.frame.finish())
    }

    fn error(&mut self, tag: u16, errno: Errno) -> Bytes {
        let ecode = errno.raw();
        self.encode(tag, &Reply::Error { ecode })
    }

    fn record(&mut self, tag: u16, what: What) {
        let at = self.moment();
        self.sent.insert(tag, Sent { at, what });
    }

    /// A request of the kernel.
    pub(super) fn request<'a>(&mut self, tag: u16, request: &Request<'a>) -> RequestFate<'a> {
        self.sent.remove(&tag);
        self.changing.remove(&tag);
        match *request {
            Request::Attach { fid, .. } => {
                self.fids.remove(&fid);
                self.record(tag, What::Attach(fid));
            }
            Request::Flush { oldtag } if self.reading_on.withdraw(oldtag) => {
                return RequestFate::Answer(self.encode(tag, &Reply::Flush {}), None);
            }
            Request::Walk { fid, newfid, names } => return self.walk(tag, fid, newfid, &names),
            Request::Getattr { fid, .. } => {
                let known = self.fids.get(&fid);
                let facts = known.and_then(|fid| self.store.facts(fid.qid, fid.place()));
                if let Some(attr) = facts.map(|facts| facts.attr) {
                    let reply = self.encode(tag, &Reply::Getattr { attr });
                    return RequestFate::Answer(reply, None);
                }
                self.record(tag, What::Getattr(fid));
            }
            Request::Xattrwalk { fid, newfid, name } => {
                let known = self.fids.get(&fid);
                let facts = known.and_then(|fid| self.store.facts(fid.qid, fid.place()));
                if facts.is_some_and(|facts| facts.lacks(name.bytes())) {
                    if !name.bytes().is_empty() {
                        return RequestFate::Answer(self.error(tag, Errno::ENODATA), None);
                    }
                    let mut list = MirrorFid::new(Qid::default(), None);
                    list.is_empty_list = true;
                    self.fids.insert(newfid, list);
                    let reply = self.encode(tag, &Reply::Xattrwalk { size: 0 });
                    return RequestFate::Answer(reply, None);
                }
                self.record(tag, What::Xattr(fid, name.bytes().into()));
            }
            Request::Clunk { fid } if self.is_empty_list(fid) => {
                self.fids.remove(&fid);
                return RequestFate::Answer(self.encode(tag, &Reply::Clunk {}), None);
            }
            Request::Read { fid, .. } if self.is_empty_list(fid) => {
                let data = Data(&[]);
                return RequestFate::Answer(self.encode(tag, &Reply::Read { data }), None);
            }
            Request::Read { fid, offset, count } => return self.read(tag, fid, offset, count),
            Request::Readlink { fid } => {
                let known = self.fids.get(&fid);
                let facts = known.and_then(|fid| self.store.facts(fid.qid, fid.place()));
                let target = facts.and_then(|facts| facts.target().map(Box::<[u8]>::from));
                if let Some(target) = target.as_deref().and_then(Str::new) {
                    let reply = self.encode(tag, &Reply::Readlink { target });
                    return RequestFate::Answer(reply, None);
                }
                self.record(tag, What::Readlink(fid));
            }
            Request::Lopen { fid, flags } => {
                let flags_ = OpenFlags(flags);
                if flags_.access() == OpenFlags::RDONLY && !flags_.has(OpenFlags::TRUNC) {
                    return match self.fids.get(&fid).and_then(MirrorFid::dir) {
                        Some(dir) => self.open(tag, fid, dir, flags),
                        None => self.open_file(tag, fid, flags),
                    };
                }
            }
            Request::Readdir { fid, offset, count } => {
                if let Some(reply) = self.readdir(tag, fid, offset, count) {
                    return RequestFate::Answer(reply, None);
                }
            }
            Request::Lcreate { fid, name, .. } => {
                let dir = self.fids.remove(&fid).and_then(|fid| fid.dir());
                self.record(tag, What::Create(fid, dir, name.bytes().into()));
                self.change(tag, vec![in_dir(dir, name)]);
                return RequestFate::Pass;
            }
            _ => {}
        }
        if let Some(fid) = is_locking(request) {
            self.record(tag, What::Lock(fid));
        }
        let changed = self.changes(request);
        if !changed.is_empty() {
            self.record(tag, What::Change);
            self.change(tag, changed);
        }
        match *request {
            Request::Clunk { fid } | Request::Remove { fid } => {
                self.fids.remove(&fid);
            }
            Request::Rename { fid, .. } => {
                if let Some(fid) = self.fids.get_mut(&fid) {
                    fid.place = None;
                }
            }
            Request::Xattrcreate { fid, .. } => {
                if let Some(fid) = self.fids.get_mut(&fid) {
                    fid.sets_xattr = true;
                }
            }
            _ => {}
        }
        RequestFate::Pass
    }

    /// The directory and the name by which a fid was found.
    pub(super) fn place(&self, fid: u32) -> Option<(u64, Arc<[u8]>)> {
        self.fids.get(&fid)?.place.clone()
    }

    /// The qid path of a directory.
    pub(super) fn dir(&self, fid: u32) -> Option<u64> {
        self.fids.get(&fid)?.dir()
    }

    /// A walk was answered by the relay.
    pub(super) fn walked_to(&mut self, tag: u16, newfid: u32, qid: Qid, place: (u64, Arc<[u8]>)) {
        self.sent.remove(&tag);
        self.changing.remove(&tag);
        self.fids.insert(newfid, MirrorFid::new(qid, Some(place)));
    }

    fn is_empty_list(&self, fid: u32) -> bool {
        self.fids.get(&fid).is_some_and(|fid| fid.is_empty_list)
    }

    /// A write, of which the data does not matter.
    pub(super) fn write(&mut self, tag: u16, fid: u32) {
        self.sent.remove(&tag);
        let changed = self.attr_of(fid).into_iter().collect();
        self.record(tag, What::Change);
        self.change(tag, changed);
    }

    fn walk<'a>(
        &mut self,
        tag: u16,
        fid: u32,
        newfid: u32,
        names: &WalkVec<Name<'a>>,
    ) -> RequestFate<'a> {
        let from = self.fids.get(&fid).cloned();
        if newfid == fid {
            if !names.is_empty() {
                self.fids.remove(&fid);
            }
            return RequestFate::Pass;
        }
        self.fids.remove(&newfid);
        let mut all = names.iter();
        let name = match (all.next(), all.next()) {
            (None, _) => {
                // The relay answers it.
                if let Some(from) = from {
                    self.fids
                        .insert(newfid, MirrorFid::new(from.qid, from.place));
                }
                return RequestFate::Pass;
            }
            (Some(name), None) if !matches!(name.bytes(), b"." | b"..") => name,
            _ => {
                self.record(tag, What::Walk(newfid, names.len()));
                return RequestFate::Pass;
            }
        };
        let dir = from.and_then(|from| from.dir());
        let found = dir.and_then(|dir| self.store.find(dir, name.bytes(), self.now));
        match (dir, found) {
            (_, Some(Found::Absent)) => {
                return RequestFate::Answer(self.error(tag, Errno::ENOENT), None);
            }
            (Some(dir), Some(Found::File(qid, btime))) => {
                let place = Some((dir, name.bytes().into()));
                self.fids.insert(newfid, MirrorFid::new(qid, place));
                let mut qids = WalkVec::default();
                qids.push(qid);
                let path = qid.path;
                let bind = Request::Bind {
                    fid,
                    newfid,
                    name,
                    path,
                    btime,
                };
                return RequestFate::Answer(self.encode(tag, &Reply::Walk { qids }), Some(bind));
            }
            _ => {}
        }
        self.record(tag, What::Lookup(newfid, dir, name.bytes().into()));
        RequestFate::Instead(Request::Lookup { fid, newfid, name })
    }

    /// A reply of the server, which was decoded; `None` if its body was not.
    pub(super) fn reply(&mut self, tag: u16, reply: Option<&Reply<'_>>, now: Instant) -> ReplyFate {
        if let Some(Reply::Forget { what, dir, name }) = reply {
            self.forget(*what, *dir, name.bytes());
            return ReplyFate::Taken;
        }
        if let Some(changed) = self.changing.remove(&tag) {
            self.forget_changed(&changed);
        }
        let own = self.own.iter().position(|own| *own == tag);
        if let Some(own) = own {
            self.own.swap_remove(own);
            if let Some(What::List(..)) = self.sent.get(&tag).map(|sent| &sent.what) {
                self.done.push(OWN_FIDS | u32::from(tag));
            }
        }
        if let Some(Reply::Replay { data }) = reply {
            self.replaying.measure(data.0.len(), now);
        }
        let outcome = match (self.sent.remove(&tag), reply) {
            (Some(sent), Some(reply)) => self.answered(tag, &sent, reply),
            (Some(sent), None) => {
                match &sent.what {
                    What::Fetch(fetch) => self.fetched(sent.at, fetch, &Reply::Clunk {}),
                    What::Replay => self.replayed(sent.at, &Reply::Clunk {}),
                    _ => {}
                }
                ReplyFate::Pass
            }
            // It was not asked for.
            (
                None,
                Some(
                    Reply::Lookup { .. }
                    | Reply::List { .. }
                    | Reply::Bind {}
                    | Reply::Lopenread { .. }
                    | Reply::Fetch { .. }
                    | Reply::Replay { .. },
                ),
            ) => ReplyFate::Taken,
            _ => ReplyFate::Pass,
        };
        if own.is_some() {
            return ReplyFate::Taken;
        }
        outcome
    }

    fn forget(&mut self, what: u8, dir: u64, name: &[u8]) {
        let now = self.moment();
        self.store.forget(what, dir, name, now);
        match what {
            FORGET_ALL => self.unlisted.clear(),
            FORGET_REMOVED => {
                self.unlisted.remove(&dir);
                // Another directory may get its number.
                self.fids.retain(|_, fid| {
                    fid.dir() != Some(dir) && fid.place().is_none_or(|at| at.0 != dir)
                });
            }
            _ => {}
        }
    }
}
