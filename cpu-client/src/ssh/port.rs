//! The port through which u-root's cpud gets the client's files. The server listens on its loopback interface; the session
//! connects there and sends a nonce. Only one connection is ever accepted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cpu_ssh::Stream;
use russh::client;
use subtle::ConstantTimeEq as _;
use tokio::sync::oneshot;

use super::{ChannelReceiver, ChannelSender, Handler};

/// The longest time from the connection to its nonce.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The length of a nonce, in characters.
const NONCE_LENGTH: usize = 32;

/// The forwarded connection that the SSH handler may accept, if any.
#[derive(Clone, Default)]
pub(super) struct PendingConnection(Arc<Mutex<Option<PendingAccept>>>);

struct PendingAccept {
    port: u32,
    connected: oneshot::Sender<(ChannelReceiver, ChannelSender)>,
}

impl PendingConnection {
    fn lock(&self) -> MutexGuard<'_, Option<PendingAccept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where to send the first connection to `port`; `None` for any other.
    pub(super) fn take(
        &self,
        port: u32,
    ) -> Option<oneshot::Sender<(ChannelReceiver, ChannelSender)>> {
        let mut wanted = self.lock();
        let wanted = wanted.take_if(|wanted| wanted.port == port)?;
        Some(wanted.connected)
    }
}

/// A port of the server that is forwarded to this process.
pub(crate) struct ForwardedPort {
    pub(crate) port: u32,
    /// The session gets it in its environment, and must send it.
    pub(crate) nonce: String,
    address: &'static str,
    connected: oneshot::Receiver<(ChannelReceiver, ChannelSender)>,
}

impl ForwardedPort {
    /// Requests a port on the loopback interface of the server.
    pub(super) async fn ask(
        handle: &client::Handle<Handler>,
        expected: &PendingConnection,
    ) -> Result<Self> {
        let mut bytes = [0; NONCE_LENGTH / 2];
        getrandom::fill(&mut bytes).context("cannot get random bytes from the system")?;
        let nonce = format!("{:0NONCE_LENGTH$x}", u128::from_ne_bytes(bytes));
        let (connected_tx, connected) = oneshot::channel();
        for address in ["127.0.0.1", "::1"] {
            if let Ok(port) = handle.tcpip_forward(address, 0).await {
                *expected.lock() = Some(PendingAccept {
                    port,
                    connected: connected_tx,
                });
                return Ok(Self {
                    port,
                    nonce,
                    address,
                    connected,
                });
            }
        }
        bail!("the server grants no port for the files of this machine; use -9p=false without them")
    }

    /// Waits for a connection, cancels the forwarding, and checks the nonce.
    pub(crate) async fn accept(
        self,
        handle: &client::Handle<Handler>,
    ) -> Result<(ChannelReceiver, ChannelSender)> {
        let (receiver, sender) = self
            .connected
            .await
            .context("the connection ended before the session asked for files")?;
        // If that fails, a second connection is still refused here.
        let _ = handle.cancel_tcpip_forward(self.address, self.port).await;
        let told = async {
            let mut told = Vec::new();
            while told.len() < NONCE_LENGTH {
                match receiver.read(Stream::Data, NONCE_LENGTH - told.len()).await {
                    Some(bytes) => told.extend_from_slice(&bytes),
                    None => break,
                }
            }
            told
        };
        let told = tokio::time::timeout(TIMEOUT, told)
            .await
            .unwrap_or_default();
        if bool::from(told.ct_eq(self.nonce.as_bytes())) {
            return Ok((receiver, sender));
        }
        sender.close().await;
        bail!(
            "something else than the session connected to port {} of the server; it gets no files",
            self.port
        )
    }
}
