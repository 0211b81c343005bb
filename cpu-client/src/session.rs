//! One remote command, from the opening of its channels to its exit status: what is typed goes
//! there, what it prints comes here, and beside them this machine's files are served.
//!
//! Files and standard streams block, so each has a thread; the SSH connection and everything
//! that decides lives on the main thread, which none of them can hold up.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use cpu_proto::{Cache, Credentials, ENV_FSTAB, ENV_FSTAB_LC, quote};
use cpu_ssh::blocking::{BlockingReader, BlockingWriter};
use cpu_ssh::{Stream, signals};
use futures_util::future::try_join_all;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::Signal;
use nix::sys::termios::Termios;
use russh::client::Msg;
use russh::{ChannelId, ChannelWriteHalf};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use crate::clock;
use crate::files::Files;
use crate::ssh::{Connection, Event, Server};
use crate::terminal::{self, ESCAPE_HELP, Escape, EscapeFilter};

type Sender = cpu_ssh::Sender<Msg>;
type Receiver = cpu_ssh::Receiver<Msg>;

/// How long a command may take to end after a TERM or HUP was passed on to it.
const GRACE: Duration = Duration::from_secs(2);

/// Most bytes read at once from standard input.
const CHUNK: usize = 64 * 1024;

/// What to run, and with what.
pub(crate) struct Command {
    /// The words; none means a shell.
    pub(crate) words: Vec<Vec<u8>>,
    pub(crate) environment: Vec<(String, String)>,
    /// This machine's files, if they are served, and the cache modes of the mounts that show them.
    pub(crate) files: Option<(Files, Vec<Cache>)>,
    /// Who it is, if not root.
    pub(crate) user: Option<Credentials>,
    pub(crate) terminal: bool,
    /// Whether a server that gives no terminal fails the session, as with ssh's `-t`.
    pub(crate) needs_terminal: bool,
    /// Whether standard input is sent; else the command finds its end at once.
    pub(crate) input: bool,
}

/// What the main loop has to know of the threads and of the person.
enum Local {
    Typed(Escape),
    /// Standard output or error cannot be written any more.
    OutputLost(io::Error),
}

/// Run the command; returns the exit status for this process.
pub(crate) async fn run(mut connection: Connection, command: Command) -> Result<u8> {
    if command.files.is_some() && connection.server == Server::Sshd {
        bail!(
            "the server is no cpud, and files are served only to those; use -9p=false for plain ssh"
        );
    }
    if command.user.is_some() && connection.server != Server::Cpud {
        bail!(
            "the server is no cpud of ours, and knows no -user: its commands are {}",
            match connection.server {
                Server::Sshd => "those of the user who logs in",
                Server::URoot | Server::Cpud => "root's",
            }
        );
    }
    let (local_tx, mut local) = mpsc::unbounded_channel();
    let (terminal, input) = (command.terminal, command.input);
    let needs_terminal = command.needs_terminal;
    let modes = if terminal && input {
        terminal::modes().context("cannot read the terminal's modes")?
    } else {
        None
    };
    // From before the size is read.
    let resized = terminal
        .then(|| signal(SignalKind::window_change()))
        .transpose()?;
    let path = connection.measure_path();
    let (receiver, sender) = start(&mut connection, command, modes.as_ref()).await?;
    // Not before: until now the keys that interrupt, and the signals, do here what they always do.
    let mut passed_on = Signals::new()?;
    let raw = modes.map(terminal::Raw::enter).transpose();
    let raw = raw.context("cannot set the terminal to raw mode")?;
    let told = sender.clone();
    tokio::spawn(async move {
        if let Ok(Some(time)) = path.await {
            told.tell_round_trip(time).await;
        }
    });
    let mux = connection.mux.clone();
    let is_raw = raw.is_some();
    tokio::spawn(async move { clock::compare(mux.clock().await, is_raw) });
    let outputs = [
        spawn_output(&receiver, Stream::Data, io::stdout().as_fd(), &local_tx)?,
        spawn_output(&receiver, Stream::Stderr, io::stderr().as_fd(), &local_tx)?,
    ];
    if input {
        spawn_input(&sender, raw.is_some(), local_tx)?;
    } else {
        // A channel that has gone says so through its end.
        let _ = sender.request(ChannelWriteHalf::eof).await;
    }
    if let Some(resized) = resized {
        forward_window_changes(&sender, resized);
    }
    let raw = Cell::new(raw);
    let status = {
        let asked = terminal.then_some(Asked {
            raw: &raw,
            is_needed: needs_terminal,
        });
        let ended = wait_end(&mut connection.events, sender.id(), asked, outputs);
        tokio::pin!(ended);
        // The first of these ends the session: a TERM or HUP after a grace, a second INT or QUIT.
        let mut last_chance: Option<(Signal, tokio::time::Instant)> = None;
        let mut interrupted = false;
        loop {
            let deadline = last_chance.map(|(_, at)| at);
            tokio::select! {
                status = &mut ended => break status,
                signal = passed_on.recv() => {
                    debug!("{signal}");
                    match signal {
                        Signal::SIGTERM | Signal::SIGHUP => {
                            last_chance = Some((signal, tokio::time::Instant::now() + GRACE));
                        }
                        Signal::SIGINT | Signal::SIGQUIT
                            if std::mem::replace(&mut interrupted, true) =>
                        {
                            break Ok(killed(signal));
                        }
                        _ => {}
                    }
                    let name = signals::name(signal);
                    // A channel that has gone says so through `ended`.
                    let _ = sender.request(|write| write.signal(name)).await;
                }
                () = sleep_until(deadline), if deadline.is_some() => {
                    let signal = last_chance.map_or(Signal::SIGTERM, |(signal, _)| signal);
                    break Ok(killed(signal));
                }
                Some(event) = local.recv() => match event {
                    Local::Typed(Escape::Leave) => break Ok(255),
                    Local::Typed(Escape::Help) => {
                        let _ = io::stderr().write_all(ESCAPE_HELP.as_bytes());
                    }
                    // As if this process had been at the broken end of the pipe itself.
                    Local::OutputLost(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                        break Ok(killed(Signal::SIGPIPE));
                    }
                    Local::OutputLost(error) => {
                        break Err(anyhow::anyhow!("cannot write the output: {error}"));
                    }
                },
            }
        }
    };
    drop(raw);
    status
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline).await;
    }
}

