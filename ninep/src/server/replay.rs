//! Tells what a program asked for when it ran before, when the machine asks for it, in replies that may be kept as those to
//! the requests of then.
//!
//! * **Nothing else is told.** Each path is walked from a directory that the machine has, by the steps of any other walk, and of
//!   contents only what may be fetched unasked: the trace is a list of what to do now, and says nothing by itself.
//! * **Nothing is told twice.** What the machine has asked for meanwhile is left out: on a slow path, that is much.
//! * **Order.** A directory is watched before it is read, and the reply follows the changes since, as every reply does.

use std::sync::PoisonError;

use super::handlers::{Handlers, Outcome};
use super::learning::{Replay, WalkedDir, demand};
use super::watched::{FoundName, MAX_BYTES, short_target};
use crate::errno::Errno;
use crate::fs::{FileSystem, OpenFlags, Told};
use crate::learned::{Demand, TraceItem};
use crate::msg::{Attr, KEEP_ATTR, KEEP_DATA, KEEP_NAME, Kind, Qid, ReplayRecord, Request};
use crate::wire::{Data, Frame, HEADER, Str, Wire};

/// Maximum number of bytes of a session.
const MAX_REPLAY: u64 = 64 << 20;
/// Maximum size of a reply, unless it is a single listing.
const MAX_REPLY: usize = 256 * 1024;
/// A reply that has no more than this is as good as empty.
const SMALL: usize = 16 * 1024;
/// A reply may get larger than it should by the last record, without its contents, or by an entry of a listing.
const MAX_OVER: usize = 1024;
/// A file of which anything was read is told as a whole up to this size: then to open it needs no question.
const MAX_WHOLE_FILE: u64 = 1 << 20;

/// What became of an item.
enum ItemProgress {
    /// It is complete, or there is nothing to tell.
    Done,
    /// So many bytes of it were told.
    Part(u64),
    /// The reply is full.
    Full,
    /// The machine reads it now, so what comes next would come twice.
    Deferred,
}

