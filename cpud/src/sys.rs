//! The only unsafe code of cpud: system calls that neither std nor nix wraps safely.
#![allow(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "constants and sizes of C headers fit"
)]

mod descriptors;
mod detached;
mod isolation;
mod multicast;
mod pages;

pub(crate) use descriptors::{receive_descriptors, send_descriptors};
pub(crate) use detached::{attach_mount, has_file_system, new_devpts, new_fuse};
pub(crate) use isolation::{
    fork_into_namespaces, keep_capabilities, leave_keyring, open_slave, restrict_mounts,
};
pub(crate) use multicast::multicast_socket;
pub(crate) use pages::release_pages;

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

/// Sets the size of a terminal, by its master (`ioctl_tty(2)`, `TIOCSWINSZ`).
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

/// Accepts a connection on a listening socket of any kind.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (none, flags) = (std::ptr::null_mut(), libc::SOCK_CLOEXEC);
    // SAFETY: without a buffer for the peer's address the call writes to no memory.
    let fd = unsafe { libc::accept4(listener.as_raw_fd(), none, std::ptr::null_mut(), flags) };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just made this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets the calling thread's nice value (setpriority(2)), which children inherit.
pub(crate) fn set_nice(nice: i32) -> nix::Result<()> {
    // SAFETY: the call takes numbers only. 0 is the calling thread.
    Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) }).map(drop)
}

/// The calling thread's nice value.
pub(crate) fn nice() -> i32 {
    // SAFETY: the call takes numbers only. It cannot fail for the calling thread.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

/// Sets from how many bytes on poll(2) reports a TCP socket as readable (socket(7), `SO_RCVLOWAT`).
pub(crate) fn set_receive_low_water(socket: BorrowedFd<'_>, bytes: u16) -> io::Result<()> {
    let bytes = libc::c_int::from(bytes);
    // SAFETY: the kernel reads one int behind the pointer, whose size it is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const bytes).cast(),
            size_of_val(&bytes) as libc::socklen_t,
        )
    };
    Ok(Errno::result(result).map(drop)?)
}

/// read(2) into the spare capacity of a buffer, which need not be initialised.
pub(crate) fn read_into(fd: BorrowedFd<'_>, buffer: &mut BytesMut) -> nix::Result<usize> {
    let room = buffer.spare_capacity_mut();
    // SAFETY: the kernel writes at most `room.len()` bytes to `room`, which is borrowed for the call.
    let result = unsafe { libc::read(fd.as_raw_fd(), room.as_mut_ptr().cast(), room.len()) };
    let length = Errno::result(result)? as usize;
    // SAFETY: this many bytes after the old length have been written, within the capacity.
    unsafe { buffer.set_len(buffer.len() + length) };
    Ok(length)
}

/// Registers a descriptor with the runtime.
pub(crate) fn watch_fd(fd: OwnedFd, interest: Interest) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open and stays the same descriptor for as long as it lives, and the
    // AsyncFd owns it.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(Into::into)
}

/// Takes ownership of a descriptor whose number the parent process has passed as an argument. Call it once for each
/// number, at the start of the role. 0 to 2 belong to std and are refused.
pub(crate) fn inherit(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD reads a flag and touches no memory; a bad number is EBADF.
    if fd <= 2 || unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the descriptor is open, and by convention the parent has opened it for this role alone: nothing else in
    // this process, which has just started, refers to it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Marks every descriptor but standard input, output and error close-on-exec.
pub(crate) fn close_others_on_exec() -> io::Result<()> {
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
    // Linux before 5.11 does not have the flag.
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

/// How a process ended (wait(2)). nix's type cannot represent real-time signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It exited with this status.
    Exited(u8),
    /// The signal with this number killed it.
    Killed(i32),
}

/// Reaps a child that has ended. `None` if all children are alive; the error is `ECHILD` if there is none.
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

/// Options for a process that leads a session of its own.
#[derive(Default)]
pub(crate) struct Spawn<'a> {
    /// Standard input is its controlling terminal.
    pub(crate) tty: bool,
    /// Its user, if not root, who has all of root's capabilities.
    pub(crate) user: Option<&'a Credentials>,
    /// The control group that it starts in: its `cgroup.procs`, open for writing, and perhaps its directory.
    pub(crate) group: Option<(BorrowedFd<'a>, Option<BorrowedFd<'a>>)>,
    /// Runs in the new process first.
    pub(crate) prepare: Option<fn()>,
}

