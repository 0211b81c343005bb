//! The byte stream that SSH runs over: TCP, a unix socket, vsock, or a command's standard input and output.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use nix::sys::socket::{self, SockFlag, SockType, VsockAddr, connect, socket};
use tokio::net::{TcpStream, UnixStream};

use super::config::AddressFamily;
use crate::discovery;

/// The time between the attempts at one address and the next.
const STAGGER: Duration = Duration::from_millis(250);

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Tcp {
        host: String,
        port: u16,
        family: AddressFamily,
    },
    /// A machine that was found, at its TCP addresses.
    Found {
        host: String,
        addresses: Vec<SocketAddr>,
        family: AddressFamily,
    },
    Unix(PathBuf),
    Vsock {
        cid: u32,
        port: u32,
    },
    /// A command whose standard input and output are the connection.
    Command {
        argv: Vec<String>,
        display: String,
    },
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } => write!(f, "{host} port {port}"),
            Self::Found {
                host, addresses, ..
            } => {
                let first = addresses.first().map(ToString::to_string);
                write!(f, "{host} at {}", first.unwrap_or_default())
            }
            Self::Unix(path) => write!(f, "the socket {}", path.display()),
            Self::Vsock { cid, port } => write!(f, "vsock {cid} port {port}"),
            Self::Command { display, .. } => f.write_str(display),
        }
    }
}

/// The addresses of a TCP endpoint: at least one, and only those of its address family. Other endpoints have none.
pub(super) async fn addresses(endpoint: &Endpoint) -> Result<Vec<SocketAddr>> {
    let (host, family, mut addresses) = match endpoint {
        Endpoint::Tcp { host, port, family } => (host, family, look_up(host, *port).await?),
        Endpoint::Found {
            host,
            addresses,
            family,
        } => (host, family, addresses.clone()),
        Endpoint::Unix(_) | Endpoint::Vsock { .. } | Endpoint::Command { .. } => {
            return Ok(Vec::new());
        }
    };
    addresses.retain(|address: &SocketAddr| match family {
        AddressFamily::Any => true,
        AddressFamily::Inet => address.is_ipv4(),
        AddressFamily::Inet6 => address.is_ipv6(),
    });
    if addresses.is_empty() {
        bail!("{host} has no address of the family that AddressFamily asks for");
    }
    Ok(addresses)
}

async fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>> {
    // Not looked up, since a container may have no /etc/hosts (RFC 6761, 6.3).
    if host.eq_ignore_ascii_case("localhost") {
        let both = [
            (Ipv4Addr::LOCALHOST, port).into(),
            (Ipv6Addr::LOCALHOST, port).into(),
        ];
        return Ok(both.to_vec());
    }
    match tokio::net::lookup_host((host, port)).await {
        Ok(found) => Ok(found.collect()),
        Err(error) => match find_by_multicast(host, port).await {
            Some(found) => Ok(found),
            None => Err(not_found(host, &error)),
        },
    }
}

/// The addresses of a host of this network, which the C library does not know by its name (RFC 6762, 3).
async fn find_by_multicast(host: &str, port: u16) -> Option<Vec<SocketAddr>> {
    let name = host.trim_end_matches('.').to_owned();
    name.to_ascii_lowercase().strip_suffix(".local")?;
    let found = tokio::task::spawn_blocking(move || discovery::find_host(&name)).await;
    let mut addresses = found.ok()?.ok()??;
    for address in &mut addresses {
        address.set_port(port);
    }
    Some(addresses)
}

fn not_found(host: &str, error: &io::Error) -> anyhow::Error {
    let port = host
        .rsplit_once(':')
        .filter(|(name, port)| !name.contains(':') && port.parse::<u16>().is_ok());
    if let Some((name, port)) = port {
        return anyhow!(
            "cannot find the address of {host}: a port is given apart, as in cpu -sp {port} {name}"
        );
    }
    let hint = if Path::new("/etc/resolv.conf").exists() {
        "is the name right?"
    } else {
        "there is no /etc/resolv.conf here, so only names in /etc/hosts and addresses can be used"
    };
    anyhow!("cannot find the address of {host}: {error}; {hint}")
}

