//! Requests as people see them: the [`Observer`] that is told of each, a trace as text, and counts.

use std::fmt::Display;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::errno::Errno;
use crate::msg::{FetchTotals, Kind, Request};

/// A request that has been performed. Its reply has not been sent yet.
pub struct CompletedRequest<'a> {
    /// The kind of request.
    pub kind: Kind,
    /// The request; none for what the server says unasked ([`Kind::Forget`]).
    pub request: Option<&'a Request<'a>>,
    /// Who waits for the reply.
    pub urgency: Urgency,
    /// The request as text, with paths as they were walked: `open /bin/date`. Made only when displayed.
    pub description: &'a dyn Display,
    /// The path alone; empty if the request concerns no file.
    pub path: &'a dyn Display,
    /// The result; for reads, writes and directories the number of bytes transferred.
    pub result: Result<Option<u32>, Errno>,
    /// When the server took it up.
    pub begun: Instant,
    /// How long the file system took.
    pub elapsed: Duration,
}

/// Who waits for the reply to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// A program of the peer's, or its kernel.
    Awaited,
    /// Nobody yet: the relay asks for what may be needed next.
    Ahead,
    /// Nobody any more: the relay has answered it, or it has no answer.
    Answered,
}

/// Is told of every request, by the thread that performed it: calls may overlap.
pub trait Observer: Sync {
    /// A request has been performed.
    fn done(&self, event: &CompletedRequest<'_>);

    /// The relay has ended, and says how many requests of each kind it has answered itself, and what it had fetched.
    fn tally(&self, _answered: &[(Kind, u32)], _fetched: &FetchTotals) {}
}

impl<T: Observer + ?Sized> Observer for &T {
    fn done(&self, event: &CompletedRequest<'_>) {
        (**self).done(event);
    }
    fn tally(&self, answered: &[(Kind, u32)], fetched: &FetchTotals) {
        (**self).tally(answered, fetched);
    }
}

impl<T: Observer + Send> Observer for Arc<T> {
    fn done(&self, event: &CompletedRequest<'_>) {
        (**self).done(event);
    }
    fn tally(&self, answered: &[(Kind, u32)], fetched: &FetchTotals) {
        (**self).tally(answered, fetched);
    }
}

impl<A: Observer, B: Observer> Observer for (A, B) {
    fn done(&self, event: &CompletedRequest<'_>) {
        self.0.done(event);
        self.1.done(event);
    }
    fn tally(&self, answered: &[(Kind, u32)], fetched: &FetchTotals) {
        self.0.tally(answered, fetched);
        self.1.tally(answered, fetched);
    }
}

impl<T: Observer> Observer for Option<T> {
    fn done(&self, event: &CompletedRequest<'_>) {
        if let Some(observer) = self {
            observer.done(event);
        }
    }
    fn tally(&self, answered: &[(Kind, u32)], fetched: &FetchTotals) {
        if let Some(observer) = self {
            observer.tally(answered, fetched);
        }
    }
}

/// Writes one line per request: `read /etc/hosts 4096 @0 → 220 (31.2µs)`.
pub struct Trace<W> {
    to: Mutex<W>,
    kinds: Vec<Kind>,
}

impl<W: Write + Send> Trace<W> {
    /// Writes each line to `to` with one call. If `kinds` is not empty, only requests of those kinds are written.
    pub fn new(to: W, kinds: Vec<Kind>) -> Self {
        Self {
            to: Mutex::new(to),
            kinds,
        }
    }
}

impl<W: Write + Send> Observer for Trace<W> {
    fn done(&self, event: &CompletedRequest<'_>) {
        if !self.kinds.is_empty() && !self.kinds.contains(&event.kind) {
            return;
        }
        let result = match event.result {
            Ok(None) => String::new(),
            Ok(Some(bytes)) => format!(" → {bytes}"),
            Err(errno) => format!(" → {errno}"),
        };
        let line = format!("{}{result} ({:.1?})\n", event.description, event.elapsed);
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        // There is nobody to whom a failure could be reported.
        let _ = to.write_all(line.as_bytes());
    }
}

/// Counts requests, the bytes they moved and the time they took, by kind.
#[derive(Debug)]
pub struct Counts([Count; 256]);

#[derive(Debug)]
struct Count {
    requests: AtomicU64,
    awaited: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
    nanos: AtomicU64,
}

/// The figures of [`Counts`] for one kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KindTotals {
    /// The kind.
    pub kind: Kind,
    /// How many.
    pub requests: u64,
    /// How many of them somebody waited for.
    pub awaited: u64,
    /// How many of them failed.
    pub failed: u64,
    /// Bytes read, written or listed.
    pub bytes: u64,
    /// Time that the file system has taken for them.
    pub elapsed: Duration,
}

impl Default for Counts {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Count {
            requests: AtomicU64::new(0),
            awaited: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            nanos: AtomicU64::new(0),
        }))
    }
}

impl Counts {
    /// The kinds that occurred, in the order of their numbers.
    pub fn totals(&self) -> Vec<KindTotals> {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Kind::ALL
            .iter()
            .filter_map(|&kind| {
                let count = self.0.get(usize::from(kind.number()))?;
                let requests = read(&count.requests);
                (requests > 0).then(|| KindTotals {
                    kind,
                    requests,
                    awaited: read(&count.awaited),
                    failed: read(&count.failed),
                    bytes: read(&count.bytes),
                    elapsed: Duration::from_nanos(read(&count.nanos)),
                })
            })
            .collect()
    }

    /// Requests of all kinds.
    pub fn requests(&self) -> u64 {
        self.totals().iter().map(|total| total.requests).sum()
    }
}

impl Observer for Counts {
    fn done(&self, event: &CompletedRequest<'_>) {
        let Some(count) = self.0.get(usize::from(event.kind.number())) else {
            return;
        };
        let add = |to: &AtomicU64, n: u64| to.fetch_add(n, Ordering::Relaxed);
        add(&count.requests, 1);
        let is_awaited = event.urgency == Urgency::Awaited;
        add(&count.awaited, is_awaited.into());
        add(&count.failed, event.result.is_err().into());
        add(
            &count.bytes,
            event.result.ok().flatten().unwrap_or(0).into(),
        );
        let nanos = u64::try_from(event.elapsed.as_nanos()).unwrap_or(u64::MAX);
        add(&count.nanos, nanos);
    }
}
