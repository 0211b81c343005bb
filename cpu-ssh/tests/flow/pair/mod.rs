//! A client and a server on a socket pair, each with its own `Mux`, for the tests of flow control.
#![allow(clippy::unwrap_used, unreachable_pub)] // a module of test helpers

use std::sync::Arc;

use cpu_ssh::mux::{FOREIGN_WINDOW, Side, Violation};
use cpu_ssh::{Mux, Receiver, Sender, Socket, Throttle};
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{PrivateKey, PublicKeyOrCertificate};
use russh::server::{Auth, ChannelOpenHandle};
use russh::{Channel, ChannelId, SshId, client, server};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

pub type ServerSide = (Receiver<server::Msg>, Sender<server::Msg>);
pub type ClientSide = (Receiver<client::Msg>, Sender<client::Msg>);

pub struct ServerHandler {
    mux: Mux,
    opened: mpsc::UnboundedSender<ServerSide>,
    /// The signals received, in order.
    signals: mpsc::UnboundedSender<russh::Sig>,
}

#[derive(Debug)]
pub struct HandlerError;
impl From<russh::Error> for HandlerError {
    fn from(_: russh::Error) -> Self {
        Self
    }
}

impl From<Violation> for HandlerError {
    fn from(_: Violation) -> Self {
        Self
    }
}

impl Drop for ServerHandler {
    fn drop(&mut self) {
        self.mux.close_all();
    }
}

impl server::Handler for ServerHandler {
    type Error = HandlerError;

    fn adjust_window(&mut self, id: ChannelId, opened: u32) -> u32 {
        self.mux.window(id, opened)
    }

    async fn auth_none(&mut self, _: &str) -> Result<Auth, HandlerError> {
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<server::Msg>,
        reply: ChannelOpenHandle,
        session: &mut server::Session,
    ) -> Result<(), HandlerError> {
        self.mux.identify(session.remote_sshid(), "SSH-2.0-ours");
        let _ = self.opened.send(self.mux.open(channel));
        reply.accept().await;
        Ok(())
    }

    cpu_ssh::channel_callbacks!(mux, server::Session);

    async fn signal(
        &mut self,
        _: ChannelId,
        signal: russh::Sig,
        _: &mut server::Session,
    ) -> Result<(), HandlerError> {
        let _ = self.signals.send(signal);
        Ok(())
    }
}

pub struct ClientHandler(Mux);

impl Drop for ClientHandler {
    fn drop(&mut self) {
        self.0.close_all();
    }
}

impl client::Handler for ClientHandler {
    type Error = HandlerError;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, HandlerError> {
        Ok(true)
    }

    async fn kex_done(
        &mut self,
        _: Option<&[u8]>,
        _: &russh::Names,
        session: &mut client::Session,
    ) -> Result<(), HandlerError> {
        self.0.identify(session.remote_sshid(), "SSH-2.0-ours");
        Ok(())
    }

    cpu_ssh::channel_callbacks!(0, client::Session);
}

/// A connected client and server.
pub struct Pair {
    pub client: client::Handle<ClientHandler>,
    pub client_mux: Mux,
    /// The client's end. Shutting it down has the effect of a killed client.
    pub client_socket: std::os::unix::net::UnixStream,
    pub server: server::RunningSession<ServerHandler>,
    opened: mpsc::UnboundedReceiver<ServerSide>,
    pub signals: mpsc::UnboundedReceiver<russh::Sig>,
}

impl Pair {
    /// With `ours`, both identify themselves as our programs, so that credit is used.
    pub async fn new(ours: bool) -> Self {
        Self::with_window(ours, client::Config::default().window_size).await
    }

    /// With a client whose window is `window_size`.
    pub async fn with_window(ours: bool, window_size: u32) -> Self {
        let name = if ours {
            "SSH-2.0-ours"
        } else {
            "SSH-2.0-other"
        };
        let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
        let client_socket = here.try_clone().unwrap();
        let [here, there] = [here, there].map(|end| {
            end.set_nonblocking(true).unwrap();
            UnixStream::from_std(end).unwrap()
        });
        let (opened_tx, opened) = mpsc::unbounded_channel();
        let (signals_tx, signals) = mpsc::unbounded_channel();
        let server_throttle = Throttle::default();
        let handler = ServerHandler {
            mux: Mux::new(Side::Server, server_throttle.clone()),
            opened: opened_tx,
            signals: signals_tx,
        };
        let config = Arc::new(server::Config {
            server_id: SshId::Standard(name.into()),
            keys: vec![PrivateKey::from(Ed25519Keypair::from_seed(&[7; 32]))],
            preferred: cpu_ssh::algorithms::preferred(),
            window_size: FOREIGN_WINDOW,
            ..Default::default()
        });
        let server = tokio::spawn(async move {
            server::run_stream(config, Socket::new(there, server_throttle), handler).await
        });
        let throttle = Throttle::default();
        let client_mux = Mux::new(Side::Client, throttle.clone());
        let config = Arc::new(client::Config {
            client_id: SshId::Standard(name.into()),
            window_size,
            preferred: cpu_ssh::algorithms::preferred(),
            ..Default::default()
        });
        let handler = ClientHandler(client_mux.clone());
        let mut client = client::connect_stream(config, Socket::new(here, throttle), handler)
            .await
            .unwrap();
        assert!(client.authenticate_none("x").await.unwrap().success());
        Self {
            client,
            client_mux,
            client_socket,
            server: server.await.unwrap().unwrap(),
            opened,
            signals,
        }
    }

    /// Opens a channel; returns both ends.
    pub async fn channel(&mut self) -> (ClientSide, ServerSide) {
        let channel = self.client.channel_open_session().await.unwrap();
        let here = self.client_mux.open(channel);
        (here, self.opened.recv().await.unwrap())
    }
}
