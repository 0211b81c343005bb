//! One command: its process, and the bytes between it and its channel.
//!
//! The command runs under a `cpud session` process of its own ([`crate::session`]). It gets a
//! control socket: each byte is a signal to deliver, and its end means that the client has gone. In the
//! other direction nothing is sent, and the end means that the command has ended.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use cpu_proto::{Cache, Credentials, ENV_WAIT, Wait};
use cpu_ssh::{Mux, Stream, signals};
use ninep::relay::Server;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::Winsize;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::termios::{SetArg, tcgetattr, tcsetattr};
use nix::unistd::Pid;
use russh::{Pty, server};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};

use super::channel::{CHUNK, Receiver, Sender};
use super::fd::Fd;
use super::files::relay;
use super::forward::FilesPort;
use super::notice::{self, LastOutput};
use crate::console::{Listed, say};
use crate::session::end_rest;

/// How long output is still awaited from a pipe that a stranger holds open after the command
/// and all its descendants have gone.
const STRANGERS: Duration = Duration::from_secs(1);

/// Looks for what is left of a session that was killed, and takes a moment to die.
const REST: u32 = 20;

/// What the client asked for before the command.
#[derive(Default)]
pub(super) struct Request {
    pub(super) words: Vec<Vec<u8>>,
    /// Who is to run it, if not root.
    pub(super) user: Option<Credentials>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) terminal: Option<Terminal>,
    /// The client's files, each for a mount in this cache mode.
    pub(super) files: Vec<(Cache, Files)>,
}

/// Where the client's files come from.
pub(super) enum Files {
    /// The `9p` channel of the same connection.
    Channel(Receiver, Sender),
    /// A port that u-root's client asked for.
    Port(FilesPort, Mux),
}

