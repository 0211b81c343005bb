//! The threads that serve a session.
//!
//! Each in turn locks the reader, takes one request off it, unlocks it, performs the request and sends the reply
//! itself. So with one request outstanding no thread waits for another, and a request that blocks holds up no
//! other. When the file system keeps all threads busy for [`STALL_TIMEOUT`], as a network file system does whose
//! server has gone, one more thread is started, up to [`MAX_WORKERS`].

use std::io::{Read, Write};
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle, Thread};
use std::time::Duration;

use super::Error;
use super::session::{Session, Work};
use crate::fs::{FileSystem, Watcher};
use crate::wire::Frame;

/// All threads are considered stuck when none has finished a request for this long.
const STALL_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum number of threads, so that a client of a file system that is stuck for good does not get more and more.
const MAX_WORKERS: usize = 64;

struct Pool<'p, 'a, F: FileSystem, R, W> {
    session: &'p Session<'a, F, R, W>,
    /// Threads that are inside the file system.
    working: AtomicUsize,
    /// Requests that the file system has completed; wraps.
    done: AtomicUsize,
    /// Whether a thread has reached the end of the stream.
    ended: AtomicBool,
    /// Whether the thread that reports changes was asked for.
    watches: AtomicBool,
    /// The thread that starts the others.
    supervisor: Thread,
}

/// Serves `session` with `count` threads, and more if they get stuck. Returns when all of them have ended.
pub(super) fn run<F, R, W>(session: &Session<'_, F, R, W>, count: NonZero<usize>)
where
    F: FileSystem,
    R: Read + Send,
    W: Write + Send,
{
    let pool = Pool {
        session,
        working: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
        ended: AtomicBool::new(false),
        watches: AtomicBool::new(false),
        supervisor: thread::current(),
    };
    thread::scope(|scope| {
        let mut workers = Vec::new();
        while workers.len() < count.get() && pool.spawn_worker(scope, &mut workers) {}
        let mut done = 0;
        let mut watch = None;
        let is_alive = |worker: &ScopedJoinHandle<'_, ()>| !worker.is_finished();
        while !pool.ended.load(Ordering::Acquire) && workers.iter().any(is_alive) {
            thread::park_timeout(STALL_TIMEOUT);
            if watch.is_none() && session.watcher().is_some() {
                watch = spawn_watch(scope, session);
                continue;
            }
            let before = std::mem::replace(&mut done, pool.done.load(Ordering::Relaxed));
            let is_stuck = pool.working.load(Ordering::Relaxed) == workers.len() && before == done;
            if is_stuck && workers.len() < MAX_WORKERS {
                pool.spawn_worker(scope, &mut workers);
            }
        }
        // The scope waits until their closures return, not until the threads have ended.
        if let Some((watcher, thread)) = watch {
            watcher.close();
            workers.push(thread);
        }
        for worker in workers {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

type WatchThread<'s, N> = (&'s dyn Watcher<N>, ScopedJoinHandle<'s, ()>);

/// Starts the thread that reports changes when no reply does. Without it they would be reported late, so the session ends.
fn spawn_watch<'s, F, R, W>(
    scope: &'s Scope<'s, '_>,
    session: &'s Session<'_, F, R, W>,
) -> Option<WatchThread<'s, F::Node>>
where
    F: FileSystem,
    R: Read + Send,
    W: Write + Send,
{
    let watcher = session.watcher()?;
    let thread = thread::Builder::new().name("9p-watch".into());
    let report = || {
        while watcher.wait() {
            session.report_changes();
        }
    };
    match thread.spawn_scoped(scope, report) {
        Ok(thread) => Some((watcher, thread)),
        Err(error) => {
            watcher.close();
            session.fail(Error::Thread(error));
            None
        }
    }
}

impl<F: FileSystem, R: Read, W: Write> Pool<'_, '_, F, R, W> {
    /// Starts one more thread if the system allows it. Without any, the session fails.
    fn spawn_worker<'s>(
        &'s self,
        scope: &'s Scope<'s, '_>,
        workers: &mut Vec<ScopedJoinHandle<'s, ()>>,
    ) -> bool
    where
        R: Send,
        W: Send,
    {
        let thread = thread::Builder::new().name(format!("9p-{}", workers.len()));
        let spawned = thread.spawn_scoped(scope, || {
            self.work();
            self.ended.store(true, Ordering::Release);
            self.supervisor.unpark();
        });
        match spawned {
            Ok(worker) => {
                workers.push(worker);
                return true;
            }
            Err(error) if workers.is_empty() => {
                self.session.fail(Error::Thread(error));
                self.ended.store(true, Ordering::Release);
            }
            // The threads that there are do the work.
            Err(_) => {}
        }
        false
    }

    /// The loop of each thread.
    fn work(&self) {
        let mut buf = Vec::new();
        let mut reply = Frame::default();
        loop {
            match self.session.next(&mut buf) {
                Ok(Work::Job(job)) => {
                    self.in_file_system(|| self.session.perform(&job, &mut reply));
                    if self.session.watcher().is_some()
                        && !self.watches.swap(true, Ordering::Relaxed)
                    {
                        self.supervisor.unpark();
                    }
                    self.session.send(job.tag, &mut reply);
                }
                Ok(Work::Close(files, number)) => {
                    self.in_file_system(|| drop(files));
                    self.session.closing.end(number);
                }
                Ok(Work::None) => {}
                Ok(Work::EndOfStream) => return,
                Err(error) => return self.session.fail(error),
            }
        }
    }

    /// Runs something that may block in the file system.
    fn in_file_system(&self, work: impl FnOnce()) {
        self.working.fetch_add(1, Ordering::Relaxed);
        work();
        self.done.fetch_add(1, Ordering::Relaxed);
        self.working.fetch_sub(1, Ordering::Relaxed);
    }
}
