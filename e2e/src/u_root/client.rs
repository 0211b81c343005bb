//! A stand-in for u-root's `cpu`.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use cpu_client::export::{Caching, Export};
use ninep::msg::{DirEntry, Header, Kind, NO_TAG, Reply, VERSION};
use ninep::wire::{Frame, HEADER, Str};
use russh::keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{Channel, ChannelMsg, Pty, SshId, client};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;

use super::runtime;
use crate::client::TIMEOUT;

/// What a command that the client ran has said.
#[derive(Debug, Default)]
pub struct Ran {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Exit status.
    pub status: Option<u32>,
    /// How many connections came in through the forwarded port.
    pub connections: usize,
    /// Whether one of them knew the nonce.
    pub nonce_was_right: bool,
    /// The port that was granted.
    pub port: Option<u32>,
}

/// How the Go client calls a command: each argument in single quotes, a `'` inside as `'"'"'`.
fn quoted(words: &[&str]) -> String {
    let quote = |word: &&str| format!("'{}'", word.replace('\'', "'\"'\"'"));
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// How u-root's `cpu` is called, and where.
#[derive(Clone, Copy)]
pub struct Cpu<'a> {
    /// Of the server, on 127.0.0.1.
    pub port: u16,
    /// A private key.
    pub key: &'a Path,
    /// What it serves, if it serves files.
    pub root: Option<&'a Path>,
    /// Of its environment what matters.
    pub environment: &'a [(&'a str, &'a str)],
    /// Columns and rows of the terminal that it is called in.
    pub terminal: Option<(u32, u32)>,
    /// Its standard input.
    pub input: &'a [u8],
    /// Whether it asks for its port on `::1`, as when 127.0.0.1 was refused, and signs with SHA-512.
    pub second_choice: bool,
}

impl Cpu<'_> {
    /// What it does to run words; none: a shell.
    pub fn run(&self, words: &[&str]) -> Result<Ran> {
        runtime()?.block_on(async {
            let ran = tokio::time::timeout(TIMEOUT, run(self, words)).await;
            ran.with_context(|| format!("{words:?} did not end within {TIMEOUT:?}"))?
        })
    }

    /// Open this many channels to a service on 127.0.0.1 and close each without the end of its data, as Go's SSH
    /// does; then do something while the connection lives.
    pub fn forwards(
        &self,
        service: u16,
        count: u32,
        then: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        runtime()?.block_on(async {
            let (incoming, _connections) = mpsc::unbounded_channel();
            let ssh = self.login(incoming).await?;
            for _ in 0..count {
                let to = ("127.0.0.1", service.into());
                let channel = ssh
                    .channel_open_direct_tcpip(to.0, to.1, "127.0.0.1", 1)
                    .await?;
                channel.close().await?;
            }
            then()
        })
    }

    async fn login(&self, incoming: Incoming) -> Result<client::Handle<CpuHandler>> {
        let config = client::Config {
            client_id: SshId::Standard("SSH-2.0-Go".into()),
            ..Default::default()
        };
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        let mut ssh =
            client::connect_stream(Arc::new(config), stream, CpuHandler(incoming)).await?;
        ensure!(!ssh.authenticate_none("glenda").await?.success());
        let key = PrivateKey::from_openssh(std::fs::read_to_string(self.key)?)?;
        let hash = if self.second_choice {
            HashAlg::Sha512
        } else {
            HashAlg::Sha256
        };
        let key = PrivateKeyWithHashAlg::new(Arc::new(key), Some(hash));
        ensure!(ssh.authenticate_publickey("glenda", key).await?.success());
        Ok(ssh)
    }
}

type Incoming = mpsc::UnboundedSender<Channel<client::Msg>>;

struct CpuHandler(Incoming);

impl client::Handler for CpuHandler {
    type Error = anyhow::Error;

