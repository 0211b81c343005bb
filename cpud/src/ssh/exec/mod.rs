//! One command: its process, and the bytes between it and its channel.
//!
//! The command runs under a `cpud session` process of its own ([`crate::session`]). It gets a
//! control socket: each byte is a signal to deliver, and its end means that the client has gone. In the
//! other direction nothing is sent, and the end means that the command has ended.

mod pump;
mod report;
mod spawn;

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context, Result};
use cpu_proto::{Cache, Credentials, ENV_WAIT, Wait};
use cpu_ssh::{Mux, Stream};
use ninep::relay::Server;
use nix::pty::Winsize;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use russh::{Pty, server};
use tokio::process::Command;
use tokio::sync::{mpsc, watch};

use super::channel::{Receiver, Sender};
use super::fd::Fd;
use super::files::relay;
use super::notice::{self, LastOutput};
use super::uroot::UrootPort;
use crate::console::{ListedCommand, say};
use crate::session::{Spec, kill_leftovers};
use pump::{deliver, pump_in, pump_out};
use report::{report, tell_clock};
use spawn::{inherit, open_terminal, pair, take_pipes};

/// Looks for what is left of a session that was killed, and takes a moment to die.
const KILL_ATTEMPTS: u32 = 20;

/// What the client asked for before the command.
#[derive(Default)]
pub(super) struct SessionRequest {
    pub(super) words: Vec<Vec<u8>>,
    /// Who is to run it, if not root.
    pub(super) user: Option<Credentials>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) terminal: Option<PtyRequest>,
    /// The client's files, each for a mount in this cache mode.
    pub(super) files: Vec<(Cache, FilesSource)>,
}

/// Where the client's files come from.
pub(super) enum FilesSource {
    /// The `9p` channel of the same connection.
    Channel(Receiver, Sender),
    /// A port that u-root's client asked for.
    Port(UrootPort, Mux),
}

/// A `pty-req`.
pub(super) struct PtyRequest {
    pub(super) size: Winsize,
    pub(super) modes: Vec<(Pty, u32)>,
}

/// What can still be told to a running command. Dropping it hangs up.
pub(super) struct Running {
    control: mpsc::UnboundedSender<Signal>,
    /// The pumps have it, as long as the command lives.
    terminal: Option<Weak<Fd>>,
}

impl Running {
    pub(super) fn signal(&self, signal: Signal) {
        // A command that has just ended needs none.
        let _ = self.control.send(signal);
    }

    pub(super) fn resize(&self, size: Winsize) {
        if let Some(terminal) = self.terminal.as_ref().and_then(Weak::upgrade)
            && let Err(error) = crate::sys::set_window_size(terminal.as_fd(), size)
        {
            say(format_args!("cannot resize the terminal: {error}"));
        }
    }
}

/// Start the command; the rest runs by itself and ends with the exit status and the channel's
/// close. `listed` lives as long as the command.
pub(super) fn start(
    mut request: SessionRequest,
    receiver: Receiver,
    sender: Sender,
    handle: server::Handle,
    listed: Option<ListedCommand>,
) -> Result<Running> {
    let (control_there, control) = pair().context("cannot make the control socket of a session")?;
    let wait = take_wait(&mut request.environment);
    let mut spec = Spec {
        control: inherit(&control_there)?,
        tty: request.terminal.is_some(),
        only_command: wait == Wait::No,
        user: request.user,
        argv: request.words.into_iter().map(OsString::from_vec).collect(),
        ..Spec::default()
    };
    let mut files_there = Vec::new();
    let mut files = Vec::new();
    for (cache, from) in request.files {
        let (here, there) = pair().context("cannot make a socket pair for the client's files")?;
        spec.ninep.push((cache, inherit(&there)?));
        spec.u_root |= matches!(from, FilesSource::Port(..));
        files.push((from, Arc::new(Fd::for_files(here)?)));
        files_there.push(there);
    }
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg0("cpud").args(spec.args());
    let mut terminal = None;
    if let Some(wanted) = &request.terminal {
        let (master, slave) = open_terminal(wanted)?;
        for place in [
            std::process::Command::stdin,
            std::process::Command::stdout,
            std::process::Command::stderr,
        ] {
            place(&mut command, Stdio::from(slave.try_clone()?));
        }
        terminal = Some(Arc::new(Fd::new(master)?));
    } else {
        command.stdin(Stdio::piped());
        command.stdout(Stdio::piped());
        command.stderr(Stdio::piped());
    }
    command.env_clear().envs(request.environment);

    let mut child = Command::from(command)
        .spawn()
        .context("cannot start a session process")?;
    drop((control_there, files_there));

    let (ended_tx, ended) = watch::channel(false);
    let last_output = LastOutput::now();
    let (input, outputs) = if let Some(terminal) = &terminal {
        (terminal.clone(), vec![(terminal.clone(), Stream::Data)])
    } else {
        let (stdin, stdout, stderr) = take_pipes(&mut child)?;
        (
            stdin,
            vec![(stdout, Stream::Data), (stderr, Stream::Stderr)],
        )
    };
    tokio::spawn(pump_in(receiver, input));
    let outputs: Vec<_> = outputs
        .into_iter()
        .map(|(from, stream)| {
            let to = (sender.clone(), stream);
            tokio::spawn(pump_out(from, to, ended.clone(), last_output.clone()))
        })
        .collect();
    for (from, socket) in files {
        match from {
            FilesSource::Channel(receiver, sender) => relay(receiver, sender, socket, Server::Any),
            FilesSource::Port(port, mux) => {
                let handle = handle.clone();
                tokio::spawn(async move {
                    // Without it the socket closes, and the session says that nobody answers.
                    if let Ok((receiver, sender)) = port.connect(&mux, &handle).await {
                        relay(receiver, sender, socket, Server::URoot);
                    }
                });
            }
        }
    }
    let (signals_tx, signals) = mpsc::unbounded_channel();
    let session = child.id().and_then(|pid| i32::try_from(pid).ok());
    let (is_terminal, client) = (terminal.is_some(), sender.clone());
    tokio::spawn(async move {
        let Ok(control) = Fd::new(control) else {
            return;
        };
        let told = async {
            tell_clock(&client).await;
            control.ended().await;
            if let Some(pid) = session.filter(|_| wait == Wait::Told) {
                notice::tell(Pid::from_raw(pid), &last_output, &client, is_terminal).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = deliver(signals, &control, &client) => {}
            () = told => {}
        }
    });
    tokio::spawn(async move {
        let session = child.id();
        let status = child.wait().await;
        for _ in 0..KILL_ATTEMPTS {
            if session.is_none_or(|session| kill_leftovers(session).is_ok()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        drop(listed);
        ended_tx.send_replace(true);
        for output in outputs {
            let _ = output.await;
        }
        report(status, &sender, &handle).await;
    });
    Ok(Running {
        control: signals_tx,
        terminal: terminal.as_ref().map(Arc::downgrade),
    })
}

/// What the client wants of processes that the command leaves running; the variable is for cpud alone.
fn take_wait(environment: &mut Vec<(String, String)>) -> Wait {
    let value = environment.iter().rev().find(|(name, _)| name == ENV_WAIT);
    let wait = value.and_then(|(_, value)| value.parse().ok());
    environment.retain(|(name, _)| name != ENV_WAIT);
    wait.unwrap_or_default()
}
