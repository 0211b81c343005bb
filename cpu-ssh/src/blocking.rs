//! Channels as `Read` and `Write`, for threads that do blocking I/O next to the session loop: standard input and
//! output, and the 9P server.

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes};
use russh::{ChannelId, ChannelMsg};
use tokio::runtime::Handle;

use crate::mux::{Receiver, Sender, Stream};

/// Largest chunk that is taken from the queue at once.
const CHUNK: usize = 256 * 1024;

/// Reads one stream of a channel. For threads that do not run the runtime.
pub struct BlockingReader<M: From<(ChannelId, ChannelMsg)>> {
    receiver: Receiver<M>,
    stream: Stream,
    runtime: Handle,
    rest: Bytes,
}

impl<M> BlockingReader<M>
where
    M: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static,
{
    /// `runtime` is the one that runs the connection.
    pub fn new(receiver: Receiver<M>, stream: Stream, runtime: Handle) -> Self {
        Self {
            receiver,
            stream,
            runtime,
            rest: Bytes::new(),
        }
    }

    /// The next bytes as they have arrived, without a copy; `None` after the last.
    pub fn chunk(&mut self) -> Option<Bytes> {
        if !self.rest.is_empty() {
            return Some(std::mem::take(&mut self.rest));
        }
        self.runtime
            .block_on(self.receiver.read(self.stream, CHUNK))
    }
}

impl<M> Read for BlockingReader<M>
where
    M: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static,
{
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            match self.chunk() {
                Some(chunk) => self.rest = chunk,
                None => return Ok(0),
            }
        }
        let n = self.rest.len().min(buf.len());
        self.rest.copy_to_slice(&mut buf[..n]);
        Ok(n)
    }
}

/// Writes one stream of a channel. Every write is sent at once.
pub struct BlockingWriter<M: From<(ChannelId, ChannelMsg)>> {
    sender: Sender<M>,
    stream: Stream,
    runtime: Handle,
}

impl<M> BlockingWriter<M>
where
    M: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static,
{
    /// `runtime` is the one that runs the connection.
    pub fn new(sender: Sender<M>, stream: Stream, runtime: Handle) -> Self {
        Self {
            sender,
            stream,
            runtime,
        }
    }

    /// Sends owned bytes without a copy.
    pub fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        Ok(self
            .runtime
            .block_on(self.sender.send(self.stream, bytes))?)
    }
}

impl<M> Write for BlockingWriter<M>
where
    M: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static,
{
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.send(Bytes::copy_from_slice(buf))?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