impl<F: FileSystem> Handlers<'_, F> {
    /// A request of a machine that keeps what it is told has been performed.
    pub(super) fn learn(&self, request: &Request<'_>, tag: u16, outcome: Outcome) {
        let is_useful = |outcome: Outcome| matches!(outcome, Ok(_) | Err(Errno::ENODATA));
        if let Some(learning) = self.learning
            && is_useful(outcome)
            && let Some((demand, opens)) = demand(request, tag, outcome)
            && !learning.is_over()
            && let Some(fid) = self.subject(request)
        {
            let mut path = self.fs.path(&fid.node);
            if let Request::Lookup { name, .. } = request {
                if path.last() != Some(&b'/') {
                    path.push(b'/');
                }
                path.extend_from_slice(name.bytes());
            }
            learning.add(&path, demand, opens);
        }
    }

    pub(super) fn replay(
        &self,
        fid: u32,
        count: u32,
        tag: u16,
        msize: u32,
        out: &mut Frame,
    ) -> Outcome {
        let learning = self.learning.ok_or(Errno::EOPNOTSUPP)?;
        let root = self.fids.get(fid)?;
        let msize = usize::try_from(msize).unwrap_or(usize::MAX);
        let msize = msize.saturating_sub(MAX_OVER);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let limits = ReplyLimits {
            end: count.min(MAX_REPLY).min(msize),
            list_end: msize.min(MAX_BYTES),
        };
        let mut replay = self.replay.lock().unwrap_or_else(PoisonError::into_inner);
        out.start(Kind::Replay.number() + 1, tag);
        0_u32.put(out);
        let start = out.len();
        while out.len() < limits.end
            && replay.bytes < MAX_REPLAY
            && !learning.is_useless()
            && let Some(item) = learning.known().item(replay.next)
        {
            let before = out.len();
            let progress = if learning.was_asked_for(&item.path, item.demand) {
                Some(ItemProgress::Done)
            } else {
                self.replay_item(&mut replay, &root.node, item, limits, out)
            };
            replay.bytes += (out.len() - before) as u64;
            match progress {
                Some(ItemProgress::Full) => break,
                Some(ItemProgress::Part(bytes)) => replay.done += bytes,
                Some(ItemProgress::Deferred) => {
                    let item = (replay.next, replay.done);
                    replay.deferred.push(item);
                    replay.advance(learning.known());
                }
                Some(ItemProgress::Done) | None => replay.advance(learning.known()),
            }
        }
        if out.len() == start {
            replay.end();
        }
        let told = u32::try_from(out.len() - start).map_err(|_| Errno::EIO)?;
        out.patch(HEADER, told);
        Ok(Some(told))
    }

    /// Appends what an item asks for. None if it is not there any more, or may not be kept.
    fn replay_item(
        &self,
        replay: &mut Replay<F>,
        root: &F::Node,
        TraceItem { path, demand, .. }: &TraceItem,
        limits: ReplyLimits,
        out: &mut Frame,
    ) -> Option<ItemProgress> {
        let mut names: Vec<_> = path.split(|byte| *byte == b'/').collect();
        let mut last = None;
        if !matches!(demand, Demand::List { .. }) {
            last = names.pop().filter(|name| !name.is_empty());
        } else if path.is_empty() {
            names.clear();
        }
        let known = replay.place.iter().zip(&names);
        let common = known
            .take_while(|(walked, name)| *walked.name == ***name)
            .count();
        replay.place.truncate(common);
        for name in names.get(common..)? {
            if out.len() >= limits.end {
                return Some(ItemProgress::Full);
            }
            let (dir, number) = self.place(replay, root)?;
            let found = self.found(&dir, name).ok()?;
            let (node, attr) = found.file.clone()?;
            if attr.qid.kind != Qid::DIR || found.kept & KEEP_ATTR == 0 {
                return None;
            }
            if replay.told.insert(attr.qid.path) {
                record(number, name, &found, (0, None)).put(out);
            }
            let dir = attr.qid.path;
            let name = (*name).into();
            replay.place.push(WalkedDir { name, node, dir });
        }
        let (dir, number) = self.place(replay, root)?;
        match *demand {
            Demand::List { open } => self.replay_list((&dir, number), open, limits, out),
            Demand::Name => {
                let found = self.found(&dir, last?).ok()?;
                if found.kept & KEEP_NAME != 0 {
                    record(number, last?, &found, (0, None)).put(out);
                }
                Some(ItemProgress::Done)
            }
            Demand::Range { .. } if replay.whole.contains(path) => Some(ItemProgress::Done),
            Demand::Range { offset, length } => {
                let found = self.found(&dir, last?).ok()?;
                let (_, attr) = found.file.as_ref()?;
                let size = attr.size;
                let is_whole = size <= MAX_WHOLE_FILE;
                let wanted = if is_whole {
                    (0, size)
                } else {
                    (offset, length)
                };
                let start = wanted.0.checked_add(replay.done)?;
                let end = wanted.0.checked_add(wanted.1)?.min(size);
                let place = (&dir, number, last?);
                let asked_until = self.learning?.asked_until(path, start);
                if asked_until > start && !replay.is_deferred {
                    return Some(ItemProgress::Deferred);
                }
                let from = asked_until.min(end.max(start));
                let mut progress = self.replay_range(place, &found, (from, end), limits, out);
                if let Some(ItemProgress::Part(bytes)) = &mut progress {
                    *bytes += from - start;
                }
                if is_whole && matches!(progress, Some(ItemProgress::Done)) {
                    replay.whole.insert(path.clone());
                }
                progress
            }
        }
    }

    /// The directory that was walked to last, and its qid path.
    fn place(&self, replay: &Replay<F>, root: &F::Node) -> Option<(F::Node, u64)> {
        match replay.place.last() {
            Some(step) => Some((step.node.clone(), step.dir)),
            None => {
                let attr = self.fs.getattr(root, Attr::BASIC).ok()?;
                Some((root.clone(), attr.qid.path))
            }
        }
    }

    fn replay_list(
        &self,
        (dir, number): (&F::Node, u64),
        open: bool,
        limits: ReplyLimits,
        out: &mut Frame,
    ) -> Option<ItemProgress> {
        if !self.watch(dir, Told::All) {
            return None;
        }
        let flags = OpenFlags(OpenFlags::RDONLY | OpenFlags::DIRECTORY);
        let (file, _) = self.fs.open(dir, flags).ok()?;
        let before = out.len();
        let kept = KEEP_NAME | if open { KEEP_DATA } else { 0 };
        let head = ReplayRecord {
            dir: number,
            name: Str::default(),
            kept,
            ecode: 0,
            attr: Attr::default(),
            target: Str::default(),
            offset: 0,
            data: Data(&[]),
        };
        head.put(out);
        let data = out.len();
        let is_whole = self
            .entries(dir, &file, (limits.list_end, open), out)
            .unwrap_or(false);
        let is_alone = before <= SMALL;
        if is_whole && (is_alone || out.len() <= limits.end) {
            let size = u32::try_from(out.len() - data).ok()?;
            out.patch(data - 4, size);
            return Some(ItemProgress::Done);
        }
        out.truncate(before);
        (!is_alone).then_some(ItemProgress::Full)
    }

    /// Appends contents of a file from `start` to `end`, as far as there is room.
    fn replay_range(
        &self,
        (dir, number, name): (&F::Node, u64, &[u8]),
        found: &FoundName<F::Node>,
        (start, end): (u64, u64),
        limits: ReplyLimits,
        out: &mut Frame,
    ) -> Option<ItemProgress> {
        let (node, attr) = found.file.as_ref()?;
        if found.kept & KEEP_ATTR == 0 {
            return None;
        }
        let all = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
        let room = limits.end.saturating_sub(out.len());
        let is_alone = out.len() <= SMALL;
        if room < all.min(SMALL) && (!is_alone || room == 0) {
            return Some(ItemProgress::Full);
        }
        let mut bytes = Frame::default();
        bytes.start(0, 0);
        let count = all.min(room);
        let version = (attr.qid.version, attr.size);
        let is_read = self.read_unasked(dir, node, version, (start, count), &mut bytes);
        let data = bytes.finish().get(HEADER..).filter(|_| is_read);
        record(number, name, found, (start, data)).put(out);
        let is_part = is_read && count < all && count > 0;
        Some(if is_part {
            ItemProgress::Part(count as u64)
        } else {
            ItemProgress::Done
        })
    }
}

/// How large a reply may be, and a single listing.
#[derive(Clone, Copy)]
struct ReplyLimits {
    end: usize,
    list_end: usize,
}

/// What is told of a name, perhaps with contents.
fn record<'a, N>(
    dir: u64,
    name: &'a [u8],
    found: &'a FoundName<N>,
    (offset, data): (u64, Option<&'a [u8]>),
) -> ReplayRecord<'a> {
    let kept = found.kept | if data.is_some() { KEEP_DATA } else { 0 };
    ReplayRecord {
        dir,
        name: Str::new(name).unwrap_or_default(),
        kept,
        ecode: match &found.file {
            Some(_) => 0,
            None => Errno::ENOENT.raw(),
        },
        attr: found
            .file
            .as_ref()
            .map(|(_, attr)| *attr)
            .unwrap_or_default(),
        target: short_target(found.target.as_deref()),
        offset,
        data: Data(data.unwrap_or_default()),
    }
}
