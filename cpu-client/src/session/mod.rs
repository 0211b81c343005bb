//! One remote command, from the opening of its channels to its exit status. Its standard streams are connected to this
//! process's, and this machine's files are served meanwhile.
//!
//! Files and standard streams block, so each of them has a thread. The SSH connection and all decisions are on the main
//! thread, which therefore never blocks.

mod open;
mod signals;
mod stdio;

use std::cell::Cell;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cpu_proto::{CacheMode, Credentials};
use cpu_ssh::Stream;
use nix::sys::signal::Signal;
use russh::ChannelId;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use crate::clock;
use crate::events::Steps;
use crate::files::FileServer;
use crate::ssh::{ConnectionEvent, ServerConnection, ServerKind};
use crate::terminal::{self, ESCAPE_HELP, Escape};
use open::start;
use signals::{SignalReceiver, forward_window_changes, killed};
use stdio::{LocalEvent, spawn_input, spawn_output};

/// How long a command may take to end after a TERM or HUP was forwarded to it.
const GRACE: Duration = Duration::from_secs(5);

/// How long the last requests for files may take after the end of a command, if anybody wants to know of them.
const UNMOUNT: Duration = Duration::from_secs(1);

/// What to run, and how.
pub(crate) struct Command {
    /// The arguments; empty for a shell.
    pub(crate) argv: Vec<Vec<u8>>,
    pub(crate) environment: Vec<(String, String)>,
    /// This machine's files, if they are served, and the cache modes of their mounts.
    pub(crate) files: Option<(FileServer, Vec<CacheMode>)>,
    /// Whether the user chose any of these modes.
    pub(crate) cache_is_chosen: bool,
    /// Its user, if not root.
    pub(crate) user: Option<Credentials>,
    pub(crate) terminal: bool,
    /// Whether the session fails if the server allocates no terminal, as with ssh's `-t`.
    pub(crate) needs_terminal: bool,
    /// Whether an agent is forwarded.
    pub(crate) forward_agent: bool,
    /// Whether standard input is sent. If not, the command reads end of file at once.
    pub(crate) input: bool,
    pub(crate) steps: Steps,
}

/// Runs the command, and returns the exit status for this process.
/// `host` is what the user calls the machine.
pub(crate) async fn run(
    mut connection: ServerConnection,
    host: &str,
    command: Command,
) -> Result<u8> {
    let caches = command.files.as_ref().map(|(_, caches)| &caches[..]);
    connection
        .server
        .check(caches, command.cache_is_chosen, command.user.is_some())?;
    let (local_tx, mut local) = mpsc::unbounded_channel();
    let (terminal, input) = (command.terminal, command.input);
    let needs_terminal = command.needs_terminal;
    let modes = if terminal && input {
        terminal::modes().context("cannot read the terminal's modes")?
    } else {
        None
    };
    // Before the size is read, so that no change is missed.
    let resized = terminal
        .then(|| signal(SignalKind::window_change()))
        .transpose()?;
    let path = connection.measure_path();
    let steps = command.steps.clone();
    let files = command.files.as_ref().map(|(files, _)| files.clone());
    steps.begin("open channels");
    let (receiver, sender, stdin) = start(&mut connection, command, modes.as_ref()).await?;
    steps.begin("command");
    // Not earlier: until now, signals and the keys that send them act on cpu itself.
    let mut forwarded = SignalReceiver::new()?;
    let raw = modes.map(terminal::RawMode::enter).transpose();
    let raw = raw.context("cannot set the terminal to raw mode")?;
    let (told, served) = (sender.clone(), files.clone());
    tokio::spawn(async move {
        if let Ok(Some(time)) = path.await {
            if let Some(files) = served {
                files.report_round_trip(time);
            }
            told.report_round_trip(time).await;
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
        spawn_input(stdin, raw.is_some(), local_tx)?;
    } else {
        tokio::task::spawn_blocking(move || stdin.end());
    }
    if let Some(resized) = resized {
        forward_window_changes(&sender, resized);
    }
    let raw = Cell::new(raw);
    let status = {
        let pending_pty = terminal.then_some(PendingPty {
            raw: &raw,
            is_needed: needs_terminal,
        });
        let ended = wait_end(
            &mut connection.events,
            host,
            sender.id(),
            pending_pty,
            outputs,
        );
        tokio::pin!(ended);
        // A TERM or HUP ends the session after a grace, a second INT or QUIT at once.
        let mut last_chance: Option<(Signal, tokio::time::Instant)> = None;
        let mut interrupted = false;
        loop {
            let deadline = last_chance.map(|(_, at)| at);
            tokio::select! {
                status = &mut ended => break status,
                signal = forwarded.recv() => {
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
                    let name = cpu_ssh::signals::name(signal);
                    // If the channel is gone, `ended` says so.
                    let _ = sender.request(|write| write.signal(name)).await;
                }
                () = sleep_until(deadline), if deadline.is_some() => {
                    let signal = last_chance.map_or(Signal::SIGTERM, |(signal, _)| signal);
                    break Ok(killed(signal));
                }
                Some(event) = local.recv() => match event {
                    LocalEvent::Typed(Escape::Leave) => {
                        break Err(anyhow::anyhow!("connection closed by ~."));
                    }
                    LocalEvent::Typed(Escape::Help) => {
                        let _ = io::stderr().write_all(ESCAPE_HELP.as_bytes());
                    }
                    // As if the command itself had written into the broken pipe.
                    LocalEvent::OutputLost(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                        break Ok(killed(Signal::SIGPIPE));
                    }
                    LocalEvent::OutputLost(error) => {
                        break Err(anyhow::anyhow!("cannot write the output: {error}"));
                    }
                },
            }
        }
    };
    drop(raw);
    if connection.server == ServerKind::Cpud
        && status.is_ok()
        && let Some(files) = files.filter(FileServer::is_observed)
    {
        steps.begin("unmount");
        let _ = tokio::time::timeout(UNMOUNT, files.ended()).await;
    }
    status
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline).await;
    }
}

