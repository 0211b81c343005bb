//! The client's files for a kernel that has FUSE, and no 9P: [`ninep::fuse`] between /dev/fuse and [`ninep::relay`].

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use cpu_proto::{CacheMode, MAX_MSIZE};
use cpu_ssh::Stream;
use ninep::fuse::{FuseFront, FuseOptions, FuseReply, KERNEL_TTL_END, REQUEST_OVERHEAD};
use ninep::relay::{BATCH_DELAY, Error, Relay};
use nix::errno::Errno;
use nix::sys::uio::writev;
use nix::unistd::read;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};

use super::channel::{CHUNK, ServerReceiver, ServerSender};
use super::relayed::{RelayProgress, SyncCloses, coalesce, goes_on};
use crate::sys::{new_fuse, watch_fd};

/// How often a lock is requested that somebody else holds, as by Linux's 9P client with `locktimeout=1`.
const LOCK_RETRY: Duration = Duration::from_secs(1);

/// How long the next request is polled for after one that was answered here. Programs that walk through directories send it within
/// 10 µs, and to sleep and be woken takes longer than that: `ls -lR` of 5,000 files takes a third of the time.
const SPIN: Duration = Duration::from_micros(50);

/// A mount of the client's files that is not attached yet.
pub(super) struct FuseMount {
    device: AsyncFd<OwnedFd>,
    front: FuseFront,
}

impl FuseMount {
    /// Makes one for a user of the client, and the mount, which is nowhere yet.
    pub(super) fn new(cache: CacheMode, user: Option<&str>) -> Result<(Self, OwnedFd)> {
        let mut options = File::options();
        options.read(true).write(true);
        let device = options.custom_flags(libc::O_NONBLOCK).open("/dev/fuse");
        let device = OwnedFd::from(device.context("cannot open /dev/fuse")?);
        let mount = new_fuse(device.as_fd()).context("cannot make a FUSE mount")?;
        let front = FuseFront::new(FuseOptions {
            uname: user.unwrap_or_default().into(),
            // A client of another user refuses to give files away, and they stay his.
            own: user.is_none_or(|user| user == "root"),
            pages: cache != CacheMode::None,
            loose: cache == CacheMode::Loose,
            msize: MAX_MSIZE,
        });
        let device = watch_fd(device, Interest::READABLE | Interest::ERROR)?;
        Ok((Self { device, front }, mount))
    }
}

/// One mount, its front and its relay. Only one task sends to the client, as in `files.rs`; any may write to the device, which
/// takes each reply whole.
struct FuseRelay {
    device: AsyncFd<OwnedFd>,
    both: Mutex<(FuseFront, Relay)>,
    /// Notified when there are requests that do not come from the kernel.
    asks: Notify,
}

/// Starts to relay between the client's channel and a mount, whose closed files can be waited for.
pub(super) fn relay_fuse(
    receiver: ServerReceiver,
    sender: ServerSender,
    mount: FuseMount,
    relay: Relay,
    progress: watch::Sender<RelayProgress>,
) -> Weak<dyn SyncCloses> {
    let shared = Arc::new(FuseRelay {
        device: mount.device,
        both: Mutex::new((mount.front, relay)),
        asks: Notify::new(),
    });
    let closes = Arc::<FuseRelay>::downgrade(&shared);
    let to_client = tokio::spawn({
        let (shared, sender) = (shared.clone(), sender.clone());
        async move {
            shared.to_client(&sender).await;
            sender.close().await;
        }
    });
    tokio::spawn(async move {
        shared.to_kernel(&receiver, &progress).await;
        // With the last copy of the device the mount ends: whoever waits for it gets an error.
        to_client.abort();
        drop(shared);
        receiver.discard();
        sender.close().await;
    });
    closes
}

impl SyncCloses for FuseRelay {
    fn sync(&self) -> u64 {
        let (closes, asks) = self.with(|_, relay| (relay.sync(), relay.has_requests()));
        if asks {
            self.asks.notify_one();
        }
        closes
    }

    fn forget_unwatched(&self) {
        self.with(|_, relay| relay.forget_unwatched());
    }

    fn flush(&self) {
        self.asks.notify_one();
    }

    fn give_back(&self) {
        self.with(|_, relay| relay.give_back());
    }
}

impl FuseRelay {
    fn with<T>(&self, work: impl FnOnce(&mut FuseFront, &mut Relay) -> T) -> T {
        let mut both = self.both.lock().unwrap_or_else(PoisonError::into_inner);
        let (front, relay) = &mut *both;
        work(front, relay)
    }

