//! 9P between the client's file server and the kernel's 9P client, through [`ninep::relay`]. When one side ends,
//! the other is ended too: the mount then answers every request with an error instead of hanging.

use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use cpu_ssh::Stream;
use ninep::relay::{BATCH_DELAY, ContentBudget, IdRange, Relay, Upstream};
use tokio::sync::{Notify, watch};

use super::channel::{CHUNK, ServerReceiver, ServerSender};
use super::fd::Fd;
use super::fuse::{FuseMount, relay_fuse};
use super::relayed::{RelayProgress, Relayed, SyncCloses, coalesce, goes_on};
use crate::{memory, sys};

/// The most memory that contents of the client's files take, whatever the machine has.
const MAX_CONTENTS: u64 = 128 << 20;

/// The part of the available memory that they take at most: there may be several connections.
const CONTENTS_PART: u64 = 16;

/// How often a connection looks how much memory is available.
const MEMORY_INTERVAL: Duration = Duration::from_secs(2);

/// What contents of the client's files may take for all mounts of this connection.
static CONTENTS: LazyLock<Arc<ContentBudget>> =
    LazyLock::new(|| Arc::new(ContentBudget::new(contents_limit(0)).releasing(sys::release_pages)));

/// How many bytes contents may take that take `used` now.
fn contents_limit(used: usize) -> usize {
    let available = memory::available().unwrap_or(0);
    let limit = available.saturating_add(used as u64) / CONTENTS_PART;
    limit.min(MAX_CONTENTS).try_into().unwrap_or(0)
}

/// Gives memory back while others on the machine need it, until the relay ends.
async fn give_back(relay: Weak<dyn SyncCloses>) {
    loop {
        tokio::time::sleep(MEMORY_INTERVAL).await;
        let Some(relay) = relay.upgrade() else { return };
        let used = CONTENTS.used();
        if used > 0 {
            CONTENTS.set_limit(contents_limit(used));
            relay.give_back();
        }
    }
}

/// The machine's end of the client's files.
pub(super) enum KernelEnd {
    /// A socket whose other end is the kernel's 9P client.
    V9fs(Arc<Fd>),
    Fuse(Box<FuseMount>),
}

/// Starts to relay between the client's channel and the kernel, perhaps for these users and groups of a user namespace.
pub(super) fn relay_files(
    receiver: ServerReceiver,
    sender: ServerSender,
    kernel: KernelEnd,
    server: Upstream,
    ids: Option<IdRange>,
) -> Relayed {
    let (processed, progress) = watch::channel(RelayProgress::default());
    let relay = Relay::new(server).in_namespace(ids);
    let relay = relay.keeping(CONTENTS.clone());
    let socket = match kernel {
        KernelEnd::V9fs(socket) => socket,
        KernelEnd::Fuse(mount) => {
            let relay = relay_fuse(receiver.clone(), sender, *mount, relay, processed);
            tokio::spawn(give_back(relay.clone()));
            return Relayed {
                receiver,
                progress,
                relay,
            };
        }
    };
    let shared = Arc::new(FilesRelay {
        relay: Mutex::new(relay),
        answered: Notify::new(),
        asks: Notify::new(),
    });
    let relayed = Relayed {
        receiver: receiver.clone(),
        progress,
        relay: Arc::<FilesRelay>::downgrade(&shared) as Weak<_>,
    };
    tokio::spawn(give_back(relayed.relay.clone()));
    let to_client = tokio::spawn({
        let (shared, socket, sender) = (shared.clone(), socket.clone(), sender.clone());
        async move {
            shared.to_client(&socket, &sender).await;
            sender.close().await;
        }
    });
    tokio::spawn(async move {
        shared.to_kernel(&receiver, &socket, &processed).await;
        to_client.abort();
        receiver.discard();
        sender.close().await;
    });
    relayed
}

