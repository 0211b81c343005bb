//! A person's view of the requests: who wants to know of each, a trace in words, and counts.

use std::fmt::Display;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::errno::Errno;
use crate::msg::Kind;

/// A request that has been done; its reply has not left yet.
pub struct CompletedRequest<'a> {
    /// What was asked for.
    pub kind: Kind,
    /// The request in words, with paths as they were walked: `open /bin/date`. Costs only if
    /// displayed.
    pub description: &'a dyn Display,
    /// The path alone; empty if it is about no file.
    pub path: &'a dyn Display,
    /// What came of it; for reads, writes and directories the bytes that went.
    pub result: Result<Option<u32>, Errno>,
    /// How long the file system took.
    pub elapsed: Duration,
}

/// Wants to know of every request. Called by the thread that did it, so several at once.
pub trait Observer: Sync {
    /// Takes note of a request.
    fn done(&self, event: &CompletedRequest<'_>);
}

impl<T: Observer + ?Sized> Observer for &T {
    fn done(&self, event: &CompletedRequest<'_>) {
        (**self).done(event);
    }
}

impl<T: Observer + Send> Observer for Arc<T> {
    fn done(&self, event: &CompletedRequest<'_>) {
        (**self).done(event);
    }
}

impl<A: Observer, B: Observer> Observer for (A, B) {
    fn done(&self, event: &CompletedRequest<'_>) {
        self.0.done(event);
        self.1.done(event);
    }
}

impl<T: Observer> Observer for Option<T> {
    fn done(&self, event: &CompletedRequest<'_>) {
        if let Some(observer) = self {
            observer.done(event);
        }
    }
}

/// Writes one line per request: `read /etc/hosts 4096 @0 → 220 (31.2µs)`.
pub struct Trace<W> {
    to: Mutex<W>,
    kinds: Vec<Kind>,
}

impl<W: Write + Send> Trace<W> {
    /// Writes to `to`, each line in one write. With `kinds`, only those; without, all.
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
        // Where the trace can't be written, there is nobody to tell.
        let _ = to.write_all(line.as_bytes());
    }
}

/// Counts requests, the bytes they moved and the time they took, by kind.
#[derive(Debug)]
pub struct Counts([Count; 256]);

#[derive(Debug)]
struct Count {
    requests: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
    nanos: AtomicU64,
}

/// What [`Counts`] knows of one kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KindTotals {
    /// The kind.
    pub kind: Kind,
    /// How many.
    pub requests: u64,
    /// How many of them failed.
    pub failed: u64,
    /// Bytes read, written or listed.
    pub bytes: u64,
    /// Time that the file system took for them.
    pub elapsed: Duration,
}

impl Default for Counts {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Count {
            requests: AtomicU64::new(0),
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
        add(&count.failed, event.result.is_err().into());
        add(
            &count.bytes,
            event.result.ok().flatten().unwrap_or(0).into(),
        );
        let nanos = u64::try_from(event.elapsed.as_nanos()).unwrap_or(u64::MAX);
        add(&count.nanos, nanos);
    }
}
