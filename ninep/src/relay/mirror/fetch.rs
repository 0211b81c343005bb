//! Fetches small files before anybody asks for them: when a second file with the same extension is opened in a directory, the
//! others. What a program reads while it starts is often all in one directory.
//!
//! What somebody waits for goes first: no more than [`MAX_IN_FLIGHT`] requests are under way, each for at most 64 KiB. What is
//! fetched is kept as what is read, but nothing has to make room for it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use super::contents::Contents;
use super::facts::Moment;
use super::own::OWN_FIDS;
use super::{Mirror, MirrorFid, What};
use crate::msg::{FetchedFile, MAX_FETCHED, NO_TAG, OWN_TAGS, Qid, Reply, Request};
use crate::wire::{BodyReader, Name, WalkVec, Wire};

/// Maximum number of bytes that are fetched of a directory, for one extension.
const MAX_BYTES: u64 = 1 << 20;
/// Maximum number of requests that are under way.
const MAX_IN_FLIGHT: usize = 2;
/// Maximum number of directories of which files are still to be fetched.
const MAX_JOBS: usize = 16;
/// Maximum number of directories and extensions of which it is remembered that a file was opened.
const MAX_OPENED: usize = 4096;

/// What is being fetched.
#[derive(Debug, Default)]
pub(super) struct Fetching {
    /// Directories and extensions of files that were opened, and whether others were fetched.
    opened: HashMap<(u64, Box<[u8]>), bool>,
    jobs: Vec<FetchJob>,
    in_flight: usize,
    /// For the fid of the next job.
    last: u16,
}

/// What is still to be fetched of a directory.
#[derive(Debug)]
struct FetchJob {
    dir: u64,
    /// A fid of the directory.
    fid: u32,
    names: VecDeque<Box<[u8]>>,
    in_flight: usize,
}

/// A request that was sent.
#[derive(Debug)]
pub(super) struct SentFetch {
    fid: u32,
    dir: u64,
    files: Vec<(Box<[u8]>, Qid)>,
}

/// What follows the last period of a name.
pub(super) fn extension(name: &[u8]) -> &[u8] {
    let at = name.iter().rposition(|byte| *byte == b'.');
    at.and_then(|at| name.get(at..)).unwrap_or_default()
}

impl Fetching {
    /// Whether such a file was opened before, and this is to fetch the others.
    fn is_time(&mut self, dir: u64, extension: &[u8]) -> bool {
        if self.opened.len() >= MAX_OPENED {
            self.opened.clear();
        }
        match self.opened.entry((dir, extension.into())) {
            Entry::Occupied(mut fetched) => !fetched.insert(true),
            Entry::Vacant(new) => *new.insert(false),
        }
    }
}

impl Mirror {
    /// The server was asked to open a file, of which nothing is known.
    pub(in crate::relay) fn fetch_others(&mut self, fid: u32, out: &mut Vec<Bytes>) {
        let Some((dir, name)) = self.fids.get(&fid).and_then(|fid| fid.place.clone()) else {
            return;
        };
        let extension = extension(&name);
        // `libz.so.1`: a version, which says nothing of what is needed with it.
        let version = extension.strip_prefix(b".").unwrap_or_default();
        if !version.is_empty() && version.iter().all(u8::is_ascii_digit) {
            return;
        }
        // The kernel has one as long as it has a file in it. One that was opened cannot be walked from.
        let is_place = |known: &MirrorFid| known.dir() == Some(dir) && known.listing.is_none();
        let mut fids = self.fids.iter();
        let from = fids.find(|(_, known)| is_place(known));
        let is_possible = self.store.is_listed(dir) && self.fetching.jobs.len() < MAX_JOBS;
        let Some((&fid, _)) = from.filter(|_| is_possible) else {
            return;
        };
        if !self.fetching.is_time(dir, extension) {
            return;
        }
        let names = self
            .store
            .small_files(dir, extension, MAX_FETCHED, MAX_BYTES);
        if names.is_empty() {
            return;
        }
        let newfid = OWN_FIDS | u32::from(self.fetching.last);
        // Not one that was just free: its clunk may still be under way.
        self.fetching.last = (self.fetching.last + 1) % OWN_TAGS;
        let names = names.into();
        self.fetching.jobs.push(FetchJob {
            dir,
            fid: newfid,
            names,
            in_flight: 0,
        });
        let names = WalkVec::default();
        self.push(NO_TAG, &Request::Walk { fid, newfid, names }, out);
        self.fetch_more(out);
    }

