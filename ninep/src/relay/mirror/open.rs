//! Opens and reads of files whose contents are kept.
//!
//! * **Known.** Contents are part of what is known of a file in a directory that the server watches, and are forgotten with
//!   its attributes. Of other files none are kept.
//! * **Opens.** An open that asks the server brings the beginning of the file. If all of the file is known, the open is
//!   answered here, and performed by the server later, as a walk is. Contents are known only if the server has opened the
//!   file since its permissions changed last, so it would do so again.
//! * **Replaced.** If the file has gone when the server is to open it, the program has opened it before that, and gets what
//!   it was then (`ESTALE`).

use std::sync::Arc;

use bytes::Bytes;

use super::ahead::PARTS;
use super::contents::Contents;
use super::facts::{FileFacts, Moment};
use super::{Mirror, MirrorFid, ReplyFate, RequestFate, What};
use crate::errno::Errno;
use crate::fs::OpenFlags;
use crate::msg::{Attr, Flock, Kind, MAX_FIRST, Qid, Reply, Request};
use crate::wire::{DATA_HEADER, Data};

/// Flags that make no difference to a server that opens a regular file for reading: `O_NOCTTY`, `O_NONBLOCK`, `O_LARGEFILE`,
/// `O_NOFOLLOW`, `O_CLOEXEC`. With `O_DIRECT` it is asked each time.
const PLAIN: u32 = 0o400 | 0o4000 | 0o100_000 | OpenFlags::NOFOLLOW | 0o2_000_000;

/// The bytes of an Rread before its data.
pub(super) const READ_HEADER: u32 = 7 + 4;
/// The bytes of an Rlopenread before its data.
const OPENREAD_HEADER: u32 = 7 + 13 + 4 + 4 + 8 + 4;

/// How the reads of a fid are answered.
#[derive(Debug, Clone, Default)]
pub(super) enum Reads {
    /// By the server.
    #[default]
    Server,
    /// From what is known, as far as it is.
    Known,
    /// The same; and if the server could not open the file any more, from what was known when it was opened.
    OpenedHere(Arc<Contents>, Box<Attr>),
}

/// A read that was sent.
#[derive(Debug)]
pub(super) struct SentRead {
    pub(super) fid: u32,
    pub(super) offset: u64,
    /// How much the kernel wants.
    pub(super) wanted: u32,
    /// How much was asked for.
    pub(super) count: u32,
    /// Whether what it returns may be kept.
    pub(super) is_kept: bool,
}

impl Mirror {
    /// An open of anything but a directory.
    pub(super) fn open_file<'a>(&mut self, tag: u16, fid: u32, flags: u32) -> RequestFate<'a> {
        let now = self.now;
        let max_file = self.store.budget.max_file();
        let Some(known) = self.fids.get_mut(&fid).filter(|_| flags & !PLAIN == 0) else {
            return RequestFate::Pass;
        };
        let place = known.place.as_ref().map(|(dir, name)| (*dir, &**name));
        let facts = self.store.facts(known.qid, place);
        let Some(facts) = facts.filter(|facts| facts.is_regular()) else {
            self.record(tag, What::Open(fid, 0));
            return RequestFate::Pass;
        };
        if let Some(contents) = facts.whole(now) {
            self.is_first_use = facts.count_use(&mut self.fetched);
            let qid = Qid {
                version: 0,
                ..facts.attr.qid
            };
            known.reads = Reads::OpenedHere(contents, Box::new(facts.attr));
            let reply = self.encode(tag, &Reply::Lopen { qid, iounit: 0 });
            return RequestFate::Answer(reply, Some(Request::Lopen { fid, flags }));
        }
        let is_large = facts.attr.size > max_file;
        let has_beginning = facts.has_beginning();
        let size = u32::try_from(facts.attr.size).unwrap_or(u32::MAX);
        if is_large || has_beginning {
            self.record(tag, What::Open(fid, 0));
            return RequestFate::Pass;
        }
        let most = self.msize.saturating_sub(OPENREAD_HEADER).min(MAX_FIRST);
        let count = size.min(most);
        self.record(tag, What::Open(fid, count));
        RequestFate::Instead(Request::Lopenread { fid, flags, count })
    }

