//! The server role: listens, and gives every connection a process of its own, so that neither a
//! crash nor the memory of one is another's concern, and each is single-threaded.

mod auth;
mod connection;
mod exec;
mod fd;
mod files;
mod forward;
mod listen;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

pub(crate) use connection::run as run_connection;
pub(crate) use listen::Place;

/// Connections at one time; the next one waits in the kernel's queue until one of them ends.
const MAX_CONNECTIONS: usize = 256;

/// Wait after a failure to accept, so that a lasting one does not eat the machine.
const PAUSE: Duration = Duration::from_millis(200);

/// What the server and its connections need to know.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Where to listen.
    pub(crate) place: Place,
    /// Public keys that may log in, `authorized_keys` format.
    pub(crate) public_keys: PathBuf,
    /// The machine's private host key, OpenSSH format.
    pub(crate) host_key: PathBuf,
    /// Grant TCP ports on loopback (ssh -L, -R).
    pub(crate) forward: bool,
    /// Exchange keys by ML-KEM only.
    pub(crate) post_quantum: bool,
    /// Report every step on standard error.
    pub(crate) debug: bool,
}

/// Listen for ever.
pub(crate) fn serve(options: &Options) -> Result<()> {
    // What would make every login fail must be known before the first one.
    let keys = auth::read_public_keys(&options.public_keys)?;
    let host_key = auth::read_host_key(&options.host_key)?;
    let listener = listen::listen(&options.place)?;
    eprintln!(
        "cpud: serving on {}, {} key(s) may log in, host key {}",
        options.place,
        keys.len(),
        auth::fingerprint(host_key.public_key()),
    );
    drop((keys, host_key));

    let mut ended = SigSet::empty();
    ended.add(Signal::SIGCHLD);
    ended.thread_block().context("cannot block SIGCHLD")?;
    let ended = SignalFd::with_flags(&ended, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("cannot make a signalfd")?;

    let mut children: Vec<Child> = Vec::new();
    loop {
        while let Ok(Some(_)) = ended.read_signal() {}
        children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        let room = children.len() < MAX_CONNECTIONS;
        let mut wake = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        if room {
            wake.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
        }
        if nix::poll::poll(&mut wake, PollTimeout::NONE).is_err() {
            continue; // interrupted
        }
        if wake.get(1).and_then(PollFd::any) != Some(true) {
            continue;
        }
        match crate::sys::accept(listener.as_fd()) {
            Ok(stream) => match spawn(options, stream) {
                Ok(child) => children.push(child),
                Err(error) => eprintln!("cpud: {error:#}"),
            },
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => {
                // Out of descriptors or memory, or a peer that left at once: none is for ever.
                eprintln!("cpud: cannot accept a connection: {error}");
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// A fresh `cpud connection` with the socket as its standard input.
fn spawn(options: &Options, stream: OwnedFd) -> Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("connection")
        .arg("-pk")
        .arg(&options.public_keys)
        .arg("-hk")
        .arg(&options.host_key)
        .stdin(Stdio::from(stream));
    if options.forward {
        command.arg("-forward");
    }
    if options.post_quantum {
        command.arg("-pq");
    }
    if options.debug {
        command.arg("-d");
    }
    command
        .spawn()
        .context("cannot start a process for a connection")
}
