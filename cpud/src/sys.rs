//! The one room of cpud with unsafe code: system calls that neither std nor nix wraps safely.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::pty::Winsize;
use nix::sys::signal::SigSet;
use nix::unistd::{ForkResult, Pid, execve};
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

/// Takes ownership of a descriptor whose number the parent process passed as an argument.
/// Call it once per number, at the start of the role; 0 to 2 belong to std and are refused.
pub(crate) fn inherit(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD reads a flag and touches no memory; a bad number is EBADF.
    if fd <= 2 || unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the descriptor is open, and by the roles' convention it was opened by the parent for
    // us alone: nothing else in this process, which has just begun, refers to it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes every descriptor but standard input, output and error close on exec.
pub(crate) fn close_the_rest_on_exec() -> io::Result<()> {
    // SAFETY: sets a flag on descriptors; no memory is involved. (musl has no wrapper.)
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Starts `file` with `args` (the zeroth included) and `environment` as leader of a session of its
/// own, every signal at its default and unblocked. With `tty`, standard input becomes its
/// controlling terminal. The error is that of fork(2), setsid(2), `TIOCSCTTY` or execve(2).
///
/// For single-threaded roles: the child allocates before it execs. (std's `Command` leaves the
/// signal mask, and whether it runs a file that is no program by /bin/sh depends on the libc.)
pub(crate) fn spawn_leader(
    file: &CStr,
    args: &[CString],
    environment: &[CString],
    tty: bool,
) -> nix::Result<Pid> {
    // Closed by the exec; so what is read from it is the error, and nothing means success.
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: there is one thread, so no lock is held by a thread that the child lacks.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => {
            let Err(errno) = become_leader(tty).and_then(|()| execve(file, args, environment));
            let _ = nix::unistd::write(&writer, &(errno as i32).to_ne_bytes());
            // SAFETY: ends the process without running the parent's exit handlers.
            unsafe { libc::_exit(127) }
        }
        ForkResult::Parent { child } => {
            drop(writer);
            let mut errno = [0; 4];
            if nix::unistd::read(&reader, &mut errno)? < errno.len() {
                return Ok(child);
            }
            let _ = nix::sys::wait::waitpid(child, None);
            Err(Errno::from_raw(i32::from_ne_bytes(errno)))
        }
    }
}

fn become_leader(tty: bool) -> nix::Result<()> {
    reset_signal_actions();
    SigSet::empty().thread_set_mask()?;
    nix::unistd::setsid()?;
    if tty {
        // SAFETY: TIOCSCTTY takes an int and no pointer.
        Errno::result(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
    }
    Ok(())
}

/// Lets every signal do what it does by default: neither what was ignored by whoever started us
/// nor std's handler for stack overflows remains.
pub(crate) fn reset_signal_actions() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: no handler is installed. SIGKILL, SIGSTOP and libc's own are EINVAL, as wanted.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}