    /// The server has opened a file for reading.
    pub(super) fn opened(&mut self, fid: u32) {
        if let Some(fid) = self.fids.get_mut(&fid) {
            fid.reads = Reads::Known;
        }
    }

    /// The same, and has read its beginning, of which `count` bytes were asked for.
    pub(super) fn opened_and_read(
        &mut self,
        sent: Moment,
        (fid, count): (u32, u32),
        (version, size): (u32, u64),
        data: &[u8],
    ) {
        self.opened(fid);
        if data.len() as u64 == u64::from(count) {
            self.keep(sent, fid, 0, data, |facts| {
                let attr = &facts.attr;
                version != 0 && attr.qid.version == version && attr.size == size
            });
        }
    }

    /// Keeps contents of a file that were read after `sent`, if what is known of it is as old and `fits`.
    fn keep(
        &mut self,
        sent: Moment,
        fid: u32,
        offset: u64,
        data: &[u8],
        fits: impl FnOnce(&FileFacts) -> bool,
    ) {
        let now = self.now;
        if let Some(MirrorFid { qid, place, .. }) = self.fids.get(&fid)
            && let Some((dir, name)) = place
        {
            let place = (*dir, &**name);
            let read = (offset, data);
            self.store.keep(*qid, place, (sent, now), read, fits);
        }
    }

