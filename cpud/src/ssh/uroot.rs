//! The port that u-root's client asks for, to serve its files through. cpud only reports a port number and
//! never opens the port, since nobody but the client's own session may connect to it.

use std::collections::HashMap;

use anyhow::Result;
use cpu_ssh::{Mux, Stream};
use russh::server::Handle;

use super::channel::{ServerReceiver, ServerSender, open_forwarded};

/// The identification of u-root's client, and of everything else that uses Go's library.
const GO_ID_PREFIX: &[u8] = b"SSH-2.0-Go";

/// Whether a peer may be u-root's client.
pub(super) fn is_client(peer: &[u8]) -> bool {
    peer.starts_with(GO_ID_PREFIX)
}

/// Port numbers that were reported and not opened, each with the address that was asked for.
#[derive(Default)]
pub(super) struct UrootPorts(HashMap<u32, String>);

impl UrootPorts {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Another port number, from the range that the kernel takes them from.
    pub(super) fn grant(&mut self, address: &str) -> Option<u32> {
        let free = (49_152..65_536).find(|port| !self.0.contains_key(port))?;
        self.0.insert(free, address.to_owned());
        Some(free)
    }

    pub(super) fn cancel(&mut self, address: &str, port: u32) -> bool {
        self.0.get(&port).is_some_and(|of| of == address) && self.0.remove(&port).is_some()
    }

    /// Uses a port up. The result is its address.
    pub(super) fn take(&mut self, port: u32) -> Option<String> {
        self.0.remove(&port)
    }
}

/// Splits off the flag `-port9p=PORT` that u-root's client puts before the command. The result is the port,
/// its nonce from the environment, and the command itself.
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

/// A port through which u-root's client serves its files.
pub(super) struct UrootPort {
    pub(super) address: String,
    pub(super) port: u32,
    pub(super) nonce: String,
}

impl UrootPort {
    /// Opens the channel that a connection to the port would have, and sends the nonce, which the client expects
    /// first.
    pub(super) async fn connect(
        self,
        mux: &Mux,
        handle: &Handle,
    ) -> Result<(ServerReceiver, ServerSender)> {
        let (receiver, sender) =
            open_forwarded(mux, handle, &self.address, self.port, self.port).await?;
        sender.send(Stream::Data, self.nonce.into()).await?;
        Ok((receiver, sender))
    }
}
