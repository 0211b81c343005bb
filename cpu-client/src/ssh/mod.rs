//! Connects to the machine, checks its host key, and logs in.

mod agent;
mod certificate;
pub(crate) mod config;
mod destination;
mod endpoint;
mod handler;
mod hostkeys;
mod identity;
mod login;
mod pattern;
mod port;
mod signer;
mod target;

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use cpu_proto::CLIENT_ID_PREFIX;
use cpu_ssh::{Mux, Peer, Socket, Throttle, algorithms, keepalive, mux::Side};
use russh::keys::Algorithm;
use russh::{SshId, client};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::debug;

use crate::events::Steps;
use crate::spinner::Spinner;
pub(crate) use handler::{ConnectionEvent, Handler};
pub(crate) use hostkeys::HostKeys;
pub(crate) use port::ForwardedPort;
pub(crate) use target::{ConnectOptions, SocketKind, Target};

pub(crate) type ChannelSender = cpu_ssh::Sender<client::Msg>;
pub(crate) type ChannelReceiver = cpu_ssh::Receiver<client::Msg>;

/// The identification of u-root's cpud begins with its operating system; its processor follows.
const U_ROOT_ID_PREFIX: &[u8] = b"SSH-2.0-linux ";

/// A connection to a server that has accepted the login.
pub(crate) struct ServerConnection {
    pub(crate) handle: Arc<client::Handle<Handler>>,
    pub(crate) mux: Mux,
    pub(crate) events: mpsc::UnboundedReceiver<ConnectionEvent>,
    pub(crate) server: ServerKind,
    expected: port::PendingConnection,
}

/// The kind of server, by its SSH identification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerKind {
    /// This project's cpud.
    Cpud,
    /// u-root's cpud. It has no shell either, and gets the files through a forwarded port.
    URoot,
    /// Anything else, such as sshd: runs commands through a shell.
    Sshd,
}

impl ServerKind {
    fn identify(peer: Peer, id: &[u8]) -> Self {
        match peer {
            Peer::Ours => Self::Cpud,
            Peer::Foreign if id.starts_with(U_ROOT_ID_PREFIX) => Self::URoot,
            Peer::Foreign => Self::Sshd,
        }
    }
}

impl ServerConnection {
    /// Measures the round-trip time: the shortest of three, since a busy machine answers late. To be called before the
    /// command is started.
    pub(crate) fn measure_path(&self) -> JoinHandle<Option<Duration>> {
        let (handle, mux) = (self.handle.clone(), self.mux.clone());
        tokio::spawn(async move {
            let mut time = Duration::MAX;
            for _ in 0..3 {
                let start = Instant::now();
                handle.send_ping().await.ok()?;
                time = time.min(start.elapsed());
            }
            debug!("round trip: {time:?}");
            mux.set_round_trip(time);
            Some(time)
        })
    }

    /// Requests the port through which u-root's cpud gets the files.
    pub(crate) async fn ask_for_port(&self) -> Result<ForwardedPort> {
        ForwardedPort::ask(&self.handle, &self.expected).await
    }
}

