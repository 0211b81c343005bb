//! The one room of cpud with unsafe code: system calls that neither std nor nix wraps safely.
#![allow(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "constants and sizes of C's headers fit"
)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use bytes::BytesMut;
use cpu_proto::Credentials;
use cpu_proto::package_note::{PackageNote, description_size};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::pty::Winsize;
use nix::sys::signal::SigSet;
use nix::unistd::{ForkResult, Gid, Pid, Uid, execve, setgroups, setresgid, setresuid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The program's name and version, for `mkimage inspect` and readelf -n.
const PACKAGE: &str = concat!(
    r#"{"type":"cpu","name":"cpud","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#""}"#
);

// SAFETY: linkers keep a section of this name as it is and read only its header, which a PackageNote has.
#[used]
#[unsafe(link_section = ".note.package")]
static PACKAGE_NOTE: PackageNote<{ description_size(PACKAGE) }> = PackageNote::new(PACKAGE);

/// Tell a terminal its size, from its master side (`ioctl_tty(2)`, `TIOCSWINSZ`).
pub(crate) fn set_window_size(master: BorrowedFd<'_>, size: Winsize) -> nix::Result<()> {
    // SAFETY: the kernel reads one Winsize behind the pointer, which lives until the call returns.
    let result = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    Errno::result(result).map(drop)
}

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

/// The next connection of a listening socket, whatever kind of socket it is.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (none, flags) = (std::ptr::null_mut(), libc::SOCK_CLOEXEC);
    // SAFETY: without a place for the peer's address the call writes to no memory.
    let fd = unsafe { libc::accept4(listener.as_raw_fd(), none, std::ptr::null_mut(), flags) };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just made this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// read(2) into the room that a buffer has left, and only there, so that it need not be filled before.
pub(crate) fn read_into(fd: BorrowedFd<'_>, buffer: &mut BytesMut) -> nix::Result<usize> {
    let room = buffer.spare_capacity_mut();
    // SAFETY: the kernel writes at most `room.len()` bytes to `room`, which is borrowed for the call.
    let result = unsafe { libc::read(fd.as_raw_fd(), room.as_mut_ptr().cast(), room.len()) };
    let length = Errno::result(result)? as usize;
    // SAFETY: so many bytes behind the old length were written, and they lie within the capacity.
    unsafe { buffer.set_len(buffer.len() + length) };
    Ok(length)
}

/// Let the runtime watch a descriptor.
pub(crate) fn watch_fd(fd: OwnedFd, interest: Interest) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open and stays the same descriptor for as long as it lives, and the
    // AsyncFd owns it.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(Into::into)
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
        return Ok(());
    }
    // Linux before 5.11 does not know it.
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(fd) = entry?.file_name().to_str().and_then(|fd| fd.parse().ok()) else {
            continue;
        };
        if fd > 2 {
            // SAFETY: sets a flag on a descriptor; one that has been closed meanwhile is EBADF.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

/// How a process ended (wait(2)). nix's type has no room for real-time signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By itself, with this status of eight bits.
    Exited(u8),
    /// By the signal of this number.
    Killed(i32),
}

/// A child that has ended, with its process number; `None` if all live on, `ECHILD` if there is none.
pub(crate) fn reap() -> nix::Result<Option<(Pid, Ended)>> {
    let mut status = 0;
    // SAFETY: the kernel writes one int, which lives until the call returns.
    let pid = Errno::result(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) })?;
    let ended = if libc::WIFSIGNALED(status) {
        Ended::Killed(libc::WTERMSIG(status))
    } else {
        Ended::Exited(libc::WEXITSTATUS(status) as u8)
    };
    Ok((pid != 0).then_some((Pid::from_raw(pid), ended)))
}

/// What a process is to be besides leader of a session.
#[derive(Default)]
pub(crate) struct Spawn<'a> {
    /// Standard input is its controlling terminal.
    pub(crate) tty: bool,
    /// Who it is, if not root; with all of root's capabilities.
    pub(crate) user: Option<&'a Credentials>,
    /// The control group that it begins in.
    pub(crate) group: Option<BorrowedFd<'a>>,
}

