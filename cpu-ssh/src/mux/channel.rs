//! The state that receiver, sender and the table share: queues, credit or window, and the end of the channel.

use std::sync::{Mutex, PoisonError, Weak};

use tokio::sync::{Notify, Semaphore, watch};

use super::window::{self, ForeignWindow};
use super::{MAX_CREDIT, MuxInner, Violation, lock, number};
use crate::queue::Queue;

/// A channel, shared by its receiver, its sender and the table.
pub(super) struct MuxChannel {
    pub(super) mux: Weak<MuxInner>,
    pub(super) state: Mutex<ReceiveState>,
    /// Wake the readers of [`Stream::Data`](super::Stream::Data) and [`Stream::Stderr`](super::Stream::Stderr).
    pub(super) arrived: [Notify; 2],
    /// Bytes that we may still send.
    pub(super) credit: Semaphore,
    pub(super) closed: watch::Sender<bool>,
    pub(super) has_credit: bool,
}

pub(super) struct ReceiveState {
    pub(super) queues: [Queue; 2],
    /// Bytes of [`Stream::Data`](super::Stream::Data) that have ever arrived.
    pub(super) received: u64,
    /// The peer's credit: bytes that may be queued here, or consumed and not reported.
    pub(super) limit: usize,
    pub(super) ended: bool,
    /// Nobody reads any more: what arrives is dropped.
    pub(super) discarded: bool,
    /// Bytes consumed and not reported to the peer.
    pub(super) unreported: usize,
    /// For a channel without credit.
    pub(super) window: ForeignWindow,
}

impl ReceiveState {
    pub(super) fn queued(&self) -> usize {
        self.queues.iter().map(Queue::len).sum()
    }

    /// Whether more is queued than the reader takes at once.
    pub(super) fn is_behind(&self) -> bool {
        !self.discarded && self.queued() > window::MAX_BACKLOG
    }
}

impl MuxChannel {
    pub(super) fn credit(&self, bytes: &[u8]) -> Result<(), Violation> {
        let amount = number(bytes).ok_or(Violation::Credit)?;
        if self.credit.available_permits().saturating_add(amount) > MAX_CREDIT {
            return Err(Violation::Credit);
        }
        self.credit.add_permits(amount);
        Ok(())
    }

    pub(super) fn end(&self) {
        lock(&self.state).ended = true;
        for reader in &self.arrived {
            reader.notify_one();
        }
    }

    pub(super) fn close(&self) {
        self.end();
        self.credit.close();
        self.closed.send_replace(true);
    }

    pub(super) async fn wait_closed(&self) {
        // Waiting cannot fail, since `self` owns the sender of `closed`.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }
}

/// Bytes that nobody has read are not queued any more.
impl Drop for MuxChannel {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let left: usize = state.queues.iter().map(Queue::len).sum();
        if !self.has_credit
            && left > 0
            && let Some(mux) = self.mux.upgrade()
        {
            mux.consumed(left);
        }
    }
}
