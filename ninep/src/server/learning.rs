//! What is known of a program, what is learned of it, and how much of it has been told.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::errno::Errno;
use crate::fs::FileSystem;
use crate::learned::{Demand, LearnedTrace};
use crate::msg::{MAX_FETCHED, NO_TAG, Request};

/// So many files in a row that are not in the trace show that it is of something else.
const MAX_MISSES: u32 = 10;

/// What is known of a program, and what is learned of it in a session.
#[derive(Debug)]
pub struct Learning {
    known: LearnedTrace,
    time: Option<Duration>,
    is_near: AtomicBool,
    now: Mutex<Demanded>,
}

#[derive(Debug, Default)]
struct Demanded {
    trace: LearnedTrace,
    /// When the machine first asked for something.
    since: Option<Instant>,
    /// How many files were opened since the last that is in the known trace.
    misses: u32,
}

impl Learning {
    /// With the trace of an earlier session. Nothing is learned when so much time has passed since the machine first asked for something.
    pub fn new(known: LearnedTrace, time: Option<Duration>) -> Self {
        Self {
            known,
            time,
            is_near: AtomicBool::new(false),
            now: Mutex::default(),
        }
    }

    /// What the next session is to be given; `None` if nothing was asked for in this one.
    pub fn trace(&self) -> Option<LearnedTrace> {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        (!now.trace.is_empty()).then(|| self.known.with(&now.trace))
    }

    /// What was known before.
    pub(super) fn known(&self) -> &LearnedTrace {
        &self.known
    }

    /// Whether the machine has asked for this itself in this session.
    pub(super) fn was_asked_for(&self, path: &[u8], demand: Demand) -> bool {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.trace.covers(path, demand)
    }

    /// Up to where it has asked for this file from this offset on.
    pub(super) fn asked_until(&self, path: &[u8], offset: u64) -> u64 {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.trace.asked_until(path, offset)
    }

    /// The machine is so near that to fetch ahead takes longer than to ask: no more is told. What is asked for is learned all the same.
    pub fn set_near(&self) {
        self.is_near.store(true, Ordering::Relaxed);
    }

    /// Whether the machine is near, or what was known is of something else.
    pub(super) fn is_useless(&self) -> bool {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_near.load(Ordering::Relaxed) || now.misses >= MAX_MISSES
    }

    pub(super) fn is_over(&self) -> bool {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.since.map(|since| since.elapsed());
        now.trace.is_full()
            || passed.is_some_and(|passed| self.time.is_some_and(|time| passed > time))
    }

    pub(super) fn add(&self, path: &[u8], demand: Demand, opens: bool) {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.since.get_or_insert_with(Instant::now);
        now.trace.add(path, demand);
        if self.known.has(path) {
            now.misses = 0;
        } else if opens && now.misses < MAX_MISSES {
            now.misses += 1;
        }
    }
}

/// How far a session has been told what is known.
pub(super) struct Replay<F: FileSystem> {
    /// The item that comes next.
    pub(super) next: usize,
    /// How many bytes of it were told.
    pub(super) done: u64,
    /// Items that come after all others, and how many bytes of them were told.
    pub(super) deferred: Vec<(usize, u64)>,
    /// Whether the item is one of them.
    pub(super) is_deferred: bool,
    pub(super) bytes: u64,
    /// The directories on the way to the last path.
    pub(super) place: Vec<WalkedDir<F>>,
    /// Directories of which the names were told.
    pub(super) told: HashSet<u64>,
    /// Files that were told as a whole.
    pub(super) whole: HashSet<Arc<[u8]>>,
}

/// A directory on the way, and its qid path.
pub(super) struct WalkedDir<F: FileSystem> {
    pub(super) name: Box<[u8]>,
    pub(super) node: F::Node,
    pub(super) dir: u64,
}

impl<F: FileSystem> Replay<F> {
    /// Nothing more is told: no directory of this machine is kept open for it, which would keep its file system busy.
    pub(super) fn end(&mut self) {
        *self = Self {
            next: usize::MAX,
            is_deferred: true,
            bytes: self.bytes,
            ..Self::default()
        };
    }

    /// Goes on to the item after this one.
    pub(super) fn advance(&mut self, known: &LearnedTrace) {
        if !self.is_deferred {
            self.next += 1;
            self.done = 0;
            if known.item(self.next).is_some() {
                return;
            }
            self.is_deferred = true;
            self.deferred.reverse();
        }
        (self.next, self.done) = self.deferred.pop().unwrap_or((usize::MAX, 0));
    }
}

impl<F: FileSystem> Default for Replay<F> {
    fn default() -> Self {
        Self {
            next: 0,
            done: 0,
            deferred: Vec::new(),
            is_deferred: false,
            bytes: 0,
            place: Vec::new(),
            told: HashSet::new(),
            whole: HashSet::new(),
        }
    }
}

/// What a request asks for, and whether it opens a file. Not what the machine fetches by itself.
pub(super) fn demand(
    request: &Request<'_>,
    tag: u16,
    outcome: Result<Option<u32>, Errno>,
) -> Option<(Demand, bool)> {
    use Request as R;
    let range = |offset, length| Demand::Range { offset, length };
    let transferred = outcome.ok().flatten().map_or(0, u64::from);
    Some(match *request {
        R::Lookup { .. } | R::Getattr { .. } | R::Readlink { .. } | R::Xattrwalk { .. } => {
            (Demand::Name, false)
        }
        R::List { open, .. } => (Demand::List { open: open != 0 }, false),
        R::Lopenread { .. } => (range(0, transferred), true),
        // What the machine has answered: a small file, which it had fetched.
        R::Lopen { .. } if tag == NO_TAG => (range(0, MAX_FETCHED as u64), true),
        R::Lopen { .. } => (Demand::Name, true),
        R::Read { offset, .. } if transferred > 0 => (range(offset, transferred), false),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_begins_with_the_first_request() {
        let time = Duration::from_millis(20);
        let learning = Learning::new(LearnedTrace::default(), Some(time));
        std::thread::sleep(2 * time);
        assert!(!learning.is_over(), "a passphrase takes time");
        learning.add(b"/a", Demand::Name, false);
        std::thread::sleep(2 * time);
        assert!(learning.is_over());
    }
}