    /// Runs until the mount has gone.
    async fn to_client(&self, sender: &ServerSender) {
        let most = usize::try_from(MAX_MSIZE).unwrap_or(usize::MAX);
        let mut buffer = vec![0; most + REQUEST_OVERHEAD];
        let mut batch_timer = std::pin::pin!(tokio::time::sleep(BATCH_DELAY));
        let mut lock_timer = std::pin::pin!(tokio::time::sleep(LOCK_RETRY));
        let (mut is_timed, mut is_lock_timed) = (false, false);
        let mut answered = None;
        loop {
            let (has_batch, has_locks) =
                self.with(|front, relay| (relay.has_batch(), front.has_blocked_locks()));
            let now = tokio::time::Instant::now();
            if has_batch && !is_timed {
                batch_timer.as_mut().reset(now + BATCH_DELAY);
                is_timed = true;
            }
            if has_locks && !is_lock_timed {
                lock_timer.as_mut().reset(now + LOCK_RETRY);
                is_lock_timed = true;
            }
            let mut request = None;
            let (mut batch, mut locks) = (false, false);
            tokio::select! {
                biased;
                length = self.read(&mut buffer, answered) => request = Some(length),
                () = self.asks.notified() => batch = true,
                () = &mut batch_timer, if is_timed => {
                    is_timed = false;
                    batch = true;
                }
                () = &mut lock_timer, if is_lock_timed => {
                    is_lock_timed = false;
                    locks = true;
                }
            }
            let mut out = Vec::new();
            let is_end = matches!(request, Some(None));
            let (relayed, replies) = self.with(|front, relay| {
                if let Some(Some(length)) = request {
                    front.from_kernel(buffer.get(..length).unwrap_or_default());
                }
                if is_end {
                    relay.end(&mut out);
                    return (Ok(()), Vec::new());
                }
                if batch {
                    relay.take_batch(&mut out);
                }
                if locks {
                    front.retry_locks();
                }
                relay.take_requests(&mut out);
                let relayed = exchange(front, relay, &mut out);
                (relayed, front.take_replies())
            });
            self.write(&replies);
            answered = (!replies.is_empty()).then(Instant::now);
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

    /// Runs until the client ends.
    async fn to_kernel(&self, receiver: &ServerReceiver, progress: &watch::Sender<RelayProgress>) {
        while let Some(chunk) = receiver.read(Stream::Data, CHUNK).await {
            let length = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            let mut forgot = false;
            let (relayed, replies, asks, closed) = self.with(|front, relay| {
                let mut bytes = Vec::new();
                let before = relay.forgotten();
                let relayed = relay.from_server(chunk, Instant::now(), &mut bytes);
                forgot = relay.forgotten() != before;
                // What had to wait for the end of a message of the server.
                relay.take_replies(&mut bytes);
                let relayed = relayed.and_then(|()| take_all(front, bytes, false));
                let asks = relay.has_requests() || front.has_requests();
                (relayed, front.take_replies(), asks, relay.closed())
            });
            self.write(&replies);
            if asks {
                self.asks.notify_one();
            }
            if !goes_on(&relayed) {
                return;
            }
            progress.send_modify(|progress| {
                progress.processed += length;
                progress.closed = closed;
                if forgot {
                    progress.settled = Some(tokio::time::Instant::now() + KERNEL_TTL_END);
                }
            });
        }
    }

    /// Reads one request; its length, or none when the mount has gone. `answered`: when the one before was answered here.
    async fn read(&self, buffer: &mut [u8], answered: Option<Instant>) -> Option<usize> {
        loop {
            // An error is all that a poll of a mount that has gone returns.
            let events = Interest::READABLE | Interest::ERROR;
            let mut ready = self.device.ready(events).await.ok()?;
            match read(self.device.get_ref(), buffer) {
                Ok(length) => return Some(length),
                Err(Errno::EAGAIN) if answered.is_some_and(|at| at.elapsed() < SPIN) => {
                    std::thread::yield_now();
                }
                Err(Errno::EAGAIN) => ready.clear_ready(),
                // A request that was withdrawn while it was read.
                Err(Errno::EINTR | Errno::ENOENT) => {}
                Err(_) => return None,
            }
        }
    }

    /// Writes replies, which the device takes at once.
    fn write(&self, replies: &[FuseReply]) {
        for reply in replies {
            let parts = [IoSlice::new(&reply.head), IoSlice::new(&reply.data)];
            // ENOENT: nobody waits for it any more.
            if let Err(Errno::EINVAL) = writev(self.device.get_ref(), &parts) {
                let _: io::Result<usize> =
                    nix::unistd::write(self.device.get_ref(), &reply.refusal()).map_err(Into::into);
            }
        }
    }
}

/// Passes requests and the replies that the relay has itself, until there are no more.
fn exchange(front: &mut FuseFront, relay: &mut Relay, out: &mut Vec<Bytes>) -> Result<(), Error> {
    while front.has_requests() {
        for request in front.take_requests() {
            relay.from_kernel(request, Instant::now(), out)?;
        }
        let mut replies = Vec::new();
        relay.take_replies(&mut replies);
        take_all(front, replies, true)?;
    }
    Ok(())
}

fn take_all(front: &mut FuseFront, replies: Vec<Bytes>, kept: bool) -> Result<(), Error> {
    replies
        .into_iter()
        .try_for_each(|reply| front.from_server(reply, kept))
}
