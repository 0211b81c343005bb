//! u-root's cpud gets its client's files through a port: it listens on its own loopback, and whoever connects
//! there first and knows the nonce is the session. One connection, ever.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cpu_ssh::Stream;
use russh::client::{self, Msg};
use subtle::ConstantTimeEq as _;
use tokio::sync::oneshot;

use super::Handler;

type Sender = cpu_ssh::Sender<Msg>;
type Receiver = cpu_ssh::Receiver<Msg>;

/// From the connection to its nonce.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Characters of a nonce.
const NONCE: usize = 32;

/// What the connection's handler may accept: nothing, or one connection to a port.
#[derive(Clone, Default)]
pub(super) struct Expected(Arc<Mutex<Option<Wanted>>>);

struct Wanted {
    port: u32,
    connected: oneshot::Sender<(Receiver, Sender)>,
}

impl Expected {
    fn lock(&self) -> MutexGuard<'_, Option<Wanted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever connected to `port` first; nobody after that.
    pub(super) fn take(&self, port: u32) -> Option<oneshot::Sender<(Receiver, Sender)>> {
        let mut wanted = self.lock();
        let wanted = wanted.take_if(|wanted| wanted.port == port)?;
        Some(wanted.connected)
    }
}

/// A port over there that leads here.
pub(crate) struct FilesPort {
    pub(crate) port: u32,
    /// To be told to the session, and by it.
    pub(crate) nonce: String,
    address: &'static str,
    connected: oneshot::Receiver<(Receiver, Sender)>,
}

impl FilesPort {
    /// Ask the server for a port on its loopback.
    pub(super) async fn ask(handle: &client::Handle<Handler>, expected: &Expected) -> Result<Self> {
        let mut bytes = [0; NONCE / 2];
        getrandom::fill(&mut bytes).context("this machine's kernel gives no random numbers")?;
        let nonce = format!("{:0NONCE$x}", u128::from_ne_bytes(bytes));
        let (connected_tx, connected) = oneshot::channel();
        for address in ["127.0.0.1", "::1"] {
            if let Ok(port) = handle.tcpip_forward(address, 0).await {
                *expected.lock() = Some(Wanted {
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

    /// Wait for the session, take the port back, and see that it is the session.
    pub(crate) async fn accept(
        self,
        handle: &client::Handle<Handler>,
    ) -> Result<(Receiver, Sender)> {
        let (receiver, sender) = self
            .connected
            .await
            .context("the connection ended before the session asked for files")?;
        // Whatever it answers: a second connection is refused here too.
        let _ = handle.cancel_tcpip_forward(self.address, self.port).await;
        let told = async {
            let mut told = Vec::new();
            while told.len() < NONCE {
                match receiver.read(Stream::Data, NONCE - told.len()).await {
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
