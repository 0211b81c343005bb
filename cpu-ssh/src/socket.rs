//! The socket under russh. Its session loop does not read while it writes, so a write that waits
//! for the peer can stop both ends for good. Here a write never waits: what the kernel does not
//! take is queued and drained whenever the loop comes to read. The queue is bounded by the credit of our own
//! peers; a foreign peer may grant a window of any size, so senders to one wait for [`Throttle::available`].
//!
//! The [`Throttle`] says when it is not read either, and what can wait to be written.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::throttle::Throttle;

/// russh asks for a packet in two small reads; this makes them one system call for many packets.
const READ_BUFFER: usize = 64 * 1024;

/// How often a peer that is not read from is looked at for having gone.
const HANGUP_INTERVAL: Duration = Duration::from_secs(1);

/// How long a peer that does not read, or does not hang up, may delay the end of its connection.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long what can wait is kept for something to go with.
const COALESCE_DELAY: Duration = Duration::from_millis(50);

/// A stream whose writes never wait for the peer. See the module's text.
pub struct Socket<S> {
    inner: S,
    unread: BytesMut,
    unsent: BytesMut,
    throttle: Throttle,
    hangup_timer: Option<Pin<Box<Sleep>>>,
    /// Until when what is queued is kept back, unless the throttle says otherwise.
    delay: Option<Pin<Box<Sleep>>>,
    shutdown_deadline: Option<Pin<Box<Sleep>>>,
    /// Until when the peer's end is waited for, after ours.
    linger: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + AsyncWrite + AsFd + Unpin> Socket<S> {
    /// Wrap a connected stream. `throttle` stays shared with the channels' [`crate::Mux`].
    pub fn new(inner: S, throttle: Throttle) -> Self {
        Self {
            inner,
            unread: BytesMut::new(),
            unsent: BytesMut::new(),
            throttle,
            hangup_timer: None,
            delay: None,
            shutdown_deadline: None,
            linger: None,
        }
    }

    /// Give the kernel what it takes now; `Pending` when something is left.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let sent = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.unsent))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.advance(sent);
            self.throttle.set_unsent(self.unsent.len());
        }
        if self.unsent.capacity() > READ_BUFFER {
            self.unsent = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Whether what is queued is still kept back.
    fn is_delaying(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(delay) = &mut self.delay else {
            return false;
        };
        let delays = self.throttle.is_delaying(cx) && delay.as_mut().poll(cx).is_pending();
        if !delays {
            self.delay = None;
        }
        delays
    }

    /// Ready when the throttle is open; an error when it is shut and the peer has gone.
    fn poll_resumed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.throttle.is_paused(cx) {
            let timer = self
                .hangup_timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(HANGUP_INTERVAL)));
            ready!(timer.as_mut().poll(cx));
            self.hangup_timer = None;
            let hangup = PollFlags::from_bits_retain(libc::POLLRDHUP);
            let mut fds = [PollFd::new(self.inner.as_fd(), hangup)];
            if nix::poll::poll(&mut fds, PollTimeout::ZERO)? > 0 {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
        }
        self.hangup_timer = None;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + AsFd + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.is_delaying(cx)
            && let Poll::Ready(Err(error)) = this.drain(cx)
        {
            return Poll::Ready(Err(error));
        }
        // Whoever says goodbye and does not hang up is not waited for.
        if let Some(linger) = &mut this.linger
            && linger.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Ok(()));
        }
        if this.unread.is_empty() {
            ready!(this.poll_resumed(cx))?;
            this.unread.reserve(READ_BUFFER);
            let read = {
                let mut inner = Pin::new(&mut this.inner);
                ready!(read_some(&mut inner, cx, &mut this.unread))?
            };
            if read == 0 {
                return Poll::Ready(Ok(()));
            }
            this.throttle.record_activity();
        }
        let n = this.unread.len().min(buf.remaining());
        buf.put_slice(&this.unread.split_to(n));
        Poll::Ready(Ok(()))
    }
}

/// One read into the spare capacity of `into`; returns the number of bytes.
fn read_some<S: AsyncRead + Unpin>(
    inner: &mut Pin<&mut S>,
    cx: &mut Context<'_>,
    into: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    // A future of `read_buf` holds no state of its own, so making one per poll loses nothing.
    let mut read = std::pin::pin!(tokio::io::AsyncReadExt::read_buf(inner, into));
    Future::poll(read.as_mut(), cx)
}

impl<S: AsyncRead + AsyncWrite + AsFd + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // What is queued already is not held up by what can wait.
        let is_free = this.unsent.is_empty() || this.delay.is_some();
        let delays = this.throttle.take_may_delay() && is_free;
        this.throttle.set_delaying(delays);
        if delays {
            this.delay
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(COALESCE_DELAY)));
            this.unsent.extend_from_slice(buf);
            this.throttle.set_unsent(this.unsent.len());
            return Poll::Ready(Ok(buf.len()));
        }
        this.delay = None;
        if let Poll::Ready(Err(error)) = this.drain(cx) {
            return Poll::Ready(Err(error));
        }
        let mut sent = 0;
        if this.unsent.is_empty()
            && let Poll::Ready(result) = Pin::new(&mut this.inner).poll_write(cx, buf)
        {
            sent = result?;
        }
        this.unsent.extend_from_slice(&buf[sent..]);
        this.throttle.set_unsent(this.unsent.len());
        // What is left must find its way even when nobody comes to read: register for it now.
        if let Poll::Ready(Err(error)) = this.drain(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.is_delaying(cx)
            && let Poll::Ready(Err(error)) = this.drain(cx)
        {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(()))
    }

    /// The one call that waits: everything queued goes out before the end is announced, unless
    /// the peer does not take it in [`SHUTDOWN_TIMEOUT`].
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.drain(cx) {
            Poll::Ready(result) => result?,
            Poll::Pending => {
                let deadline = this
                    .shutdown_deadline
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(SHUTDOWN_TIMEOUT)));
                ready!(deadline.as_mut().poll(cx));
            }
        }
        this.linger
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(SHUTDOWN_TIMEOUT)));
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}
