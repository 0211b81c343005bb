//! The connection role: serves one SSH connection, the socket on standard input. Peers log in with public keys
//! only. The user's name does not matter, since the machine has no users.

mod certificate;
mod handler;
mod limits;
mod login;
mod requests;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use cpu_proto::{AuthorizedKeys, CacheMode, KeyOptions};
use cpu_ssh::mux::{FOREIGN_WINDOW, Side};
use cpu_ssh::{Mux, Socket, Throttle, algorithms, keepalive};
use russh::{ChannelId, Disconnect, MethodKind, MethodSet, SshId, server};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::audit::Who;
use super::channel::{ServerReceiver, ServerSender};
use super::exec::{Running, SessionRequest};
use super::forward::Forwards;
use super::host_key::PrivateHostKey;
use super::penalties::Offence;
use super::sessions::Sessions;
use super::{audit_log, auth, waiting};
use crate::console::{Roster, say};
use crate::flags::ServerOptions;
use crate::isolation::Isolation;
use login::LoginState;
pub(super) use login::{ASKED, LOGIN_GRACE, REFUSED, wanted_isolation};

/// How long it takes to refuse a wrong key: long enough to slow down guessing, too short to annoy somebody
/// whose agent offers five keys.
const REJECTION_TIME: Duration = Duration::from_millis(100);

/// How many keys a peer may offer. Nobody can guess a key, so sshd's six would protect nothing, and would keep out people
/// whose agents hold more keys than that. russh's default is ten.
const MAX_OFFERS: usize = 64;

/// How long sessions may take to end at the end of the connection, or when this process is told to end: longer than they give
/// their commands.
const SESSIONS_END: Duration = Duration::from_secs(5);

/// How long the peer may take to read the last messages then.
const LAST_MESSAGES: Duration = Duration::from_secs(1);

/// Serves the connection on standard input until it ends. The server has sent the identification. The result is what a
/// peer has done that did not log in.
pub(crate) fn run(options: &ServerOptions) -> Result<Option<Offence>> {
    audit_log::open(options.log, false)?;
    certificate::listen();
    let strict = options.strict_modes.unwrap_or(false);
    // The server has said which lines are left out.
    let keys = auth::read_public_keys(&options.public_keys, strict, false)?;
    let host_key = PrivateHostKey::read(&options.host_key, false)?.into_private_key();
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let socket = TcpStream::from(socket);
    // The processes that are started must not inherit the socket.
    let null = File::open("/dev/null").context("cannot open /dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    // Only a TCP socket has such an address.
    let peer = socket
        .peer_addr()
        .map(|peer| peer.ip().to_canonical().to_string());
    let peer = peer.unwrap_or_else(|_| "a local socket".to_owned());
    // Fails for other sockets, which send without delay. All kinds are read and written alike.
    let _ = socket.set_nodelay(true);
    socket.set_nonblocking(true)?;

    let identification = waiting::identification();
    let mut preferred = algorithms::preferred();
    if options.post_quantum {
        algorithms::only_post_quantum(&mut preferred);
    }
    let config = Arc::new(server::Config {
        server_id: SshId::Standard(identification.clone().into()),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        max_auth_attempts: MAX_OFFERS,
        auth_rejection_time: REJECTION_TIME,
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![host_key],
        preferred,
        inactivity_timeout: None,
        // russh would probe the peer before the login too; `watch` does it only afterwards.
        keepalive_interval: None,
        maximum_packet_size: algorithms::MAX_PACKET,
        window_size: FOREIGN_WINDOW,
        ..Default::default()
    });
    let throttle = Throttle::default();
    let login = LoginState::new();
    let sessions = Sessions::new(options.session_limits, options.mount);
    let handler = ConnectionHandler {
        mux: Mux::new(Side::Server, throttle.clone()),
        keys,
        options: KeyOptions::default(),
        isolate: options.isolate,
        fingerprint: String::new(),
        isolation: None,
        login: login.clone(),
        null,
        channels: HashMap::new(),
        files: Vec::new(),
        forwards: Forwards::new(options.forward),
        sessions: sessions.clone(),
        peer,
        who: None,
        roster: None,
        debug: options.debug,
    };

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::from_std(socket)?;
        let serve = async {
            let sent = identification.len() + "\r\n".len();
            let socket = Socket::after_identification(socket, throttle.clone(), sent);
            let session = server::run_stream(config, socket, handler).await?;
            login.send_modify(|login| login.handle = Some(session.handle()));
            session.await
        };
        tokio::select! {
            ended = serve => match ended {
                Err(error) if options.debug => say(format_args!("connection ended: {error:#}")),
                _ => {}
            },
            why = watch(&login, &throttle, options.alive) => if let Some(why) = why {
                say(why);
            },
            () = shut_down(&sessions, &login) => {}
        }
        anyhow::Ok(())
    })?;
    let has_sessions = sessions.are_open();
    // Closes the socket, and the control sockets of the sessions, which end.
    drop(runtime);
    if has_sessions {
        sessions.wait_for_last(SESSIONS_END);
    }
    login.send_modify(LoginState::add_certificate);
    let login = login.borrow();
    login.report_refusal();
    Ok(login.offence)
}

