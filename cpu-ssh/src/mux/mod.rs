//! Channels that never hold each other up.
//!
//! russh's session loop passes what arrives to the callbacks of its [`Handler`](russh::server::Handler), which put it
//! into a queue here and return at once, so that the loop never waits. Since russh opens the SSH window again on
//! receipt, not on consumption, the window limits nothing.
//!
//! Between our own two programs a *credit* limits each direction of each channel. The receiver reports how many bytes
//! it has consumed (extended data of type [`CREDIT_TYPE`], a big-endian u32), and the sender never has more than
//! [`CREDIT`] bytes outstanding. On a long path it is as much as keeps the path full, up to [`MAX_CREDIT`]; the
//! client measures the round trip and reports it ([`ROUND_TRIP_TYPE`]).
//!
//! A foreign peer knows nothing of credit. When more than [`FOREIGN_SOFT_LIMIT`] is queued, a server makes the windows
//! of those channels minimal that nobody reads (`window.rs`), and goes on reading the socket: window adjustments,
//! keepalives and signals must still arrive, since a command may need them before it reads on, and so must the client's
//! files. russh's client always opens the whole window, so there the throttle pauses the socket.

mod channel;
mod early;
mod receiver;
mod sender;
mod window;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use russh::{Channel, ChannelId, ChannelMsg};
use tokio::sync::{Notify, Semaphore, watch};

use crate::throttle::Throttle;
use channel::{MuxChannel, ReceiveState};
use early::Early;
pub use early::PendingOpen;
pub use receiver::Receiver;
pub use sender::Sender;
use window::ForeignWindow;
pub use window::MAX_WINDOW as FOREIGN_WINDOW;

/// Bytes that may be sent in one direction of one channel before the receiver has consumed them.
pub const CREDIT: usize = 1024 * 1024;

/// The largest credit, on a long path.
pub const MAX_CREDIT: usize = 16 * 1024 * 1024;

/// SSH's own window of each channel: so large that no stream ever waits for it.
pub const WINDOW: u32 = 32 * 1024 * 1024;

/// The bandwidth, in bytes per second, that the credit must sustain: 100 MB/s and a margin.
const BANDWIDTH: usize = 160_000_000;

/// Private extended data type that carries the time of a round trip, in microseconds ("cpu2").
pub const ROUND_TRIP_TYPE: u32 = 0x6370_7532;

/// Private extended data type that carries credit ("cpu1"; RFC 4254, 5.2 leaves the space open).
pub const CREDIT_TYPE: u32 = 0x6370_7531;

/// Private extended data type that carries the time of the server's clock, in seconds since 1970, as a big-endian u64
/// ("cpu3").
pub const CLOCK_TYPE: u32 = 0x6370_7533;

/// Bytes received from a foreign peer and not read yet, on all channels, above which a client is slowed down and a
/// server's socket is not read.
pub const FOREIGN_SOFT_LIMIT: usize = 8 * 1024 * 1024;

/// The limit that is never exceeded. Above the soft limit a client can send only what its windows still allow, then
/// two bytes for each message that it gets, or 40 a second.
pub const FOREIGN_HARD_LIMIT: usize = 32 * 1024 * 1024;

/// Who is at the other end of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The other of our two programs: both directions of every channel have a credit.
    Ours,
    /// Any other: plain SSH.
    Foreign,
}

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Asks [`Mux::window`] how far to open windows.
    Server,
    /// Cannot limit windows.
    Client,
}

/// The two byte streams in each direction of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Channel data: standard input or output, or the one stream of a subsystem.
    Data,
    /// Extended data of type 1: standard error (RFC 4254, 5.2).
    Stderr,
}

/// How the peer has violated the rules of credit. The connection must end.
#[derive(Debug, thiserror::Error)]
pub enum Violation {
    /// More bytes arrived than the credit allows.
    #[error("the peer sent {0} bytes more than its credit on one channel")]
    Overrun(usize),
    /// A credit message that is malformed, or gives back more than was outstanding.
    #[error("the peer sent an invalid credit message")]
    Credit,
}

/// The channel, or the connection under it, has ended.
#[derive(Debug, thiserror::Error)]
#[error("the channel is closed")]
pub struct Closed;

impl From<Closed> for std::io::Error {
    fn from(_: Closed) -> Self {
        std::io::ErrorKind::BrokenPipe.into()
    }
}

/// All channels of one connection, shared by its handler and the code that opens channels. The handler must forward
/// `data`, `extended_data`, `channel_eof` and `channel_close` to it.
#[derive(Clone)]
pub struct Mux(Arc<MuxInner>);

