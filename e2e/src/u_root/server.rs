//! A stand-in for u-root's `cpud`: it mounts and runs nothing, but reads a file of the client and prints the command.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use russh::keys::{Algorithm, PrivateKey};
use russh::server::{self, Auth, ChannelOpenHandle, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, Pty, SshId};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::nine::read_file;
use super::runtime;

/// u-root's `cpud`, on 127.0.0.1. For each command it reads one file of the client's tree over 9P, and tells
/// on standard output what it was asked for and what it read; `false` ends with 1, everything else with 0.
pub struct Cpud {
    /// Where it listens.
    pub port: u16,
    seen: Transcript,
    _runtime: tokio::runtime::Runtime,
}

/// What it does that the real one does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Nothing.
    Usual,
    /// Somebody else connects to the client's port first.
    Thief,
    /// It never answers to the opening of a channel.
    Stalls,
    /// It refuses each command and leaves its channel open.
    Refuses,
}

/// What the server was asked, a line for each request.
#[derive(Clone, Debug, Default)]
struct Transcript(Arc<Mutex<Vec<String>>>);

impl Transcript {
    fn add(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(line);
    }
}

impl Cpud {
    /// With a host key in OpenSSH's format.
    pub fn start(host_key: &Path, habit: Habit) -> Result<Self> {
        let key = PrivateKey::from_openssh(std::fs::read_to_string(host_key)?)?;
        let config = Arc::new(server::Config {
            server_id: SshId::Standard("SSH-2.0-linux amd64".into()),
            keys: vec![key],
            ..Default::default()
        });
        let runtime = runtime()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let port = listener.local_addr()?.port();
        let seen = Transcript::default();
        let shared = seen.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let session = CpudHandler {
                    seen: shared.clone(),
                    habit,
                    stalled: Vec::new(),
                    environment: Vec::new(),
                    forward: None,
                    session: None,
                    has_terminal: false,
                    stdin_ended: Arc::default(),
                };
                let config = config.clone();
                tokio::spawn(async move {
                    if let Ok(session) = server::run_stream(config, stream, session).await {
                        let _ = session.await;
                    }
                });
            }
        });
        Ok(Self {
            port,
            seen,
            _runtime: runtime,
        })
    }

    /// What the server was asked, a line for each request.
    pub fn seen(&self) -> Vec<String> {
        let lines = self.seen.0.lock();
        lines.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct CpudHandler {
    seen: Transcript,
    habit: Habit,
    /// Channels that get no answer.
    stalled: Vec<ChannelOpenHandle>,
    environment: Vec<(String, String)>,
    forward: Option<u16>,
    session: Option<ChannelId>,
    has_terminal: bool,
    stdin_ended: Arc<Notify>,
}

impl server::Handler for CpudHandler {
    type Error = anyhow::Error;

    async fn auth_publickey(&mut self, _: &str, key: VerifiedPublicKey<'_>) -> Result<Auth> {
        let is_sha2 = !matches!(key.algorithm, Algorithm::Rsa { hash: None });
        self.seen.add(format!("login {}", key.algorithm));
        Ok(if is_sha2 {
            Auth::Accept
        } else {
            Auth::reject()
        })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<server::Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<()> {
        self.seen.add("session".into());
        self.session = Some(channel.id());
        if self.habit == Habit::Stalls {
            self.stalled.push(reply);
        } else {
            reply.accept().await;
        }
        Ok(())
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        session: &mut Session,
    ) -> Result<bool> {
        self.seen.add(format!("forward {address} {port}"));
        let listener = TcpListener::bind((address, 0)).await?;
        let bound = listener.local_addr()?.port();
        (*port, self.forward) = (bound.into(), Some(bound));
        let (handle, address) = (session.handle(), address.to_owned());
        tokio::spawn(async move {
            while let Ok((mut stream, from)) = listener.accept().await {
                let (handle, address) = (handle.clone(), address.clone());
                tokio::spawn(async move {
                    let from = u32::from(from.port());
                    let open = handle.channel_open_forwarded_tcpip(
                        address,
                        bound.into(),
                        "127.0.0.1",
                        from,
                    );
                    if let Ok(channel) = open.await {
                        let mut channel = channel.into_stream();
                        let _ = tokio::io::copy_bidirectional(&mut stream, &mut channel).await;
                    }
                });
            }
        });
        Ok(true)
    }

    async fn cancel_tcpip_forward(
        &mut self,
        address: &str,
        _: u32,
        _: &mut Session,
    ) -> Result<bool> {
        // The listener stays open, as a slow server's would: the client itself must refuse.
        self.seen.add(format!("cancel {address}"));
        Ok(true)
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        _: u32,
        _: u32,
        _: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<()> {
        self.seen.add(format!("pty {term} {columns} {rows}"));
        self.has_terminal = true;
        Ok(session.channel_success(id)?)
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<()> {
        self.environment.push((name.to_owned(), value.to_owned()));
        Ok(session.channel_success(id)?)
    }

    async fn channel_eof(&mut self, id: ChannelId, _: &mut Session) -> Result<()> {
        if self.session == Some(id) {
            self.stdin_ended.notify_one();
        }
        Ok(())
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        line: &[u8],
        session: &mut Session,
    ) -> Result<()> {
        let line = String::from_utf8(line.to_vec())?;
        self.seen.add(format!(
            "exec {}",
            line.replace(&self.forward.unwrap_or(0).to_string(), "N")
        ));
        if self.habit == Habit::Refuses {
            return Ok(session.channel_failure(id)?);
        }
        session.channel_success(id)?;
        let (environment, forward) = (self.environment.clone(), self.forward);
        let thief = self.habit == Habit::Thief;
        let handle = session.handle();
        let stdin_ended = (!self.has_terminal).then(|| self.stdin_ended.clone());
        tokio::spawn(async move {
            let ended =
                tokio::task::spawn_blocking(move || remote(&line, &environment, forward, thief));
            let (said, status) = match ended.await {
                Ok(Ok(said)) => (said, 0),
                Ok(Err(error)) => (format!("failed: {error:#}\n"), 1),
                Err(error) => (format!("{error}\n"), 1),
            };
            let _ = handle.data(id, said.into_bytes()).await;
            if let Some(stdin_ended) = stdin_ended {
                stdin_ended.notified().await;
            }
            let _ = handle.exit_status_request(id, status).await;
            let _ = handle.eof(id).await;
            let _ = handle.close(id).await;
        });
        Ok(())
    }
}

/// What `cpud -remote` does, without mounting: the words, the mounts it was told, and a file of the client's.
fn remote(
    line: &str,
    environment: &[(String, String)],
    forward: Option<u16>,
    thief: bool,
) -> Result<String> {
    let value = |name: &str| {
        let found = environment.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    };
    let words = cpu_proto::quote::split(line.as_bytes())?;
    let words: Vec<_> = words
        .iter()
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word))
        .collect();
    let mut said = String::new();
    let (port, words) = match words.first().and_then(|word| word.strip_prefix("-port9p=")) {
        Some(port) => (Some(port.parse::<u16>()?), &words[1..]),
        None => (None, &words[..]),
    };
    writeln!(said, "words {words:?}")?;
    if words.first().is_some_and(|word| word == "false") {
        bail!("exit 1");
    }
    let Some(port) = port else {
        ensure!(value("CPUNONCE").is_none(), "a nonce without files");
        return Ok(said);
    };
    ensure!(Some(port) == forward, "port {port} was never given");
    let nonce = value("CPUNONCE").context("no nonce")?;
    ensure!(nonce.len() == 32 && nonce.bytes().all(|b| b.is_ascii_hexdigit()));
    ensure!(value("TMPDIR") == Some("/tmp"));
    ensure!(
        value("CPU_FSTAB") == value("LC_GLENDA_CPU_FSTAB"),
        "two fstabs"
    );
    said.push_str(value("CPU_FSTAB").unwrap_or("no fstab\n"));
    if thief {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(&[b'0'; 32])?;
        let got = read_file(&mut stream, "file");
        writeln!(said, "the thief got {}", got.is_ok())?;
    }
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(nonce.as_bytes())?;
    let file = value("READ").context("READ is not set")?;
    let content = read_file(&mut stream, file);
    // While the first one is open, and with the right nonce.
    let mut second = TcpStream::connect(("127.0.0.1", port))?;
    second.write_all(nonce.as_bytes())?;
    let refused = read_file(&mut second, file).is_err();
    writeln!(said, "a second connection is refused: {refused}")?;
    said.push_str(&content?);
    Ok(said)
}
