//! The unsafe code of the client: system calls for which neither std nor nix has a safe function.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::pty::Winsize;
use nix::sys::signal::Signal;

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

/// Whether this process ignores a signal (sigaction(2)).
pub(crate) fn is_ignored(signal: Signal) -> nix::Result<bool> {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: no new action is set, and the kernel fills in the old one before it is read. All zeroes is a valid
    // sigaction.
    let now = unsafe {
        Errno::result(libc::sigaction(
            signal as i32,
            std::ptr::null(),
            now.as_mut_ptr(),
        ))?;
        now.assume_init()
    };
    Ok(now.sa_sigaction == libc::SIG_IGN)
}
