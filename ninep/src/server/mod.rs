//! The engine: reads requests, has the [`FileSystem`] do them, writes the replies.
//!
//! A few threads do all. Each in turn holds the reader, takes one request off it, hands the reader
//! on, does the request and sends the reply itself: with one request outstanding nothing waits
//! for another thread, and one that blocks stops no other. When the file system keeps all threads for long, as
//! one on a network that has gone does, there is one more, up to a limit. What orders things is done
//! under the reader's lock: tags, flushes, and the version, which waits for all others.

mod describe;
mod fids;
mod handlers;
mod inbox;
mod outbox;

use std::io::{self, Read, Write};
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::errno::Errno;
use crate::fs::FileSystem;
use crate::msg::{EXTENDED, Header, Kind, NO_TAG, Reply, Request, VERSION};
use crate::observe::{CompletedRequest, Observer};
use crate::wire::{Frame, HEADER, Malformed, Name, Str, WalkVec};
use fids::Fid;
use handlers::Handlers;
use inbox::Inbox;
use outbox::{Begun, DuplicateTag, Outbox};

/// Smallest message size that a session works with; Linux refuses less, too.
pub const MIN_MSIZE: u32 = 4096;

/// A file system that keeps every thread for so long is stuck.
const STALL_TIMEOUT: Duration = Duration::from_secs(1);

/// Threads at most: the peer of a file system that is stuck altogether gets no more.
const MAX_WORKERS: usize = 64;

/// How to serve.
#[derive(Clone, Copy)]
pub struct Config<'a> {
    /// Largest message in bytes; the peer may ask for less. At least [`MIN_MSIZE`].
    pub max_msize: u32,
    /// Threads, and so requests that are worked on at once, unless the file system is stuck. Each may hold two
    /// messages.
    pub workers: NonZero<usize>,
    /// Fids at most, `EMFILE` beyond.
    pub max_fids: usize,
    /// Told of every request that has been done.
    pub observer: Option<&'a dyn Observer>,
}

impl Default for Config<'_> {
    /// 1 MiB, which is what Linux takes over a descriptor at most; 4 threads; 65,536 fids.
    fn default() -> Self {
        Self {
            max_msize: 1 << 20,
            workers: NonZero::new(4).unwrap_or(NonZero::<usize>::MIN),
            max_fids: 1 << 16,
            observer: None,
        }
    }
}

