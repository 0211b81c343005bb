//! The one room of cpud with unsafe code: system calls that neither std nor nix wraps safely.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::pty::Winsize;
use tokio::io::unix::AsyncFd;

/// Tell a terminal its size, from its master side (`ioctl_tty(2)`, `TIOCSWINSZ`).
pub(crate) fn set_window_size(master: BorrowedFd<'_>, size: Winsize) -> nix::Result<()> {
    // SAFETY: the kernel reads one Winsize behind the pointer, which lives until the call returns.
    let result = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    Errno::result(result).map(drop)
}

/// Let the runtime watch a descriptor.
pub(crate) fn watch_fd(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open and stays the same descriptor for as long as it lives, and the
    // AsyncFd owns it.
    unsafe { AsyncFd::register(fd) }.map_err(Into::into)
}
