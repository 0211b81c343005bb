//! The connection role: one SSH connection, on standard input, from its first byte to its last.
//! Public keys only; the user's name does not matter, for the machine has no users.

use std::collections::HashMap;
use std::fs::File;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use cpu_proto::{CLIENT_ID_PREFIX, Cache, Credentials, SERVER_ID_PREFIX, quote};
use cpu_ssh::channel::{FOREIGN_WINDOW, Side};
use cpu_ssh::{Gate, Mux, Socket, Stream, algorithms, alive, signals};
use nix::pty::Winsize;
use russh::keys::{Algorithm, PublicKey};
use russh::server::{Auth, ChannelOpenHandle, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{
    Channel, ChannelId, ChannelOpenFailure, MethodKind, MethodSet, Pty, Sig, SshId, server,
};
use tokio::sync::watch;

use super::channel::{Receiver, Sender};
use super::exec::{self, Files, Request, Running, Terminal};
use super::forward::{self, Forwards};
use super::{Options, auth};
use crate::console::{Roster, say};

/// How long a peer may take to log in: somebody may be looking for a token, or a passphrase. As sshd's LoginGraceTime.
const LOGIN_GRACE: Duration = Duration::from_mins(2);

/// How long a wrong key takes to be refused: enough to slow a guesser, too short to annoy
/// somebody whose agent offers five keys.
const REJECTION: Duration = Duration::from_millis(100);

/// How many keys a peer may offer. Nobody guesses one; an agent may well hold more than the ten of russh.
const MAX_OFFERS: usize = 64;

/// Serve the connection on standard input until it ends.
pub(crate) fn run(options: &Options) -> Result<()> {
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
        auth_rejection_time: REJECTION,
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
    let handler = Connection {
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

struct Connection {
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
    request: Request,
    running: Option<Running>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.mux.close_all();
    }
}

impl Connection {
    fn log(&self, line: impl FnOnce() -> String) {
        if self.debug {
            say(line());
        }
    }

    fn is_allowed(&self, key: &PublicKey, algorithm: &Algorithm) -> bool {
        // SHA-1 signatures are forgeable.
        let sha1 = matches!(algorithm, Algorithm::Rsa { hash: None });
        !sha1
            && self
                .keys
                .iter()
                .any(|known| known.key_data() == key.key_data())
    }

    /// Start what was asked for on a channel and answer; a failure to start is told on the
    /// channel's standard error, with the status that a shell would give.
    fn start(&mut self, id: ChannelId, command: &[u8], session: &mut Session) -> Result<()> {
        let Some(state) = self.channels.get_mut(&id) else {
            return Ok(());
        };
        if state.running.is_some() {
            session.channel_failure(id)?;
            return Ok(());
        }
        let mut request = std::mem::take(&mut state.request);
        let (port, command) = self.forwards.take_files(command, &request.environment);
        let read = Credentials::take(command).map_err(|error| error.to_string());
        let read = read.and_then(|(user, words)| match quote::split(words) {
            Ok(words) => Ok((user, words)),
            Err(error) => Err(error.to_string()),
        });
        (request.user, request.words) = match read {
            Ok(read) => read,
            Err(why) => {
                refuse(
                    state.sender.clone(),
                    format!("cannot read the command: {why}"),
                );
                return Ok(());
            }
        };
        if is_scp(&request.words) {
            session.channel_success(id)?;
            refuse(state.sender.clone(), no("scp"));
            return Ok(());
        }
        request.files = match port {
            Some(port) => vec![(Cache::default(), Files::Port(port, self.mux.clone()))],
            None => self
                .files
                .drain(..)
                .map(|(cache, receiver, sender)| (cache, Files::Channel(receiver, sender)))
                .collect(),
        };
        let listed = self
            .roster
            .as_ref()
            .map(|roster| roster.list(&request.words));
        let started = exec::start(
            request,
            state.receiver.clone(),
            state.sender.clone(),
            session.handle(),
            listed,
        );
        match started {
            Ok(running) => {
                state.running = Some(running);
                session.channel_success(id)?;
            }
            Err(error) => refuse(state.sender.clone(), format!("{error:#}")),
        }
        Ok(())
    }
}

/// Whether it is what `scp -O`, and every scp before OpenSSH 9, asks of a server. A person types neither.
fn is_scp(words: &[Vec<u8>]) -> bool {
    words.first().is_some_and(|word| word == b"scp")
        && words.iter().any(|word| word == b"-t" || word == b"-f")
}

/// Why something is refused that copies files.
fn no(what: &str) -> String {
    format!("there is no {what} here; cpu brings your files along: cpu HOST cp ...")
}

/// Tell why a command is not started, and end its channel.
fn refuse(sender: Sender, why: String) {
    tokio::spawn(async move {
        let line = Bytes::from(format!("cpud: {why}\n"));
        let _ = sender.send(Stream::Stderr, line).await;
        let _ = sender.request(|write| write.exit_status(255)).await;
        let _ = sender.request(russh::ChannelWriteHalf::eof).await;
        sender.close().await;
    });
}

fn window(columns: u32, rows: u32, x_pixels: u32, y_pixels: u32) -> Winsize {
    let short = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    Winsize {
        ws_row: short(rows),
        ws_col: short(columns),
        ws_xpixel: short(x_pixels),
        ws_ypixel: short(y_pixels),
    }
}

impl server::Handler for Connection {
    type Error = anyhow::Error;

    fn adjust_window(&mut self, channel: ChannelId, current: u32) -> u32 {
        self.mux.window(channel, current)
    }

    async fn auth_publickey_offered(
        &mut self,
        _user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth> {
        Ok(if self.is_allowed(offer.public_key, offer.algorithm) {
            Auth::Accept
        } else {
            Auth::reject()
        })
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth> {
        if !self.is_allowed(key.public_key, key.algorithm) {
            return Ok(Auth::reject());
        }
        self.log(|| {
            format!(
                "{user} logged in with {}",
                cpu_proto::fingerprint(key.public_key)
            )
        });
        let is_it = |known: &&PublicKey| known.key_data() == key.public_key.key_data();
        let known = self.keys.iter().find(is_it);
        let comment = known.map(|known| known.comment().to_string());
        self.roster = Roster::new(user, self.peer.clone(), &comment.unwrap_or_default());
        Ok(Auth::Accept)
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Result<()> {
        self.logged_in.send_replace(Some(session.handle()));
        // Its end tells the server.
        nix::unistd::dup2_stdout(&self.null)?;
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<()> {
        let id = channel.id();
        self.mux.identify(session.remote_sshid(), CLIENT_ID_PREFIX);
        let (receiver, sender) = self.mux.open(channel);
        // Those whose end came from here.
        self.channels.retain(|_, state| !state.sender.is_closed());
        let state = ChannelState {
            receiver,
            sender,
            request: Request::default(),
            running: None,
        };
        self.channels.insert(id, state);
        reply.accept().await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _from: &str,
        _from_port: u32,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<()> {
        if !self.forwards.is_allowed() {
            reply
                .reject(ChannelOpenFailure::AdministrativelyProhibited)
                .await;
            return Ok(());
        }
        self.mux.identify(session.remote_sshid(), CLIENT_ID_PREFIX);
        let (receiver, sender) = self.mux.open(channel);
        let (mux, host) = (self.mux.clone(), host.to_owned());
        tokio::spawn(async move {
            if let Some(stream) = forward::connect(&host, port).await {
                reply.accept().await;
                forward::relay(receiver, sender, stream).await;
            } else {
                mux.close(sender.id());
                reply.reject(ChannelOpenFailure::ConnectFailed).await;
            }
        });
        Ok(())
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        session: &mut Session,
    ) -> Result<bool> {
        let (peer, handle) = (session.remote_sshid(), session.handle());
        let granted = self
            .forwards
            .listen(address, port, peer, &self.mux, handle)
            .await;
        self.log(|| format!("forward of {address} port {port}: {granted}"));
        Ok(granted)
    }

    async fn cancel_tcpip_forward(
        &mut self,
        address: &str,
        port: u32,
        _session: &mut Session,
    ) -> Result<bool> {
        Ok(self.forwards.cancel(address, port))
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<()> {
        if let Some(state) = self.channels.get_mut(&id) {
            // A NUL or `=` cannot be part of an environment (environ(7)).
            let is_valid = !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0');
            if is_valid {
                state.request.environment.push((name.into(), value.into()));
                session.channel_success(id)?;
            } else {
                session.channel_failure(id)?;
            }
        }
        Ok(())
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        x_pixels: u32,
        y_pixels: u32,
        modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<()> {
        if let Some(state) = self.channels.get_mut(&id) {
            state.request.terminal = Some(Terminal {
                size: window(columns, rows, x_pixels, y_pixels),
                modes: modes.to_vec(),
            });
            if !term.is_empty() {
                let term = ("TERM".to_owned(), term.to_owned());
                state.request.environment.push(term);
            }
            session.channel_success(id)?;
        }
        Ok(())
    }

    async fn x11_request(
        &mut self,
        id: ChannelId,
        _: bool,
        _: &str,
        _: &str,
        _: u32,
        session: &mut Session,
    ) -> Result<()> {
        Ok(session.channel_failure(id)?)
    }

    async fn window_change_request(
        &mut self,
        id: ChannelId,
        columns: u32,
        rows: u32,
        x_pixels: u32,
        y_pixels: u32,
        _session: &mut Session,
    ) -> Result<()> {
        if let Some(state) = self.channels.get_mut(&id) {
            let size = window(columns, rows, x_pixels, y_pixels);
            if let Some(running) = &state.running {
                running.resize(size);
            } else if let Some(terminal) = &mut state.request.terminal {
                terminal.size = size;
            }
        }
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<()> {
        if name == "sftp"
            && let Some(state) = self.channels.get(&id)
        {
            session.channel_success(id)?;
            // What sftp and scp show is standard error.
            refuse(state.sender.clone(), no("sftp"));
            return Ok(());
        }
        let Some(cache) = Cache::of_subsystem(name) else {
            session.channel_failure(id)?;
            return Ok(());
        };
        if let Some(state) = self.channels.remove(&id) {
            self.log(|| "the client serves its files".into());
            self.files.push((cache, state.receiver, state.sender));
            session.channel_success(id)?;
        }
        Ok(())
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<()> {
        self.log(|| format!("exec {}", String::from_utf8_lossy(command)));
        self.start(id, command, session)
    }

    async fn shell_request(&mut self, id: ChannelId, session: &mut Session) -> Result<()> {
        self.log(|| "shell".into());
        self.start(id, b"", session)
    }

    async fn signal(&mut self, id: ChannelId, name: Sig, _session: &mut Session) -> Result<()> {
        let running = self
            .channels
            .get(&id)
            .and_then(|state| state.running.as_ref());
        if let (Some(running), Some(signal)) = (running, signals::number(&name)) {
            running.signal(signal);
        }
        Ok(())
    }

    async fn data(&mut self, id: ChannelId, bytes: &[u8], _session: &mut Session) -> Result<()> {
        Ok(self.mux.data(id, 0, bytes)?)
    }

    async fn extended_data(
        &mut self,
        id: ChannelId,
        kind: u32,
        bytes: &[u8],
        _session: &mut Session,
    ) -> Result<()> {
        Ok(self.mux.data(id, kind, bytes)?)
    }

    async fn channel_eof(&mut self, id: ChannelId, _session: &mut Session) -> Result<()> {
        self.mux.eof(id);
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _session: &mut Session) -> Result<()> {
        self.mux.close(id);
        self.channels.remove(&id);
        self.files.retain(|(_, _, sender)| !sender.is_closed());
        Ok(())
    }
}
