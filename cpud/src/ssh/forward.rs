//! TCP port forwarding (ssh -L and -R, RFC 4254, section 7): on loopback addresses only, and only with
//! `cpud -forward`. The port that u-root's client asks for is not forwarded: see [`super::uroot`].

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::BytesMut;
use cpu_ssh::{Mux, Stream};
use nix::sys::socket::Shutdown;
use russh::server::Handle;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use super::channel::{CHUNK, ServerReceiver, ServerSender, open_forwarded};
use super::fd::Fd;
use super::uroot::{self, UrootPort};

/// The most ports that one connection may hold; nobody needs more for ssh -R.
const MAX_PORTS: usize = 64;

/// The first port that others than root may listen on (ip(7)).
const FIRST_UNPRIVILEGED: u16 = 1024;

/// The ports that one connection holds on this machine.
pub(super) struct Forwards {
    /// Whether ports are forwarded at all (`-forward`).
    allowed: bool,
    /// The first port that may be listened on.
    first_port: u16,
    of_files: uroot::UrootPorts,
    listening: HashMap<(String, u32), AbortHandle>,
}

impl Forwards {
    pub(super) fn new(allowed: bool) -> Self {
        Self {
            allowed,
            first_port: 0,
            of_files: uroot::UrootPorts::default(),
            listening: HashMap::new(),
        }
    }

    /// Forwards no ports on this connection.
    pub(super) fn forbid(&mut self) {
        self.allowed = false;
    }

    /// Forwards none of the ports that only root may listen on.
    pub(super) fn forbid_privileged(&mut self) {
        self.first_port = FIRST_UNPRIVILEGED;
    }

    /// Forwards a port of this machine to the client, if that is allowed. `port` 0 means any; it becomes the
    /// number that was granted.
    pub(super) async fn listen(
        &mut self,
        address: &str,
        port: &mut u32,
        peer: &[u8],
        mux: &Mux,
        handle: Handle,
    ) -> bool {
        let Some(ip) = loopback(address) else {
            return false;
        };
        if self.of_files.len() + self.listening.len() >= MAX_PORTS {
            return false;
        }
        if uroot::is_client(peer) && *port == 0 && !self.allowed {
            let Some(free) = self.of_files.grant(address) else {
                return false;
            };
            *port = free;
            return true;
        }
        if !self.allowed {
            return false;
        }
        let Ok(number) = u16::try_from(*port) else {
            return false;
        };
        // 0 is any free one, none of root's.
        if (1..self.first_port).contains(&number) {
            return false;
        }
        let Ok(listener) = TcpListener::bind((ip, number)).await else {
            return false;
        };
        let Ok(bound) = listener.local_addr() else {
            return false;
        };
        *port = bound.port().into();
        let accepts = accept(listener, address.to_owned(), *port, mux.clone(), handle);
        let accepts = tokio::spawn(accepts).abort_handle();
        self.listening.insert((address.to_owned(), *port), accepts);
        true
    }

    /// Ends the forwarding of a port.
    pub(super) fn cancel(&mut self, address: &str, port: u32) -> bool {
        if self.of_files.cancel(address, port) {
            return true;
        }
        let listening = self.listening.remove(&(address.to_owned(), port));
        if let Some(listening) = &listening {
            listening.abort();
        }
        listening.is_some()
    }

    /// Splits off the flag with which u-root's client names the port of its files. The port is used up by this.
    /// The second result is the command itself.
    pub(super) fn take_files<'a>(
        &mut self,
        command: &'a [u8],
        environment: &[(String, String)],
    ) -> (Option<UrootPort>, &'a [u8]) {
        let none = (None, command);
        let Some((port, nonce, rest)) = uroot::files_flag(command, environment) else {
            return none;
        };
        // With `-forward` there is a listener, which makes way for the session.
        let address = self.of_files.take(port).or_else(|| {
            let mut known = self.listening.keys();
            let (address, _) = known.find(|(_, other)| *other == port)?.clone();
            self.cancel(&address, port).then_some(address)
        });
        let Some(address) = address else { return none };
        let files = UrootPort {
            address,
            port,
            nonce,
        };
        (Some(files), rest)
    }

    /// Whether ports are forwarded.
    pub(super) fn is_allowed(&self) -> bool {
        self.allowed
    }
}