struct MuxInner {
    side: Side,
    throttle: Throttle,
    /// The credit that the path needs.
    credit_target: AtomicUsize,
    /// The peer's clock, in seconds since 1970, once it has been reported.
    clock: watch::Sender<Option<u64>>,
    table: Mutex<ChannelTable>,
}

struct ChannelTable {
    peer: Peer,
    channels: HashMap<ChannelId, Arc<MuxChannel>>,
    /// Bytes queued on all channels together.
    queued: usize,
    /// Whether that is above the soft limit, or has not fallen below its half since.
    is_over_limit: bool,
    /// Number of channels that this side is opening.
    opening: usize,
    /// What has arrived on channels that have not been taken over yet.
    early: HashMap<ChannelId, Vec<Early>>,
}

/// A big-endian u32.
fn number(bytes: &[u8]) -> Option<usize> {
    let number = bytes.try_into().map(u32::from_be_bytes).ok()?;
    usize::try_from(number).ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mux {
    /// A table without channels. `throttle` is that of the connection's [`crate::Socket`].
    pub fn new(side: Side, throttle: Throttle) -> Self {
        Self(Arc::new(MuxInner {
            side,
            throttle,
            credit_target: AtomicUsize::new(CREDIT),
            clock: watch::Sender::new(None),
            table: Mutex::new(ChannelTable {
                peer: Peer::Foreign,
                channels: HashMap::new(),
                queued: 0,
                is_over_limit: false,
                opening: 0,
                early: HashMap::new(),
            }),
        }))
    }

    /// Decides who the peer is by its identification string: that of our own program begins with `prefix`. Must be
    /// called before the first [`Mux::open`].
    pub fn identify(&self, sshid: &[u8], prefix: &str) -> Peer {
        let peer = if sshid.starts_with(prefix.as_bytes()) {
            Peer::Ours
        } else {
            Peer::Foreign
        };
        lock(&self.0.table).peer = peer;
        peer
    }

    /// How many channels are open.
    pub fn channels(&self) -> usize {
        lock(&self.0.table).channels.len()
    }

    /// Who the peer is.
    pub fn peer(&self) -> Peer {
        lock(&self.0.table).peer
    }

    /// For a server, after it has opened the window of channel `id` to `opened`: the size to which the next window is
    /// to be opened.
    pub fn window(&self, id: ChannelId, opened: u32) -> u32 {
        let table = lock(&self.0.table);
        if table.peer == Peer::Ours {
            return WINDOW;
        }
        let mut is_behind = false;
        if let Some(channel) = table.channels.get(&id) {
            let mut state = lock(&channel.state);
            state.window.opened(opened);
            is_behind = state.is_behind();
        }
        if !table.is_over_limit {
            return FOREIGN_WINDOW;
        }
        if is_behind {
            self.0.throttle.delay_next_write();
        }
        let others = table.channels.values().filter(|_| is_behind);
        let others = others.map(|channel| lock(&channel.state));
        let mut others = others.filter(|state| !state.is_behind());
        let is_awaited = others.any(|state| state.window.will_open());
        window::next(opened, is_behind, is_awaited)
    }

    /// Sets the round trip time. From now on the credit of each stream is as large as the path needs.
    pub fn set_round_trip(&self, time: Duration) {
        let micros = usize::try_from(time.as_micros()).unwrap_or(usize::MAX);
        let held = micros.saturating_mul(BANDWIDTH / 1_000_000);
        let credit_target = held.clamp(CREDIT, MAX_CREDIT);
        self.0.credit_target.store(credit_target, Ordering::Relaxed);
    }

    /// Takes a channel over. From now on its bytes come only through the receiver.
    pub fn open<M>(&self, opened: Channel<M>) -> (Receiver<M>, Sender<M>)
    where
        M: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static,
    {
        let id = opened.id();
        // Without the read half, russh delivers data only through the handler's callbacks.
        let (_, write) = opened.split();
        let write = Arc::new(write);
        let mut table = lock(&self.0.table);
        let has_credit = table.peer == Peer::Ours;
        let channel = Arc::new(MuxChannel {
            mux: Arc::downgrade(&self.0),
            state: Mutex::new(ReceiveState {
                queues: Default::default(),
                received: 0,
                limit: CREDIT,
                ended: false,
                discarded: false,
                unreported: 0,
                window: ForeignWindow::default(),
            }),
            arrived: [Notify::new(), Notify::new()],
            credit: Semaphore::new(if has_credit { CREDIT } else { 0 }),
            closed: watch::Sender::new(false),
            has_credit,
        });
        table.channels.insert(id, channel.clone());
        let early = table.early.remove(&id).unwrap_or_default();
        drop(table);
        for early in early {
            match early {
                // Only a peer with credit can make this fail, and to such a peer no channel is opened this way.
                Early::Data(kind, bytes) => drop(self.data(id, kind, &bytes)),
                Early::Eof => self.eof(id),
                Early::Close => self.close(id),
            }
        }
        let sender = Sender {
            write,
            channel: channel.clone(),
        };
        let receiver = Receiver {
            mux: self.clone(),
            channel,
            sender: sender.clone(),
        };
        (receiver, sender)
    }

    /// Bytes have arrived. `kind` is 0 for data, and otherwise the type of extended data.
    pub fn data(&self, id: ChannelId, kind: u32, bytes: &[u8]) -> Result<(), Violation> {
        let mut table = lock(&self.0.table);
        let Some(channel) = table.channels.get(&id).cloned() else {
            table.keep_early(id, || Early::Data(kind, Bytes::copy_from_slice(bytes)));
            return Ok(());
        };
        lock(&channel.state).window.received(bytes.len());
        let stream = match kind {
            0 => Stream::Data,
            1 => Stream::Stderr,
            CREDIT_TYPE if channel.has_credit => return channel.credit(bytes),
            ROUND_TRIP_TYPE if channel.has_credit => {
                let micros = number(bytes).ok_or(Violation::Credit)?;
                self.set_round_trip(Duration::from_micros(micros as u64));
                return Ok(());
            }
            CLOCK_TYPE if channel.has_credit => {
                let seconds = bytes.try_into().map(u64::from_be_bytes);
                self.0.clock.send_replace(seconds.ok());
                return Ok(());
            }
            _ => return Ok(()),
        };
        let mut state = lock(&channel.state);
        if state.ended || state.discarded {
            return Ok(());
        }
        state.queues[stream as usize].push(bytes);
        if stream == Stream::Data {
            state.received += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        }
        if channel.has_credit {
            let held = state.unreported + state.queued();
            if held > state.limit {
                return Err(Violation::Overrun(held - state.limit));
            }
        } else {
            table.queued += bytes.len();
            self.0.update_throttle(&mut table);
        }
        channel.arrived[stream as usize].notify_one();
        Ok(())
    }

    /// The peer's clock at the time of its report, in seconds since 1970. Waits for the report, which never comes from
    /// a foreign peer.
    pub async fn clock(&self) -> u64 {
        let mut clock = self.0.clock.subscribe();
        // This cannot fail: `self` owns the sender.
        match clock
            .wait_for(Option::is_some)
            .await
            .map(|seconds| *seconds)
        {
            Ok(Some(seconds)) => seconds,
            _ => std::future::pending().await,
        }
    }

    /// The peer will send nothing more on this channel.
    pub fn eof(&self, id: ChannelId) {
        let mut table = lock(&self.0.table);
        let channel = table.channels.get(&id).cloned();
        match channel {
            Some(channel) => channel.end(),
            None => table.keep_early(id, || Early::Eof),
        }
    }

    /// The channel has been closed.
    pub fn close(&self, id: ChannelId) {
        let mut table = lock(&self.0.table);
        let Some(channel) = table.channels.remove(&id) else {
            table.keep_early(id, || Early::Close);
            return;
        };
        drop(table);
        channel.close();
    }

    /// The connection has ended: every reader gets what has arrived and then the end, and every waiting writer gets
    /// [`Closed`].
    pub fn close_all(&self) {
        let channels = std::mem::take(&mut lock(&self.0.table).channels);
        for channel in channels.values() {
            channel.close();
        }
    }
}

impl MuxInner {
    /// A reader has consumed `n` bytes of a channel without credit.
    fn consumed(&self, n: usize) {
        let mut table = lock(&self.table);
        table.queued = table.queued.saturating_sub(n);
        self.update_throttle(&mut table);
    }

    fn update_throttle(&self, table: &mut ChannelTable) {
        let most = match self.side {
            Side::Server => FOREIGN_HARD_LIMIT,
            Side::Client => FOREIGN_SOFT_LIMIT,
        };
        if table.queued > most {
            self.throttle.pause();
        } else if table.queued > FOREIGN_SOFT_LIMIT {
            table.is_over_limit = true;
            self.throttle.resume();
        } else if table.queued <= FOREIGN_SOFT_LIMIT / 2 {
            table.is_over_limit = false;
            self.throttle.send_delayed();
            self.throttle.resume();
        }
    }
}
