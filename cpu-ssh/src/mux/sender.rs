//! The sending side of a channel. It waits for credit, or until a foreign peer has taken what is queued, but never
//! longer than the channel exists.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use russh::{ChannelId, ChannelMsg, ChannelWriteHalf};

use super::{CLOCK_TYPE, CREDIT_TYPE, Closed, MuxChannel, ROUND_TRIP_TYPE, Stream, lock};

/// Largest chunk passed to russh in one call.
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
    /// Sends bytes. Waits for credit and window, but not longer than the channel exists.
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

    /// Calls a method of russh's write half, such as a request or EOF. Waits no longer than the channel exists.
    pub async fn request<'a, F, Fut>(&'a self, make: F) -> Result<(), Closed>
    where
        F: FnOnce(&'a ChannelWriteHalf<M>) -> Fut,
        Fut: Future<Output = Result<(), russh::Error>>,
    {
        self.run(make(&self.write)).await
    }

    /// Reports the round trip time to the peer, if it is our own program.
    pub async fn report_round_trip(&self, time: Duration) {
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let message = Bytes::copy_from_slice(&micros.to_be_bytes());
        if self.channel.has_credit {
            let write = &self.write;
            let _ = self
                .run(write.extended_data_bytes(ROUND_TRIP_TYPE, message))
                .await;
        }
    }

    /// Reports the time of this machine's clock, in seconds since 1970, to the peer, if it is our own program.
    pub async fn report_clock(&self, seconds: u64) {
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

    /// Closes the channel. After that russh reports nothing about it any more, not even that the peer has closed it
    /// too, so it counts as closed at once.
    pub async fn close(&self) {
        // It may fail if the connection has ended.
        let _ = self.run(self.write.close()).await;
        if let Some(mux) = self.channel.mux.upgrade() {
            lock(&mux.table).channels.remove(&self.id());
        }
        self.channel.close();
    }

    /// Whether the channel or the connection has ended.
    pub fn is_closed(&self) -> bool {
        *self.channel.closed.borrow()
    }

    /// Returns when the channel or the connection has ended.
    pub async fn closed(&self) {
        self.channel.wait_closed().await;
    }

    /// Reports `n` bytes as consumed.
    pub(super) async fn grant(&self, n: usize) {
        let Ok(n) = u32::try_from(n) else { return };
        let message = Bytes::copy_from_slice(&n.to_be_bytes());
        // It may fail if the channel has been closed.
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
