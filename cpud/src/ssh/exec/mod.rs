//! One command: starts its process ([`spawn`]), copies the bytes between it and its channel ([`pump`]), and
//! reports how it ended ([`report`]).
//!
//! The command runs under a `cpud session` process of its own ([`crate::session`]), which gets one end of a
//! control socket: each byte is a signal to deliver, and the end of the stream means that the client has gone.
//! The session sends nothing; it ends its direction when the command has ended.

mod pump;
mod report;
mod spawn;

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Stdio;
use std::sync::{Arc, Weak};

use anyhow::{Context, Result};
use cpu_proto::{CacheMode, Credentials, ENV_WAIT, Wait};
use cpu_ssh::{Mux, Stream};
use ninep::relay::Upstream;
use nix::pty::Winsize;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use russh::{Pty, server};
use tokio::process::Command;
use tokio::sync::{mpsc, watch};

use super::agent;
use super::audit::SessionAudit;
use super::channel::{ServerReceiver, ServerSender};
use super::fd::Fd;
use super::files::{KernelEnd, relay_files};
use super::fuse::FuseMount;
use super::notice::{self, LastOutput};
use super::relayed::Relayed;
use super::sessions::Sessions;
use super::uroot::UrootPort;
use crate::console::{ListedCommand, say};
use crate::isolation::Isolation;
use crate::session::{Spec, passed_name};
use pump::{deliver, pump_in, pump_out};
use report::{report, send_clock};
pub(super) use spawn::pair as socket_pair;
use spawn::{inherit, open_terminal, pair, take_pipes};

/// What the client has asked for on a session channel.
#[derive(Default)]
pub(super) struct SessionRequest {
    pub(super) argv: Vec<Vec<u8>>,
    /// The user who runs the command, if not root.
    pub(super) user: Option<Credentials>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) terminal: Option<TerminalRequest>,
    /// Whether the client forwards an agent, and through what.
    pub(super) agent: Option<Mux>,
    /// In which the session is, if in one.
    pub(super) isolation: Option<Arc<Isolation>>,
    /// The client's files, each for a mount in this cache mode.
    pub(super) files: Vec<(CacheMode, FilesSource)>,
}

/// How the client's file server is reached.
pub(super) enum FilesSource {
    /// The `9p` channel of the same connection.
    Channel(ServerReceiver, ServerSender),
    /// A port that u-root's client asked for.
    Port(UrootPort, Mux),
}

/// The terminal of a `pty-req` (RFC 4254, section 6.2).
pub(super) struct TerminalRequest {
    pub(super) size: Winsize,
    pub(super) modes: Vec<(Pty, u32)>,
}

/// A running command, to send signals to and to resize. Dropping it hangs up.
pub(super) struct Running {
    control: mpsc::UnboundedSender<Signal>,
    /// Owned by the pumps, which end with the command.
    terminal: Option<Weak<Fd>>,
}

