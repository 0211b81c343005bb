//! The way to the machine: connect, check its host key, log in.

mod handler;
mod hostkeys;
mod known_hosts;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use cpu_proto::CLIENT_ID_PREFIX;
use cpu_ssh::{Gate, Mux, Peer, Socket, algorithms};
use russh::keys::{Algorithm, HashAlg, PrivateKey, PrivateKeyWithHashAlg};
use russh::{SshId, client};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tracing::debug;

pub(crate) use handler::{Event, Handler};
pub(crate) use hostkeys::HostKeys;

/// From the first packet to the end of the key exchange. A machine whose network eats packets
/// must be told of within 15 seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(13);

/// From the end of the key exchange to the login's answer.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Where to go and as whom.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) key: PathBuf,
    pub(crate) host_keys: HostKeys,
}

/// A connection that is logged in.
pub(crate) struct Connection {
    pub(crate) handle: client::Handle<Handler>,
    pub(crate) mux: Mux,
    pub(crate) events: mpsc::UnboundedReceiver<Event>,
}

/// Connect and log in.
pub(crate) async fn connect(target: &Target) -> Result<Connection> {
    let key = load_key(&target.key)?;
    let (host, port) = (&target.host, target.port);
    let gate = Gate::default();
    let mux = Mux::new(gate.clone());
    let (events_tx, events) = mpsc::unbounded_channel();
    let handler = Handler::new(mux.clone(), target.host_keys.clone(), events_tx);
    let exchange = async {
        let stream = TcpStream::connect((host.as_str(), port))
            .await
            .map_err(russh::Error::IO)?;
        stream.set_nodelay(true).map_err(russh::Error::IO)?;
        debug!("connected to {host} port {port}");
        let config = Arc::new(config(target));
        client::connect_stream(config, Socket::new(stream, gate), handler).await
    };
    let mut handle = tokio::time::timeout(CONNECT_TIMEOUT, exchange)
        .await
        .map_err(|_| {
            anyhow!(
                "cannot connect to {host} port {port}: no answer within {} seconds; is the \
                 machine up, and is cpud running on it?",
                CONNECT_TIMEOUT.as_secs()
            )
        })?
        .map_err(|error| match error {
            handler::Error::HostKey(error) => error,
            handler::Error::Ssh(russh::Error::IO(error)) => anyhow!(
                "cannot connect to {host} port {port}: {error}; is the machine up, and is cpud \
                 running on it?"
            ),
            error => anyhow!("cannot connect to {host} port {port}: {error}"),
        })?;
    let hash = match mux.peer() {
        Peer::Ours => Some(HashAlg::Sha512),
        Peer::Foreign if key.algorithm().is_rsa() => handle
            .best_supported_rsa_hash()
            .await
            .ok()
            .flatten()
            .flatten()
            .or(Some(HashAlg::Sha512)),
        Peer::Foreign => None,
    };
    let login = handle.authenticate_publickey(
        &target.user,
        PrivateKeyWithHashAlg::new(Arc::new(key), hash),
    );
    let answer = tokio::time::timeout(LOGIN_TIMEOUT, login)
        .await
        .map_err(|_| anyhow!("{host} port {port} does not answer the login"))?
        .with_context(|| format!("{host} port {port} ended the connection during the login"))?;
    if !answer.success() {
        bail!(
            "{host} port {port} refuses the key {}; its public half must be among cpud's keys \
             (give another with -key)",
            target.key.display()
        );
    }
    debug!("logged in with {}", target.key.display());
    Ok(Connection {
        handle,
        mux,
        events,
    })
}

fn config(target: &Target) -> client::Config {
    let mut preferred = algorithms::preferred();
    let known = target.host_keys.known_types();
    if !known.is_empty() {
        let (mut first, rest): (Vec<_>, Vec<_>) = preferred
            .key
            .iter()
            .cloned()
            .partition(|algorithm| known.iter().any(|k| is_same_type(k, algorithm)));
        first.extend(rest);
        preferred.key = Cow::Owned(first);
    }
    client::Config {
        client_id: SshId::Standard(
            format!("{CLIENT_ID_PREFIX}{}", env!("CARGO_PKG_VERSION")).into(),
        ),
        preferred,
        keepalive_interval: Some(algorithms::KEEPALIVE_INTERVAL),
        keepalive_max: algorithms::KEEPALIVE_MAX,
        maximum_packet_size: algorithms::PACKET,
        ..Default::default()
    }
}

fn load_key(path: &Path) -> Result<PrivateKey> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!(
            "cannot read the private key {} (give one with -key, or make one with mkimage keys)",
            path.display()
        )
    })?;
    russh::keys::decode_secret_key(&text, None)
        .with_context(|| format!("{} is not a private key that can be read", path.display()))
}

/// RSA keys have one type and several signature algorithms.
fn is_same_type(one: &Algorithm, other: &Algorithm) -> bool {
    one == other || matches!((one, other), (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }))
}
