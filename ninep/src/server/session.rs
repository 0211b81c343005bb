//! A 9P session: takes requests off the stream in order, has the handlers perform them, and reports them to the
//! observer. What depends on the order of requests happens under the reader's lock: tags, flushes, and the version,
//! which waits for all others.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::closing::Closing;
use super::describe;
use super::fids::Fid;
use super::handlers::Handlers;
use super::inbox::Inbox;
use super::outbox::{Begun, DuplicateTag, Outbox};
use super::version::{Negotiated, negotiate};
use super::{Config, Error, MIN_MSIZE};
use crate::errno::Errno;
use crate::fs::{Change, FileSystem, Watcher};
use crate::msg::{
    FORGET_ALL, FetchTotals, Header, Kind, NO_TAG, OWN_TAGS, Reply, Request, WATCHED,
};
use crate::observe::{CompletedRequest, Observer, Urgency};
use crate::wire::{Data, Frame, HEADER, Malformed, Name, Str, WalkVec};

pub(super) struct Session<'a, F: FileSystem, R, W> {
    handlers: Handlers<'a, F>,
    observer: Option<&'a dyn Observer>,
    max_msize: u32,
    inbox: Mutex<Inbox<R>>,
    outbox: Outbox<W>,
    pub(super) closing: Closing,
    /// Whether changes are reported.
    watches: AtomicBool,
    /// The first error.
    error: Mutex<Option<Error>>,
}

/// A request to perform; its bytes are in the thread's buffer.
pub(super) struct Job<'b> {
    request: Result<Request<'b>, Malformed>,
    pub(super) tag: u16,
    /// `None` before the first version.
    negotiated: Option<Negotiated>,
}

/// What a thread is to do next.
#[expect(clippy::large_enum_variant, reason = "passed on at once")]
pub(super) enum Work<'b, F: FileSystem> {
    /// Perform a request.
    Job(Job<'b>),
    /// The request has been performed. Drop the files whose last use this may be: closing them may block. Then end the close of this
    /// number.
    Close([Option<Arc<Fid<F>>>; 2], u64),
    /// It was a flush, which will be answered after the request that it flushes.
    None,
    EndOfStream,
}

impl<'a, F: FileSystem, R: Read, W: Write> Session<'a, F, R, W> {
    pub(super) fn new(fs: &'a F, reader: R, writer: W, config: &Config<'a>) -> Self {
        Self {
            handlers: Handlers::new(fs, config.max_fids, config.learning),
            observer: config.observer,
            max_msize: config.max_msize.max(MIN_MSIZE),
            inbox: Mutex::new(Inbox::new(reader)),
            outbox: Outbox::new(writer),
            closing: Closing::default(),
            watches: AtomicBool::new(false),
            error: Mutex::new(None),
        }
    }

    /// Ends the session with an error, unless it has one.
    pub(super) fn fail(&self, error: Error) {
        self.error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
    }

