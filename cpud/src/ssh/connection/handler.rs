//! russh's callbacks: authentication, the opening of channels, and requests on them.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use cpu_proto::{CLIENT_ID_PREFIX, CacheMode, Denial, ENV_FILES, KeyOptions};
use cpu_ssh::signals;
use nix::pty::Winsize;
use russh::keys::{Algorithm, Certificate, PublicKey};
use russh::server::{
    self, Auth, ChannelOpenHandle, Msg, PublicKeyOffer, Session, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelOpenFailure, Pty, Sig};

use super::certificate;
use super::requests::{no_copying, refuse};
use super::{ASKED, ChannelState, ConnectionHandler, FilesChannel, login};
use crate::console::Roster;
use crate::ssh::audit::{Who, word};
use crate::ssh::exec::{SessionRequest, TerminalRequest, take_variable};
use crate::ssh::{Offence, forward};

impl server::Handler for ConnectionHandler {
    type Error = anyhow::Error;

    fn adjust_window(&mut self, channel: ChannelId, current: u32) -> u32 {
        self.mux.window(channel, current)
    }

    async fn auth_none(&mut self, _user: &str) -> Result<Auth> {
        self.asked();
        Ok(Auth::reject())
    }

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth> {
        self.asked();
        let denial = match self.allow_key(offer.public_key, offer.algorithm) {
            Ok(_) => return Ok(Auth::Accept),
            // It may be the key in a certificate, which russh shows when its holder has signed, and not before.
            Err(_) if self.keys.has_authority() && !is_sha1(offer.algorithm) => {
                return Ok(Auth::Accept);
            }
            Err(denial) => denial,
        };
        self.refused(user, offer.public_key, denial);
        Ok(Auth::reject())
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth> {
        self.asked();
        Ok(match self.allow_key(key.public_key, key.algorithm) {
            Ok((key, options)) => self.admit(user, &key, options),
            Err(denial) => {
                self.refused(user, key.public_key, denial);
                Auth::reject()
            }
        })
    }

    async fn auth_openssh_certificate(
        &mut self,
        user: &str,
        certificate: &Certificate,
    ) -> Result<Auth> {
        self.asked();
        let (address, now) = (self.peer.parse().ok(), now());
        let allowed = self.keys.allow_certificate(certificate, user, address, now);
        let allowed =
            allowed.map(|(line, options)| (certificate::named(certificate, line), options));
        Ok(match allowed {
            Ok((key, options)) => self.admit(user, &key, options),
            Err(denial) => {
                let key = PublicKey::new(certificate.public_key().clone(), "");
                self.refused(user, &key, denial);
                Auth::reject()
            }
        })
    }

    async fn authentication_banner(&mut self) -> Result<Option<String>> {
        Ok(certificate::clock_warning(now()).filter(|_| self.keys.has_authority()))
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Result<()> {
        self.login.send_modify(|login| {
            (login.handle, login.offence) = (Some(session.handle()), None);
            login.has_succeeded = true;
        });
        if let Some(who) = &self.who {
            who.log_in();
        }
        if self.options.isolate {
            let isolation = login::isolation_of(&self.fingerprint).await;
            self.isolation = Some(isolation.map(Arc::new));
        }
        // The server sees the end of the socket that this closes.
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
        if !self.has_room_for_channel() {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        self.mux.identify(session.remote_sshid(), CLIENT_ID_PREFIX);
        let (receiver, sender) = self.mux.open(channel);
        // Forget those that this side has closed.
        self.channels.retain(|_, state| !state.sender.is_closed());
        let state = ChannelState {
            receiver,
            sender,
            request: SessionRequest::default(),
            lacks_variables: false,
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
        if !self.has_room_for_channel() {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        self.mux.identify(session.remote_sshid(), CLIENT_ID_PREFIX);
        let (receiver, sender) = self.mux.open(channel);
        let (mux, host) = (self.mux.clone(), host.to_owned());
        tokio::spawn(async move {
            if let Some(stream) = forward::connect(&host, port).await {
                reply.accept().await;
                forward::copy_both(receiver, sender, stream).await;
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
        let has_room = self.has_room_for_variable(name, value);
        if let Some(state) = self.channels.get_mut(&id) {
            // environ(7): no `=` in a name, and no NUL.
            let is_valid = !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0');
            if is_valid && has_room {
                state.request.environment.push((name.into(), value.into()));
                session.channel_success(id)?;
            } else {
                state.lacks_variables |= is_valid;
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
        if !self.options.pty || !self.has_room_for_variable("TERM", term) {
            return Ok(session.channel_failure(id)?);
        }
        if let Some(state) = self.channels.get_mut(&id) {
            state.request.terminal = Some(TerminalRequest {
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

    async fn agent_request(&mut self, id: ChannelId, _: &mut Session) -> Result<bool> {
        let state = self.channels.get_mut(&id);
        let state = state.filter(|state| state.running.is_none() && self.options.agent_forwarding);
        Ok(state
            .map(|state| state.request.agent = Some(self.mux.clone()))
            .is_some())
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
            // sftp and scp show what arrives on standard error.
            refuse(state.sender.clone(), no_copying("sftp"));
            return Ok(());
        }
        // With files, the client would decide what program a forced command is.
        let cache = CacheMode::from_subsystem(name).filter(|_| self.options.command.is_none());
        let Some(cache) = cache else {
            session.channel_failure(id)?;
            return Ok(());
        };
        if let Some(mut state) = self.channels.remove(&id) {
            self.log(|| "the client serves its files".into());
            self.files.push(FilesChannel {
                name: take_variable(&mut state.request.environment, ENV_FILES),
                cache,
                receiver: state.receiver,
                sender: state.sender,
            });
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

    cpu_ssh::channel_callbacks!(mux, Session, closed);
}

impl ConnectionHandler {
    /// A channel has been closed.
    fn closed(&mut self, id: ChannelId) {
        self.channels.remove(&id);
        self.files.retain(|files| !files.sender.is_closed());
    }

    /// The peer asks to be authenticated. The server is told once, since it gives it more time.
    fn asked(&mut self) {
        if self.login.borrow().attempts == 0 {
            let _ = nix::unistd::write(std::io::stdout(), &[ASKED]);
        }
        self.login.send_modify(|login| login.attempts += 1);
    }

    /// A key may not log in.
    fn refused(&mut self, user: &str, key: &PublicKey, denial: Option<Denial>) {
        self.login.send_modify(|login| {
            login.offence = Some(Offence::FailedAuthentication);
            login.refused += 1;
            let who = format!("{} with key {}", word(user), cpu_proto::fingerprint(key));
            match denial {
                Some(denial) => login.last_refused = format!("{who}: {denial}"),
                // Clients offer a key alone after its certificate, whose denial says more.
                None if login.last_refused.starts_with(&who) => {}
                None => login.last_refused = who,
            }
        });
    }

    /// The key as its line has it, and what its holder may do. The error is why the last line with it lets nobody in, if
    /// there is one.
    fn allow_key(
        &self,
        key: &PublicKey,
        algorithm: &Algorithm,
    ) -> Result<(PublicKey, KeyOptions), Option<Denial>> {
        if is_sha1(algorithm) {
            return Err(None);
        }
        let line = self.keys.allow_key(key, self.peer.parse().ok(), now())?;
        Ok((line.key.clone(), line.options.clone()))
    }

    /// Lets the holder of a key log in.
    fn admit(&mut self, user: &str, key: &PublicKey, options: KeyOptions) -> Auth {
        let comment = key.comment().to_string();
        self.roster = Roster::new(user, self.peer.clone(), &comment);
        self.who = Some(Who::new(user, &self.peer, key));
        if !options.port_forwarding {
            self.forwards.forbid();
        }
        self.options = options;
        self.options.isolate |= self.isolate;
        if self.options.isolate {
            self.forwards.forbid_privileged();
        }
        self.fingerprint = cpu_proto::fingerprint(key);
        Auth::Accept
    }
}

/// Whether a signature could be forged.
fn is_sha1(algorithm: &Algorithm) -> bool {
    matches!(algorithm, Algorithm::Rsa { hash: None })
}

/// The time in seconds since 1970.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
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
