//! What the channels of a connection tell its [`Socket`](crate::Socket), and it them: whether to read, what can wait to
//! be written, how much is queued, and that the peer was heard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Context;

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

/// Bytes queued for a foreign peer above which nothing more is to be sent.
const MOST_UNSENT: usize = 4 * 1024 * 1024;

/// Shared by a socket and the channels on it. Starts open.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<GateState>);

#[derive(Debug, Default)]
struct GateState {
    /// Nothing is read. TCP then pushes back, and only a hang-up is still looked for.
    shut: AtomicBool,
    /// What is written next can wait for something to go with.
    can_wait: AtomicBool,
    /// Something waits so.
    keeps_back: AtomicBool,
    heard: AtomicBool,
    /// Bytes that the socket has queued.
    unsent: AtomicUsize,
    room: Notify,
    socket: AtomicWaker,
}

impl Gate {
    /// Stop reading from the socket.
    pub fn shut(&self) {
        self.0.shut.store(true, Ordering::Release);
    }

    /// Read again.
    pub fn open(&self) {
        if self.0.shut.swap(false, Ordering::AcqRel) {
            self.0.socket.wake();
        }
    }

    /// What is written next is only a word that the peer may send a little more: it goes with the next that is
    /// written, or a moment later. It is the one who waits for the answer who is in a hurry, not the one who is full.
    pub(crate) fn hold_next(&self) {
        self.0.can_wait.store(true, Ordering::Release);
    }

    /// What waits goes now.
    pub(crate) fn release(&self) {
        self.0.can_wait.store(false, Ordering::Release);
        if self.0.keeps_back.swap(false, Ordering::AcqRel) {
            self.0.socket.wake();
        }
    }

    /// Whether anything has come from the peer since this was last asked. While nobody listens, silence
    /// says nothing about the peer: it counts as heard.
    pub fn was_heard(&self) -> bool {
        self.0.heard.swap(false, Ordering::Relaxed) || self.0.shut.load(Ordering::Acquire)
    }

    /// Something came from the peer.
    pub(crate) fn hear(&self) {
        self.0.heard.store(true, Ordering::Relaxed);
    }

    /// Returns when little enough is queued for the peer. A socket that fails says so elsewhere.
    pub async fn room(&self) {
        loop {
            let room = self.0.room.notified();
            if self.0.unsent.load(Ordering::Acquire) <= MOST_UNSENT {
                return;
            }
            room.await;
        }
    }

    pub(crate) fn set_unsent(&self, now: usize) {
        let before = self.0.unsent.swap(now, Ordering::AcqRel);
        if before > MOST_UNSENT && now <= MOST_UNSENT {
            self.0.room.notify_waiters();
        }
    }

    /// Whether nothing is to be read; whoever asks is woken when that changes.
    pub(crate) fn is_shut(&self, cx: &Context<'_>) -> bool {
        self.0.socket.register(cx.waker());
        self.0.shut.load(Ordering::Acquire)
    }

    /// Whether what is written now can wait; said of one write only.
    pub(crate) fn can_wait(&self) -> bool {
        self.0.can_wait.swap(false, Ordering::AcqRel)
    }

    /// Whether something waits from now on.
    pub(crate) fn keep_back(&self, keep: bool) {
        self.0.keeps_back.store(keep, Ordering::Release);
    }

    /// Whether what waits has to wait on; whoever asks is woken when that changes.
    pub(crate) fn keeps_back(&self, cx: &Context<'_>) -> bool {
        self.0.socket.register(cx.waker());
        self.0.keeps_back.load(Ordering::Acquire)
    }
}