    /// Clunks every fid; how the session ended.
    pub(super) fn end(self) -> Result<(), Error> {
        let error = self.error.into_inner();
        match error.unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// What reports changes to the client, if it has agreed to that.
    pub(super) fn watcher(&self) -> Option<&dyn Watcher<F::Node>> {
        let watches = self.watches.load(Ordering::Acquire);
        self.handlers.watcher().filter(|_| watches)
    }

    /// Reports the changes that the client has not been told of.
    pub(super) fn report_changes(&self) {
        let Some(watcher) = self.watcher() else {
            return;
        };
        watcher.changes(&mut |changes| {
            let mut messages = Vec::new();
            let mut frame = Frame::default();
            for change in changes {
                self.observe_change(change);
                let (what, name) = match Str::new(&change.name) {
                    Some(name) => (change.what, name),
                    None => (FORGET_ALL, Str::default()),
                };
                let dir = change.dir;
                Reply::Forget { what, dir, name }.encode(NO_TAG, &mut frame);
                messages.extend_from_slice(frame.finish());
            }
            if let Err(error) = self.outbox.push(&messages) {
                self.fail(Error::Write(error));
            }
        });
    }

    fn observe_change(&self, change: &Change) {
        if let Some(observer) = self.observer {
            observer.done(&CompletedRequest {
                kind: Kind::Forget,
                request: None,
                urgency: Urgency::Answered,
                description: &describe::Forgotten(change),
                path: &"",
                result: Ok(None),
                begun: Instant::now(),
                elapsed: Duration::ZERO,
            });
        }
    }

    fn observe_tally(&self, fetched: &FetchTotals, answered: Data<'_>) {
        let Some(observer) = self.observer else {
            return;
        };
        let numbers = answered.0.as_chunks().0;
        let number = |kind: &Kind| numbers.get(usize::from(kind.number() / 2));
        let answered: Vec<_> = Kind::ALL
            .iter()
            .filter_map(|kind| Some((*kind, u32::from_le_bytes(*number(kind)?))))
            .filter(|(_, number)| *number > 0)
            .collect();
        observer.tally(&answered, fetched);
    }

    /// Sends the reply to a request, and before it the changes that were made before it.
    pub(super) fn send(&self, tag: u16, reply: &mut Frame) {
        self.report_changes();
        if let Err(error) = self.outbox.send(tag, reply.finish()) {
            self.fail(Error::Write(error));
        }
    }

    /// Takes the next request. What a later request must not overtake is done here.
    pub(super) fn next<'b>(&self, buf: &'b mut Vec<u8>) -> Result<Work<'b, F>, Error> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if self.outbox.broken() {
            inbox.close();
        }
        let Some((Header { kind, tag, .. }, body)) = inbox.next(buf)? else {
            return Ok(Work::EndOfStream);
        };
        let request = Kind::new(kind).and_then(|kind| Request::decode(kind, body));
        let negotiated = inbox.negotiated;
        let watched = negotiated.is_some_and(|negotiated| negotiated.watched);
        if tag == NO_TAG
            && negotiated.is_some_and(|negotiated| negotiated.extended)
            && let Ok(request) = request
            && may_lack_tag(&request, watched)
        {
            if let Request::Tally { fetched, answered } = request {
                self.observe_tally(&fetched, answered);
                return Ok(Work::None);
            }
            let mut closed = [self.handlers.subject(&request), None];
            let job = Job {
                request: Ok(request),
                tag,
                negotiated,
            };
            let mut reply = Frame::default();
            self.perform(&job, &mut reply);
            // The client does not learn that it was refused: the number must not keep its old meaning.
            if let Request::Walk { newfid: fid, .. }
            | Request::Bind { newfid: fid, .. }
            | Request::Lopen { fid, .. } = request
                && reply.finish().get(4) == Some(&Reply::ERROR)
            {
                closed[1] = if watched {
                    self.handlers.set_stale(fid)
                } else {
                    self.handlers.forget(fid)
                };
            }
            return Ok(Work::Close(closed, self.closing.begin()));
        }
        let begun = match request {
            Ok(Request::Flush { oldtag }) => self.outbox.begin_flush(tag, oldtag),
            Ok(Request::Version { msize, version }) => {
                self.outbox.drain();
                self.handlers.reset();
                let can_watch = version.bytes() == WATCHED && self.handlers.start_watcher();
                inbox.negotiated =
                    negotiate(msize, version, self.max_msize, can_watch).unwrap_or_default();
                let watches = inbox.negotiated.is_some_and(|agreed| agreed.watched);
                self.watches.store(watches, Ordering::Release);
                self.outbox.begin(tag)
            }
            _ => self.outbox.begin(tag),
        };
        match begun {
            Ok(Begun::Go) => Ok(Work::Job(Job {
                request,
                tag,
                negotiated: inbox.negotiated,
            })),
            Ok(Begun::Parked) => {
                drop(inbox);
                if let Ok(request) = request {
                    // The thread that has the flushed request sends the reply.
                    let _ = self.observed(&request, tag, &mut Frame::default(), |_| Ok(None));
                }
                Ok(Work::None)
            }
            Err(DuplicateTag) => {
                inbox.close();
                Err(Error::DuplicateTag(tag))
            }
        }
    }

    /// Performs a request and encodes its reply.
    pub(super) fn perform(&self, job: &Job<'_>, reply: &mut Frame) {
        let result = match job.request {
            Err(malformed) => Err(malformed.into()),
            Ok(request) => self.observed(&request, job.tag, reply, |reply| {
                self.answer(&request, job.tag, job.negotiated, reply)
            }),
        };
        if let (Ok(request), Some(Negotiated { watched: true, .. })) = (job.request, job.negotiated)
        {
            self.handlers.learn(&request, job.tag, result);
        }
        if let Err(errno) = result {
            Reply::Error { ecode: errno.raw() }.encode(job.tag, reply);
        }
    }

    /// Reports a request and its result to the observer, if there is one.
    fn observed(
        &self,
        request: &Request<'_>,
        tag: u16,
        reply: &mut Frame,
        answer: impl FnOnce(&mut Frame) -> Result<Option<u32>, Errno>,
    ) -> Result<Option<u32>, Errno> {
        let Some(observer) = self.observer else {
            return answer(reply);
        };
        let description = self.handlers.describe(request);
        let begun = Instant::now();
        let result = answer(reply);
        observer.done(&CompletedRequest {
            kind: request.kind(),
            request: Some(request),
            urgency: urgency(request, tag),
            description: &description,
            path: &describe::Path(&description),
            result: match (request, &result) {
                // A shorter reply means that a name does not exist.
                (Request::Walk { names, .. }, Ok(_)) if falls_short(names, reply) => {
                    Err(Errno::ENOENT)
                }
                _ => result,
            },
            begun,
            elapsed: begun.elapsed(),
        });
        result
    }

    fn answer(
        &self,
        request: &Request<'_>,
        tag: u16,
        negotiated: Option<Negotiated>,
        reply: &mut Frame,
    ) -> Result<Option<u32>, Errno> {
        match (*request, negotiated) {
            (Request::Version { msize, version }, negotiated) => {
                negotiate(msize, version, self.max_msize, false)?;
                let version = negotiated.map_or(&b"unknown"[..], Negotiated::version);
                let msize = msize.min(self.max_msize);
                let version = Str::new(version).unwrap_or_default();
                Reply::Version { msize, version }.encode(tag, reply);
                Ok(None)
            }
            (_, None) => Err(Errno::EPROTO),
            (
                Request::Walkgetattr { .. },
                Some(Negotiated {
                    extended: false, ..
                }),
            )
            | (
                Request::Lookup { .. }
                | Request::List { .. }
                | Request::Bind { .. }
                | Request::Lopenread { .. }
                | Request::Fetch { .. }
                | Request::Replay { .. }
                | Request::Lcreategetattr { .. }
                | Request::Setgetattr { .. }
                | Request::Sync {},
                Some(Negotiated { watched: false, .. }),
            ) => Err(Errno::EOPNOTSUPP),
            (Request::Sync {}, _) => {
                self.closing.wait();
                Reply::Sync {}.encode(tag, reply);
                Ok(None)
            }
            (_, Some(Negotiated { msize, .. })) => {
                if changes_names(request) {
                    self.closing.wait_briefly();
                }
                self.handlers.handle(request, tag, msize, reply)
            }
        }
    }
}