/// What both directions share. Only one of them writes to the kernel, and only the other one sends to the client: what one would
/// send while the other is within a message would be taken for a part of that.
struct FilesRelay {
    relay: Mutex<Relay>,
    /// Notified when the relay has answered a request itself.
    answered: Notify,
    /// Notified when the relay has a request of its own.
    asks: Notify,
}

impl FilesRelay {
    fn with<T>(&self, work: impl FnOnce(&mut Relay) -> T) -> T {
        work(&mut self.relay.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs until the kernel closes its end.
    async fn to_client(&self, socket: &Fd, sender: &ServerSender) {
        let mut buffer = BytesMut::new();
        // One timer for everything that is held back: setting it costs as much as a request.
        let mut batch_timer = std::pin::pin!(tokio::time::sleep(BATCH_DELAY));
        let mut is_timed = false;
        loop {
            if !is_timed && self.with(|relay| relay.has_batch()) {
                batch_timer
                    .as_mut()
                    .reset(tokio::time::Instant::now() + BATCH_DELAY);
                is_timed = true;
            }
            let arrived = tokio::select! {
                biased;
                read = socket.read(&mut buffer) => Some(read.unwrap_or_default()),
                () = self.asks.notified() => None,
                () = &mut batch_timer, if is_timed => {
                    is_timed = false;
                    None
                }
            };
            let is_end = arrived.as_ref().is_some_and(Bytes::is_empty);
            let mut out = Vec::new();
            let (relayed, answered) = self.with(|relay| {
                let relayed = match arrived {
                    Some(_) if is_end => {
                        relay.end(&mut out);
                        Ok(())
                    }
                    Some(bytes) => relay.from_kernel(bytes, Instant::now(), &mut out),
                    None => {
                        relay.take_batch(&mut out);
                        relay.take_requests(&mut out);
                        Ok(())
                    }
                };
                (relayed, relay.has_replies())
            });
            if answered {
                self.answered.notify_one();
            }
            for bytes in coalesce(out) {
                if sender.send(Stream::Data, bytes).await.is_err() {
                    return;
                }
            }
            if is_end || !goes_on(&relayed) {
                return;
            }
        }
    }

    /// Runs until the client ends or the kernel closes its end.
    async fn to_kernel(
        &self,
        receiver: &ServerReceiver,
        socket: &Fd,
        progress: &watch::Sender<RelayProgress>,
    ) {
        loop {
            // Not dropped while answers are written, since it may have taken something off the queue.
            let mut read = std::pin::pin!(receiver.read(Stream::Data, CHUNK));
            let chunk = loop {
                let mut answers = Vec::new();
                self.with(|relay| relay.take_replies(&mut answers));
                if write(socket, answers).await.is_err() {
                    return;
                }
                tokio::select! {
                    chunk = &mut read => break chunk,
                    () = self.answered.notified() => {}
                }
            };
            let Some(chunk) = chunk else { return };
            let mut out = Vec::new();
            let length = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            let (relayed, asks, closed) = self.with(|relay| {
                let relayed = relay.from_server(chunk, Instant::now(), &mut out);
                (relayed, relay.has_requests(), relay.closed())
            });
            if asks {
                self.asks.notify_one();
            }
            if write(socket, out).await.is_err() || !goes_on(&relayed) {
                return;
            }
            progress.send_modify(|progress| {
                progress.processed += length;
                progress.closed = closed;
            });
        }
    }
}

impl SyncCloses for FilesRelay {
    fn sync(&self) -> u64 {
        let (closes, asks) = self.with(|relay| (relay.sync(), relay.has_requests()));
        // Otherwise what is held back would be sent at each output.
        if asks {
            self.asks.notify_one();
        }
        closes
    }

    fn forget_unwatched(&self) {
        self.with(Relay::forget_unwatched);
    }

    fn flush(&self) {
        self.asks.notify_one();
    }

    fn give_back(&self) {
        self.with(Relay::give_back);
    }
}

async fn write(socket: &Fd, pieces: Vec<Bytes>) -> std::io::Result<()> {
    for bytes in coalesce(pieces) {
        socket.write_all(&bytes).await?;
    }
    Ok(())
}
