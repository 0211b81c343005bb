//! Requests in flight, and replies on their way out.
//!
//! One lock covers both, since the protocol orders them: a tag can be reused as soon as its reply is queued, and an
//! `Rflush` never overtakes the reply to the request that it flushes.
//!
//! A thread that finishes a request while no other writes takes the writer and writes. A thread that finishes while
//! another writes leaves a small reply in `queued` and goes on, so that replies that are ready together go out in
//! one write; with a large reply it waits for the writer, to avoid a copy. If the peer does not read, all
//! threads end up waiting, and nothing grows.

use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::msg::Reply;
use crate::wire::Frame;

/// Replies up to this many bytes are queued by copy.
const SMALL: usize = 16 * 1024;
/// Maximum number of bytes queued.
const QUEUE: usize = 256 * 1024;

pub(super) struct Outbox<W> {
    state: Mutex<OutboxState<W>>,
    changed: Condvar,
}

struct OutboxState<W> {
    /// `None` while a thread writes, and for good once `broken` is set.
    writer: Option<W>,
    broken: bool,
    queued: Vec<u8>,
    /// Threads that wait for `changed`.
    waiting: usize,
    /// Those of them that wait for the writer.
    stalled: usize,
    in_flight: Vec<InFlight>,
}

struct InFlight {
    tag: u16,
    /// Tags of the flushes that wait for this request.
    flushes: Vec<u16>,
}

/// The tag belongs to a request that is still in flight.
#[derive(Debug)]
pub(super) struct DuplicateTag;

/// What to do with a request that has arrived.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// Perform it.
    Go,
    /// Nothing: it is a flush, which is answered after the request that it flushes.
    Parked,
}

impl<W> OutboxState<W> {
    /// The request in flight with this tag, or with a parked flush that has it.
    fn find(&self, tag: u16) -> Option<usize> {
        self.in_flight
            .iter()
            .position(|it| it.tag == tag || it.flushes.contains(&tag))
    }

    fn begin(&mut self, tag: u16) -> Result<Begun, DuplicateTag> {
        if self.find(tag).is_some() {
            return Err(DuplicateTag);
        }
        self.in_flight.push(InFlight {
            tag,
            flushes: Vec::new(),
        });
        Ok(Begun::Go)
    }

    /// Removes a request that has been answered, and queues the replies to its flushes.
    fn end(&mut self, tag: Option<u16>) {
        let is_it = |it: &InFlight| Some(it.tag) == tag;
        let Some(at) = self.in_flight.iter().position(is_it) else {
            return;
        };
        let mut frame = Frame::default();
        for flush in self.in_flight.swap_remove(at).flushes {
            Reply::Flush {}.encode(flush, &mut frame);
            self.queued.extend_from_slice(frame.finish());
        }
    }
}

impl<W: Write> Outbox<W> {
    pub(super) fn new(writer: W) -> Self {
        Self {
            state: Mutex::new(OutboxState {
                writer: Some(writer),
                broken: false,
                queued: Vec::new(),
                waiting: 0,
                stalled: 0,
                in_flight: Vec::new(),
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, OutboxState<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &'a self,
        mut state: MutexGuard<'a, OutboxState<W>>,
    ) -> MutexGuard<'a, OutboxState<W>> {
        state.waiting += 1;
        let mut state = self
            .changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state
    }

    fn notify(&self, state: &OutboxState<W>) {
        if state.waiting > 0 {
            self.changed.notify_all();
        }
    }

    /// A request has arrived.
    pub(super) fn begin(&self, tag: u16) -> Result<Begun, DuplicateTag> {
        self.lock().begin(tag)
    }

    /// A flush of the request `old` has arrived. That request may itself be a flush.
    pub(super) fn begin_flush(&self, tag: u16, old: u16) -> Result<Begun, DuplicateTag> {
        let mut state = self.lock();
        let Some(at) = state.find(old) else {
            return state.begin(tag);
        };
        if state.find(tag).is_some() {
            return Err(DuplicateTag);
        }
        if let Some(request) = state.in_flight.get_mut(at) {
            request.flushes.push(tag);
        }
        Ok(Begun::Parked)
    }

    /// Waits until no request is in flight.
    pub(super) fn drain(&self) {
        let mut state = self.lock();
        while !state.in_flight.is_empty() {
            state = self.wait(state);
        }
    }

    /// Whether writing has failed, so that no reply will be sent any more.
    pub(super) fn broken(&self) -> bool {
        self.lock().broken
    }

    /// Answers the request `tag`. Waits while the peer does not read what is queued.
    pub(super) fn send(&self, tag: u16, reply: &[u8]) -> io::Result<()> {
        self.write(Some(tag), reply)
    }

    /// Sends messages that answer nothing, and returns when they and what was queued before are written.
    pub(super) fn push(&self, messages: &[u8]) -> io::Result<()> {
        self.write(None, messages)
    }

    fn write(&self, tag: Option<u16>, reply: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        let mut writer = loop {
            if let Some(writer) = state.writer.take() {
                break writer;
            }
            let fits = reply.len() <= SMALL && state.queued.len() + reply.len() <= QUEUE;
            if state.broken || (fits && tag.is_some()) {
                state.queued.extend_from_slice(reply);
                state.end(tag);
                if state.broken {
                    state.queued.clear();
                }
                self.notify(&state);
                return Ok(());
            }
            state.stalled += 1;
            state = self.wait(state);
            state.stalled -= 1;
        };

        let mut batch = std::mem::take(&mut state.queued);
        state.end(tag);
        drop(state);
        let mut result = writer
            .write_all(&batch)
            .and_then(|()| writer.write_all(reply));
        loop {
            batch.clear();
            state = self.lock();
            // A thread that waits for the writer takes over, with what is queued.
            if result.is_err() || state.queued.is_empty() || state.stalled > 0 {
                break;
            }
            std::mem::swap(&mut batch, &mut state.queued);
            drop(state);
            result = writer.write_all(&batch);
        }
        if state.queued.is_empty() {
            state.queued = batch;
        }
        state.broken = result.is_err();
        state.writer = result.is_ok().then_some(writer);
        self.notify(&state);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Reports the size of each write, and completes it on permission.
    struct Slow {
        sizes: mpsc::Sender<usize>,
        may: mpsc::Receiver<()>,
    }

    impl Write for Slow {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.sizes.send(buf.len()).unwrap();
            self.may.recv().unwrap();
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn replies_that_are_ready_together_leave_in_one_write() {
        let ((sizes, written), (go, may)) = (mpsc::channel(), mpsc::channel());
        let outbox = Outbox::new(Slow { sizes, may });
        (0..10).for_each(|tag| assert_eq!(outbox.begin(tag).unwrap(), Begun::Go));
        std::thread::scope(|scope| {
            let first = scope.spawn(|| outbox.send(0, &[0; 100]));
            assert_eq!(written.recv().unwrap(), 100);
            // The others become ready during this write, and do not wait for it.
            (1..10).for_each(|tag| outbox.send(tag, &[0; 20]).unwrap());
            go.send(()).unwrap();
            assert_eq!(written.recv().unwrap(), 9 * 20);
            go.send(()).unwrap();
            first.join().unwrap().unwrap();
        });
        assert!(written.try_recv().is_err());
    }
}