/// Starts `file` with `args` (including the zeroth) and `environment` as the leader of a new session, with all signals
/// unblocked and at their defaults. The error is that of fork(2), setsid(2), `TIOCSCTTY`, execve(2), or of becoming the
/// user.
///
/// For single-threaded roles, since the child allocates memory before it execs. (std's `Command` does not reset the signal
/// mask, and whether it runs a script without `#!` depends on the libc.)
pub(crate) fn spawn_leader(
    file: &CStr,
    args: &[CString],
    environment: &[CString],
    how: &Spawn<'_>,
) -> nix::Result<Pid> {
    // The child writes an error into the pipe. A successful exec closes it, so the end of the pipe means success.
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let (forked, is_in_group) = fork_into(how.group.and_then(|(_, directory)| directory))?;
    match forked {
        ForkResult::Child => {
            if let Some((processes, _)) = how.group.filter(|_| !is_in_group) {
                // 0 is the process itself. Without a group it can still be found.
                let _ = nix::unistd::write(processes, b"0");
            }
            if let Some(prepare) = how.prepare {
                prepare();
            }
            let ready = become_leader(how.tty).and_then(|()| how.user.map_or(Ok(()), become_user));
            let Err(errno) = ready.and_then(|()| execve(file, args, environment));
            let _ = nix::unistd::write(&writer, &(errno as i32).to_ne_bytes());
            // SAFETY: ends the child without running the parent's exit handlers.
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

/// fork(2), into a control group if possible; whether it was. To move a process there afterwards takes an RCU grace period,
/// longer than the whole rest of a session's start. (Linux before 5.7 cannot do it, and a process in a user namespace may not.)
fn fork_into(group: Option<BorrowedFd<'_>>) -> nix::Result<(ForkResult, bool)> {
    if let Some(group) = group {
        // struct clone_args of linux/sched.h: eleven 64-bit numbers. The first is the flags (CLONE_INTO_CGROUP), the
        // fifth the signal at the child's end, the last the group's descriptor.
        let end = libc::SIGCHLD.unsigned_abs().into();
        let group = group.as_raw_fd().unsigned_abs().into();
        let args: [u64; 11] = [1 << 33, 0, 0, 0, end, 0, 0, 0, 0, 0, group];
        // SAFETY: the kernel reads the numbers, whose size it is given. Without CLONE_VM this is a fork, and there is
        // only one thread, so no other thread can hold a lock that the child needs.
        match unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) } {
            0 => return Ok((ForkResult::Child, true)),
            -1 => {}
            pid => {
                let child = Pid::from_raw(pid as i32);
                return Ok((ForkResult::Parent { child }, true));
            }
        }
    }
    Ok((fork()?, false))
}

/// fork(2), for single-threaded roles.
pub(crate) fn fork() -> nix::Result<ForkResult> {
    // SAFETY: there is only one thread, so no other thread can hold a lock that the child needs.
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

/// Half of each set. The first half is the capabilities below 32.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityHalf {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Becomes a user who keeps all capabilities and passes them on to the programs that they execute (the ambient set,
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
    // SAFETY: the kernel reads the header and writes two halves, as its version says.
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

/// Sets all signals to their default actions: removes std's handler for stack overflows, and what the parent process has
/// set to be ignored.
pub(crate) fn reset_signal_actions() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: no handler is installed. SIGKILL, SIGSTOP and libc's own signals fail with EINVAL, as they should.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// A non-blocking packet(7) socket for IPv4 packets on the link with this index. A filter in the kernel passes only
/// unfragmented UDP to `port`, so that nothing else wakes this process up.
pub(crate) fn packet_socket(link: u32, port: u16) -> io::Result<OwnedFd> {
    let fd = unbound_packet_socket()?;
    // linux/filter.h: code, jump if true, jump if false, operand. Offsets count from the IP header.
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        op(0x30, 0, 0, 9),               // load the protocol
        op(0x15, 0, 6, 17),              // UDP, or drop
        op(0x28, 0, 0, 6),               // load the fragment offset
        op(0x45, 4, 0, 0x1fff),          // zero, or drop
        op(0xb1, 0, 0, 0),               // x = length of the IP header
        op(0x48, 0, 0, 2),               // load the destination port
        op(0x15, 0, 1, u32::from(port)), // ours, or drop
        op(0x06, 0, 0, u32::MAX),        // accept
        op(0x06, 0, 0, 0),               // drop
    ];
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(0),
        filter: program.as_mut_ptr(),
    };
    // SAFETY: pointer and length are those of a sock_fprog, whose own are those of `program`. The kernel copies both
    // before the call returns.
    Errno::result(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of_val(&filter) as libc::socklen_t,
        )
    })?;
    bind_to_link(&fd, link, libc::ETH_P_IP as u16)?;
    Ok(fd)
}

/// A non-blocking packet(7) socket for ARP messages on the link with this index.
pub(crate) fn arp_socket(link: u32) -> io::Result<OwnedFd> {
    let fd = unbound_packet_socket()?;
    bind_to_link(&fd, link, libc::ETH_P_ARP as u16)?;
    Ok(fd)
}

/// With protocol 0, so that it receives nothing yet.
fn unbound_packet_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes numbers only.
    let fd = Errno::result(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
    // SAFETY: the kernel has just made this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bind_to_link(fd: &OwnedFd, link: u32, protocol: u16) -> io::Result<()> {
    let address = link_address(link, protocol);
    // SAFETY: pointer and length are those of a sockaddr_ll, which lives until the call returns.
    Errno::result(unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// Sends an IPv4 packet to the Ethernet broadcast address of a link.
pub(crate) fn broadcast_frame(socket: BorrowedFd<'_>, link: u32, packet: &[u8]) -> io::Result<()> {
    broadcast(socket, link, libc::ETH_P_IP as u16, packet)
}

/// Sends an ARP message there.
pub(crate) fn broadcast_arp(socket: BorrowedFd<'_>, link: u32, message: &[u8]) -> io::Result<()> {
    broadcast(socket, link, libc::ETH_P_ARP as u16, message)
}

fn broadcast(socket: BorrowedFd<'_>, link: u32, protocol: u16, packet: &[u8]) -> io::Result<()> {
    let address = link_address(link, protocol);
    // SAFETY: the kernel reads `packet` and a sockaddr_ll, whose lengths it is given.
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

/// The Ethernet broadcast address on a link, for a protocol (`ETH_P_*`).
fn link_address(link: u32, protocol: u16) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: link.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [255, 255, 255, 255, 255, 255, 0, 0],
    }
}
