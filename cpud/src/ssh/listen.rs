//! The sockets that a server can listen on: TCP, unix, vsock. A connection of any kind is one
//! descriptor, and nothing after this cares which.

use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use cpu_proto::DEFAULT_PORT;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, VsockAddr};

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A TCP port, of one address or of all.
    Tcp(Option<IpAddr>, u16),
    /// The path of a unix socket.
    Unix(PathBuf),
    /// A vsock port, from all contexts.
    Vsock(u32),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(None, port) => write!(f, "port {port}"),
            Self::Tcp(Some(address), port) => write!(f, "{address} port {port}"),
            Self::Unix(path) => write!(f, "the socket {}", path.display()),
            Self::Vsock(port) => write!(f, "vsock port {port}"),
        }
    }
}

impl Place {
    /// What `-net` and `-port` mean.
    pub(crate) fn parse(network: Option<&str>, port: Option<&str>) -> Result<Self> {
        match network.unwrap_or("tcp") {
            "tcp" => {
                let Some(text) = port else {
                    return Ok(Self::Tcp(None, DEFAULT_PORT));
                };
                if let Ok(address) = text.parse::<SocketAddr>() {
                    return Ok(Self::Tcp(Some(address.ip()), address.port()));
                }
                let port = text.parse();
                let port = port.with_context(|| {
                    format!("-port {text} is not a TCP port, nor an address and a port")
                })?;
                Ok(Self::Tcp(None, port))
            }
            "unix" => {
                let path = port.context("-net unix needs the path of the socket: -port PATH")?;
                Ok(Self::Unix(path.into()))
            }
            "vsock" => {
                let Some(text) = port else {
                    return Ok(Self::Vsock(DEFAULT_PORT.into()));
                };
                let port = text.parse();
                Ok(Self::Vsock(port.with_context(|| {
                    format!("-port {text} is not a vsock port")
                })?))
            }
            other => bail!("-net {other}: write tcp, unix or vsock"),
        }
    }
}

/// A socket that does not wait.
pub(super) fn listen(place: &Place) -> Result<OwnedFd> {
    let listener: OwnedFd = match place {
        // All addresses, of IPv6 and IPv4 with one socket where the kernel has both.
        Place::Tcp(None, port) => TcpListener::bind((Ipv6Addr::UNSPECIFIED, *port))
            .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)))
            .map(OwnedFd::from)
            .map_err(anyhow::Error::from),
        Place::Tcp(Some(address), port) => TcpListener::bind((*address, *port))
            .map(OwnedFd::from)
            .map_err(anyhow::Error::from),
        Place::Unix(path) => unix(path).map(OwnedFd::from).map_err(anyhow::Error::from),
        Place::Vsock(port) => vsock(*port).map_err(anyhow::Error::from),
    }
    .with_context(|| format!("cannot listen on {place}"))?;
    fcntl(&listener, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(listener)
}

/// A socket's name stays when its server dies; one that nobody answers at is taken over.
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
    socket::listen(&listener, Backlog::MAXCONN)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_places() {
        let place = |network, port| Place::parse(network, port);
        assert_eq!(place(None, None).unwrap(), Place::Tcp(None, 17010));
        assert_eq!(
            place(Some("tcp"), Some("22")).unwrap(),
            Place::Tcp(None, 22)
        );
        for text in ["127.0.0.1:22", "[::1]:22"] {
            let Place::Tcp(Some(address), 22) = place(None, Some(text)).unwrap() else {
                panic!("{text}");
            };
            assert!(address.is_loopback());
        }
        assert_eq!(place(Some("vsock"), Some("7")).unwrap(), Place::Vsock(7));
        let unix = place(Some("unix"), Some("/run/cpud")).unwrap();
        assert_eq!(unix, Place::Unix("/run/cpud".into()));
        for (network, port) in [
            (None, Some("99999")),
            (Some("unix"), None),
            (Some("vsock"), Some("-1")),
            (Some("udp"), None),
        ] {
            assert!(place(network, port).is_err(), "{network:?} {port:?}");
        }
    }

    #[test]
    fn a_dead_servers_socket_is_taken_over_and_a_living_ones_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::Unix(directory.path().join("socket"));
        let first = listen(&place).unwrap();
        let error = format!("{:#}", listen(&place).unwrap_err());
        assert!(error.contains("in use"), "{error}");
        drop(first);
        listen(&place).unwrap();
    }
}
