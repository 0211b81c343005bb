//! What the channels of a connection tell its [`Socket`](crate::Socket), and it them: whether to read, what can wait to
//! be written, how much is queued, and that the peer was heard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Context;

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

/// Bytes queued for a foreign peer above which nothing more is to be sent.
const MAX_UNSENT: usize = 4 * 1024 * 1024;

/// Shared by a socket and the channels on it. Starts open.
#[derive(Clone, Debug, Default)]
pub struct Throttle(Arc<ThrottleState>);

#[derive(Debug, Default)]
struct ThrottleState {
    /// Nothing is read. TCP then pushes back, and only a hang-up is still looked for.
    paused: AtomicBool,
    /// What is written next can wait for something to go with.
    may_delay: AtomicBool,
    /// Something waits so.
    delaying: AtomicBool,
    active: AtomicBool,
    /// Bytes that the socket has queued.
    unsent: AtomicUsize,
    available: Notify,
    socket: AtomicWaker,
}

impl Throttle {
    /// Stop reading from the socket.
    pub fn pause(&self) {
        self.0.paused.store(true, Ordering::Release);
    }

    /// Read again.
    pub fn resume(&self) {
        if self.0.paused.swap(false, Ordering::AcqRel) {
            self.0.socket.wake();
        }
    }

    /// What is written next is only a word that the peer may send a little more: it goes with the next that is
    /// written, or a moment later. It is the one who waits for the answer who is in a hurry, not the one who is full.
    pub(crate) fn delay_next_write(&self) {
        self.0.may_delay.store(true, Ordering::Release);
    }

    /// What waits goes now.
    pub(crate) fn send_delayed(&self) {
        self.0.may_delay.store(false, Ordering::Release);
        if self.0.delaying.swap(false, Ordering::AcqRel) {
            self.0.socket.wake();
        }
    }

    /// Whether anything has come from the peer since this was last asked. While nobody listens, silence
    /// says nothing about the peer: it counts as heard.
    pub fn was_active(&self) -> bool {
        self.0.active.swap(false, Ordering::Relaxed) || self.0.paused.load(Ordering::Acquire)
    }

    /// Something came from the peer.
    pub(crate) fn record_activity(&self) {
        self.0.active.store(true, Ordering::Relaxed);
    }

    /// Returns when little enough is queued for the peer. A socket that fails says so elsewhere.
    pub async fn available(&self) {
        loop {
            let available = self.0.available.notified();
            if self.0.unsent.load(Ordering::Acquire) <= MAX_UNSENT {
                return;
            }
            available.await;
        }
    }

    pub(crate) fn set_unsent(&self, now: usize) {
        let before = self.0.unsent.swap(now, Ordering::AcqRel);
        if before > MAX_UNSENT && now <= MAX_UNSENT {
            self.0.available.notify_waiters();
        }
    }

    /// Whether nothing is to be read; whoever asks is woken when that changes.
    pub(crate) fn is_paused(&self, cx: &Context<'_>) -> bool {
        self.0.socket.register(cx.waker());
        self.0.paused.load(Ordering::Acquire)
    }

    /// Whether what is written now can wait; said of one write only.
    pub(crate) fn take_may_delay(&self) -> bool {
        self.0.may_delay.swap(false, Ordering::AcqRel)
    }

    /// Whether something waits from now on.
    pub(crate) fn set_delaying(&self, delaying: bool) {
        self.0.delaying.store(delaying, Ordering::Release);
    }

    /// Whether what waits has to wait on; whoever asks is woken when that changes.
    pub(crate) fn is_delaying(&self, cx: &Context<'_>) -> bool {
        self.0.socket.register(cx.waker());
        self.0.delaying.load(Ordering::Acquire)
    }
}
