//! The connection role: one SSH connection, on standard input, from its first byte to its last.
//! Public keys only; the user's name does not matter, for the machine has no users.

mod handler;
mod requests;

use std::collections::HashMap;
use std::fs::File;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use cpu_proto::{Cache, SERVER_ID_PREFIX};
use cpu_ssh::channel::{FOREIGN_WINDOW, Side};
use cpu_ssh::{Gate, Mux, Socket, algorithms, alive};
use russh::keys::PublicKey;
use russh::{ChannelId, MethodKind, MethodSet, SshId, server};
use tokio::sync::watch;

use super::auth;
use super::channel::{Receiver, Sender};
use super::exec::{Running, SessionRequest};
use super::forward::Forwards;
use crate::console::{Roster, say};
use crate::flags::ServerOptions;

/// How long a peer may take to log in: somebody may be looking for a token, or a passphrase. As sshd's LoginGraceTime.
const LOGIN_GRACE: Duration = Duration::from_mins(2);

/// How long a wrong key takes to be refused: enough to slow a guesser, too short to annoy
/// somebody whose agent offers five keys.
const REJECTION_TIME: Duration = Duration::from_millis(100);

/// How many keys a peer may offer. Nobody guesses one; an agent may well hold more than the ten of russh.
const MAX_OFFERS: usize = 64;

/// Serve the connection on standard input until it ends.
pub(crate) fn run(options: &ServerOptions) -> Result<()> {
    let keys = auth::read_public_keys(&options.public_keys)?;
    let host_key = auth::read_host_key(&options.host_key)?;
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let socket = TcpStream::from(socket);
    // Standard input is the socket too; nothing but this process may hold it open.
    let null = File::open("/dev/null").context("cannot open /dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    // Nor do they have such addresses.
    let peer = socket
        .peer_addr()
        .map(|peer| peer.ip().to_canonical().to_string());
    let peer = peer.unwrap_or_default();
    // Other sockets than TCP's have no such delay; all are read and written alike.
    let _ = socket.set_nodelay(true);
    socket.set_nonblocking(true)?;

    let mut preferred = algorithms::preferred();
    if options.post_quantum {
        algorithms::only_post_quantum(&mut preferred);
    }
    let config = Arc::new(server::Config {
        server_id: SshId::Standard(
            format!("{SERVER_ID_PREFIX}{}", env!("CARGO_PKG_VERSION")).into(),
        ),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        max_auth_attempts: MAX_OFFERS,
        auth_rejection_time: REJECTION_TIME,
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![host_key],
        preferred,
        inactivity_timeout: None,
        // It would ask before the login too; `watch` asks.
        keepalive_interval: None,
        maximum_packet_size: algorithms::PACKET,
        window_size: FOREIGN_WINDOW,
        ..Default::default()
    });
    let gate = Gate::default();
    let (logged_in_tx, logged_in) = watch::channel(None);
    let handler = ConnectionHandler {
        mux: Mux::new(Side::Server, gate.clone()),
        keys,
        logged_in: logged_in_tx,
        null,
        channels: HashMap::new(),
        files: Vec::new(),
        forwards: Forwards::new(options.forward),
        peer,
        roster: None,
        debug: options.debug,
    };

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::from_std(socket)?;
        let serve = async {
            let socket = Socket::new(socket, gate.clone());
            let session = server::run_stream(config, socket, handler).await?;
            session.await
        };
        tokio::select! {
            ended = serve => match ended {
                Err(error) if options.debug => say(format_args!("connection ended: {error:#}")),
                _ => {}
            },
            why = watch(logged_in, &gate, options.alive) => say(why),
        }
        Ok(())
    })
}

/// Returns why the connection has to end: the peer does not log in, or has gone without a word. It is asked every
/// `interval` whether it is there, once it has logged in.
async fn watch(
    mut logged_in: watch::Receiver<Option<server::Handle>>,
    gate: &Gate,
    interval: Duration,
) -> String {
    let login = logged_in.wait_for(Option::is_some);
    let login = tokio::time::timeout(LOGIN_GRACE, login).await;
    let handle = match login.map(|login| login.ok().and_then(|handle| handle.clone())) {
        Ok(Some(handle)) if !interval.is_zero() => handle,
        // Nobody asks, or it has ended already.
        Ok(_) => return std::future::pending().await,
        Err(_) => return format!("a peer did not log in within {LOGIN_GRACE:?}"),
    };
    let ask = || {
        let handle = handle.clone();
        // Any question will do; of those that russh can ask without a callback this one changes nothing: clients
        // have no such forward, and refuse all of them (RFC 4254, section 7.1).
        tokio::spawn(async move { handle.cancel_forward_tcpip(String::new(), 0).await });
    };
    let silence = alive::silence(gate, interval, alive::MAX, ask).await;
    format!("a peer has not answered for {silence:?}; its connection is over")
}

struct ConnectionHandler {
    mux: Mux,
    keys: Vec<PublicKey>,
    logged_in: watch::Sender<Option<server::Handle>>,
    /// /dev/null, for standard output after the login.
    null: File,
    channels: HashMap<ChannelId, ChannelState>,
    /// Channels of the `9p` subsystem for the next command, each for a mount in this cache mode.
    files: Vec<(Cache, Receiver, Sender)>,
    forwards: Forwards,
    /// For the machine's screen: where the peer is, and once he has logged in who he is and what he runs.
    peer: String,
    roster: Option<Roster>,
    debug: bool,
}

/// A session channel that has not been closed.
struct ChannelState {
    receiver: Receiver,
    sender: Sender,
    request: SessionRequest,
    running: Option<Running>,
}

impl Drop for ConnectionHandler {
    fn drop(&mut self) {
        self.mux.close_all();
    }
}

impl ConnectionHandler {
    fn log(&self, line: impl FnOnce() -> String) {
        if self.debug {
            say(line());
        }
    }
}