/// Returns when the connection has to end, with the reason: the peer has not logged in in time, or does not answer
/// any more. After the login a peer that is silent is probed every `interval`.
async fn watch(
    login: &watch::Sender<LoginState>,
    throttle: &Throttle,
    interval: Duration,
) -> Option<String> {
    let handle = match login::wait(login, throttle).await {
        Ok(Some(handle)) if !interval.is_zero() => handle,
        // Peers are not probed, or the connection has ended already.
        Ok(_) => return std::future::pending().await,
        // The server says so.
        Err(()) => return None,
    };
    let probe = || {
        let handle = handle.clone();
        // Any request that has to be answered will do. Of those that russh sends without a callback this one changes
        // nothing, since clients refuse it (RFC 4254, section 7.1).
        tokio::spawn(async move { handle.cancel_forward_tcpip(String::new(), 0).await });
    };
    let silence =
        keepalive::wait_for_silence(throttle, interval, keepalive::MAX_UNANSWERED, probe).await;
    Some(format!(
        "a peer has not answered for {silence:?}; its connection is closed"
    ))
}

/// Returns when this process is told to end, as when the machine is powered off, and has done so: its commands are hung up, and
/// their clients have got the rest of their output and how they ended.
async fn shut_down(sessions: &Sessions, login: &watch::Sender<LoginState>) {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        // Then the signal ends the process at once.
        return std::future::pending().await;
    };
    terminate.recv().await;
    sessions.end(SESSIONS_END).await;
    let handle = login.borrow().handle.clone();
    if let Some(handle) = handle {
        let why = "the server is shutting down".to_owned();
        let sent = handle.disconnect(Disconnect::ByApplication, why, String::new());
        // The connection ends when the message has been sent, and this with it.
        if sent.await.is_ok() {
            tokio::time::sleep(LAST_MESSAGES).await;
        }
    }
}

struct ConnectionHandler {
    mux: Mux,
    keys: AuthorizedKeys,
    /// What the key allows with which the peer has logged in.
    options: KeyOptions,
    /// Sessions are isolated, whatever the options of the key say.
    isolate: bool,
    /// The key with which the peer has logged in.
    fingerprint: String,
    /// The isolation of the key's sessions, or why there is none, if they are isolated.
    isolation: Option<io::Result<Arc<Isolation>>>,
    login: watch::Sender<LoginState>,
    /// /dev/null, to replace standard output after the login.
    null: File,
    channels: HashMap<ChannelId, ChannelState>,
    /// Channels of the `9p` subsystem that no command has taken yet.
    files: Vec<FilesChannel>,
    forwards: Forwards,
    sessions: Arc<Sessions>,
    /// The peer's address, and after the login who it is and its entry on the machine's screen.
    peer: String,
    who: Option<Who>,
    roster: Option<Roster>,
    debug: bool,
}

/// A session channel that is open.
struct ChannelState {
    receiver: ServerReceiver,
    sender: ServerSender,
    request: SessionRequest,
    /// Whether there was no room for one of its variables.
    lacks_variables: bool,
    running: Option<Running>,
}

/// A channel of the `9p` subsystem.
struct FilesChannel {
    /// Which command takes it ([`cpu_proto::ENV_FILES`]). If it has no name, the next one without.
    name: Option<String>,
    /// The mode of its mount.
    cache: CacheMode,
    receiver: ServerReceiver,
    sender: ServerSender,
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