/// A terminal that was asked for; the answer is the server's first on the channel.
struct Asked<'a> {
    /// How it is shown here.
    raw: &'a Cell<Option<terminal::Raw>>,
    is_needed: bool,
}

/// The status a shell gives a command that a signal killed.
fn killed(signal: Signal) -> u8 {
    u8::try_from(128 + signal as i32).unwrap_or(255)
}

/// Open the channels and ask for everything, without waiting for an answer that is not needed.
async fn start(
    connection: &mut Connection,
    mut command: Command,
    modes: Option<&Termios>,
) -> Result<(Receiver, Sender)> {
    let refused = "the server opens no session channel";
    let open = || async {
        connection
            .handle
            .channel_open_session()
            .await
            .context(refused)
    };
    let mut files = command.files.take();
    let port = match files.take_if(|_| connection.server == Server::URoot) {
        Some((files, _)) => Some(serve_at_port(connection, files, &mut command.environment).await?),
        None => None,
    };
    let caches = files.iter().flat_map(|(_, caches)| caches);
    let (main, channels) = tokio::try_join!(open(), try_join_all(caches.map(|_| open())))?;
    let lost = "the connection ended while the command was being started";
    if let Some((files, caches)) = files {
        for (channel, cache) in channels.into_iter().zip(caches) {
            let (receiver, sender) = connection.mux.open(channel);
            sender
                .request(|write| write.request_subsystem(false, cache.subsystem()))
                .await
                .context(lost)?;
            files.clone().serve(
                cache,
                BlockingReader::new(receiver, Stream::Data, Handle::current()),
                BlockingWriter::new(sender, Stream::Data, Handle::current()),
            )?;
        }
    }
    let (receiver, sender) = connection.mux.open(main);
    if command.terminal {
        let modes = modes.map(cpu_ssh::modes::encode).unwrap_or_default();
        let size = terminal::size();
        let set = command.environment.iter().find(|(name, _)| name == "TERM");
        let term = match set {
            Some((_, term)) => term.clone(),
            None => std::env::var("TERM").unwrap_or_default(),
        };
        sender
            .request(async |write: &ChannelWriteHalf<Msg>| {
                let (columns, rows) = (size.ws_col.into(), size.ws_row.into());
                let (x, y) = (size.ws_xpixel.into(), size.ws_ypixel.into());
                write
                    .request_pty(true, &term, columns, rows, x, y, &modes)
                    .await
            })
            .await
            .context(lost)?;
    }
    for (name, value) in command.environment {
        sender
            .request(|write| write.set_env(false, name, value))
            .await
            .context(lost)?;
    }
    let user = command
        .user
        .as_ref()
        .map(Credentials::flag)
        .unwrap_or_default();
    let is_shell = command.words.is_empty() && user.is_empty();
    if is_shell && connection.server != Server::URoot {
        sender.request(|write| write.request_shell(true)).await
    } else {
        let line = match connection.server {
            Server::Sshd => command.words.join(&b' '),
            Server::Cpud => [user, quote::join(&command.words)].concat(),
            // No words are a shell there.
            Server::URoot => {
                let port = port.map_or(String::new(), |port| format!("-port9p={port}"));
                [format!("{port} ").into_bytes(), quote::join(&command.words)].concat()
            }
        };
        sender.request(|write| write.exec(true, line)).await
    }
    .context(lost)?;
    Ok((receiver, sender))
}