/// Connects; over TCP, to the first of the `addresses` that answers. All kinds of sockets are returned as one type,
/// since tokio reads and writes all stream sockets alike.
pub(super) async fn open(endpoint: &Endpoint, addresses: &[SocketAddr]) -> io::Result<UnixStream> {
    let socket: OwnedFd = match endpoint {
        Endpoint::Tcp { .. } | Endpoint::Found { .. } => {
            let stream = first(addresses).await?;
            stream.set_nodelay(true)?;
            stream.into_std()?.into()
        }
        Endpoint::Unix(path) => return UnixStream::connect(path).await,
        Endpoint::Vsock { cid, port } => {
            let address = VsockAddr::new(*cid, *port);
            // The kernel gives up after two seconds.
            let socket = tokio::task::spawn_blocking(move || vsock(&address)).await;
            socket.map_err(io::Error::other)??
        }
        Endpoint::Command { argv, .. } => return run(argv),
    };
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

/// Connects to the first address that answers. Each attempt begins a little after the previous one, so that an address
/// that does not answer does not hold up the others (RFC 8305).
async fn first(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut attempts = tokio::task::JoinSet::new();
    for (&address, turn) in addresses.iter().zip(0..) {
        attempts.spawn(async move {
            // The timer rounds up to a millisecond, also a wait of nothing.
            if turn > 0 {
                tokio::time::sleep(STAGGER * turn).await;
            }
            TcpStream::connect(address).await
        });
    }
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    while let Some(attempt) = attempts.join_next().await {
        match attempt.map_err(io::Error::other)? {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn vsock(address: &VsockAddr) -> io::Result<OwnedFd> {
    let socket = socket(
        socket::AddressFamily::Vsock,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    connect(socket.as_raw_fd(), address)?;
    Ok(socket)
}

/// Runs a proxy command. It ends when its input ends, so it is not waited for. It ignores INT and QUIT, since Ctrl-C is
/// for the remote command and must not end the connection.
fn run(argv: &[String]) -> io::Result<UnixStream> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    Command::new("/bin/sh")
        .args(["-c", "trap '' INT QUIT; exec \"$@\"", "sh"])
        .args(argv)
        .stdin(Stdio::from(OwnedFd::from(theirs.try_clone()?)))
        .stdout(Stdio::from(OwnedFd::from(theirs)))
        .spawn()?;
    ours.set_nonblocking(true)?;
    UnixStream::from_std(ours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_commands_pipes_are_a_connection() {
        let argv = ["cat".to_owned()].to_vec();
        let display = "cat".into();
        let endpoint = Endpoint::Command { argv, display };
        let mut stream = open(&endpoint, &[]).await.unwrap();
        stream.write_all(b"echo").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = String::new();
        stream.read_to_string(&mut back).await.unwrap();
        assert_eq!(back, "echo");
    }

    #[tokio::test]
    async fn a_port_behind_the_host_is_told_where_it_belongs() {
        let endpoint = |host: &str| Endpoint::Tcp {
            host: host.into(),
            port: 17010,
            family: AddressFamily::Any,
        };
        for (host, hint) in [
            ("board.invalid:22", true),
            ("board.invalid", false),
            ("::1:2:zz", false),
            ("board.invalid:ssh", false),
        ] {
            let told = addresses(&endpoint(host)).await.unwrap_err().to_string();
            assert_eq!(told.contains("cpu -sp 22 board.invalid"), hint, "{told}");
        }
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_holds_up_no_other() {
        // Linux does not answer connections for which the listener's queue has no room.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        nix::sys::socket::listen(&silent, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let address = silent.local_addr().unwrap();
        let _full = [(); 2].map(|()| {
            let timeout = Duration::from_secs(1);
            std::net::TcpStream::connect_timeout(&address, timeout)
        });
        let good = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = good.local_addr().unwrap();
        let addresses = [address, good];
        let connected = tokio::time::timeout(Duration::from_secs(20), first(&addresses));
        let connected = connected.await.unwrap().unwrap();
        assert_eq!(connected.peer_addr().unwrap(), good);
        let gone = "127.0.0.1:1".parse().unwrap();
        let error = first(&[gone, gone]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn an_address_family_is_kept_to_and_localhost_needs_no_file() {
        let of = async |host: &str, family| {
            let host = host.into();
            let port = 1;
            let found = addresses(&Endpoint::Tcp { host, port, family }).await;
            found.map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let both = ["127.0.0.1:1", "[::1]:1"];
        assert_eq!(of("localhost", AddressFamily::Any).await.unwrap(), both);
        assert_eq!(
            of("LocalHost", AddressFamily::Inet6).await.unwrap(),
            both[1..]
        );
        assert_eq!(of("::1", AddressFamily::Inet6).await.unwrap(), both[1..]);
        let found = |family| Endpoint::Found {
            host: "board.local".into(),
            addresses: ["192.168.77.1:1", "[fec0::1]:1"]
                .map(|at| at.parse().unwrap())
                .into(),
            family,
        };
        let inet6 = addresses(&found(AddressFamily::Inet6)).await.unwrap();
        assert_eq!(inet6, ["[fec0::1]:1".parse().unwrap()]);
        let error = of("127.0.0.1", AddressFamily::Inet6).await.unwrap_err();
        assert!(error.to_string().contains("AddressFamily"), "{error}");
        let error = of("no.such.name.invalid", AddressFamily::Any)
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("no.such.name.invalid"),
            "{error}"
        );
    }
}