    // u-root's client ignores it.
    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool> {
        Ok(true)
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        channel: Channel<client::Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        reply: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<()> {
        reply.accept().await;
        Ok(self.0.send(channel)?)
    }
}

const NONCE: &str = "0123456789abcdef0123456789abcdef";

async fn run(cpu: &Cpu<'_>, words: &[&str]) -> Result<Ran> {
    let root = cpu.root;
    let (incoming, mut connections) = mpsc::unbounded_channel();
    let ssh = cpu.login(incoming).await?;

    let mut ran = Ran::default();
    let loopback = if cpu.second_choice {
        "::1"
    } else {
        "127.0.0.1"
    };
    if root.is_some() {
        ran.port = Some(ssh.tcpip_forward(loopback, 0).await?);
    }
    let mut channel = ssh.channel_open_session().await?;
    if let Some((columns, rows)) = cpu.terminal {
        let modes = [(Pty::ECHO, 1)];
        let pty = channel.request_pty(true, "ansi", columns, rows, 0, 0, &modes);
        pty.await?;
        let answer = channel.wait().await;
        ensure!(matches!(answer, Some(ChannelMsg::Success)), "{answer:?}");
    }
    let mut variables = cpu.environment.to_vec();
    variables.push(("TMPDIR", "/tmp"));
    if root.is_some() {
        variables.push(("CPUNONCE", NONCE));
    }
    for (name, value) in variables {
        channel.set_env(true, name, value).await?;
        let answer = channel.wait().await;
        ensure!(
            matches!(answer, Some(ChannelMsg::Success)),
            "{name}: {answer:?}"
        );
    }
    let flag = ran
        .port
        .map_or(String::new(), |port| format!("-port9p={port}"));
    channel
        .exec(true, format!("{flag} {}", quoted(words)))
        .await?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let (mut channel, input) = channel.split();
    let feed = async {
        // The command may end without reading all of its input.
        let _ = input.data(cpu.input).await;
        if cpu.terminal.is_none() {
            let _ = input.eof().await;
        }
    };
    tokio::pin!(feed);
    let mut is_fed = false;
    loop {
        tokio::select! {
            () = &mut feed, if !is_fed => is_fed = true,
            message = channel.wait() => match message {
                Some(ChannelMsg::Data { data }) => stdout.extend_from_slice(&data),
                Some(ChannelMsg::ExtendedData { data, .. }) => stderr.extend_from_slice(&data),
                Some(ChannelMsg::ExitStatus { exit_status }) => ran.status = Some(exit_status),
                Some(ChannelMsg::Close) | None => break,
                Some(_) => {}
            },
            Some(connection) = connections.recv() => {
                ran.connections += 1;
                let mut stream = connection.into_stream();
                let mut told = [0; NONCE.len()];
                stream.read_exact(&mut told).await?;
                ran.nonce_was_right |= told == NONCE.as_bytes();
                if let (Some(root), true) = (root, told == NONCE.as_bytes()) {
                    let port = ran.port.context("no port")?;
                    ssh.cancel_tcpip_forward(loopback, port).await.ok();
                    serve(root, stream)?;
                }
            }
        }
    }
    ran.stdout = String::from_utf8(stdout)?;
    ran.stderr = String::from_utf8(stderr)?;
    Ok(ran)
}

/// Bytes of a Tversion that says 9P2000.L.
const VERSION_REQUEST: usize = HEADER + 4 + 2 + VERSION.len();

fn serve(root: &Path, mut stream: russh::ChannelStream<client::Msg>) -> Result<()> {
    let export = Export::new(root)?.with_caching(Caching::Never);
    let (here, there) = std::os::unix::net::UnixStream::pair()?;
    here.set_nonblocking(true)?;
    let mut here = UnixStream::from_std(here)?;
    let mut reader = there.try_clone()?;
    let mut writer = there;
    std::thread::spawn(move || {
        // It knows this version and that of its own library, and answers any other with "unknown".
        let mut first = [0; VERSION_REQUEST];
        reader.read_exact(&mut first)?;
        if !first.ends_with(VERSION) {
            let version = Str::new(b"unknown").unwrap_or_default();
            let mut frame = Frame::default();
            Reply::Version { msize: 0, version }.encode(NO_TAG, &mut frame);
            return writer.write_all(frame.finish());
        }
        let config = ninep::server::Config {
            max_msize: 64 * 1024,
            ..Default::default()
        };
        let reader = Read::chain(first.as_slice(), reader);
        ninep::server::serve(&export, reader, writer, &config).map_err(std::io::Error::other)
    });
    tokio::spawn(async move {
        let (mut replies, mut requests) = here.split();
        let (mut from, mut to) = tokio::io::split(&mut stream);
        tokio::select! {
            _ = tokio::io::copy(&mut from, &mut requests) => {}
            _ = relay_replies(&mut replies, &mut to) => {}
        }
    });
    Ok(())
}

/// As its file server replies: where a name's dirent type belongs, it puts the qid's.
async fn relay_replies(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> Result<()> {
    loop {
        let mut message = vec![0; HEADER];
        from.read_exact(&mut message).await?;
        let header = Header::decode(message.first_chunk().context("a header")?);
        message.resize(header.size as usize, 0);
        from.read_exact(&mut message[HEADER..]).await?;
        if header.kind == Kind::Readdir.number() + 1 {
            let mut at = HEADER + 4;
            while let Some(entry) = message.get_mut(at..at + DirEntry::FIXED) {
                entry[21] = entry[0];
                at += DirEntry::FIXED + usize::from(u16::from_le_bytes([entry[22], entry[23]]));
            }
        }
        to.write_all(&message).await?;
        to.flush().await?;
    }
}
