//! What is kept of the replies to the requests that were sent.

use std::sync::Arc;

use super::super::MAX_LIST;
use super::super::framer::MAX_WHOLE;
use super::facts::{FileFacts, Moment};
use super::open::is_stale;
use super::{Mirror, MirrorFid, ReplyFate, Sent, What};
use crate::errno::Errno;
use crate::msg::{Attr, Header, KEEP_ATTR, KEEP_NAME, Kind, LACKS_XATTRS, Qid, Reply};

impl Mirror {
    /// How large a reply may be that the mirror has to see as a whole; `None` if it need not.
    pub(in crate::relay) fn max_whole(&self, header: Header) -> Option<usize> {
        if header.kind == Reply::ERROR {
            return Some(MAX_WHOLE);
        }
        if self.own.contains(&header.tag) {
            // The kernel must not get any of it.
            return Some(self.max_read(header.tag).unwrap_or(MAX_LIST));
        }
        match header.kind.checked_sub(1).map(Kind::new) {
            Some(Ok(Kind::Readdir)) => None,
            Some(Ok(Kind::Read)) => {
                let size = usize::try_from(header.size).ok()?;
                self.max_read(header.tag).filter(|most| size <= *most)
            }
            Some(Ok(Kind::List | Kind::Replay)) => Some(MAX_LIST),
            Some(Ok(_)) => Some(MAX_WHOLE),
            _ => None,
        }
    }

    pub(super) fn answered(&mut self, tag: u16, sent: &Sent, reply: &Reply<'_>) -> ReplyFate {
        let at = sent.at;
        match (&sent.what, reply) {
            (What::Attach(fid), Reply::Attach { qid }) => {
                self.fids.insert(*fid, MirrorFid::new(*qid, None));
                self.begin_replay(*fid);
            }
            (What::Walk(newfid, names), Reply::Walk { qids }) if qids.len() == *names => {
                if let Some(qid) = qids.iter().last() {
                    self.fids.insert(*newfid, MirrorFid::new(qid, None));
                }
            }
            (
                What::Lookup(newfid, dir, name),
                Reply::Lookup {
                    kept,
                    ecode,
                    attr,
                    target,
                },
            ) => {
                let now = self.moment();
                let lacks_xattrs = kept & LACKS_XATTRS != 0;
                let facts = FileFacts::told(*attr, now, lacks_xattrs, target.bytes());
                return self.looked_up(
                    tag,
                    (at, now),
                    (*newfid, *dir, name),
                    (*kept, *ecode, facts),
                );
            }
            (What::Getattr(_), Reply::Getattr { attr }) if attr.qid.kind == Qid::DIR => {
                let now = self.moment();
                self.store.found_dir_again(*attr, at, now);
            }
            (What::Getattr(fid), Reply::Error { ecode }) if is_stale(*ecode) => {
                return self.stale_attr(tag, *fid);
            }
            (What::Open(fid, _), Reply::Lopen { .. }) => self.opened(*fid),
            (What::Open(fid, _), Reply::Error { ecode }) if is_stale(*ecode) => {
                return self.stale_open(tag, *fid);
            }
            (
                What::Open(fid, count),
                Reply::Lopenread {
                    qid,
                    iounit,
                    version,
                    size,
                    data,
                },
            ) => {
                self.opened_and_read(at, (*fid, *count), (*version, *size), data.0);
                let (qid, iounit) = (*qid, *iounit);
                return ReplyFate::Instead(self.encode(tag, &Reply::Lopen { qid, iounit }));
            }
            (What::Read(read), Reply::Read { data }) => {
                return self.has_read(tag, at, read, data.0);
            }
            (What::Read(read), Reply::Error { ecode }) if is_stale(*ecode) => {
                return self.stale_read(tag, read);
            }
            (What::Lock(fid), Reply::Lock { status: 0 }) => self.locked(*fid),
            (What::Xattr(fid, name), Reply::Error { ecode }) if *ecode == Errno::ENODATA.raw() => {
                let known = self.fids.get(fid);
                let facts = known.and_then(|fid| self.store.facts_since(fid.qid, fid.place(), at));
                if let Some(facts) = facts {
                    facts.add_lacking(name);
                }
            }
            // A list of no names.
            (What::Xattr(fid, name), Reply::Xattrwalk { size: 0 }) if name.is_empty() => {
                let known = self.fids.get(fid);
                let facts = known.and_then(|fid| self.store.facts_since(fid.qid, fid.place(), at));
                if let Some(facts) = facts {
                    facts.add_lacking(name);
                }
            }
            (What::Readlink(fid), Reply::Readlink { target }) => {
                let known = self.fids.get(fid);
                let facts = known.and_then(|fid| self.store.facts_since(fid.qid, fid.place(), at));
                if let Some(facts) = facts {
                    facts.set_target(target.bytes());
                }
            }
            (What::ReadOn(read, path), reply) => {
                self.has_read_on(tag, at, (read, *path), reply);
            }
            (What::Replay, reply) => self.replayed(at, reply),
            (What::Fetch(sent), reply) => self.fetched(at, sent, reply),
            (What::List(dir, open), Reply::List { kept, qid, data }) => {
                return self.listed(tag, at, (*dir, *open), (*kept, *qid, data.0));
            }
            (What::List(dir, None), _) => {
                // Not before something has changed.
                self.set_unlisted(*dir);
            }
            (What::Create(fid, dir, name), Reply::Lcreate { qid, .. }) => {
                let place = dir.map(|dir| (dir, name.clone()));
                self.fids.insert(*fid, MirrorFid::new(*qid, place));
            }
            _ => {}
        }
        ReplyFate::Pass
    }

    fn looked_up(
        &mut self,
        tag: u16,
        (sent, now): (Moment, Moment),
        (newfid, dir, name): (u32, Option<u64>, &Arc<[u8]>),
        (kept, ecode, facts): (u8, u32, FileFacts),
    ) -> ReplyFate {
        let attr = facts.attr;
        self.keep_name((dir, name), (kept, ecode, facts), (sent, now));
        if ecode != 0 {
            return ReplyFate::Instead(self.encode(tag, &Reply::Error { ecode }));
        }
        let place = dir.map(|dir| (dir, name.clone()));
        self.fids.insert(newfid, MirrorFid::new(attr.qid, place));
        ReplyFate::Walked(attr)
    }

    /// Keeps what was told of a name in a directory, as far as it may be kept.
    pub(super) fn keep_name(
        &mut self,
        (dir, name): (Option<u64>, &[u8]),
        (kept, ecode, facts): (u8, u32, FileFacts),
        (sent, now): (Moment, Moment),
    ) {
        let qid = facts.attr.qid;
        let is_complete = facts.attr.valid & Attr::BASIC == Attr::BASIC;
        let mut kept_facts = (kept & KEEP_ATTR != 0 && is_complete).then_some(facts);
        let mut kept_dir = None;
        if ecode == 0 && qid.kind == Qid::DIR {
            kept_dir = kept_facts.take();
        }
        if let Some(dir) = dir
            && kept & KEEP_NAME != 0
        {
            let file = (ecode == 0).then_some((qid, kept_facts));
            self.store.found((dir, name), file, sent, now);
        }
        if let Some(facts) = kept_dir {
            self.store.found_dir(facts, sent, now);
        }
    }
}
