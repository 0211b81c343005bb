//! A pipe or terminal as the connection's loop reads and writes it.

use std::os::fd::{AsFd, OwnedFd};

use bytes::{Bytes, BytesMut};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::sockopt::SndBufForce;
use nix::sys::socket::{Shutdown, setsockopt};
use nix::sys::stat::{SFlag, fstat};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys::{read_into, watch_fd};

/// Bytes read at once, and what a pipe of a command holds: four times what pipe(7) gives, for fewer
/// turns between the command and this process.
const READ: i32 = 256 * 1024;

/// A descriptor that does not block.
pub(super) struct Fd {
    inner: AsyncFd<OwnedFd>,
    /// A pipe or socket: what gives less than there is room for is empty. A terminal may have more.
    short_read_is_all: bool,
    watches_writable: bool,
}

impl Fd {
    pub(super) fn new(fd: OwnedFd) -> std::io::Result<Self> {
        Self::watched(fd, Interest::READABLE | Interest::WRITABLE)
    }

    /// A socket that mostly has room for what is written: room is watched for only while there is none.
    /// The runtime would wake up each time that the other end has read something.
    pub(super) fn for_files(fd: OwnedFd) -> std::io::Result<Self> {
        // More than the largest reply to a request for a file. The kernel's own limit binds only those
        // without privilege.
        let _ = setsockopt(&fd, SndBufForce, &(4 << 20));
        Self::watched(fd, Interest::READABLE)
    }

    fn watched(fd: OwnedFd, interest: Interest) -> std::io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        // What is no pipe has no such size, and a small one does as well.
        let _ = fcntl(&fd, FcntlArg::F_SETPIPE_SZ(READ));
        let kind = SFlag::from_bits_truncate(fstat(&fd)?.st_mode) & SFlag::S_IFMT;
        Ok(Self {
            short_read_is_all: kind == SFlag::S_IFIFO || kind == SFlag::S_IFSOCK,
            inner: watch_fd(fd, interest)?,
            watches_writable: interest.is_writable(),
        })
    }

    /// What is there; empty at the end. The end of a terminal (EIO) is an end like any other.
    pub(super) async fn read(&self, buffer: &mut BytesMut) -> std::io::Result<Bytes> {
        // What is left of the buffer serves until it is too small to be worth a system call.
        if buffer.capacity() < READ as usize / 4 {
            buffer.reserve(READ as usize);
        }
        let result = loop {
            let mut ready = self.inner.readable().await?;
            let before = (buffer.len(), buffer.capacity());
            match read_into(self.as_fd(), buffer) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Ok(n) if self.short_read_is_all && n > 0 && before.0 + n < before.1 => {
                    // What comes from now on is told: no need to find out that nothing is left.
                    ready.clear_ready();
                    break Ok(());
                }
                result => break result.map(drop),
            }
        };
        match result {
            Err(error) if error != Errno::EIO => Err(error.into()),
            _ => Ok(buffer.split().freeze()),
        }
    }

    /// Returns when the other end sends no more; what it has sent is dropped.
    pub(super) async fn ended(&self) {
        let mut dropped = [0; 64];
        loop {
            let read = |fd: &OwnedFd| Ok(nix::unistd::read(fd, &mut dropped)?);
            match self.inner.async_io(Interest::READABLE, read).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            }
        }
    }

    /// End one direction of a socket; other descriptors have none.
    pub(super) fn shutdown(&self, how: Shutdown) {
        use std::os::fd::AsRawFd;
        let _ = nix::sys::socket::shutdown(self.as_fd().as_raw_fd(), how);
    }

    /// Write all of it.
    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> std::io::Result<()> {
        let write = |bytes: &[u8]| Ok(nix::unistd::write(self, bytes)?);
        while !bytes.is_empty() {
            let n = if self.watches_writable {
                let writable = Interest::WRITABLE;
                self.inner.async_io(writable, |_| write(bytes)).await?
            } else {
                match write(bytes) {
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        let room =
                            watch_fd(self.as_fd().try_clone_to_owned()?, Interest::WRITABLE)?;
                        room.async_io(Interest::WRITABLE, |_| write(bytes)).await?
                    }
                    result => result?,
                }
            };
            bytes = bytes.get(n..).unwrap_or_default();
        }
        Ok(())
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.inner.get_ref().as_fd()
    }
}