/// A `pty-req`.
pub(super) struct Terminal {
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
    mut request: Request,
    receiver: Receiver,
    sender: Sender,
    handle: server::Handle,
    listed: Option<Listed>,
) -> Result<Running> {
    let pair = || {
        let (family, kind) = (AddressFamily::Unix, SockType::Stream);
        socketpair(family, kind, None, SockFlag::SOCK_CLOEXEC)
    };
    let (control_there, control) = pair().context("cannot make the control socket of a session")?;
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg0("cpud").arg("session");
    command.args(["--control", &inherit(&control_there)?]);
    let mut files_there = Vec::new();
    let mut files = Vec::new();
    for (cache, from) in request.files {
        let (here, there) = pair().context("cannot make a socket pair for the client's files")?;
        command.args(["--9p", cache.word(), &inherit(&there)?]);
        if matches!(from, Files::Port(..)) {
            command.arg("--u-root");
        }
        files.push((from, Arc::new(Fd::roomy(here)?)));
        files_there.push(there);
    }
    let mut terminal = None;
    if let Some(wanted) = &request.terminal {
        command.arg("--tty");
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
    let wait = take_wait(&mut request.environment);
    if wait == Wait::No {
        command.arg("--nowait");
    }
    if let Some(user) = request.user {
        command.args(["--user", &user.to_string()]);
    }
    command.arg("--");
    command.args(request.words.into_iter().map(OsString::from_vec));
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
            Files::Channel(receiver, sender) => relay(receiver, sender, socket, Server::Any),
            Files::Port(port, mux) => {
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
        for _ in 0..REST {
            if session.is_none_or(|session| end_rest(session).is_ok()) {
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

/// Make a descriptor survive the next exec; its number as text.
fn inherit(fd: &OwnedFd) -> Result<String> {
    use std::os::fd::AsRawFd;
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).context("cannot pass a descriptor on")?;
    Ok(fd.as_raw_fd().to_string())
}

/// Master and slave of a new terminal, both closed on exec.
fn open_terminal(wanted: &Terminal) -> Result<(OwnedFd, OwnedFd)> {
    let pty = nix::pty::openpty(&wanted.size, None)
        .context("cannot make a terminal (is devpts mounted on /dev/pts?)")?;
    for end in [&pty.master, &pty.slave] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    let mut termios = tcgetattr(&pty.slave)?;
    cpu_ssh::modes::apply(&wanted.modes, &mut termios);
    tcsetattr(&pty.slave, SetArg::TCSANOW, &termios).context("cannot set the terminal's modes")?;
    Ok((pty.master, pty.slave))
}

fn take_pipes(child: &mut Child) -> Result<(Arc<Fd>, Arc<Fd>, Arc<Fd>)> {
    let missing = "a pipe of the session is missing";
    let stdin = child.stdin.take().context(missing)?.into_owned_fd()?;
    let stdout = child.stdout.take().context(missing)?.into_owned_fd()?;
    let stderr = child.stderr.take().context(missing)?.into_owned_fd()?;
    Ok((
        Arc::new(Fd::new(stdin)?),
        Arc::new(Fd::new(stdout)?),
        Arc::new(Fd::new(stderr)?),
    ))
}

/// The client's input to the command; the pipe closes at its end, or when nobody reads it.
async fn pump_in(receiver: Receiver, to: Arc<Fd>) {
    while let Some(chunk) = receiver.read(Stream::Data, CHUNK).await {
        if to.write_all(&chunk).await.is_err() {
            receiver.discard();
            return;
        }
    }
}

/// The command's output to the client, to the last byte.
async fn pump_out(
    from: Arc<Fd>,
    (to, stream): (Sender, Stream),
    mut ended: watch::Receiver<bool>,
    last_output: LastOutput,
) {
    let mut buffer = BytesMut::new();
    loop {
        let read = tokio::select! {
            biased;
            read = from.read(&mut buffer) => read,
            () = async {
                let _ = ended.wait_for(|ended| *ended).await;
                tokio::time::sleep(STRANGERS).await;
            } => return,
        };
        let Some(bytes) = read.ok().filter(|bytes| !bytes.is_empty()) else {
            return;
        };
        if to.send(stream, bytes).await.is_err() {
            return;
        }
        last_output.renew();
    }
}

/// For a client that compares it with its own. Nobody waits for it.
async fn tell_clock(sender: &Sender) {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    sender
        .tell_clock(since_1970.unwrap_or_default().as_secs())
        .await;
}

/// What the client wants of processes that the command leaves running; the variable is for cpud alone.
fn take_wait(environment: &mut Vec<(String, String)>) -> Wait {
    let value = environment.iter().rev().find(|(name, _)| name == ENV_WAIT);
    let wait = value.and_then(|(_, value)| value.parse().ok());
    environment.retain(|(name, _)| name != ENV_WAIT);
    wait.unwrap_or_default()
}

/// Signals to the session process, until the client goes; then its end of the pipe is closed.
async fn deliver(mut signals: mpsc::UnboundedReceiver<Signal>, control: &Fd, sender: &Sender) {
    loop {
        let signal = tokio::select! {
            signal = signals.recv() => signal,
            () = sender.closed() => None,
        };
        let Some(signal) = signal else { return };
        let Ok(number) = u8::try_from(signal as i32) else {
            continue;
        };
        if control.write_all(&[number]).await.is_err() {
            return;
        }
    }
}

/// Exit status or signal, end of data, close: in this order, after all output.
async fn report(status: std::io::Result<ExitStatus>, sender: &Sender, handle: &server::Handle) {
    let signal = status.as_ref().ok().and_then(ExitStatusExt::signal);
    if let Some(signal) = signal.and_then(|number| Signal::try_from(number).ok()) {
        let core = status.as_ref().is_ok_and(ExitStatusExt::core_dumped);
        let sent = handle.exit_signal_request(
            sender.id(),
            signals::name(signal),
            core,
            String::new(),
            String::new(),
        );
        tokio::select! {
            _ = sent => {}
            () = sender.closed() => return,
        }
    } else {
        let code = match status {
            Ok(status) => status.code().unwrap_or(255),
            Err(error) => {
                let line = format!("cpud: cannot wait for the session: {error}\n");
                let _ = sender.send(Stream::Stderr, Bytes::from(line)).await;
                255
            }
        };
        let code = u32::try_from(code).unwrap_or(255);
        let _ = sender.request(|write| write.exit_status(code)).await;
    }
    let _ = sender.request(russh::ChannelWriteHalf::eof).await;
    sender.close().await;
}
