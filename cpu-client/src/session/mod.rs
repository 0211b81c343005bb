//! One remote command, from the opening of its channels to its exit status: what is typed goes
//! there, what it prints comes here, and beside them this machine's files are served.
//!
//! Files and standard streams block, so each has a thread; the SSH connection and everything
//! that decides lives on the main thread, which none of them can hold up.

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
use crate::files::FileServer;
use crate::ssh::{ConnectionEvent, ServerConnection, ServerKind};
use crate::terminal::{self, ESCAPE_HELP, Escape};
use open::start;
use signals::{SignalReceiver, forward_window_changes, killed};
use stdio::{LocalEvent, spawn_input, spawn_output};

/// How long a command may take to end after a TERM or HUP was passed on to it.
const GRACE: Duration = Duration::from_secs(2);

/// What to run, and with what.
pub(crate) struct Command {
    /// The words; none means a shell.
    pub(crate) argv: Vec<Vec<u8>>,
    pub(crate) environment: Vec<(String, String)>,
    /// This machine's files, if they are served, and the cache modes of the mounts that show them.
    pub(crate) files: Option<(FileServer, Vec<CacheMode>)>,
    /// Who it is, if not root.
    pub(crate) user: Option<Credentials>,
    pub(crate) terminal: bool,
    /// Whether a server that gives no terminal fails the session, as with ssh's `-t`.
    pub(crate) needs_terminal: bool,
    /// Whether standard input is sent; else the command finds its end at once.
    pub(crate) input: bool,
}

/// Run the command; returns the exit status for this process.
pub(crate) async fn run(mut connection: ServerConnection, command: Command) -> Result<u8> {
    if command.files.is_some() && connection.server == ServerKind::Sshd {
        bail!(
            "the server is no cpud, and files are served only to those; use -9p=false for plain ssh"
        );
    }
    if command.user.is_some() && connection.server != ServerKind::Cpud {
        bail!(
            "the server is no cpud of ours, and knows no -user: its commands are {}",
            match connection.server {
                ServerKind::Sshd => "those of the user who logs in",
                ServerKind::URoot | ServerKind::Cpud => "root's",
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
    let (receiver, sender, stdin) = start(&mut connection, command, modes.as_ref()).await?;
    // Not before: until now the keys that interrupt, and the signals, do here what they always do.
    let mut passed_on = SignalReceiver::new()?;
    let raw = modes.map(terminal::RawMode::enter).transpose();
    let raw = raw.context("cannot set the terminal to raw mode")?;
    let told = sender.clone();
    tokio::spawn(async move {
        if let Ok(Some(time)) = path.await {
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
        let pty_request = terminal.then_some(PtyRequest {
            raw: &raw,
            is_needed: needs_terminal,
        });
        let ended = wait_end(&mut connection.events, sender.id(), pty_request, outputs);
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
                    let name = cpu_ssh::signals::name(signal);
                    // A channel that has gone says so through `ended`.
                    let _ = sender.request(|write| write.signal(name)).await;
                }
                () = sleep_until(deadline), if deadline.is_some() => {
                    let signal = last_chance.map_or(Signal::SIGTERM, |(signal, _)| signal);
                    break Ok(killed(signal));
                }
                Some(event) = local.recv() => match event {
                    LocalEvent::Typed(Escape::Leave) => break Ok(255),
                    LocalEvent::Typed(Escape::Help) => {
                        let _ = io::stderr().write_all(ESCAPE_HELP.as_bytes());
                    }
                    // As if this process had been at the broken end of the pipe itself.
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
    status
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline).await;
    }
}

/// A terminal that was asked for; the answer is the server's first on the channel.
struct PtyRequest<'a> {
    /// How it is shown here.
    raw: &'a Cell<Option<terminal::RawMode>>,
    is_needed: bool,
}

/// The command's status, once all its output has been written here.
async fn wait_end(
    events: &mut mpsc::UnboundedReceiver<ConnectionEvent>,
    main: ChannelId,
    mut pty_request: Option<PtyRequest<'_>>,
    outputs: [oneshot::Receiver<()>; 2],
) -> Result<u8> {
    let mut status = None;
    let mut reason = String::from("the server closed it");
    loop {
        match events.recv().await {
            Some(ConnectionEvent::Exited(id, code)) if id == main => {
                // A status has eight bits; one that has more must not turn into a success.
                status = Some(u8::try_from(code).unwrap_or(255));
            }
            Some(ConnectionEvent::Killed(id, signal)) if id == main => {
                status = Some(signal.map_or(255, killed));
            }
            Some(ConnectionEvent::Granted(id)) if id == main => pty_request = None,
            Some(ConnectionEvent::Refused(id)) if id == main && pty_request.is_some() => {
                if let Some(PtyRequest { raw, is_needed }) = pty_request.take() {
                    raw.take();
                    let refusal = "the server gives no terminal (PTY allocation request failed)";
                    if is_needed {
                        bail!("{refusal}; without -t the command runs without one");
                    }
                    warn!("{refusal}; the command runs without one");
                }
            }
            Some(ConnectionEvent::Refused(id)) if id == main => {
                // Some servers leave the channel open then; what they said of it is on its way.
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
        // A thread that failed has reported why, and that is the end, not this.
        if output.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
    status.with_context(|| format!("the connection was lost: {reason}"))
}
