//! The one room of the client with unsafe code: system calls that neither std nor nix wraps
//! safely.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::pty::Winsize;

/// The size of a terminal (`ioctl_tty(2)`, `TIOCGWINSZ`).
pub(crate) fn window_size(terminal: BorrowedFd<'_>) -> nix::Result<Winsize> {
    let mut size = Winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the kernel writes one Winsize behind the pointer, which lives until the call returns.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    Errno::result(result).map(|_| size)
}
