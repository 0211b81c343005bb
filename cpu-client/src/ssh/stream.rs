//! The byte stream beneath SSH: TCP, a unix socket, vsock, or a command's input and output.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};
use tokio::net::{TcpStream, UnixStream};

use super::config::Family;

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Tcp {
        host: String,
        port: u16,
        family: Family,
    },
    Unix(PathBuf),
    Vsock {
        cid: u32,
        port: u32,
    },
    /// What speaks SSH at the other end of this command's pipes.
    Command {
        words: Vec<String>,
        shown: String,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } => write!(f, "{host} port {port}"),
            Self::Unix(path) => write!(f, "the socket {}", path.display()),
            Self::Vsock { cid, port } => write!(f, "vsock {cid} port {port}"),
            Self::Command { shown, .. } => f.write_str(shown),
        }
    }
}

/// Connects. Whatever kind of socket it is, it is returned as one type: tokio reads and writes all
/// stream sockets alike.
pub(super) async fn open(place: &Place) -> io::Result<UnixStream> {
    let socket: OwnedFd = match place {
        Place::Tcp { host, port, family } => tcp(host, *port, *family).await?.into_std()?.into(),
        Place::Unix(path) => return UnixStream::connect(path).await,
        Place::Vsock { cid, port } => {
            let address = VsockAddr::new(*cid, *port);
            // The kernel gives up by itself after two seconds.
            let socket = tokio::task::spawn_blocking(move || vsock(&address)).await;
            socket.map_err(io::Error::other)??
        }
        Place::Command { words, .. } => return run(words),
    };
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

/// The first address that answers.
async fn tcp(host: &str, port: u16, family: Family) -> io::Result<TcpStream> {
    let is_wanted = |address: &SocketAddr| match family {
        Family::Any => true,
        Family::Inet => address.is_ipv4(),
        Family::Inet6 => address.is_ipv6(),
    };
    let mut failure = io::Error::other("it has no address of the wanted family");
    for address in tokio::net::lookup_host((host, port))
        .await?
        .filter(is_wanted)
    {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn vsock(address: &VsockAddr) -> io::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Vsock,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    connect(socket.as_raw_fd(), address)?;
    Ok(socket)
}

/// The command ends when its input does, so nobody has to wait for it. What interrupts the remote
/// command by a key must not end the connection.
fn run(words: &[String]) -> io::Result<UnixStream> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    Command::new("/bin/sh")
        .args(["-c", "trap '' INT QUIT; exec \"$@\"", "sh"])
        .args(words)
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
        let words = ["cat".to_owned()].to_vec();
        let shown = "cat".into();
        let mut stream = open(&Place::Command { words, shown }).await.unwrap();
        stream.write_all(b"echo").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = String::new();
        stream.read_to_string(&mut back).await.unwrap();
        assert_eq!(back, "echo");
    }

    #[tokio::test]
    async fn an_address_family_is_kept_to() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let place = |family| Place::Tcp {
            host: "127.0.0.1".into(),
            port,
            family,
        };
        assert!(open(&place(Family::Inet)).await.is_ok());
        let error = open(&place(Family::Inet6)).await.unwrap_err().to_string();
        assert!(error.contains("family"), "{error}");
    }
}
