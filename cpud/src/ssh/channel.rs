//! The two halves of an SSH channel on the server's side.

use anyhow::Result;
use cpu_ssh::Mux;
use russh::server::{Handle, Msg};

pub(super) type ServerReceiver = cpu_ssh::Receiver<Msg>;
pub(super) type ServerSender = cpu_ssh::Sender<Msg>;

/// The most bytes taken at once from what the client has sent.
pub(super) const CHUNK: usize = 256 * 1024;

/// A `forwarded-tcpip` channel to the client (RFC 4254, section 7.2).
pub(super) async fn open_forwarded(
    mux: &Mux,
    handle: &Handle,
    address: &str,
    port: u32,
    from: u32,
) -> Result<(ServerReceiver, ServerSender)> {
    let expected = mux.begin_open();
    let channel = handle
        .channel_open_forwarded_tcpip(address, port, "127.0.0.1", from)
        .await?;
    Ok(expected.open(channel))
}
