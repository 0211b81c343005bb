//! System calls for namespaces and for the terminals in them, which nix does not wrap.

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;

/// fork(2) into new namespaces. The result is a pidfd of the child, or none in the child itself.
///
/// For single-threaded roles, since the child allocates memory.
pub(crate) fn fork_into_namespaces(namespaces: CloneFlags) -> nix::Result<Option<(i32, OwnedFd)>> {
    let mut pidfd: RawFd = -1;
    let flags = namespaces | CloneFlags::from_bits_retain(libc::CLONE_PIDFD);
    let flags = u64::from(flags.bits().cast_unsigned());
    let end = u64::from(libc::SIGCHLD.unsigned_abs());
    // struct clone_args of linux/sched.h up to its first version: the second is where the pidfd goes, the fifth the signal at
    // the child's end.
    let args: [u64; 8] = [flags, (&raw mut pidfd) as u64, 0, 0, end, 0, 0, 0];
    // SAFETY: the kernel reads the numbers, whose size it is given, and writes one descriptor. Without CLONE_VM this is a fork,
    // and there is only one thread, so no other thread can hold a lock that the child needs.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) };
    match Errno::result(pid)? {
        0 => Ok(None),
        // SAFETY: the kernel has just made this descriptor, so nobody else owns it.
        pid => Ok(Some((pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) }))),
    }
}

/// Keeps the capabilities of this process whatever user it becomes (capabilities(7), `SECBIT_NO_SETUID_FIXUP`), if it may.
pub(crate) fn keep_capabilities() {
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0) };
}

/// Makes a mount and all mounts beneath it read-only, without set-user-ID programs and devices (mount_setattr(2)).
pub(crate) fn restrict_mounts(at: BorrowedFd<'_>) -> nix::Result<()> {
    let set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
    // struct mount_attr of linux/mount.h: attributes to set and to clear, propagation, and a user namespace.
    let attributes: [u64; 4] = [set.into(), 0, 0, 0];
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    let (at, empty, size) = (at.as_raw_fd(), c"".as_ptr(), size_of_val(&attributes));
    let attributes = attributes.as_ptr();
    // SAFETY: the kernel reads a string that ends with a NUL, and the numbers, whose size it is given.
    let done =
        unsafe { libc::syscall(libc::SYS_mount_setattr, at, empty, flags, attributes, size) };
    Errno::result(done).map(drop)
}

/// Takes a new session keyring (keyctl(2)) in place of the one that this process has inherited.
pub(crate) fn leave_keyring() -> nix::Result<()> {
    let unnamed = std::ptr::null::<libc::c_char>();
    // SAFETY: takes a number and, in place of a name, null.
    let joined = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, unnamed) };
    match Errno::result(joined) {
        // The kernel has no keys.
        Ok(_) | Err(Errno::ENOSYS) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Opens the other end of a terminal by its master, wherever it is mounted (ioctl_tty(2), `TIOCGPTPEER`).
pub(crate) fn open_slave(master: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let unlock: libc::c_int = 0;
    // SAFETY: the kernel reads one int behind the pointer, which lives until the call returns.
    let done = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) };
    Errno::result(done)?;
    let flags = (OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).bits();
    // SAFETY: takes a number only.
    let fd = Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
    // SAFETY: the kernel has just made this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Of linux/securebits.h.
const SECBIT_NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;

/// Of linux/keyctl.h.
const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;

// Of linux/mount.h.
const MOUNT_ATTR_RDONLY: libc::c_uint = 1;
const MOUNT_ATTR_NOSUID: libc::c_uint = 2;
const MOUNT_ATTR_NODEV: libc::c_uint = 4;
