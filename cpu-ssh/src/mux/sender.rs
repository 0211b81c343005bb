//! What is sent on a channel: with credit, or as far as a foreign peer takes it; and no longer than the channel lives.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use russh::{ChannelId, ChannelMsg, ChannelWriteHalf};

use super::{CLOCK_TYPE, CREDIT_TYPE, Closed, MuxChannel, ROUND_TRIP_TYPE, Stream, lock};

/// Largest chunk handed to russh in one call.
const CHUNK: usize = 256 * 1024;

/// The sending side of a channel.
pub struct Sender<M: From<(ChannelId, ChannelMsg)>> {
    pub(super) write: Arc<ChannelWriteHalf<M>>,
    pub(super) channel: Arc<MuxChannel>,
}

impl<M: From<(ChannelId, ChannelMsg)>> Clone for Sender<M> {
    fn clone(&self) -> Self {
        Self {
            write: self.write.clone(),
            channel: self.channel.clone(),
        }
    }
}

impl<M> Sender<M>
where
    M: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static,
{
    /// Send bytes; waits for credit and window, and no longer than the channel lives.
    pub async fn send(&self, stream: Stream, mut bytes: Bytes) -> Result<(), Closed> {
        let throttle = self.channel.mux.upgrade().map(|mux| mux.throttle.clone());
        while !bytes.is_empty() {
            let chunk = bytes.split_to(bytes.len().min(CHUNK));
            if self.channel.has_credit {
                let n = u32::try_from(chunk.len()).map_err(|_| Closed)?;
                let permits = self.channel.credit.acquire_many(n).await;
                permits.map_err(|_| Closed)?.forget();
            } else if let Some(throttle) = &throttle {
                lock(&self.channel.state).window.sent();
                let available = async {
                    throttle.available().await;
                    Ok(())
                };
                self.run(available).await?;
            }
            self.run(async {
                match stream {
                    Stream::Data => self.write.data_bytes(chunk).await,
                    Stream::Stderr => self.write.extended_data_bytes(1, chunk).await,
                }
            })
            .await?;
        }
        Ok(())
    }

    /// Send a request or an end on the channel (anything of russh's write half): waits no longer
    /// than the channel lives.
    pub async fn request<'a, F, Fut>(&'a self, make: F) -> Result<(), Closed>
    where
        F: FnOnce(&'a ChannelWriteHalf<M>) -> Fut,
        Fut: Future<Output = Result<(), russh::Error>>,
    {
        self.run(make(&self.write)).await
    }

    /// Tell the peer how long a round trip takes, if it is one of ours.
    pub async fn tell_round_trip(&self, time: Duration) {
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let message = Bytes::copy_from_slice(&micros.to_be_bytes());
        if self.channel.has_credit {
            let write = &self.write;
            let _ = self
                .run(write.extended_data_bytes(ROUND_TRIP_TYPE, message))
                .await;
        }
    }

    /// Tell the peer what the clock says here, in seconds since 1970, if it is one of ours.
    pub async fn tell_clock(&self, seconds: u64) {
        if self.channel.has_credit {
            let message = Bytes::copy_from_slice(&seconds.to_be_bytes());
            let write = &self.write;
            let _ = self
                .run(write.extended_data_bytes(CLOCK_TYPE, message))
                .await;
        }
    }

    /// The channel's number on this side.
    pub fn id(&self) -> ChannelId {
        self.write.id()
    }

    /// End the channel. Once it has sent this, russh tells nothing of the channel any more, not even that the
    /// peer has closed it too: it is closed here at once.
    pub async fn close(&self) {
        // A connection that has gone needs no close.
        let _ = self.run(self.write.close()).await;
        if let Some(mux) = self.channel.mux.upgrade() {
            lock(&mux.table).channels.remove(&self.id());
        }
        self.channel.close();
    }

    /// Whether the channel or its connection has ended.
    pub fn is_closed(&self) -> bool {
        *self.channel.closed.borrow()
    }

    /// Returns when the channel or its connection has ended.
    pub async fn closed(&self) {
        self.channel.wait_closed().await;
    }

    pub(super) async fn grant(&self, n: usize) {
        let Ok(n) = u32::try_from(n) else { return };
        let message = Bytes::copy_from_slice(&n.to_be_bytes());
        // A channel that has closed needs no credit.
        let _ = self
            .run(self.write.extended_data_bytes(CREDIT_TYPE, message))
            .await;
    }

    async fn run(
        &self,
        work: impl Future<Output = Result<(), russh::Error>>,
    ) -> Result<(), Closed> {
        tokio::select! {
            biased;
            result = work => result.map_err(|_| Closed),
            () = self.channel.wait_closed() => Err(Closed),
        }
    }
}