/// Why a session ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The transport failed.
    #[error("cannot read the next 9P request")]
    Read(#[source] io::Error),
    /// The transport failed, or the peer has gone.
    #[error("cannot write a 9P reply")]
    Write(#[source] io::Error),
    /// The stream ended within a message.
    #[error("the 9P stream ended within a message")]
    Truncated,
    /// A size that no message has, after which nothing can be found in the stream.
    #[error("a 9P message says it is of {size} bytes; between 7 and {limit} are agreed")]
    Size {
        /// What it says.
        size: u32,
        /// Message size of the session.
        limit: u32,
    },
    /// Two requests at once with one tag: their replies could not be told apart.
    #[error("9P tag {0} is used by two requests at once")]
    DuplicateTag(u16),
    /// The system gives no thread.
    #[error("cannot start a thread for the 9P server")]
    Thread(#[source] io::Error),
}

/// Serves `fs` to one peer until the stream ends between two messages, the transport fails or the
/// peer breaks the framing. Blocks; requests in flight are finished first, and no fid is left.
///
/// When `writer` fails, the session ends once `reader` returns: they should end together.
pub fn serve<F, R, W>(fs: &F, reader: R, writer: W, config: &Config<'_>) -> Result<(), Error>
where
    F: FileSystem,
    R: Read + Send,
    W: Write + Send,
{
    let session = Session {
        handlers: Handlers::new(fs, config.max_fids),
        observer: config.observer,
        max_msize: config.max_msize.max(MIN_MSIZE),
        inbox: Mutex::new(Inbox::new(reader)),
        outbox: Outbox::new(writer),
        error: Mutex::new(None),
        working: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
        ended: AtomicBool::new(false),
        supervisor: thread::current(),
    };
    thread::scope(|scope| {
        let mut workers = Vec::new();
        while workers.len() < config.workers.get() && session.spawn_worker(scope, &mut workers) {}
        let mut done = 0;
        let is_alive = |worker: &ScopedJoinHandle<'_, ()>| !worker.is_finished();
        while !session.ended.load(Ordering::Acquire) && workers.iter().any(is_alive) {
            thread::park_timeout(STALL_TIMEOUT);
            let before = std::mem::replace(&mut done, session.done.load(Ordering::Relaxed));
            let is_stuck =
                session.working.load(Ordering::Relaxed) == workers.len() && before == done;
            if is_stuck && workers.len() < MAX_WORKERS {
                session.spawn_worker(scope, &mut workers);
            }
        }
        // The scope would wait for their work, but not for their end.
        for worker in workers {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    let error = session.error.into_inner();
    match error.unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

struct Session<'a, F: FileSystem, R, W> {
    handlers: Handlers<'a, F>,
    observer: Option<&'a dyn Observer>,
    max_msize: u32,
    inbox: Mutex<Inbox<R>>,
    outbox: Outbox<W>,
    /// The first one.
    error: Mutex<Option<Error>>,
    /// Threads that have given a request to the file system.
    working: AtomicUsize,
    /// Requests that the file system has done; wraps.
    done: AtomicUsize,
    /// Whether a thread has found the end of the stream.
    ended: AtomicBool,
    /// Who starts threads.
    supervisor: Thread,
}

/// A request to be done; its bytes are in the thread's buffer.
struct Job<'b> {
    request: Result<Request<'b>, Malformed>,
    tag: u16,
    /// `None` if none has been.
    agreed: Option<Agreed>,
}

/// A version that both sides know.
#[derive(Clone, Copy)]
struct Agreed {
    /// Size of a message at most.
    msize: u32,
    /// Whether it is [`EXTENDED`].
    extended: bool,
}

#[expect(clippy::large_enum_variant, reason = "passed on at once")]
enum Work<'b, F: FileSystem> {
    Job(Job<'b>),
    /// It was done, but for the files to be closed, which may take long: each if this is its last use.
    Close([Option<Arc<Fid<F>>>; 2]),
    /// It is a flush that the request it waits for will answer.
    None,
    EndOfStream,
}

impl<F: FileSystem, R: Read, W: Write> Session<'_, F, R, W> {
    fn fail(&self, error: Error) {
        self.error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
    }

    /// One thread more, if the system has one; without any the session cannot go on.
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
                self.fail(Error::Thread(error));
                self.ended.store(true, Ordering::Release);
            }
            // The others do what there is.
            Err(_) => {}
        }
        false
    }

    /// What each thread does.
    fn work(&self) {
        let mut buf = Vec::new();
        let mut reply = Frame::default();
        loop {
            match self.next(&mut buf) {
                Ok(Work::Job(job)) => {
                    self.in_file_system(|| self.perform(&job, &mut reply));
                    if let Err(error) = self.outbox.send(job.tag, reply.finish()) {
                        self.fail(Error::Write(error));
                    }
                }
                Ok(Work::Close(files)) => self.in_file_system(|| drop(files)),
                Ok(Work::None) => {}
                Ok(Work::EndOfStream) => return,
                Err(error) => return self.fail(error),
            }
        }
    }

    /// Does what the file system may keep the thread with.
    fn in_file_system(&self, work: impl FnOnce()) {
        self.working.fetch_add(1, Ordering::Relaxed);
        work();
        self.done.fetch_add(1, Ordering::Relaxed);
        self.working.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes the next request, and what must not be overtaken by a later one is done here.
    fn next<'b>(&self, buf: &'b mut Vec<u8>) -> Result<Work<'b, F>, Error> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if self.outbox.broken() {
            inbox.close();
        }
        let Some((Header { kind, tag, .. }, body)) = inbox.next(buf)? else {
            return Ok(Work::EndOfStream);
        };
        let request = Kind::new(kind).and_then(|kind| Request::decode(kind, body));
        let agreed = inbox.agreed;
        if tag == NO_TAG
            && agreed.is_some_and(|agreed| agreed.extended)
            && let Ok(request) = request
            && moves_fids(&request)
        {
            let mut closed = [self.handlers.subject(&request), None];
            let job = Job {
                request: Ok(request),
                tag,
                agreed,
            };
            let mut reply = Frame::default();
            self.perform(&job, &mut reply);
            // Nobody hears that a clone was refused: its number must not mean what it did before.
            if let Request::Walk { newfid, .. } = request
                && reply.finish().get(4) == Some(&Reply::ERROR)
            {
                closed[1] = self.handlers.forget(newfid);
            }
            return Ok(Work::Close(closed));
        }
        let begun = match request {
            Ok(Request::Flush { oldtag }) => self.outbox.begin_flush(tag, oldtag),
            Ok(Request::Version { msize, version }) => {
                self.outbox.drain();
                self.handlers.reset();
                inbox.agreed = negotiate(msize, version, self.max_msize).unwrap_or_default();
                self.outbox.begin(tag)
            }
            _ => self.outbox.begin(tag),
        };
        match begun {
            Ok(Begun::Go) => Ok(Work::Job(Job {
                request,
                tag,
                agreed: inbox.agreed,
            })),
            Ok(Begun::Parked) => {
                drop(inbox);
                if let Ok(request) = request {
                    // The request that it waits for sends its reply.
                    let _ = self.observed(&request, &mut Frame::default(), |_| Ok(None));
                }
                Ok(Work::None)
            }
            Err(DuplicateTag) => {
                inbox.close();
                Err(Error::DuplicateTag(tag))
            }
        }
    }

    /// Does a request and makes its reply.
    fn perform(&self, job: &Job<'_>, reply: &mut Frame) {
        let result = match job.request {
            Err(malformed) => Err(malformed.into()),
            Ok(request) => self.observed(&request, reply, |reply| {
                self.answer(&request, job.tag, job.agreed, reply)
            }),
        };
        if let Err(errno) = result {
            Reply::Error { ecode: errno.raw() }.encode(job.tag, reply);
        }
    }

    /// Tells the observer, if there is one, of a request and what came of it.
    fn observed(
        &self,
        request: &Request<'_>,
        reply: &mut Frame,
        answer: impl FnOnce(&mut Frame) -> Result<Option<u32>, Errno>,
    ) -> Result<Option<u32>, Errno> {
        let Some(observer) = self.observer else {
            return answer(reply);
        };
        let description = self.handlers.describe(request);
        let start = Instant::now();
        let result = answer(reply);
        observer.done(&CompletedRequest {
            kind: request.kind(),
            description: &description,
            path: &describe::Path(&description),
            result: match (request, &result) {
                // A shorter answer says that a name is not there.
                (Request::Walk { names, .. }, Ok(_)) if falls_short(names, reply) => {
                    Err(Errno::ENOENT)
                }
                _ => result,
            },
            elapsed: start.elapsed(),
        });
        result
    }

    fn answer(
        &self,
        request: &Request<'_>,
        tag: u16,
        agreed: Option<Agreed>,
        reply: &mut Frame,
    ) -> Result<Option<u32>, Errno> {
        match (*request, agreed) {
            (Request::Version { msize, version }, agreed) => {
                negotiate(msize, version, self.max_msize)?;
                let version = match agreed {
                    Some(Agreed { extended: true, .. }) => EXTENDED,
                    Some(_) => VERSION,
                    None => b"unknown",
                };
                let msize = msize.min(self.max_msize);
                let version = Str::new(version).unwrap_or_default();
                Reply::Version { msize, version }.encode(tag, reply);
                Ok(None)
            }
            (_, None) => Err(Errno::EPROTO),
            (
                Request::Walkgetattr { .. },
                Some(Agreed {
                    extended: false, ..
                }),
            ) => Err(Errno::EOPNOTSUPP),
            (_, Some(Agreed { msize, .. })) => self.handlers.handle(request, tag, msize, reply),
        }
    }
}