    /// Sends what may be under way now.
    pub(in crate::relay) fn fetch_more(&mut self, out: &mut Vec<Bytes>) {
        while self.fetching.in_flight < MAX_IN_FLIGHT {
            let mut jobs = self.fetching.jobs.iter_mut();
            let Some(job) = jobs.find(|job| !job.names.is_empty()) else {
                break;
            };
            let (dir, fid) = (job.dir, job.fid);
            let mut files = Vec::new();
            let mut room = MAX_FETCHED as u64;
            while let Some(name) = job.names.front() {
                // It may be known by now, or have changed.
                if let Some((qid, size)) = self.store.small_file(dir, name) {
                    if size > room || files.len() == crate::wire::MAX_WALK {
                        break;
                    }
                    room -= size;
                    files.push((name.clone(), qid));
                }
                job.names.pop_front();
            }
            if files.is_empty() {
                continue;
            }
            let Some(tag) = self.own_tag() else {
                break;
            };
            let mut names = WalkVec::default();
            for name in files.iter().filter_map(|(name, _)| Name::new(name)) {
                names.push(name);
            }
            self.push(tag, &Request::Fetch { fid, names }, out);
            let sent = SentFetch { fid, dir, files };
            self.record(tag, What::Fetch(sent));
            self.fetching.in_flight += 1;
            if let Some(job) = self.fetching.jobs.iter_mut().find(|job| job.fid == fid) {
                job.in_flight += 1;
            }
        }
        // Those that are done.
        let is_done = |job: &mut FetchJob| job.names.is_empty() && job.in_flight == 0;
        let done: Vec<_> = self.fetching.jobs.extract_if(.., is_done).collect();
        for FetchJob { fid, .. } in done {
            self.push(NO_TAG, &Request::Clunk { fid }, out);
        }
    }

    pub(super) fn fetched(&mut self, sent_at: Moment, sent: &SentFetch, reply: &Reply<'_>) {
        self.fetching.in_flight = self.fetching.in_flight.saturating_sub(1);
        let mut jobs = self.fetching.jobs.iter_mut();
        let job = jobs.find(|job| job.fid == sent.fid);
        let Reply::Fetch { data } = reply else {
            // The directory has gone, or the server is short of something.
            if let Some(job) = job {
                job.in_flight = job.in_flight.saturating_sub(1);
                job.names.clear();
            }
            return;
        };
        if let Some(job) = job {
            job.in_flight = job.in_flight.saturating_sub(1);
        }
        let now = self.now;
        let mut rest = BodyReader::new(data.0);
        for (name, qid) in &sent.files {
            let Ok(FetchedFile { version, data }) = FetchedFile::get(&mut rest) else {
                break;
            };
            if version == 0 {
                continue;
            }
            let size = data.0.len() as u64;
            self.fetched.files = self.fetched.files.wrapping_add(1);
            self.fetched.bytes = self.fetched.bytes.wrapping_add(size);
            let place = (sent.dir, &**name);
            let facts = self.store.facts(*qid, Some(place));
            // Somebody may have read it meanwhile.
            let is_new = facts.is_some_and(|facts| facts.contents_used().is_none());
            if self.store.budget.has_room(Contents::cost(data.0.len())) {
                self.store
                    .keep(*qid, place, (sent_at, now), (0, data.0), |facts| {
                        facts.attr.qid.version == version && facts.attr.size == size
                    });
                if let Some(facts) = self.store.facts(*qid, Some(place)).filter(|_| is_new) {
                    facts.set_fetched();
                }
            }
        }
    }
}
