//! Stand-ins for u-root's two programs: they say on the wire, in its order, what the Go programs were seen
//! to say, and hear what those hear. Files are served with our own 9P server, and read by hand.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener as StdListener, TcpStream as StdStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use cpu_client::export::{Caching, Export};
use ninep::msg::{DirEntry, Header, Kind, NO_FID, NO_ID, NO_TAG, Reply, Request, VERSION};
use ninep::wire::{Frame, HEADER, Name, Str, WalkVec};
use russh::keys::{Algorithm, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::server::{Auth, ChannelOpenHandle, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelMsg, Pty, SshId, client, server};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{Notify, mpsc};

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
    /// An RSA key.
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

    async fn login(&self, incoming: Incoming) -> Result<client::Handle<Client>> {
        let config = client::Config {
            client_id: SshId::Standard("SSH-2.0-Go".into()),
            ..Default::default()
        };
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        let mut ssh = client::connect_stream(Arc::new(config), stream, Client(incoming)).await?;
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

fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.worker_threads(2).enable_all().build()?)
}

type Incoming = mpsc::UnboundedSender<Channel<client::Msg>>;

struct Client(Incoming);

impl client::Handler for Client {
    type Error = anyhow::Error;

    // u-root's client never looks at it.
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
        // The command may end without reading all.
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
        // Of versions it knows just this one, and its own library's; to any other it says that it does not.
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
                let session = Server {
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

struct Server {
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

impl server::Handler for Server {
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
        // The listener stays, as that of a slow server would: the client must refuse by itself.
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
        let mut stream = StdStream::connect(("127.0.0.1", port))?;
        stream.write_all(&[b'0'; 32])?;
        let got = ninep_file(&mut stream, "file");
        writeln!(said, "the thief got {}", got.is_ok())?;
    }
    let mut stream = StdStream::connect(("127.0.0.1", port))?;
    stream.write_all(nonce.as_bytes())?;
    let file = value("READ").context("READ is not set")?;
    let content = ninep_file(&mut stream, file);
    // While the first one is open, and with the right nonce.
    let mut second = StdStream::connect(("127.0.0.1", port))?;
    second.write_all(nonce.as_bytes())?;
    let refused = ninep_file(&mut second, file).is_err();
    writeln!(said, "a second connection is refused: {refused}")?;
    said.push_str(&content?);
    Ok(said)
}

/// Read a file of the served root.
fn ninep_file(stream: &mut StdStream, path: &str) -> Result<String> {
    let mut ask = |tag: u16, request: Request<'_>| -> Result<(u8, Vec<u8>)> {
        let mut frame = Frame::default();
        request.encode(tag, &mut frame);
        stream.write_all(frame.finish())?;
        let mut header = [0; HEADER];
        stream.read_exact(&mut header)?;
        let header = Header::decode(&header);
        let mut body = vec![0; header.size as usize - HEADER];
        stream.read_exact(&mut body)?;
        Ok((header.kind, body))
    };
    let (empty, version) = (Str::new(b""), Str::new(VERSION));
    let (empty, version) = (empty.context("")?, version.context("")?);
    ask(
        NO_TAG,
        Request::Version {
            msize: 65536,
            version,
        },
    )?;
    let uname = empty;
    ask(
        1,
        Request::Attach {
            fid: 0,
            afid: NO_FID,
            uname,
            aname: empty,
            n_uname: NO_ID,
        },
    )?;
    // A walk of one name at a time, as u-root's habit is.
    let mut fid = 0;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let mut names = WalkVec::default();
        names.push(Name::new(name.as_bytes()).context("a name")?);
        ask(
            2,
            Request::Walk {
                fid,
                newfid: fid + 1,
                names,
            },
        )?;
        fid += 1;
    }
    ask(3, Request::Lopen { fid, flags: 0 })?;
    let (number, body) = ask(
        4,
        Request::Read {
            fid,
            offset: 0,
            count: 4096,
        },
    )?;
    match Reply::decode(number, &body)? {
        Reply::Read { data } => Ok(String::from_utf8(data.0.to_vec())?),
        other => bail!("{other:?}"),
    }
}

/// A port of this machine that echoes, until the listener is dropped.
pub fn echo() -> Result<u16> {
    let listener = StdListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut from, mut to) = (&stream, &stream);
                // Speaks first, as many servers do.
                let _ = to.write_all(b"hello\n");
                let _ = std::io::copy(&mut from, &mut to);
            });
        }
    });
    Ok(port)
}
