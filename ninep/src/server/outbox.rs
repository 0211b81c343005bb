//! Requests in flight and replies on their way out.
//!
//! One lock covers both, since their order is the protocol's: a tag is free again the moment its
//! reply is queued, and `Rflush` never overtakes the reply to the request it flushes.
//!
//! Whoever finishes while nobody writes takes the writer and writes; whoever finishes meanwhile
//! leaves a small reply in `queued` and goes on, so that what is ready together leaves in one
//! write. Large replies wait for the writer instead of being copied. Nothing grows when the peer
//! doesn't read: then everyone waits.

use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::msg::Reply;
use crate::wire::Frame;

/// Replies up to this many bytes are queued by copy.
const SMALL: usize = 16 * 1024;
/// Bytes queued at most.
const QUEUE: usize = 256 * 1024;

pub(super) struct Outbox<W> {
    state: Mutex<OutboxState<W>>,
    changed: Condvar,
}

struct OutboxState<W> {
    /// `None` while someone writes, or for ever after `broken`.
    writer: Option<W>,
    broken: bool,
    queued: Vec<u8>,
    /// Threads that wait for `changed`, and those of them that want the writer.
    waiting: usize,
    stalled: usize,
    in_flight: Vec<InFlight>,
}

struct InFlight {
    tag: u16,
    /// Tags of the flushes that wait for this request.
    flushes: Vec<u16>,
}

/// The tag is that of a request still in flight.
#[derive(Debug)]
pub(super) struct DuplicateTag;

/// Whether a request is to be done now, or is a flush that the request it waits for will answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Begun {
    Go,
    Parked,
}

impl<W> OutboxState<W> {
    /// The request in flight that has this tag, or will answer a flush that has it.
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

    /// Ends the request and queues the replies to its flushes.
    fn end(&mut self, tag: u16) {
        let Some(at) = self.in_flight.iter().position(|it| it.tag == tag) else {
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

    /// A flush of `old` has arrived. A flush may be flushed too.
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

    /// Whether writing has failed, so that no more replies will leave.
    pub(super) fn broken(&self) -> bool {
        self.lock().broken
    }

    /// Ends the request `tag` with `reply`. Waits while the peer doesn't take what is queued.
    pub(super) fn send(&self, tag: u16, reply: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        let mut writer = loop {
            if let Some(writer) = state.writer.take() {
                break writer;
            }
            let small = reply.len() <= SMALL && state.queued.len() + reply.len() <= QUEUE;
            if state.broken || small {
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
            // Whoever is stalled takes over, with what is queued.
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

    /// Tells the size of each write, and does it when it may.
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
            // While it is written, the others are ready, and do not wait.
            (1..10).for_each(|tag| outbox.send(tag, &[0; 20]).unwrap());
            go.send(()).unwrap();
            assert_eq!(written.recv().unwrap(), 9 * 20);
            go.send(()).unwrap();
            first.join().unwrap().unwrap();
        });
        assert!(written.try_recv().is_err());
    }
}