/// Whether the reply to a walk has fewer qids than the request has names.
fn falls_short(names: &WalkVec<Name<'_>>, reply: &mut Frame) -> bool {
    let qids = reply.finish().get(HEADER..HEADER + 2);
    qids.is_some_and(|qids| qids != u16::try_from(names.len()).unwrap_or(u16::MAX).to_le_bytes())
}

/// Whether a request makes, moves or removes a name, at which somebody here may take a file for complete that was closed before.
fn changes_names(request: &Request<'_>) -> bool {
    matches!(
        request,
        Request::Lcreate { .. }
            | Request::Lcreategetattr { .. }
            | Request::Symlink { .. }
            | Request::Mknod { .. }
            | Request::Mkdir { .. }
            | Request::Link { .. }
            | Request::Rename { .. }
            | Request::Renameat { .. }
            | Request::Unlinkat { .. }
            | Request::Remove { .. }
    )
}

/// Who waits for the reply to a request.
fn urgency(request: &Request<'_>, tag: u16) -> Urgency {
    match request {
        Request::Version { .. } => Urgency::Awaited,
        _ if tag == NO_TAG => Urgency::Answered,
        Request::Fetch { .. }
        | Request::Replay { .. }
        | Request::List { open: 0, .. }
        | Request::Sync {} => Urgency::Ahead,
        Request::Read { .. } if tag >= OWN_TAGS => Urgency::Ahead,
        _ => Urgency::Awaited,
    }
}

/// Whether a request may come without a tag: a clunk, or a walk of no names, and in [`WATCHED`] an open, a bind or a tally.
fn may_lack_tag(request: &Request<'_>, watched: bool) -> bool {
    match request {
        Request::Bind { .. } | Request::Lopen { .. } | Request::Tally { .. } => watched,
        Request::Clunk { .. } => true,
        Request::Walk { names, .. } => names.is_empty(),
        _ => false,
    }
}
