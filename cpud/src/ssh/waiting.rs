//! A peer that waits for a process: a connected socket to which this side has sent its identification, and from which
//! nothing has been taken yet.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Instant;

use cpu_proto::SERVER_ID_PREFIX;
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, recv, send, setsockopt, sockopt};

use super::admission::{self, MAX_FIRST_BYTES, Stage, UnauthenticatedPeer};
use super::source::PeerSource;
use crate::sys;

/// How this side identifies itself (RFC 4253, section 4.2).
pub(super) fn identification() -> String {
    format!("{SERVER_ID_PREFIX}{}", env!("CARGO_PKG_VERSION"))
}

/// Why a peer does not wait any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    /// It has closed the connection.
    Gone,
    /// It has sent something else than an SSH client does.
    NoSsh,
}

/// A peer that waits.
pub(super) struct WaitingPeer {
    pub(super) socket: OwnedFd,
    pub(super) peer: UnauthenticatedPeer,
    /// Its address, or what it is called without one.
    pub(super) address: String,
}

impl WaitingPeer {
    /// Greets who has connected. None if it has gone again. Only TCP sockets have addresses (`has_addresses`).
    pub(super) fn greet(socket: OwnedFd, has_addresses: bool, since: Instant) -> Option<Self> {
        let (socket, source, address) = if has_addresses {
            let socket = TcpStream::from(socket);
            let address = socket.peer_addr().ok()?.ip().to_canonical();
            (
                socket.into(),
                PeerSource::from(address),
                address.to_string(),
            )
        } else {
            (socket, PeerSource::Local, "a local socket".to_owned())
        };
        let greeting = identification() + "\r\n";
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let sent = send(socket.as_raw_fd(), greeting.as_bytes(), flags).ok()?;
        let progress = Stage::Connected;
        (sent == greeting.len()).then_some(Self {
            socket,
            peer: UnauthenticatedPeer {
                source,
                progress,
                since,
            },
            address,
        })
    }

    /// What is to be polled for.
    pub(super) fn events(&self) -> PollFlags {
        let hangup = PollFlags::from_bits_retain(libc::POLLRDHUP);
        if self.peer.progress < Stage::KeyExchange {
            PollFlags::POLLIN | hangup
        } else {
            hangup
        }
    }

    /// Looks at what has arrived.
    pub(super) fn look(&mut self, events: PollFlags) -> Result<(), Farewell> {
        let gone =
            PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::from_bits_retain(libc::POLLRDHUP);
        if events.intersects(gone) {
            return Err(Farewell::Gone);
        }
        let mut first_bytes = [0; MAX_FIRST_BYTES];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let Ok(length @ 1..) = recv(self.socket.as_raw_fd(), &mut first_bytes, flags) else {
            return Ok(());
        };
        if self.peer.source == PeerSource::Local {
            // Without a limit there is nothing to decide.
            self.peer.progress = Stage::KeyExchange;
            return Ok(());
        }
        self.peer.progress = admission::progress(&first_bytes[..length]).ok_or(Farewell::NoSsh)?;
        // The bytes stay, so it is readable only when there are more.
        let more = u16::try_from(length + 1).unwrap_or(u16::MAX);
        sys::set_receive_low_water(self.as_fd(), more).map_err(|_| Farewell::Gone)
    }

    /// The socket, for a process that serves the peer.
    pub(super) fn into_socket(self) -> io::Result<OwnedFd> {
        sys::set_receive_low_water(self.as_fd(), 1)?;
        Ok(self.socket)
    }

    /// Closes the connection without a trace of it in the kernel.
    pub(super) fn reset(self) {
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        // Of other sockets than TCP's nothing is left anyway.
        let _ = setsockopt(&self.socket, sockopt::Linger, &linger);
    }
}

impl AsFd for WaitingPeer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
