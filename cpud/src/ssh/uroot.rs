//! The port that u-root's client asks for, to serve its files through. Nothing listens there, since nobody
//! but our own session is to connect to it.

use std::collections::HashMap;

use anyhow::Result;
use cpu_ssh::{Mux, Stream};
use russh::server::Handle;

use super::channel::{Receiver, Sender, open_forwarded};

/// How u-root's client, as everything made with Go's library, identifies itself.
const GO_ID_PREFIX: &[u8] = b"SSH-2.0-Go";

/// Whether a peer may be u-root's client.
pub(super) fn is_client(peer: &[u8]) -> bool {
    peer.starts_with(GO_ID_PREFIX)
}

/// UrootPorts that nobody listens on: the address that was asked for, by the port that was given.
#[derive(Default)]
pub(super) struct UrootPorts(HashMap<u32, String>);

impl UrootPorts {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// A port as the kernel would give one; distinct for each.
    pub(super) fn grant(&mut self, address: &str) -> Option<u32> {
        let free = (49_152..65_536).find(|port| !self.0.contains_key(port))?;
        self.0.insert(free, address.to_owned());
        Some(free)
    }

    pub(super) fn cancel(&mut self, address: &str, port: u32) -> bool {
        self.0.get(&port).is_some_and(|of| of == address) && self.0.remove(&port).is_some()
    }

    /// The address of a port that was granted, which is used up.
    pub(super) fn take(&mut self, port: u32) -> Option<String> {
        self.0.remove(&port)
    }
}

/// What u-root's client writes before the command: the flag that names the port of its files. The result is
/// the port, the nonce that belongs to it, and the command itself.
pub(super) fn files_flag<'a>(
    command: &'a [u8],
    environment: &[(String, String)],
) -> Option<(u32, String, &'a [u8])> {
    let rest = command.strip_prefix(b"-port9p=")?;
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let (number, rest) = rest.split_at(digits);
    let port = str::from_utf8(number).ok()?.parse().ok()?;
    let (_, nonce) = environment.iter().find(|(name, _)| name == "CPUNONCE")?;
    Some((port, nonce.clone(), rest))
}

/// A port that u-root's client serves its files through.
pub(super) struct UrootPort {
    pub(super) address: String,
    pub(super) port: u32,
    pub(super) nonce: String,
}

impl UrootPort {
    /// Connect to the port, so to speak: the client sees a connection from this machine that knows its nonce.
    pub(super) async fn connect(self, mux: &Mux, handle: &Handle) -> Result<(Receiver, Sender)> {
        let (receiver, sender) =
            open_forwarded(mux, handle, &self.address, self.port, self.port).await?;
        sender.send(Stream::Data, self.nonce.into()).await?;
        Ok((receiver, sender))
    }
}