/// Connects to a port of this machine, for ssh -L.
pub(super) async fn connect(host: &str, port: u32) -> Option<OwnedFd> {
    let (ip, port) = (loopback(host)?, u16::try_from(port).ok()?);
    let stream = TcpStream::connect((ip, port)).await.ok()?;
    stream.into_std().map(OwnedFd::from).ok()
}

impl Drop for Forwards {
    fn drop(&mut self) {
        for listening in self.listening.values() {
            listening.abort();
        }
    }
}

fn loopback(host: &str) -> Option<IpAddr> {
    match host {
        "localhost" | "127.0.0.1" => Some(Ipv4Addr::LOCALHOST.into()),
        "::1" => Some(Ipv6Addr::LOCALHOST.into()),
        _ => None,
    }
}

async fn accept(listener: TcpListener, address: String, port: u32, mux: Mux, handle: Handle) {
    while let Ok((stream, from)) = listener.accept().await {
        let (mux, handle, address) = (mux.clone(), handle.clone(), address.clone());
        let Ok(stream) = stream.into_std().map(OwnedFd::from) else {
            continue;
        };
        tokio::spawn(async move {
            let from = from.port().into();
            if let Ok((receiver, sender)) =
                open_forwarded(&mux, &handle, &address, port, from).await
            {
                copy_both(receiver, sender, stream).await;
            }
        });
    }
}

/// Copies bytes in both directions until both have ended.
pub(super) async fn copy_both(receiver: ServerReceiver, sender: ServerSender, stream: OwnedFd) {
    let Ok(stream) = Fd::new(stream) else {
        sender.close().await;
        return;
    };
    let stream = Arc::new(stream);
    let to_stream = async {
        while let Some(chunk) = receiver.read(Stream::Data, CHUNK).await {
            if stream.write_all(&chunk).await.is_err() {
                receiver.discard();
                return;
            }
        }
        stream.shutdown(Shutdown::Write);
    };
    let from_stream = async {
        let mut buffer = BytesMut::new();
        while let Ok(bytes) = stream.read(&mut buffer).await
            && !bytes.is_empty()
        {
            if sender.send(Stream::Data, bytes).await.is_err() {
                // The client has gone, so nothing more will come from it either.
                return;
            }
        }
        let _ = sender.request(russh::ChannelWriteHalf::eof).await;
    };
    // A service that sends nothing must not keep a channel that the client has closed.
    let from_stream = async {
        tokio::select! {
            () = from_stream => {}
            () = sender.closed() => {}
        }
    };
    tokio::join!(to_stream, from_stream);
    sender.close().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted() -> Forwards {
        let mut forwards = Forwards::new(false);
        assert_eq!(forwards.of_files.grant("127.0.0.1"), Some(49_152));
        forwards
    }

    #[test]
    fn the_port_of_the_files_is_used_once_and_only_with_a_nonce() {
        let environment = [("CPUNONCE".to_owned(), "ab".to_owned())];
        let command = b"-port9p=49152 'ls' '-port9p=49152'";
        let mut forwards = granted();
        let (none, rest) = forwards.take_files(command, &[]);
        assert!(none.is_none() && rest == command);
        let (files, rest) = forwards.take_files(command, &environment);
        let files = files.unwrap();
        assert_eq!(
            (files.address.as_str(), files.port, files.nonce.as_str()),
            ("127.0.0.1", 49_152, "ab")
        );
        assert_eq!(rest, b" 'ls' '-port9p=49152'");
        let (none, rest) = forwards.take_files(command, &environment);
        assert!(none.is_none() && rest == command);
        for command in [
            &b" 'ls'"[..],
            b"-port9p= 'ls'",
            b"-port9p=x",
            b"'-port9p=49152'",
        ] {
            let (none, rest) = granted().take_files(command, &environment);
            assert!(none.is_none() && rest == command);
        }
    }

    #[test]
    fn only_what_was_granted_is_taken_back() {
        let mut forwards = granted();
        assert!(!forwards.cancel("::1", 49_152) && !forwards.cancel("127.0.0.1", 49_153));
        assert!(forwards.cancel("127.0.0.1", 49_152));
        assert!(!forwards.cancel("127.0.0.1", 49_152));
        for host in ["0.0.0.0", "", "*", "127.0.0.2", "::", "example.org"] {
            assert_eq!(loopback(host), None);
        }
    }
}