/// Whether the reply to a walk has fewer qids than there were names.
fn falls_short(names: &WalkVec<Name<'_>>, reply: &mut Frame) -> bool {
    let qids = reply.finish().get(HEADER..HEADER + 2);
    qids.is_some_and(|qids| qids != u16::try_from(names.len()).unwrap_or(u16::MAX).to_le_bytes())
}

/// Whether a request is one that may come without a tag: a clunk or a walk of no names.
fn moves_fids(request: &Request<'_>) -> bool {
    match request {
        Request::Clunk { .. } => true,
        Request::Walk { names, .. } => names.is_empty(),
        _ => false,
    }
}

/// What to agree on, or `None` if the peer wants a dialect that isn't spoken here.
fn negotiate(msize: u32, version: Str<'_>, max_msize: u32) -> Result<Option<Agreed>, Errno> {
    if msize < MIN_MSIZE {
        return Err(Errno::EINVAL);
    }
    // version(5): what follows a period may be dropped to find a version that both know.
    let known = match version.bytes().strip_prefix(VERSION) {
        Some(rest) => rest.is_empty() || rest.starts_with(b"."),
        None => false,
    };
    Ok(known.then_some(Agreed {
        msize: msize.min(max_msize),
        extended: version.bytes() == EXTENDED,
    }))
}
