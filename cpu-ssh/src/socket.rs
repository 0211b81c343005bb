//! The socket under russh. russh's session loop does not read while it writes, so two peers whose writes wait for each
//! other would deadlock. Here a write never waits: what the kernel does not accept is queued, and sent when the loop
//! reads. With our own peer, the credit bounds the queue. A foreign peer may grant a window of any size, so senders
//! to it wait for [`Throttle::available`].
//!
//! The [`Throttle`] also decides when the socket is not read, and which writes can be delayed.

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

/// russh reads each packet in two small steps; with this buffer one system call reads many packets.
const READ_BUFFER: usize = 64 * 1024;

/// How often a paused socket is checked for a hangup.
const HANGUP_INTERVAL: Duration = Duration::from_secs(1);

/// How long a peer that does not read, or does not close its end, may delay the end of the connection.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a write that can be delayed waits for another to go along with.
const COALESCE_DELAY: Duration = Duration::from_millis(50);

/// A stream whose writes never wait for the peer. See the top of this module.
pub struct Socket<S> {
    inner: S,
    unread: BytesMut,
    unsent: BytesMut,
    throttle: Throttle,
    hangup_timer: Option<Pin<Box<Sleep>>>,
    /// Until when what is queued is delayed, unless the throttle ends the delay.
    delay: Option<Pin<Box<Sleep>>>,
    shutdown_deadline: Option<Pin<Box<Sleep>>>,
    /// How many of the first bytes that are written have been sent already.
    sent_before: usize,
    /// After our own shutdown: how long to wait for that of the peer.
    linger: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + AsyncWrite + AsFd + Unpin> Socket<S> {
    /// Wraps a connected stream. `throttle` is shared with the [`crate::Mux`] of the connection.
    pub fn new(inner: S, throttle: Throttle) -> Self {
        Self {
            inner,
            unread: BytesMut::new(),
            unsent: BytesMut::new(),
            throttle,
            hangup_timer: None,
            delay: None,
            shutdown_deadline: None,
            sent_before: 0,
            linger: None,
        }
    }

    /// Wraps a stream on which the identification, with its line end, has been sent before: `length` bytes.
    pub fn after_identification(inner: S, throttle: Throttle, length: usize) -> Self {
        Self {
            sent_before: length,
            ..Self::new(inner, throttle)
        }
    }

    /// Sends as much as the kernel accepts now; `Pending` if something is left.
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

    /// Whether what is queued is still being delayed.
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

    /// Ready when the socket may be read; an error if it may not and the peer has hung up.
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
        // A peer that does not close its end after our shutdown is not waited for.
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

/// Reads once into the spare capacity of `into`; returns the number of bytes.
fn read_some<S: AsyncRead + Unpin>(
    inner: &mut Pin<&mut S>,
    cx: &mut Context<'_>,
    into: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    // The future of `read_buf` has no state of its own, so a new one for each poll loses nothing.
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
        if this.sent_before > 0 {
            let length = this.sent_before.min(buf.len());
            this.sent_before -= length;
            return Poll::Ready(Ok(length));
        }
        // Do not delay what is queued already.
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
        // Register for write readiness, so that the rest is sent even if nobody reads.
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

    /// The only call that waits: it sends everything queued before it shuts the stream down, unless the peer does not
    /// accept it within [`SHUTDOWN_TIMEOUT`].
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