    pub(super) fn read<'a>(
        &mut self,
        tag: u16,
        fid: u32,
        offset: u64,
        count: u32,
    ) -> RequestFate<'a> {
        let now = self.now;
        let Some(known) = self.fids.get_mut(&fid) else {
            return RequestFate::Pass;
        };
        let btime = match &known.reads {
            Reads::Server => return RequestFate::Pass,
            Reads::Known => None,
            Reads::OpenedHere(_, attr) => Some(attr.btime),
        };
        let most = self.msize.saturating_sub(READ_HEADER);
        let max_file = self.store.budget.max_file();
        let place = known.place.as_ref().map(|(dir, name)| (*dir, &**name));
        let facts = self.store.facts(known.qid, place);
        // Another file may have got its number before the server could open it.
        let facts = facts.filter(|facts| btime.is_none_or(|btime| facts.attr.btime == btime));
        let mut read = SentRead {
            fid,
            offset,
            wanted: count,
            count,
            is_kept: false,
        };
        if let Some(facts) = facts {
            let is_large = facts.attr.size > max_file;
            if let Some(pieces) = facts.read(offset, count.min(most), now) {
                known.ahead.found(offset, count);
                facts.count_use(&mut self.fetched);
                if is_large {
                    facts.drop_contents_before(offset);
                }
                return RequestFate::Data(data_reply(tag, pieces));
            }
            if is_large {
                facts.drop_contents_before(offset);
            }
            if let Some(on) = self.reading_on.part_with(fid, facts.known_end(offset)) {
                known.ahead.found(offset, count);
                self.reading_on.wait(on, tag, (fid, offset, count));
                return RequestFate::Wait;
            }
            let room = u32::try_from(max_file / PARTS).unwrap_or(u32::MAX);
            read.count = known.ahead.ask(offset, count, most.min(room));
            // Of a large file only a read that brings more than the kernel wants, which it will ask for next.
            read.is_kept = !is_large || read.count > count;
        }
        let asked = read.count;
        self.record(tag, What::Read(read));
        if asked == count {
            return RequestFate::Pass;
        }
        RequestFate::Instead(Request::Read {
            fid,
            offset,
            count: asked,
        })
    }

    /// How large the reply to a read may be, if it is to be kept.
    pub(in crate::relay) fn max_read(&self, tag: u16) -> Option<usize> {
        match &self.sent.get(&tag)?.what {
            What::Read(read) | What::ReadOn(read, _) if read.is_kept => Some(
                usize::try_from(read.count)
                    .ok()?
                    .saturating_add(DATA_HEADER),
            ),
            _ => None,
        }
    }

    pub(super) fn has_read(
        &mut self,
        tag: u16,
        sent: Moment,
        read: &SentRead,
        data: &[u8],
    ) -> ReplyFate {
        let end = read.offset.saturating_add(data.len() as u64);
        let is_short = data.len() as u64 != u64::from(read.count);
        if read.is_kept && data.len() as u64 <= read.count.into() {
            self.keep(sent, read.fid, read.offset, data, |facts| {
                end == facts.attr.size || (!is_short && end < facts.attr.size)
            });
        }
        let wanted = usize::try_from(read.wanted).unwrap_or(usize::MAX);
        match data.get(..wanted) {
            Some(part) if part.len() < data.len() && read.wanted < read.count => {
                ReplyFate::Instead(self.encode(tag, &Reply::Read { data: Data(part) }))
            }
            _ => ReplyFate::Pass,
        }
    }

    /// A request for a fid that could not be made up for: the file was replaced when it had been opened here.
    pub(super) fn stale_read(&mut self, tag: u16, read: &SentRead) -> ReplyFate {
        let known = self.fids.get(&read.fid);
        let Some(Reads::OpenedHere(contents, _)) = known.map(|fid| &fid.reads) else {
            return ReplyFate::Pass;
        };
        let most = self.msize.saturating_sub(READ_HEADER);
        let pieces = contents.read(read.offset, read.wanted.min(most));
        let data = pieces.unwrap_or_default().concat();
        ReplyFate::Instead(self.encode(tag, &Reply::Read { data: Data(&data) }))
    }

    /// What a file was that was opened here, by whatever fid. As long as it is open, the kernel does not look its name up.
    fn was_opened_here(&self, fid: u32) -> Option<(Arc<Contents>, Box<Attr>)> {
        let path = self.fids.get(&fid)?.qid.path;
        let mut same = self.fids.values().filter(|it| it.qid.path == path);
        same.find_map(|it| match &it.reads {
            Reads::OpenedHere(contents, attr) => Some((contents.clone(), attr.clone())),
            _ => None,
        })
    }

    /// The same for the attributes of the file.
    pub(super) fn stale_attr(&mut self, tag: u16, fid: u32) -> ReplyFate {
        match self.was_opened_here(fid) {
            Some((_, attr)) => {
                ReplyFate::Instead(self.encode(tag, &Reply::Getattr { attr: *attr }))
            }
            None => ReplyFate::Pass,
        }
    }

    /// The same when the file is opened once more.
    pub(super) fn stale_open(&mut self, tag: u16, fid: u32) -> ReplyFate {
        let Some((contents, attr)) = self.was_opened_here(fid) else {
            return ReplyFate::Pass;
        };
        let qid = Qid {
            version: 0,
            ..attr.qid
        };
        if let Some(fid) = self.fids.get_mut(&fid) {
            fid.reads = Reads::OpenedHere(contents, attr);
        }
        ReplyFate::Instead(self.encode(tag, &Reply::Lopen { qid, iounit: 0 }))
    }

    /// A lock was taken. What it protects may have been written through mappings, of which no event tells: the file, or
    /// others in its directory.
    pub(super) fn locked(&mut self, fid: u32) {
        let now = self.moment();
        let place = self.fids.get(&fid).and_then(|fid| fid.place.as_ref());
        self.store.forget_contents(place.map(|place| place.0), now);
    }
}

/// Whether a request takes a lock.
pub(super) fn is_locking(request: &Request<'_>) -> Option<u32> {
    match *request {
        Request::Lock { fid, kind, .. } if kind != Flock::UNLOCK => Some(fid),
        _ => None,
    }
}

/// An Rread of these bytes.
fn data_reply(tag: u16, data: Vec<Bytes>) -> Vec<Bytes> {
    let count = data.iter().map(Bytes::len).sum::<usize>();
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let size = count.saturating_add(READ_HEADER);
    let mut header = Vec::with_capacity(DATA_HEADER);
    header.extend(size.to_le_bytes());
    header.push(Kind::Read.number() + 1);
    header.extend(tag.to_le_bytes());
    header.extend(count.to_le_bytes());
    let mut reply = vec![Bytes::from(header)];
    reply.extend(data);
    reply
}

/// `ESTALE`, as an error number on the wire.
pub(super) fn is_stale(ecode: u32) -> bool {
    ecode == Errno::ESTALE.raw()
}