/// Have u-root's cpud get the files through a port of its own; returns the port's number.
async fn serve_at_port(
    connection: &Connection,
    files: Files,
    environment: &mut Vec<(String, String)>,
) -> Result<u32> {
    let port = connection.ask_for_port().await?;
    let number = port.port;
    let mounts = environment.iter().find(|(name, _)| name == ENV_FSTAB);
    let mounts = mounts.map(|(_, text)| (ENV_FSTAB_LC.to_owned(), text.clone()));
    environment.extend(mounts);
    environment.push(("CPUNONCE".into(), port.nonce.clone()));
    let handle = connection.handle.clone();
    tokio::spawn(async move {
        let served = port.accept(&handle).await.and_then(|(receiver, sender)| {
            // It mounts without a cache.
            files.serve(
                Cache::None,
                BlockingReader::new(receiver, Stream::Data, Handle::current()),
                BlockingWriter::new(sender, Stream::Data, Handle::current()),
            )
        });
        if let Err(error) = served {
            say!("{error:#}");
        }
    });
    Ok(number)
}

/// The command's status, once all its output has been written here.
async fn wait_end(
    events: &mut mpsc::UnboundedReceiver<Event>,
    main: ChannelId,
    mut asked: Option<Asked<'_>>,
    outputs: [oneshot::Receiver<()>; 2],
) -> Result<u8> {
    let mut status = None;
    let mut reason = String::from("the server closed it");
    loop {
        match events.recv().await {
            Some(Event::Exited(id, code)) if id == main => {
                // A status has eight bits; one that has more must not turn into a success.
                status = Some(u8::try_from(code).unwrap_or(255));
            }
            Some(Event::Killed(id, signal)) if id == main => {
                status = Some(signal.map_or(255, killed));
            }
            Some(Event::Granted(id)) if id == main => asked = None,
            Some(Event::Refused(id)) if id == main && asked.is_some() => {
                if let Some(Asked { raw, is_needed }) = asked.take() {
                    raw.take();
                    let refusal = "the server gives no terminal (PTY allocation request failed)";
                    if is_needed {
                        bail!("{refusal}; without -t the command runs without one");
                    }
                    warn!("{refusal}; the command runs without one");
                }
            }
            Some(Event::Refused(id)) if id == main => {
                // Some servers leave the channel open then; what they said of it is on its way.
                let said = async {
                    for output in outputs {
                        let _ = output.await;
                    }
                };
                let _ = tokio::time::timeout(Duration::from_secs(1), said).await;
                bail!("the server refused to run the command");
            }
            Some(Event::Closed(id)) if id == main => break,
            Some(Event::Disconnected(why)) => {
                reason = why;
                break;
            }
            None => break,
            Some(_) => {}
        }
    }
    for output in outputs {
        // A thread that failed has reported why, and that is the end, not this.
        if output.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
    status.with_context(|| format!("the connection was lost: {reason}"))
}

/// A thread that writes what the command prints.
fn spawn_output(
    receiver: &Receiver,
    stream: Stream,
    to: std::os::fd::BorrowedFd<'_>,
    local: &mpsc::UnboundedSender<Local>,
) -> Result<oneshot::Receiver<()>> {
    let to = to
        .try_clone_to_owned()
        .context("cannot use an output of this process")?;
    let mut from = BlockingReader::new(receiver.clone(), stream, Handle::current());
    let local = local.clone();
    let (done, finished) = oneshot::channel();
    std::thread::Builder::new()
        .name("output".into())
        .spawn(move || {
            while let Some(chunk) = from.chunk() {
                if let Err(error) = write_all(&to, &chunk) {
                    let _ = local.send(Local::OutputLost(error));
                    return;
                }
            }
            let _ = done.send(());
        })
        .context("cannot start a thread")?;
    Ok(finished)
}

/// Write all, also to a descriptor that another process has made non-blocking.
fn write_all(to: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(to, bytes) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::EAGAIN) => wait_for(to, PollFlags::POLLOUT)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn wait_for(fd: &OwnedFd, what: PollFlags) -> io::Result<()> {
    match nix::poll::poll(&mut [PollFd::new(fd.as_fd(), what)], PollTimeout::NONE) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A thread that sends standard input, as long as there is any and the other side takes it.
fn spawn_input(sender: &Sender, escapes: bool, local: mpsc::UnboundedSender<Local>) -> Result<()> {
    let from = io::stdin().as_fd().try_clone_to_owned();
    let sender = sender.clone();
    let runtime = Handle::current();
    let Ok(from) = from else {
        // No standard input at all is an empty one.
        tokio::spawn(async move { sender.request(ChannelWriteHalf::eof).await });
        return Ok(());
    };
    let run = move || {
        let mut to = BlockingWriter::new(sender.clone(), Stream::Data, runtime.clone());
        let mut file = File::from(from);
        let mut filter = escapes.then(EscapeFilter::new);
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => buffer.get(..n).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let fd = OwnedFd::from(file);
                    let waited = wait_for(&fd, PollFlags::POLLIN);
                    file = File::from(fd);
                    if waited.is_err() {
                        break;
                    }
                    continue;
                }
                Err(_) => break,
            };
            let sent = match &mut filter {
                None => to.send(Bytes::copy_from_slice(read)),
                Some(filter) => send_typed(filter, read, &mut to, &local),
            };
            if sent.is_err() {
                return;
            }
        }
        let _ = runtime.block_on(sender.request(ChannelWriteHalf::eof));
    };
    std::thread::Builder::new()
        .name("input".into())
        .spawn(run)
        .context("cannot start a thread")?;
    Ok(())
}

