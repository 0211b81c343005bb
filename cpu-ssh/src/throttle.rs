//! What the channels of a connection and its [`Socket`](crate::Socket) tell each other: whether to read, which writes
//! can be delayed, how much is unsent, and whether the peer has sent anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Context;

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

/// Unsent bytes above which nothing more is sent to a foreign peer.
const MAX_UNSENT: usize = 4 * 1024 * 1024;

/// Shared by a socket and the channels on it. The socket is read until [`Throttle::pause`].
#[derive(Clone, Debug, Default)]
pub struct Throttle(Arc<ThrottleState>);

#[derive(Debug, Default)]
struct ThrottleState {
    /// Nothing is read, so that TCP slows the peer down. Only a hangup is still noticed.
    paused: AtomicBool,
    /// The next write can wait for another to go along with.
    may_delay: AtomicBool,
    /// A write is being delayed.
    delaying: AtomicBool,
    /// Something has arrived.
    active: AtomicBool,
    /// Bytes queued by the socket.
    unsent: AtomicUsize,
    available: Notify,
    socket: AtomicWaker,
}

impl Throttle {
    /// Stops reading from the socket.
    pub fn pause(&self) {
        self.0.paused.store(true, Ordering::Release);
    }

    /// Reads from the socket again.
    pub fn resume(&self) {
        if self.0.paused.swap(false, Ordering::AcqRel) {
            self.0.socket.wake();
        }
    }

    /// The next write is only a window adjustment for a channel whose queue is full, which is not urgent: it is sent
    /// with the write after it, or a moment later.
    pub(crate) fn delay_next_write(&self) {
        self.0.may_delay.store(true, Ordering::Release);
    }

    /// Sends the delayed write now.
    pub(crate) fn send_delayed(&self) {
        self.0.may_delay.store(false, Ordering::Release);
        if self.0.delaying.swap(false, Ordering::AcqRel) {
            self.0.socket.wake();
        }
    }

    /// Whether anything has arrived from the peer since the last call. While the socket is not read, silence means
    /// nothing, so the result is true.
    pub fn was_active(&self) -> bool {
        self.0.active.swap(false, Ordering::Relaxed) || self.0.paused.load(Ordering::Acquire)
    }

    /// Something has arrived from the peer.
    pub(crate) fn record_activity(&self) {
        self.0.active.store(true, Ordering::Relaxed);
    }

    /// Returns when more may be sent to the peer. Does not report a failure of the socket.
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

    /// Whether the socket must not be read. The task is woken when that changes.
    pub(crate) fn is_paused(&self, cx: &Context<'_>) -> bool {
        self.0.socket.register(cx.waker());
        self.0.paused.load(Ordering::Acquire)
    }

    /// Whether the write that is about to happen can be delayed; true for one write only.
    pub(crate) fn take_may_delay(&self) -> bool {
        self.0.may_delay.swap(false, Ordering::AcqRel)
    }

    /// Sets whether a write is being delayed.
    pub(crate) fn set_delaying(&self, delaying: bool) {
        self.0.delaying.store(delaying, Ordering::Release);
    }

    /// Whether a write is to be delayed further. The task is woken when that changes.
    pub(crate) fn is_delaying(&self, cx: &Context<'_>) -> bool {
        self.0.socket.register(cx.waker());
        self.0.delaying.load(Ordering::Acquire)
    }
}
