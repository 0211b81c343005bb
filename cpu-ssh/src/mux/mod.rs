//! Channels that never hold each other up.
//!
//! russh hands what arrives to the [`Handler`](russh::server::Handler) callbacks of its session
//! loop; they put it into a queue here at once and return, so the loop never waits. Stock russh
//! opens the SSH window again on receipt, not on consumption, so the window bounds nothing.
//! Between our own two programs a *credit* does: each side tells the other how many bytes it has
//! consumed (extended data of type [`CREDIT_TYPE`], a big-endian u32), and never has more than
//! [`CREDIT`] bytes outstanding in one direction of one channel, or on a long path what keeps that full
//! (the client measures it, and tells by [`ROUND_TRIP_TYPE`]), up to [`MAX_CREDIT`]. A foreign peer knows nothing of
//! credit. When its queues exceed [`FOREIGN_SOFT_LIMIT`], a server makes the windows of those whose bytes nobody takes as small
//! as can be (`window.rs`) and reads on: what is not data (that the peer has read on, that it lives, a signal)
//! is heard, for a command may need it to take more, and so are the client's files. russh's client always opens the whole
//! window, so there the throttle stops the socket.

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
pub use window::MAX_WINDOW as FOREIGN_WINDOW;
use window::Window;

/// Bytes that may be sent in one direction of one channel before the receiver has consumed them.
pub const CREDIT: usize = 1024 * 1024;

/// The most that a long path makes of it.
pub const MAX_CREDIT: usize = 16 * 1024 * 1024;

/// SSH's own window of each channel: large enough never to be what a stream waits for.
pub const WINDOW: u32 = 32 * 1024 * 1024;

/// Bytes that a path of one second would hold: what fills 100 MB/s, and something over.
const BANDWIDTH: usize = 160_000_000;

/// Private extended data type that carries the time of a round trip, in microseconds ("cpu2").
pub const ROUND_TRIP_TYPE: u32 = 0x6370_7532;

/// Private extended data type that carries credit ("cpu1"; RFC 4254, 5.2 leaves the space open).
pub const CREDIT_TYPE: u32 = 0x6370_7531;

/// Private extended data type by which a server tells what its clock says, in seconds since 1970, eight bytes
/// big-endian ("cpu3").
pub const CLOCK_TYPE: u32 = 0x6370_7533;

/// Bytes queued for all channels of a foreign peer above which it is slowed down, or its socket is not read.
pub const FOREIGN_SOFT_LIMIT: usize = 8 * 1024 * 1024;

/// What is never exceeded: above the limit come the windows that are still open, then two bytes with each message
/// to the client, or 40 a second.
pub const FOREIGN_HARD_LIMIT: usize = 32 * 1024 * 1024;

/// Who is at the other end of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// One of our two programs: both directions of every channel have a credit.
    Ours,
    /// Anyone else: plain SSH.
    Foreign,
}

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Asks [`Mux::window`] how far to open windows.
    Server,
    /// Can't.
    Client,
}

/// The two byte streams of a channel's direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Channel data: standard input or output, or the one stream of a subsystem.
    Data,
    /// Extended data of type 1: standard error (RFC 4254, 5.2).
    Stderr,
}

/// The peer broke the rules of credit; the connection must end.
#[derive(Debug, thiserror::Error)]
pub enum Violation {
    /// More bytes arrived than credit had been given.
    #[error("the peer sent {0} bytes more than its credit on one channel")]
    Overrun(usize),
    /// A credit message that is malformed or gives more than was ever outstanding.
    #[error("the peer sent a credit message that makes no sense")]
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

/// All channels of one connection; shared between its handler and whoever opens channels.
/// The handler forwards `data`, `extended_data`, `channel_eof` and `channel_close` to it.
#[derive(Clone)]
pub struct Mux(Arc<MuxInner>);

struct MuxInner {
    side: Side,
    throttle: Throttle,
    /// The credit that the path needs.
    credit_target: AtomicUsize,
    /// The peer's clock, in seconds since 1970, once it has told.
    clock: watch::Sender<Option<u64>>,
    table: Mutex<ChannelTable>,
}

struct ChannelTable {
    peer: Peer,
    channels: HashMap<ChannelId, Arc<MuxChannel>>,
    /// Bytes queued for all channels together, and whether that is too much.
    queued: usize,
    is_over_limit: bool,
    /// How many channels this side is opening, and what came on channels that nobody has taken over yet.
    opening: usize,
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
    /// No channels yet. `throttle` is the one given to the connection's [`crate::Socket`].
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

