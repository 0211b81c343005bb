//! The sockets that a server can listen on: TCP, unix and vsock. A connection is a descriptor of a stream
//! socket, and nothing else in the program depends on its kind.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, VsockAddr};

use crate::listen_addr::ListenAddr;

/// A listening socket that does not block.
pub(super) fn listen(addr: &ListenAddr) -> Result<OwnedFd> {
    let listener: OwnedFd = match addr {
        // All addresses, of IPv6 and IPv4 with one socket where the kernel has both.
        ListenAddr::Tcp(None, port) => TcpListener::bind((Ipv6Addr::UNSPECIFIED, *port))
            .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)))
            .map(OwnedFd::from)
            .map_err(anyhow::Error::from),
        ListenAddr::Tcp(Some(address), port) => TcpListener::bind((*address, *port))
            .map(OwnedFd::from)
            .map_err(anyhow::Error::from),
        ListenAddr::Unix(path) => unix(path).map(OwnedFd::from).map_err(anyhow::Error::from),
        ListenAddr::Vsock(port) => vsock(*port).map_err(anyhow::Error::from),
    }
    .with_context(|| format!("cannot listen on {addr}"))?;
    fcntl(&listener, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    // As many as the kernel allows (net.core.somaxconn, usually 4096), where std asks for 128.
    socket::listen(&listener, Backlog::MAXALLOWABLE)?;
    Ok(listener)
}

/// The name of a socket stays when its server dies, so one that refuses connections is taken over.
fn unix(path: &Path) -> std::io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            match UnixStream::connect(path) {
                Err(refused) if refused.kind() == ErrorKind::ConnectionRefused => {}
                _ => return Err(error),
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        result => result,
    }
}

fn vsock(port: u32) -> nix::Result<OwnedFd> {
    let listener = socket::socket(
        AddressFamily::Vsock,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let anywhere = VsockAddr::new(libc::VMADDR_CID_ANY, port);
    socket::bind(listener.as_raw_fd(), &anywhere)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_servers_socket_is_taken_over_and_a_living_ones_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let addr = ListenAddr::Unix(directory.path().join("socket"));
        let first = listen(&addr).unwrap();
        let error = format!("{:#}", listen(&addr).unwrap_err());
        assert!(error.contains("in use"), "{error}");
        drop(first);
        listen(&addr).unwrap();
    }
}