impl Running {
    pub(super) fn signal(&self, signal: Signal) {
        // A command that has just ended needs no signal.
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

/// Starts the command. Tasks do the rest, up to the exit status and the close of the channel. `listed` is
/// dropped when the command has ended, and `audit` when all of its output has been sent.
pub(super) fn start(
    mut request: SessionRequest,
    receiver: ServerReceiver,
    sender: ServerSender,
    handle: server::Handle,
    listed: Option<ListedCommand>,
    mut audit: SessionAudit,
    sessions: &Arc<Sessions>,
) -> Result<Running> {
    let (control_theirs, control) =
        pair().context("cannot make the control socket of a session")?;
    let wait = take_variable(&mut request.environment, ENV_WAIT);
    let wait: Wait = wait
        .and_then(|value| value.parse().ok())
        .unwrap_or_default();
    let mut spec = Spec {
        from: audit.peer().to_owned(),
        control: inherit(&control_theirs)?,
        tty: request.terminal.is_some(),
        only_command: wait == Wait::No,
        user: request.user,
        limits: sessions.limits,
        argv: request.argv.into_iter().map(OsString::from_vec).collect(),
        ..Spec::default()
    };
    let mut theirs_all = Vec::new();
    let mut devpts = None;
    if let Some(isolation) = &request.isolation {
        let own = spawn::isolate(isolation).context("cannot isolate the session")?;
        spec.isolation = Some(own.spec(isolation.root)?);
        devpts = Some(own.devpts);
        theirs_all.extend([own.holder, own.life]);
    }
    let ids = request
        .isolation
        .as_ref()
        .map(|isolation| Isolation::ids(isolation.root));
    let mut files = Vec::new();
    let user = request.environment.iter().rfind(|(name, _)| name == "USER");
    let user = user.map(|(_, user)| user.as_str());
    for (cache, from) in request.files {
        spec.u_root |= matches!(from, FilesSource::Port(..));
        // u-root's server has one number for files of several devices, which FUSE would take for one file.
        spec.fuse = !spec.u_root && sessions.mount.is_fuse();
        let (kernel, theirs) = if spec.fuse {
            let (mount, theirs) = FuseMount::new(cache, user)?;
            (KernelEnd::Fuse(Box::new(mount)), theirs)
        } else {
            let pair = pair().context("cannot make a socket pair for the client's files")?;
            (KernelEnd::V9fs(Arc::new(Fd::for_files(pair.0)?)), pair.1)
        };
        spec.files.push((cache, inherit(&theirs)?));
        files.push((from, kernel));
        theirs_all.push(theirs);
    }
    let mut agent = None;
    if let Some(mux) = request.agent {
        let (ours, theirs) = pair().context("cannot make a socket pair for the agent")?;
        spec.agent = Some(inherit(&theirs)?);
        theirs_all.push(theirs);
        agent = Some((ours, mux));
    }
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg0("cpud").args(spec.args());
    let mut terminal = None;
    if let Some(pty) = &request.terminal {
        let (master, slave) = open_terminal(pty, devpts.as_ref())?;
        for set in [
            std::process::Command::stdin,
            std::process::Command::stdout,
            std::process::Command::stderr,
        ] {
            set(&mut command, Stdio::from(slave.try_clone()?));
        }
        terminal = Some(Arc::new(Fd::new(master)?));
    } else {
        command.stdin(Stdio::piped());
        command.stdout(Stdio::piped());
        command.stderr(Stdio::piped());
    }
    let environment = request.environment.into_iter();
    let environment = environment.map(|(name, value)| (passed_name(&name), value));
    command.env_clear().envs(environment);

    let mut child = Command::from(command)
        .spawn()
        .context("cannot start a session process")?;
    let process = child.id().and_then(|pid| i32::try_from(pid).ok());
    let process = Pid::from_raw(process.context("the session process has no number")?);
    let session = sessions.begin(process);
    drop((control_theirs, theirs_all, devpts));

    let (ended_tx, ended) = watch::channel(false);
    if let Some((session, mux)) = agent {
        agent::forward(session, mux, handle.clone(), ended.clone());
    }
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
    let mut relayed = Vec::new();
    for (from, kernel) in files {
        match from {
            FilesSource::Channel(receiver, sender) => {
                relayed.push(relay_files(receiver, sender, kernel, Upstream::Any, ids));
            }
            FilesSource::Port(port, mux) => {
                let handle = handle.clone();
                tokio::spawn(async move {
                    // On failure the socket closes, and the session reports that nobody answers.
                    if let Ok((receiver, sender)) = port.connect(&mux, &handle).await {
                        relay_files(receiver, sender, kernel, Upstream::URoot, ids);
                    }
                });
            }
        }
    }
    let mut closes: Vec<_> = relayed.iter().map(Relayed::closes).collect();
    tokio::spawn(pump_in(
        receiver,
        input,
        audit.transferred(),
        relayed,
        ended.clone(),
    ));
    let outputs: Vec<_> = outputs
        .into_iter()
        .map(|(from, stream)| {
            let to = (sender.clone(), stream, audit.transferred());
            let closes = closes.clone();
            tokio::spawn(pump_out(
                from,
                to,
                closes,
                ended.clone(),
                last_output.clone(),
            ))
        })
        .collect();
    let (signals_tx, signals) = mpsc::unbounded_channel();
    let (is_terminal, client) = (terminal.is_some(), sender.clone());
    let told_to_end = session.told_to_end();
    tokio::spawn(async move {
        let Ok(control) = Fd::new(control) else {
            return;
        };
        let notices = async {
            send_clock(&client).await;
            control.ended().await;
            if wait == Wait::Yes {
                notice::send(process, ids.is_some(), &last_output, &client, is_terminal).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = deliver(signals, &control, &client) => {}
            () = notices => {}
            () = told_to_end => notice::ending(&client, is_terminal).await,
        }
    });
    tokio::spawn(async move {
        let status = child.wait().await;
        let signal = status.as_ref().ok().and_then(ExitStatusExt::signal);
        session.ended(signal.is_some()).await;
        drop(listed);
        ended_tx.send_replace(true);
        for output in outputs {
            let _ = output.await;
        }
        for closes in &mut closes {
            closes.flush().await;
            closes.wait().await;
        }
        audit.set_status(status.as_ref().ok().copied());
        drop(audit);
        report(status, &sender, &handle).await;
        drop(session);
    });
    Ok(Running {
        control: signals_tx,
        terminal: terminal.as_ref().map(Arc::downgrade),
    })
}

/// Removes a variable that the client has set for cpud. The command does not get it.
pub(super) fn take_variable(environment: &mut Vec<(String, String)>, name: &str) -> Option<String> {
    let set = |(set, _): &(String, String)| set == name;
    let value = environment.iter().rfind(|variable| set(variable));
    let value = value.map(|(_, value)| value.clone());
    environment.retain(|variable| !set(variable));
    value
}