    /// Say who the peer is, by the identification it sent: ours begins with `prefix`.
    /// Must be called before the first [`Mux::open`].
    pub fn identify(&self, sshid: &[u8], prefix: &str) -> Peer {
        let peer = if sshid.starts_with(prefix.as_bytes()) {
            Peer::Ours
        } else {
            Peer::Foreign
        };
        lock(&self.0.table).peer = peer;
        peer
    }

    /// Who the peer is.
    pub fn peer(&self) -> Peer {
        lock(&self.0.table).peer
    }

    /// What SSH's window is to be from now on, when that of one channel was opened: for the server, which has several
    /// kinds of clients.
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

    /// How long the path is: from now on streams have what keeps it full.
    pub fn set_round_trip(&self, time: Duration) {
        let micros = usize::try_from(time.as_micros()).unwrap_or(usize::MAX);
        let held = micros.saturating_mul(BANDWIDTH / 1_000_000);
        let credit_target = held.clamp(CREDIT, MAX_CREDIT);
        self.0.credit_target.store(credit_target, Ordering::Relaxed);
    }

    /// Take a channel over. From here on its bytes come only through the receiver.
    pub fn open<M>(&self, opened: Channel<M>) -> (Receiver<M>, Sender<M>)
    where
        M: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static,
    {
        let id = opened.id();
        // Dropping the read half makes russh deliver through the handler callbacks alone.
        let (_, write) = opened.split();
        let write = Arc::new(write);
        let mut table = lock(&self.0.table);
        let has_credit = table.peer == Peer::Ours;
        let channel = Arc::new(MuxChannel {
            mux: Arc::downgrade(&self.0),
            state: Mutex::new(ReceiveState {
                queues: Default::default(),
                limit: CREDIT,
                ended: false,
                discarded: false,
                unreported: 0,
                window: Window::default(),
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
                // A peer with credit never sends before its channel is opened.
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

    /// Bytes have arrived: `kind` 0 is data, else the type of extended data.
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

    /// What the peer's clock said when it told, in seconds since 1970. Waits until it tells; one that is not
    /// ours never does.
    pub async fn clock(&self) -> u64 {
        let mut told = self.0.clock.subscribe();
        // The sender lives in `self`.
        match told.wait_for(Option::is_some).await.map(|seconds| *seconds) {
            Ok(Some(seconds)) => seconds,
            _ => std::future::pending().await,
        }
    }

    /// The peer will send no more on this channel.
    pub fn eof(&self, id: ChannelId) {
        let mut table = lock(&self.0.table);
        let channel = table.channels.get(&id).cloned();
        match channel {
            Some(channel) => channel.end(),
            None => table.keep_early(id, || Early::Eof),
        }
    }

    /// The channel is gone.
    pub fn close(&self, id: ChannelId) {
        let mut table = lock(&self.0.table);
        let Some(channel) = table.channels.remove(&id) else {
            table.keep_early(id, || Early::Close);
            return;
        };
        drop(table);
        channel.close();
    }

    /// The connection is gone: every reader gets what has arrived and then the end, every writer
    /// that waits gets [`Closed`].
    pub fn close_all(&self) {
        let channels = std::mem::take(&mut lock(&self.0.table).channels);
        for channel in channels.values() {
            channel.close();
        }
    }
}

impl MuxInner {
    /// A reader has taken `n` bytes of a channel that has no credit.
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