/// Starts `file` with `args` (the zeroth included) and `environment` as leader of a session of its
/// own, every signal at its default and unblocked. The error is that of fork(2), setsid(2), `TIOCSCTTY`, execve(2),
/// or of becoming the user.
///
/// For single-threaded roles: the child allocates before it execs. (std's `Command` leaves the
/// signal mask, and whether it runs a file that is no program by /bin/sh depends on the libc.)
pub(crate) fn spawn_leader(
    file: &CStr,
    args: &[CString],
    environment: &[CString],
    how: &Spawn<'_>,
) -> nix::Result<Pid> {
    // Closed by the exec; so what is read from it is the error, and nothing means success.
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    match fork_into(how.group)? {
        ForkResult::Child => {
            let ready = become_leader(how.tty).and_then(|()| how.user.map_or(Ok(()), become_user));
            let Err(errno) = ready.and_then(|()| execve(file, args, environment));
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

/// fork(2), into a control group if it can be: moving a process there afterwards waits for an RCU
/// grace period, which is longer than all else that a session's start takes.
fn fork_into(group: Option<BorrowedFd<'_>>) -> nix::Result<ForkResult> {
    if let Some(group) = group {
        // linux/sched.h, struct clone_args: eleven 64-bit numbers, of which the first is the flags
        // (CLONE_INTO_CGROUP), the fifth the signal at the end, the last the group's descriptor.
        let end = libc::SIGCHLD.unsigned_abs().into();
        let group = group.as_raw_fd().unsigned_abs().into();
        let args: [u64; 11] = [1 << 33, 0, 0, 0, end, 0, 0, 0, 0, 0, group];
        // SAFETY: the kernel reads the numbers, with their size. Without CLONE_VM this is a fork,
        // and there is one thread, so no lock is held by a thread that the child lacks.
        match unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) } {
            0 => return Ok(ForkResult::Child),
            -1 => {}
            pid => {
                return Ok(ForkResult::Parent {
                    child: Pid::from_raw(pid as i32),
                });
            }
        }
    }
    // SAFETY: as above.
    unsafe { nix::unistd::fork() }
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

/// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h, and its structures.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

/// Half of each set; the first has the capabilities below 32.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityHalf {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Becomes a user who keeps all capabilities, and hands them on to what he executes (the ambient set,
/// capabilities(7)). For a child that is about to exec.
fn become_user(user: &Credentials) -> nix::Result<()> {
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    nix::sys::prctl::set_keepcaps(true)?;
    setresuid(uid, uid, uid)?;
    let mut header = CapabilityHeader {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let mut halves = [CapabilityHalf::default(); 2];
    // SAFETY: the kernel reads the header and writes the two halves that its version has.
    let got = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, halves.as_mut_ptr()) };
    Errno::result(got)?;
    for half in &mut halves {
        half.effective = half.permitted;
        half.inheritable = half.permitted;
    }
    // SAFETY: the kernel reads the header and the two halves.
    let set = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, halves.as_ptr()) };
    Errno::result(set)?;
    let all = u64::from(halves[1].permitted) << 32 | u64::from(halves[0].permitted);
    for capability in (0..u64::BITS).filter(|capability| all >> capability & 1 != 0) {
        let raise = libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong;
        let capability = libc::c_ulong::from(capability);
        let none: libc::c_ulong = 0;
        // SAFETY: takes numbers only.
        Errno::result(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, raise, capability, none, none) })?;
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

/// A non-blocking packet(7) socket that hears IPv4 packets of the link with this index, but only
/// unfragmented UDP to `port`: the kernel drops the rest before it wakes us.
pub(crate) fn packet_socket(link: u32, port: u16) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // Protocol 0 hears nothing yet.
    // SAFETY: takes numbers only.
    let fd = Errno::result(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
    // SAFETY: the kernel has just made it for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };

    // linux/filter.h: code, jump if true, jump if false, operand. Offsets count from the IP header.
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        op(0x30, 0, 0, 9),               // load the protocol
        op(0x15, 0, 6, 17),              // UDP, or drop
        op(0x28, 0, 0, 6),               // load the fragment's offset
        op(0x45, 4, 0, 0x1fff),          // the first, or drop
        op(0xb1, 0, 0, 0),               // x = length of the IP header
        op(0x48, 0, 0, 2),               // load the destination port
        op(0x15, 0, 1, u32::from(port)), // ours, or drop
        op(0x06, 0, 0, u32::MAX),        // take it
        op(0x06, 0, 0, 0),               // drop it
    ];
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(0),
        filter: program.as_mut_ptr(),
    };
    // SAFETY: pointer and length are of one sock_fprog, whose own are of `program`; the kernel
    // copies both before the call returns.
    Errno::result(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of_val(&filter) as libc::socklen_t,
        )
    })?;
    let address = link_address(link);
    // SAFETY: pointer and length are of one sockaddr_ll, which lives until the call returns.
    Errno::result(unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    })?;
    Ok(fd)
}

/// Sends an IPv4 packet to the Ethernet broadcast address of a link.
pub(crate) fn broadcast_frame(socket: BorrowedFd<'_>, link: u32, packet: &[u8]) -> io::Result<()> {
    let address = link_address(link);
    // SAFETY: the kernel reads `packet` and one sockaddr_ll, with their own lengths.
    Errno::result(unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// IPv4 on a link, and everybody there.
fn link_address(link: u32) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_IP as u16).to_be(),
        sll_ifindex: link.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [255, 255, 255, 255, 255, 255, 0, 0],
    }
}
