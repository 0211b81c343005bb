//! Reads of the mirror's own, of the parts of a file that a program is about to come to, and the reads of the kernel that wait for one.

use std::ops::Range;

use bytes::Bytes;

use super::ahead::PARTS;
use super::facts::Moment;
use super::open::{READ_HEADER, Reads, SentRead};
use super::own::MAX_OWN;
use super::{Mirror, RequestFate, What};
use crate::msg::{Reply, Request};

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct ReadingOn {
    parts: Vec<AskedPart>,
    waiting: Vec<WaitingRead>,
}

/// A part that was asked for.
#[derive(Debug)]
struct AskedPart {
    tag: u16,
    fid: u32,
    bytes: Range<u64>,
}

/// A read of the kernel.
#[derive(Debug)]
struct WaitingRead {
    tag: u16,
    fid: u32,
    offset: u64,
    count: u32,
    /// The tag of the request for the part that it waits for.
    part: u16,
}

impl ReadingOn {
    /// The tag of the request for the part of a file that has this byte.
    pub(super) fn part_with(&self, fid: u32, offset: u64) -> Option<u16> {
        let mut parts = self.parts.iter();
        let part = parts.find(|part| part.fid == fid && part.bytes.contains(&offset))?;
        Some(part.tag)
    }

    /// The kernel's read with this tag is to be answered when this part has come.
    pub(super) fn wait(&mut self, part: u16, tag: u16, (fid, offset, count): (u32, u64, u32)) {
        self.waiting.push(WaitingRead {
            tag,
            fid,
            offset,
            count,
            part,
        });
    }

    /// Nobody waits any more for the reply to a request, if it is one of these.
    pub(super) fn withdraw(&mut self, tag: u16) -> bool {
        let waiting = self.waiting.len();
        self.waiting.retain(|read| read.tag != tag);
        self.waiting.len() < waiting
    }
}

impl Mirror {
    /// A read of this fid was answered here, or will be. Asks for the next part if it is time.
    pub(in crate::relay) fn read_on(&mut self, fid: u32, out: &mut Vec<Bytes>) {
        let most = self.msize.saturating_sub(READ_HEADER);
        let room = u32::try_from(self.store.budget.max_file() / PARTS).unwrap_or(u32::MAX);
        let Some(known) = self.fids.get_mut(&fid) else {
            return;
        };
        if !matches!(known.reads, Reads::Known) || self.own.len() >= MAX_OWN / 2 {
            return;
        }
        let path = known.qid.path;
        let place = known.place.as_ref().map(|(dir, name)| (*dir, &**name));
        let Some(facts) = self.store.facts(known.qid, place) else {
            return;
        };
        let known_end = |offset| facts.known_end(offset);
        let asked = known
            .ahead
            .ask_on(facts.attr.size, most.min(room), known_end);
        let Some((offset, count)) = asked else {
            return;
        };
        let Some(tag) = self.own_tag() else {
            return;
        };
        self.push(tag, &Request::Read { fid, offset, count }, out);
        let read = SentRead {
            fid,
            offset,
            wanted: count,
            count,
            is_kept: true,
        };
        self.record(tag, What::ReadOn(read, path));
        let bytes = offset..offset.saturating_add(count.into());
        self.reading_on.parts.push(AskedPart { tag, fid, bytes });
    }

    /// A part has come. `path`: the file for whose fid it was asked for.
    pub(super) fn has_read_on(
        &mut self,
        tag: u16,
        sent: Moment,
        (read, path): (&SentRead, u64),
        reply: &Reply<'_>,
    ) {
        if self
            .fids
            .get(&read.fid)
            .is_none_or(|known| known.qid.path != path)
        {
            // It was closed meanwhile, and the fid may be another file's.
            return;
        }
        if let Reply::Read { data } = reply {
            self.has_read(tag, sent, read, data.0);
        }
        if let Some(known) = self.fids.get_mut(&read.fid) {
            let place = known.place.as_ref().map(|(dir, name)| (*dir, &**name));
            let facts = self.store.facts(known.qid, place);
            if facts.is_none_or(|facts| facts.known_end(read.offset) == read.offset) {
                known.ahead.lost();
            }
        }
    }

    /// What becomes of the kernel's reads that have waited for this reply: replies are appended to `kernel`, requests to `out`.
    pub(in crate::relay) fn end_waiting(
        &mut self,
        tag: u16,
        kernel: &mut Vec<Bytes>,
        out: &mut Vec<Bytes>,
    ) {
        let Some(part) = self
            .reading_on
            .parts
            .iter()
            .position(|part| part.tag == tag)
        else {
            return;
        };
        self.reading_on.parts.swap_remove(part);
        let waiting = &mut self.reading_on.waiting;
        let ended: Vec<_> = waiting.extract_if(.., |read| read.part == tag).collect();
        for read in ended {
            let WaitingRead {
                tag,
                fid,
                offset,
                count,
                ..
            } = read;
            match self.read(tag, fid, offset, count) {
                RequestFate::Pass => self.push(tag, &Request::Read { fid, offset, count }, out),
                RequestFate::Instead(request) => self.push(tag, &request, out),
                RequestFate::Answer(reply, _) => kernel.push(reply),
                RequestFate::Data(reply) => {
                    kernel.extend(reply);
                    self.read_on(fid, out);
                }
                RequestFate::Wait => self.read_on(fid, out),
            }
        }
    }
}