/// A terminal that was requested. The answer is the first one on the channel.
struct PendingPty<'a> {
    /// The raw mode of the local terminal.
    raw: &'a Cell<Option<terminal::RawMode>>,
    is_needed: bool,
}

/// Waits for the end of the command and of its output, and returns its exit status.
async fn wait_end(
    events: &mut mpsc::UnboundedReceiver<ConnectionEvent>,
    host: &str,
    main: ChannelId,
    mut pending_pty: Option<PendingPty<'_>>,
    outputs: [oneshot::Receiver<()>; 2],
) -> Result<u8> {
    let mut status = None;
    let mut reason = String::from("the server closed it");
    loop {
        match events.recv().await {
            Some(ConnectionEvent::Exited(id, code)) if id == main => {
                // An exit status here has eight bits. A larger one must not become 0.
                status = Some(u8::try_from(code).unwrap_or(255));
            }
            Some(ConnectionEvent::Killed(id, signal)) if id == main => {
                status = Some(signal.map_or(255, killed));
            }
            Some(ConnectionEvent::Granted(id)) if id == main => pending_pty = None,
            Some(ConnectionEvent::Refused(id)) if id == main && pending_pty.is_some() => {
                if let Some(PendingPty { raw, is_needed }) = pending_pty.take() {
                    raw.take();
                    let refusal =
                        "the server allocates no terminal (PTY allocation request failed)";
                    if is_needed {
                        bail!("{refusal}; without -t the command runs without one");
                    }
                    warn!("{refusal}; the command runs without one");
                }
            }
            Some(ConnectionEvent::Refused(id)) if id == main => {
                // Some servers leave the channel open then. Give their messages a second to arrive.
                let said = async {
                    for output in outputs {
                        let _ = output.await;
                    }
                };
                let _ = tokio::time::timeout(Duration::from_secs(1), said).await;
                bail!("the server refused to run the command");
            }
            Some(ConnectionEvent::Closed(id)) if id == main => break,
            Some(ConnectionEvent::Disconnected(why)) => {
                reason = why;
                break;
            }
            None => break,
            Some(_) => {}
        }
    }
    for output in outputs {
        // A thread that failed has reported why, and that ends the session.
        if output.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
    status.with_context(|| format!("the connection to {host} was lost: {reason}"))
}
