//! Sockets for multicast DNS.

use std::io;
use std::net::{SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use cpu_proto::dns::{GROUP_V4, GROUP_V6, PORT};
use nix::errno::Errno;
use nix::sys::socket::{SockaddrIn, SockaddrIn6, SockaddrLike, bind};

/// A non-blocking socket for the group of multicast DNS, in one address family and on one link: it receives what is sent there
/// to the group, and nothing else, and what it sends to the group leaves there. Others may have the port, too.
pub(crate) fn multicast_socket(link: u32, is_ipv6: bool) -> io::Result<UdpSocket> {
    let family = if is_ipv6 {
        libc::AF_INET6
    } else {
        libc::AF_INET
    };
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes numbers only.
    let fd = Errno::result(unsafe { libc::socket(family, kind, 0) })?;
    // SAFETY: the kernel has just made this descriptor, so nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let index = link.cast_signed();
    set(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, &1)?;
    if is_ipv6 {
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1)?;
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, &index)?;
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS, &255)?;
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, &255)?;
        // The kernel binds the socket to the link, by the scope.
        bind_to(
            &fd,
            &SockaddrIn6::from(SocketAddrV6::new(GROUP_V6, PORT, 0, link)),
        )?;
        let socket = UdpSocket::from(fd);
        socket.join_multicast_v6(&GROUP_V6, link)?;
        return Ok(socket);
    }
    let group = libc::ip_mreqn {
        imr_multiaddr: libc::in_addr {
            s_addr: u32::from_ne_bytes(GROUP_V4.octets()),
        },
        imr_address: libc::in_addr { s_addr: 0 },
        imr_ifindex: index,
    };
    set(&fd, libc::IPPROTO_IP, libc::IP_MULTICAST_ALL, &0)?;
    set(&fd, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &group)?;
    set(&fd, libc::IPPROTO_IP, libc::IP_MULTICAST_TTL, &255)?;
    set(&fd, libc::IPPROTO_IP, libc::IP_TTL, &255)?;
    bind_to(&fd, &SockaddrIn::from(SocketAddrV4::new(GROUP_V4, PORT)))?;
    set(&fd, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &group)?;
    Ok(UdpSocket::from(fd))
}

fn bind_to(fd: &OwnedFd, address: &dyn SockaddrLike) -> nix::Result<()> {
    bind(fd.as_raw_fd(), address)
}

/// setsockopt(2). `T` is the type that the option has in C.
fn set<T: Copy>(
    fd: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> nix::Result<()> {
    // SAFETY: pointer and length are those of a value that lives until the call returns; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const *value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop)
}
