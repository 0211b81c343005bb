//! What relays of files have in common: how far they have got, what ends them, and how their messages are joined.

use std::sync::Weak;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ninep::relay::Error;
use tokio::sync::watch;

use super::channel::ServerReceiver;
use crate::console::say;

/// Small messages are sent together, up to this many bytes.
const BATCH: usize = 64 * 1024;

/// How long output waits for the client to close files.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How far a relay has got with what the client has sent.
#[derive(Clone, Copy, Default)]
pub(super) struct RelayProgress {
    /// Bytes.
    pub(super) processed: u64,
    /// When the kernel has certainly forgotten what they have made obsolete, if that is not at once.
    pub(super) settled: Option<tokio::time::Instant>,
    /// How many files that were closed without a wait the client has certainly closed.
    pub(super) closed: u64,
}

/// A relay whose files are closed without a wait.
pub(super) trait SyncCloses: Send + Sync {
    /// How many there were; has the client asked for them.
    fn sync(&self) -> u64;

    /// Drops what is known for a moment without the client's promise to take it back.
    fn forget_unwatched(&self);

    /// Sends what is held back until the next request.
    fn flush(&self);

    /// Drops contents that are more than may be kept now.
    fn give_back(&self);
}

/// The files of a mount.
pub(super) struct Relayed {
    pub(super) receiver: ServerReceiver,
    pub(super) progress: watch::Receiver<RelayProgress>,
    /// Weak: with the last copy of a FUSE mount's device the mount ends.
    pub(super) relay: Weak<dyn SyncCloses>,
}

impl Relayed {
    /// Returns when all that has arrived so far is processed and seen in the mount, or the relay has ended.
    pub(super) async fn settle(&mut self) {
        let arrived = self.receiver.received();
        let all = self
            .progress
            .wait_for(|progress| progress.processed >= arrived);
        let settled = all.await.ok().and_then(|progress| progress.settled);
        if let Some(relay) = self.relay.upgrade() {
            relay.forget_unwatched();
        }
        if let Some(settled) = settled {
            tokio::time::sleep_until(settled).await;
        }
    }

    /// What waits for its closes.
    pub(super) fn closes(&self) -> Closes {
        Closes {
            progress: self.progress.clone(),
            relay: self.relay.clone(),
            stalled: None,
        }
    }
}

/// The files of a mount that are closed without a wait.
#[derive(Clone)]
pub(super) struct Closes {
    progress: watch::Receiver<RelayProgress>,
    relay: Weak<dyn SyncCloses>,
    /// How many the client had closed when it was given up.
    stalled: Option<u64>,
}

impl Closes {
    /// Before an exit status, after which the client looks which files the command has used.
    pub(super) async fn flush(&self) {
        if let Some(relay) = self.relay.upgrade() {
            relay.flush();
            // It is sent first.
            tokio::task::yield_now().await;
        }
    }

    /// Returns when the client has closed what has been closed here so far, or the relay has ended. A file system of the client
    /// on which a close hangs, as NFS without its server, keeps nothing back for longer than [`CLOSE_TIMEOUT`], and only once.
    pub(super) async fn wait(&mut self) {
        let Some(closed) = self.relay.upgrade().map(|relay| relay.sync()) else {
            return;
        };
        let so_far = self.progress.borrow().closed;
        if self.stalled == Some(so_far) {
            return;
        }
        let all = self.progress.wait_for(|progress| progress.closed >= closed);
        let waited = tokio::time::timeout(CLOSE_TIMEOUT, all).await.is_ok();
        self.stalled = (!waited).then(|| self.progress.borrow().closed);
    }
}

/// Whether the relay can go on; if not, says why.
pub(super) fn goes_on(relayed: &Result<(), Error>) -> bool {
    if let Err(broken) = relayed {
        say(format_args!("the client's files are lost: {broken}"));
    }
    relayed.is_ok()
}

/// Joins small messages.
pub(super) fn coalesce(mut pieces: Vec<Bytes>) -> Vec<Bytes> {
    if pieces.len() < 2 {
        return pieces;
    }
    let mut all = Vec::new();
    let mut small = BytesMut::new();
    for piece in pieces.drain(..) {
        if small.len() + piece.len() <= BATCH {
            small.extend_from_slice(&piece);
            continue;
        }
        if !small.is_empty() {
            all.push(small.split().freeze());
        }
        if piece.len() < BATCH {
            small.extend_from_slice(&piece);
        } else {
            all.push(piece);
        }
    }
    if !small.is_empty() {
        all.push(small.freeze());
    }
    all
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    struct ThreeCloses;

    impl SyncCloses for ThreeCloses {
        fn sync(&self) -> u64 {
            3
        }

        fn forget_unwatched(&self) {}

        fn flush(&self) {}

        fn give_back(&self) {}
    }

    fn fixture() -> (Arc<ThreeCloses>, watch::Sender<RelayProgress>, Closes) {
        let relay = Arc::new(ThreeCloses);
        let (processed, progress) = watch::channel(RelayProgress::default());
        let closes = Closes {
            progress,
            relay: Arc::<ThreeCloses>::downgrade(&relay) as Weak<_>,
            stalled: None,
        };
        (relay, processed, closes)
    }

    #[tokio::test]
    async fn closes_are_waited_for_as_long_as_there_is_a_relay() {
        let (relay, processed, mut closes) = fixture();
        for closed in 0..5 {
            processed.send_modify(|progress| progress.closed = closed);
            let waited = tokio::time::timeout(Duration::from_millis(20), closes.wait()).await;
            assert_eq!(waited.is_ok(), closed >= 3, "{closed}");
        }
        processed.send_modify(|progress| progress.closed = 0);
        let mut others = closes.clone();
        let ((), ()) = tokio::join!(others.wait(), async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            drop(processed);
        });
        drop(relay);
        closes.wait().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_close_that_hangs_is_waited_for_once() {
        let (_relay, processed, mut closes) = fixture();
        let mut took = Vec::new();
        for closed in [0, 0, 1, 1, 3, 3] {
            processed.send_modify(|progress| progress.closed = closed);
            let start = tokio::time::Instant::now();
            closes.wait().await;
            took.push(start.elapsed().as_secs());
        }
        assert_eq!(took, [5, 0, 5, 0, 0, 0]);
    }
}
