//! The receiving side of a channel, which reports the credit that it has consumed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use russh::{ChannelId, ChannelMsg};

use super::{Mux, MuxChannel, Sender, Stream, lock};

/// The receiving side of a channel. Each stream may have one reader at a time.
pub struct Receiver<M: From<(ChannelId, ChannelMsg)>> {
    pub(super) mux: Mux,
    pub(super) channel: Arc<MuxChannel>,
    pub(super) sender: Sender<M>,
}

impl<M> Receiver<M>
where
    M: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static,
{
    /// The next bytes of a stream, at most `max`; `None` after the last. They count as consumed.
    pub async fn read(&self, stream: Stream, max: usize) -> Option<Bytes> {
        loop {
            let (chunk, grant) = {
                let mut state = lock(&self.channel.state);
                let chunk = state.queues[stream as usize].pop(max);
                if let Some(chunk) = chunk {
                    state.unreported += chunk.len();
                    let credit_target = self.mux.0.credit_target.load(Ordering::Relaxed);
                    if credit_target > state.limit {
                        state.unreported += credit_target - state.limit;
                        state.limit = credit_target;
                    }
                    let grant = if state.unreported >= state.limit / 4 {
                        std::mem::take(&mut state.unreported)
                    } else {
                        0
                    };
                    (Some(chunk), grant)
                } else {
                    if state.ended {
                        return None;
                    }
                    (None, 0)
                }
            };
            match chunk {
                Some(chunk) => {
                    if !self.channel.has_credit {
                        self.mux.0.consumed(chunk.len());
                    } else if grant > 0 {
                        self.sender.grant(grant).await;
                    }
                    return Some(chunk);
                }
                None => self.channel.arrived[stream as usize].notified().await,
            }
        }
    }
}

impl<M: From<(ChannelId, ChannelMsg)>> Receiver<M> {
    /// Bytes that have arrived and have not been read.
    pub fn waiting(&self) -> usize {
        lock(&self.channel.state).queued()
    }

    /// Bytes of [`Stream::Data`] that have ever arrived.
    pub fn received(&self) -> u64 {
        lock(&self.channel.state).received
    }

    /// Drops what has arrived and what will arrive. It is not reported as consumed, so our own peer soon stops sending.
    /// A foreign peer can go on, so that its signals get through.
    pub fn discard(&self) {
        let dropped: usize = {
            let mut state = lock(&self.channel.state);
            state.discarded = true;
            let queued = state.queued();
            state.queues = Default::default();
            queued
        };
        if !self.channel.has_credit {
            self.mux.0.consumed(dropped);
        }
    }
}

/// For a second reader of the same channel, on its other stream.
impl<M: From<(ChannelId, ChannelMsg)>> Clone for Receiver<M> {
    fn clone(&self) -> Self {
        Self {
            mux: self.mux.clone(),
            channel: self.channel.clone(),
            sender: self.sender.clone(),
        }
    }
}
