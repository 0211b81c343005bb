//! russh's callbacks: bytes from the server go into the channels' queues, the rest becomes events.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use cpu_proto::{SERVER_ID_PREFIX, fingerprint, printable};
use cpu_ssh::mux::Violation;
use cpu_ssh::{Mux, signals};
use nix::sys::signal::Signal;
use russh::client::{ChannelOpenHandle, DisconnectReason, Session};
use russh::keys::PublicKeyOrCertificate;
use russh::{Channel, ChannelId, ChannelOpenFailure, Names, Sig, client};
use tokio::sync::mpsc;
use tracing::debug;

use super::port::PendingConnection;
use super::{HostKeys, agent};

/// Something that happened to a channel or to the connection.
#[derive(Debug)]
pub(crate) enum ConnectionEvent {
    /// The command exited with this status.
    Exited(ChannelId, u32),
    /// A signal killed the command; `None` if this system has no signal of that name.
    Killed(ChannelId, Option<Signal>),
    /// The channel is gone.
    Closed(ChannelId),
    /// The server granted the oldest unanswered request on the channel.
    Granted(ChannelId),
    /// The server refused that request.
    Refused(ChannelId),
    /// The connection is gone.
    Disconnected(String),
}

/// Why the connection failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Ssh(#[from] russh::Error),
    /// An error whose message is complete.
    #[error("{0:#}")]
    Plain(anyhow::Error),
    #[error("{0}")]
    Violation(#[from] Violation),
}

/// russh's callbacks.
pub(crate) struct Handler {
    mux: Mux,
    host_keys: HostKeys,
    events: mpsc::UnboundedSender<ConnectionEvent>,
    /// The server's identification.
    server: Arc<OnceLock<Vec<u8>>>,
    expected: PendingConnection,
    /// The agent that is forwarded.
    agent: Option<agent::ForwardedAgent>,
}

impl Handler {
    pub(super) fn new(
        mux: Mux,
        host_keys: HostKeys,
        events: mpsc::UnboundedSender<ConnectionEvent>,
        server: Arc<OnceLock<Vec<u8>>>,
        expected: PendingConnection,
        agent: Option<PathBuf>,
    ) -> Self {
        Self {
            mux,
            host_keys,
            events,
            server,
            expected,
            agent: agent.map(agent::ForwardedAgent::new),
        }
    }

    fn closed(&self, id: ChannelId) {
        self.tell(ConnectionEvent::Closed(id));
    }

    fn tell(&self, event: ConnectionEvent) {
        // Fails only if the session has ended.
        let _ = self.events.send(event);
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.mux.close_all();
    }
}

impl client::Handler for Handler {
    type Error = Error;

    /// Prints what the server says before the login (`Banner` of sshd_config(5)).
    async fn auth_banner(&mut self, banner: &str, _: &mut Session) -> Result<(), Error> {
        let text: String = banner.lines().map(|line| printable(line) + "\n").collect();
        // A failure is ignored: then nobody reads it.
        let _ = std::io::stderr().write_all(text.as_bytes());
        Ok(())
    }

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Error> {
        let checked = match key {
            PublicKeyOrCertificate::PublicKey { key, .. } => {
                debug!("host key {}", fingerprint(key));
                self.host_keys.check(key)
            }
            PublicKeyOrCertificate::Certificate(certificate) => {
                debug!("host certificate {}", certificate.key_id());
                self.host_keys.check_certificate(certificate)
            }
        };
        checked.map_err(Error::Plain)?;
        Ok(true)
    }

    async fn kex_done(
        &mut self,
        _secret: Option<&[u8]>,
        names: &Names,
        session: &mut Session,
    ) -> Result<(), Error> {
        let id = session.remote_sshid();
        self.mux.identify(id, SERVER_ID_PREFIX);
        // Fails when the keys are exchanged again; the server is still the same.
        let _ = self.server.set(id.to_vec());
        debug!(
            "{}: {:?}, {:?}",
            String::from_utf8_lossy(id),
            names.kex,
            names.cipher
        );
        Ok(())
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        channel: Channel<client::Msg>,
        _address: &str,
        port: u32,
        _from: &str,
        _from_port: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Error> {
        if let Some(connected) = self.expected.take(port) {
            let taken = self.mux.open(channel);
            reply.accept().await;
            // Fails only if the session has ended.
            let _ = connected.send(taken);
        } else {
            debug!("refused a connection to port {port} of the server");
            reply
                .reject(ChannelOpenFailure::AdministrativelyProhibited)
                .await;
        }
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        channel: Channel<client::Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Error> {
        let Some(agent) = &self.agent else {
            debug!("refused a channel to the agent, which is not forwarded");
            reply
                .reject(ChannelOpenFailure::AdministrativelyProhibited)
                .await;
            return Ok(());
        };
        match agent.connect().await {
            Ok(stream) => {
                debug!("the machine uses the agent");
                let (receiver, sender) = self.mux.open(channel);
                reply.accept().await;
                tokio::spawn(agent::copy_both(receiver, sender, stream));
            }
            Err(error) => {
                say!(
                    "cannot reach the agent at {}: {error}",
                    agent.path().display()
                );
                reply.reject(ChannelOpenFailure::ConnectFailed).await;
            }
        }
        Ok(())
    }

    // russh accepts these channels unless it is told otherwise. A reply that is dropped is a refusal.

    async fn server_channel_open_session(
        &mut self,
        _: Channel<client::Msg>,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Error> {
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: Channel<client::Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Error> {
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: Channel<client::Msg>,
        _: &str,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Error> {
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: Channel<client::Msg>,
        _: &str,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Error> {
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        _: Channel<client::Msg>,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Error> {
        Ok(())
    }

    cpu_ssh::channel_callbacks!(mux, Session, closed);

    async fn channel_success(&mut self, id: ChannelId, _: &mut Session) -> Result<(), Error> {
        self.tell(ConnectionEvent::Granted(id));
        Ok(())
    }

    async fn channel_failure(&mut self, id: ChannelId, _: &mut Session) -> Result<(), Error> {
        self.tell(ConnectionEvent::Refused(id));
        Ok(())
    }

    async fn exit_status(
        &mut self,
        id: ChannelId,
        status: u32,
        _: &mut Session,
    ) -> Result<(), Error> {
        self.tell(ConnectionEvent::Exited(id, status));
        Ok(())
    }

    async fn exit_signal(
        &mut self,
        id: ChannelId,
        name: Sig,
        _core_dumped: bool,
        _message: &str,
        _language: &str,
        _: &mut Session,
    ) -> Result<(), Error> {
        self.tell(ConnectionEvent::Killed(id, signals::number(&name)));
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Error>) -> Result<(), Error> {
        let reason = match reason {
            DisconnectReason::ReceivedDisconnect(info) => info.message,
            DisconnectReason::Error(Error::Ssh(russh::Error::IO(error)))
                if error.kind() == io::ErrorKind::UnexpectedEof =>
            {
                "the server closed it".to_owned()
            }
            DisconnectReason::Error(error) => error.to_string(),
        };
        self.tell(ConnectionEvent::Disconnected(reason));
        Ok(())
    }
}