/// Connects and logs in.
pub(crate) async fn connect(
    target: &Target,
    spinner: &Spinner,
    steps: &Steps,
) -> Result<ServerConnection> {
    steps.begin("read keys");
    let keys = login::collect(&target.identities).await?;
    let endpoint = &target.endpoint;
    let throttle = Throttle::default();
    let listened = throttle.clone();
    let mux = Mux::new(Side::Client, throttle.clone());
    let (events_tx, events) = mpsc::unbounded_channel();
    let expected = port::PendingConnection::default();
    let server = Arc::new(OnceLock::new());
    let handler = Handler::new(
        mux.clone(),
        target.host_keys.clone(),
        events_tx.clone(),
        server.clone(),
        expected.clone(),
        target.forward_agent.clone(),
    );
    steps.begin("connect");
    spinner.set(format!("connecting to {endpoint}"));
    spinner.share(matches!(endpoint, endpoint::Endpoint::Command { .. }));
    let exchange = async {
        let addresses = endpoint::addresses(endpoint);
        let addresses = addresses.await.map_err(handler::Error::Plain)?;
        let stream = endpoint::open(endpoint, &addresses).await;
        let stream = stream.map_err(russh::Error::IO)?;
        debug!("connected to {endpoint}");
        steps.begin("exchange keys");
        spinner.set(format!("waiting for {endpoint} to answer"));
        let config = Arc::new(config(target));
        client::connect_stream(config, Socket::new(stream, throttle), handler).await
    };
    tokio::pin!(exchange);
    let exchanged = match target.connect_timeout {
        None => exchange.await,
        Some(limit) => loop {
            match tokio::time::timeout(limit, &mut exchange).await {
                Ok(exchanged) => break exchanged,
                Err(_) if target.host_keys.has_asked() => {}
                Err(_) => bail!(
                    "cannot connect to {endpoint}: no answer within {} seconds; is the \
                     machine up (it may still be booting), and is cpud running on it?",
                    limit.as_secs()
                ),
            }
        },
    };
    let mut handle = exchanged.map_err(|error| match error {
        handler::Error::Plain(error) => error,
        handler::Error::Ssh(russh::Error::IO(error)) => anyhow!(
            "cannot connect to {endpoint}: {error}; is the machine up (it may still be booting), and is cpud running on it?"
        ),
        handler::Error::Ssh(russh::Error::Disconnect) => anyhow!(
            "cannot connect to {endpoint}: it answers, but ends the connection; is it an SSH server?"
        ),
        error => anyhow!("cannot connect to {endpoint}: {error}"),
    })?;
    steps.begin("log in");
    spinner.set(format!("logging in to {endpoint}"));
    spinner.share(false);
    let peer = mux.peer();
    keys.log_in(&mut handle, peer, &target.user, endpoint, spinner)
        .await?;
    if let Some(interval) = target.alive_interval {
        let events = events_tx.downgrade();
        tokio::spawn(watch(
            listened,
            mux.clone(),
            events,
            interval,
            target.alive_max,
        ));
    }
    let id = server.get().map_or(&[][..], Vec::as_slice);
    let server = ServerKind::identify(peer, id);
    Ok(ServerConnection {
        handle: Arc::new(handle),
        mux,
        events,
        server,
        expected,
    })
}

/// Ends the connection when the server has not answered `max` keepalive requests in a row (0: never). russh's client
/// sends them every `interval`. It could end the connection itself, but does not know when it is we who are not reading.
async fn watch(
    throttle: Throttle,
    mux: Mux,
    events: mpsc::WeakUnboundedSender<ConnectionEvent>,
    interval: Duration,
    max: usize,
) {
    let silence = keepalive::wait_for_silence(&throttle, interval, max, || {}).await;
    let Some(events) = events.upgrade() else {
        return; // it has ended before
    };
    let reason = format!("no answer for {} seconds", silence.as_secs());
    // Fails only if the session has ended already.
    let _ = events.send(ConnectionEvent::Disconnected(reason));
    mux.close_all();
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
    if target.host_keys.has_authority() {
        preferred.host_key_certificates.clone_from(&preferred.key);
    }
    client::Config {
        client_id: SshId::Standard(
            format!("{CLIENT_ID_PREFIX}{}", env!("CARGO_PKG_VERSION")).into(),
        ),
        preferred,
        keepalive_interval: target.alive_interval,
        // `watch` ends the connection.
        keepalive_max: 0,
        maximum_packet_size: algorithms::MAX_PACKET,
        window_size: cpu_ssh::mux::WINDOW,
        ..Default::default()
    }
}

/// An RSA key has one type but several signature algorithms.
fn is_same_type(one: &Algorithm, other: &Algorithm) -> bool {
    one == other || matches!((one, other), (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }))
}
