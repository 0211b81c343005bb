//! A pipe, socket or terminal that the connection's runtime reads and writes without blocking.

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

/// The most bytes read at once, and the capacity of a command's pipes: four times the default of pipe(7), so
/// that the command and this process wait for each other less often.
const READ: i32 = 256 * 1024;

/// A descriptor that does not block.
pub(super) struct Fd {
    inner: AsyncFd<OwnedFd>,
    /// A read that returns less than the buffer holds has emptied it. So it is for pipes and sockets; a terminal
    /// may have more.
    short_read_empties: bool,
    watches_writable: bool,
}

impl Fd {
    pub(super) fn new(fd: OwnedFd) -> std::io::Result<Self> {
        Self::watched(fd, Interest::READABLE | Interest::WRITABLE)
    }

    /// A socket of the kernel's 9P client. It nearly always has room for what is written, so the runtime waits for
    /// room only while there is none; otherwise it would wake up each time that the other end has read something.
    pub(super) fn for_files(fd: OwnedFd) -> std::io::Result<Self> {
        // More than the largest 9P reply. Root may exceed net.core.wmem_max.
        let _ = setsockopt(&fd, SndBufForce, &(4 << 20));
        Self::watched(fd, Interest::READABLE)
    }

    fn watched(fd: OwnedFd, interest: Interest) -> std::io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        // Fails for what is not a pipe; and a small pipe will do.
        let _ = fcntl(&fd, FcntlArg::F_SETPIPE_SZ(READ));
        let kind = SFlag::from_bits_truncate(fstat(&fd)?.st_mode) & SFlag::S_IFMT;
        Ok(Self {
            short_read_empties: kind == SFlag::S_IFIFO || kind == SFlag::S_IFSOCK,
            inner: watch_fd(fd, interest)?,
            watches_writable: interest.is_writable(),
        })
    }

    /// Reads what is available; empty at the end. EIO is how a terminal reports its end.
    pub(super) async fn read(&self, buffer: &mut BytesMut) -> std::io::Result<Bytes> {
        // The rest of the buffer is used until it is too small to be worth a system call.
        if buffer.capacity() < READ as usize / 4 {
            buffer.reserve(READ as usize);
        }
        let result = loop {
            let mut ready = self.inner.readable().await?;
            let before = (buffer.len(), buffer.capacity());
            match read_into(self.as_fd(), buffer) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Ok(n) if self.short_read_empties && n > 0 && before.0 + n < before.1 => {
                    // Nothing is left, so another read would only find that out.
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

    /// Returns when the other end has finished sending; what it sent is dropped.
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

    /// Whether it is the master of a terminal that is not the controlling terminal of any session (`ioctl_tty`(2), TIOCGPGRP).
    pub(super) fn is_terminal_of_nobody(&self) -> bool {
        nix::unistd::tcgetpgrp(self).is_ok_and(|group| group.as_raw() == 0)
    }

    /// Ends one direction of a socket; does nothing to other descriptors.
    pub(super) fn shutdown(&self, how: Shutdown) {
        use std::os::fd::AsRawFd;
        let _ = nix::sys::socket::shutdown(self.as_fd().as_raw_fd(), how);
    }

    /// Writes all of it.
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