fn send_typed(
    filter: &mut EscapeFilter,
    mut typed: &[u8],
    to: &mut BlockingWriter<Msg>,
    local: &mpsc::UnboundedSender<Local>,
) -> io::Result<()> {
    while !typed.is_empty() {
        let (bytes, escape, used) = filter.filter(typed);
        typed = typed.get(used..).unwrap_or_default();
        if let Some(escape) = escape {
            // First, so that a stalled remote side cannot keep a person from leaving.
            let _ = local.send(Local::Typed(escape));
        }
        to.send(bytes.into())?;
    }
    Ok(())
}

/// Tell the remote terminal when the local one changes its size.
fn forward_window_changes(sender: &Sender, mut resized: tokio::signal::unix::Signal) {
    let sender = sender.clone();
    tokio::spawn(async move {
        while resized.recv().await.is_some() {
            let size = terminal::size();
            let (columns, rows) = (size.ws_col.into(), size.ws_row.into());
            let (x, y) = (size.ws_xpixel.into(), size.ws_ypixel.into());
            let sent = sender
                .request(|write| write.window_change(columns, rows, x, y))
                .await;
            if sent.is_err() {
                return;
            }
        }
    });
}

/// The signals that are passed on to the command.
struct Signals(mpsc::UnboundedReceiver<Signal>);

impl Signals {
    fn new() -> Result<Self> {
        let (to, from) = mpsc::unbounded_channel();
        for number in [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGUSR1,
            Signal::SIGUSR2,
        ] {
            // What nohup or a shell's `&` has it ignore.
            if crate::sys::is_ignored(number)? {
                continue;
            }
            let mut arrivals = signal(SignalKind::from_raw(number as i32))
                .with_context(|| format!("cannot catch {number}"))?;
            let to = to.clone();
            tokio::spawn(async move {
                while arrivals.recv().await.is_some() {
                    if to.send(number).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self(from))
    }

    async fn recv(&mut self) -> Signal {
        match self.0.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }
}
