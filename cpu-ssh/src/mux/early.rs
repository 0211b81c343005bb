//! What the peer sends on a channel that this side is opening before the channel has been taken over.

use bytes::Bytes;
use russh::{Channel, ChannelId, ChannelMsg};

use super::{ChannelTable, Mux, Receiver, Sender, lock};

/// Something that arrived before its channel was taken over.
pub(super) enum Early {
    Data(u32, Bytes),
    Eof,
    Close,
}

/// A channel that this side is opening. While it exists, what arrives on unknown channels is kept.
pub struct PendingOpen(Mux);

impl PendingOpen {
    /// Takes the channel over, now that the peer has accepted it.
    pub fn open<M>(self, channel: Channel<M>) -> (Receiver<M>, Sender<M>)
    where
        M: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static,
    {
        self.0.open(channel)
    }
}

impl Drop for PendingOpen {
    fn drop(&mut self) {
        let mut table = lock(&self.0.0.table);
        table.opening -= 1;
        if table.opening == 0 {
            table.early.clear();
        }
    }
}

impl Mux {
    /// Must be called before a channel is opened from this side to a peer that may send first.
    #[must_use]
    pub fn begin_open(&self) -> PendingOpen {
        lock(&self.0.table).opening += 1;
        PendingOpen(self.clone())
    }
}

impl ChannelTable {
    /// Keeps what arrived on an unknown channel, if it may be one that is being opened.
    pub(super) fn keep_early(&mut self, id: ChannelId, early: impl FnOnce() -> Early) {
        if self.opening > 0 {
            self.early.entry(id).or_default().push(early());
        }
    }
}
