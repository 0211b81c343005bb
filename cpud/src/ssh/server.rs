//! The server role: listens, and gives every connection a process of its own. So a crash of one connection,
//! or the memory that it takes, does not affect the others, and each process is single-threaded.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::announce::Announcer;
use super::{auth, listen};
use crate::console::say;
use crate::flags::ServerOptions;
use crate::role::Role;

/// The most connections at one time; the next one waits in the kernel's queue until one of them ends.
const MAX_CONNECTIONS: usize = 256;

/// The most connections at one time that have not logged in. When there are more, the oldest is ended, so
/// that peers that never log in keep nobody out.
const MAX_UNAUTHENTICATED: usize = 128;

/// No connection is ended for that before it has had this time to log in.
const MIN_LOGIN_TIME: Duration = Duration::from_secs(10);

/// The pause after a failure to accept, so that one that lasts does not take the whole processor.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// Listens for ever. With `announce`, the machine's addresses are announced on the console.
pub(crate) fn serve(options: &ServerOptions, announce: bool) -> Result<()> {
    // Read now, so that what would make every login fail is reported at once.
    let keys = auth::read_public_keys(&options.public_keys)?;
    let host_key = auth::read_host_key(&options.host_key)?;
    let listener = listen::listen(&options.listen)?;
    let fingerprint = cpu_proto::fingerprint(host_key.public_key());
    say(format_args!(
        "serving on {}, {} key(s) may log in, host key {fingerprint}",
        options.listen,
        keys.len(),
    ));
    drop((keys, host_key));
    let announcer = announce.then(|| Announcer::new(options.listen.clone(), fingerprint));
    let mut announcer = announcer.and_then(|announcer| announcer.inspect_err(cannot_announce).ok());

    let mut ended = SigSet::empty();
    ended.add(Signal::SIGCHLD);
    ended.thread_block().context("cannot block SIGCHLD")?;
    let ended = SignalFd::with_flags(&ended, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("cannot make a signalfd")?;

    let mut connections: Vec<ConnectionProcess> = Vec::new();
    loop {
        while let Ok(Some(_)) = ended.read_signal() {}
        connections.retain_mut(|connection| matches!(connection.child.try_wait(), Ok(None)));
        // The oldest of too many has to go, once it has had the time that a login takes.
        let mut unauthenticated = connections
            .iter()
            .filter(|connection| connection.login.is_some());
        let oldest = unauthenticated
            .next()
            .filter(|_| unauthenticated.count() + 1 >= MAX_UNAUTHENTICATED);
        let time_left = oldest.map(|oldest| MIN_LOGIN_TIME.saturating_sub(oldest.since.elapsed()));
        let must_wait = time_left.filter(|time_left| !time_left.is_zero());
        let room = connections.len() < MAX_CONNECTIONS && must_wait.is_none();
        let logins = connections
            .iter()
            .filter_map(|connection| connection.login.as_ref());
        // Nobody writes to these pipes; poll(2) reports their end in any case.
        let logins = logins.map(|login| PollFd::new(login.as_fd(), PollFlags::empty()));
        let events = if room {
            PollFlags::POLLIN
        } else {
            PollFlags::empty()
        };
        let mut wake = vec![
            PollFd::new(ended.as_fd(), PollFlags::POLLIN),
            PollFd::new(listener.as_fd(), events),
        ];
        wake.extend(logins);
        let news = announcer.as_ref().map(AsFd::as_fd);
        wake.extend(news.map(|news| PollFd::new(news, PollFlags::POLLIN)));
        let timeout = must_wait.map_or(PollTimeout::NONE, |wait| {
            // One millisecond more, since poll(2) counts whole ones.
            PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        if nix::poll::poll(&mut wake, timeout).is_err() {
            continue; // interrupted
        }
        let is_ready: Vec<bool> = wake.iter().map(|fd| fd.any() == Some(true)).collect();
        drop(wake);
        if let Some(all) = &mut announcer
            && is_ready.last() == Some(&true)
            && let Err(error) = all.update()
        {
            cannot_announce(&error);
            announcer = None;
        }
        let logged_in = is_ready.get(2..).unwrap_or_default();
        let unauthenticated = connections
            .iter_mut()
            .filter(|connection| connection.login.is_some());
        for (connection, _) in unauthenticated
            .zip(logged_in)
            .filter(|(_, is_ready)| **is_ready)
        {
            connection.login = None;
        }
        if !room || is_ready.get(1) != Some(&true) {
            continue;
        }
        match crate::sys::accept(listener.as_fd()) {
            Ok(stream) => {
                if time_left.is_some() {
                    let oldest = connections.iter_mut().find(|one| one.login.is_some());
                    if let Some(oldest) = oldest {
                        say("too many peers have not logged in; the oldest connection is closed");
                        let _ = oldest.child.kill();
                        oldest.login = None;
                    }
                }
                match spawn(options, stream) {
                    Ok(connection) => connections.push(connection),
                    Err(error) => say(format_args!("{error:#}")),
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => {
                // Out of descriptors or memory, or a peer that has gone again: none of these lasts.
                say(format_args!("cannot accept a connection: {error}"));
                std::thread::sleep(ACCEPT_RETRY);
            }
        }
    }
}

fn cannot_announce(error: &io::Error) {
    say(format_args!(
        "cannot follow the machine's addresses: {error}"
    ));
}

/// A process that serves one connection.
struct ConnectionProcess {
    child: Child,
    since: Instant,
    /// A pipe that ends when the peer has logged in.
    login: Option<OwnedFd>,
}

/// Starts `cpud connection`, with the socket as its standard input, and as its standard output a pipe that it
/// closes after the login.
fn spawn(options: &ServerOptions, stream: OwnedFd) -> Result<ConnectionProcess> {
    let (login, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(Role::Connection.name())
        .arg("-pk")
        .arg(&options.public_keys)
        .arg("-hk")
        .arg(&options.host_key)
        .stdin(Stdio::from(stream))
        .stdout(Stdio::from(theirs));
    if options.forward {
        command.arg("-forward");
    }
    if options.post_quantum {
        command.arg("-pq");
    }
    command.arg(format!("-alive={}", options.alive.as_secs()));
    if options.debug {
        command.arg("-d");
    }
    let child = command.spawn();
    Ok(ConnectionProcess {
        child: child.context("cannot start a process for a connection")?,
        since: Instant::now(),
        login: Some(login),
    })
}
