//! The server role: listens, and gives every connection a process of its own. So a crash of one connection,
//! or the memory that it takes, does not affect the others, and each process is single-threaded.
//! Who gets a process, and when, [`admission`] decides.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};
use std::{fmt, io};

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::admission::{self, Admission, Stage, UnauthenticatedPeer};
use super::announce::Announcer;
use super::audit_log::{AuditFacts, report};
use super::connection::LOGIN_GRACE;
use super::connection_process::ConnectionProcess;
use super::host_key::PrivateHostKey;
use super::isolations::Isolations;
use super::penalties::{Offence, Penalties};
use super::refusals::Refusals;
use super::waiting::{Farewell, WaitingPeer};
use super::{audit_log, auth, listen};
use crate::console::say;
use crate::dnssd;
use crate::flags::ServerOptions;
use crate::listen_addr::ListenAddr;
use crate::poll::timeout;
use crate::session::kill_all_leftovers;

/// The most connections that have logged in at one time; the next one waits in the kernel's queue until one of them
/// ends. They have this room for themselves, and so have those that log in.
const MAX_LOGGED_IN: usize = 256;

/// The most connections accepted before anything else gets its turn.
const ACCEPT_BATCH: usize = 64;

/// The pause after a failure to accept, so that one that lasts does not take the whole processor.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// Listens for ever. With `announce`, as a child of init, the machine's addresses are announced on the console.
pub(crate) fn serve(options: &ServerOptions, announce: bool) -> Result<()> {
    audit_log::open(options.log, true)?;
    // Read now, so that what would make every login fail is reported at once.
    let strict = options.strict_modes.unwrap_or(!announce);
    let keys = auth::read_public_keys(&options.public_keys, strict, true)?;
    let host_key = PrivateHostKey::read(&options.host_key, strict)?;
    let listener = listen::listen(&options.listen)?;
    // Beside a server of init, init starts it.
    if options.dnssd && !announce {
        dnssd::start()?;
    }
    for line in options.session_limits.enable() {
        say(line);
    }
    let fingerprint = cpu_proto::fingerprint(host_key.public_key());
    let lines = &keys.keys;
    let authorities = lines.iter().filter(|line| line.options.cert_authority);
    let certificates = match authorities.count() {
        0 => String::new(),
        count => format!(" and the certificates of {count} CA(s)"),
    };
    say(format_args!(
        "serving on {}, {} key(s){certificates} may log in, host key {fingerprint}",
        options.listen,
        lines
            .iter()
            .filter(|line| !line.options.cert_authority)
            .count(),
    ));
    drop(keys);
    let announcer = announce.then(|| Announcer::new(options.listen.clone(), fingerprint));
    let announcer = announcer.and_then(|announcer| announcer.inspect_err(cannot_announce).ok());

    let mut ended = SigSet::empty();
    ended.add(Signal::SIGCHLD);
    ended.thread_block().context("cannot block SIGCHLD")?;
    let ended = SignalFd::with_flags(&ended, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("cannot make a signalfd")?;
    let mut server = Server {
        options,
        strict,
        host_key,
        listener,
        ended,
        announcer,
        waiting: Vec::new(),
        connections: Vec::new(),
        penalties: Penalties::default(),
        refusals: Refusals::default(),
        isolations: Isolations::default(),
    };
    loop {
        server.reap();
        let deadline = server.admit();
        server.sleep(deadline);
    }
}

fn cannot_announce(error: &io::Error) {
    say(format_args!(
        "cannot follow the machine's addresses: {error}"
    ));
}

struct Server<'a> {
    options: &'a ServerOptions,
    /// Key files that others may change are not used.
    strict: bool,
    host_key: PrivateHostKey,
    listener: OwnedFd,
    /// Reports the end of children.
    ended: SignalFd,
    announcer: Option<Announcer>,
    waiting: Vec<WaitingPeer>,
    connections: Vec<ConnectionProcess>,
    penalties: Penalties,
    refusals: Refusals,
    isolations: Isolations,
}

impl Server<'_> {
    /// Forgets processes that have ended, and counts what their peers have done.
    fn reap(&mut self) {
        while let Ok(Some(_)) = self.ended.read_signal() {}
        let now = Instant::now();
        let (mut refused, mut has_ended) = (Vec::new(), false);
        self.connections
            .retain_mut(|connection| match connection.child.try_wait() {
                Ok(None) => true,
                ended => {
                    has_ended = true;
                    let status = ended.ok().flatten().and_then(|status| status.code());
                    if let Some(offence) = status.and_then(Offence::from_exit_status) {
                        self.penalties.add(connection.source, offence, now);
                        let why = connection.refusal();
                        refused.extend(why.map(|why| (connection.address.clone(), why)));
                    }
                    false
                }
            });
        if has_ended {
            // Of a connection that was killed together with its session.
            kill_all_leftovers();
        }
        for (address, why) in refused {
            self.say_refused(&address, &why);
        }
    }

    /// Gives processes to peers that wait, or sends them away, as far as that can be decided now. The result is when there
    /// is more to decide even if nothing happens.
    fn admit(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let late = |peer: &WaitingPeer| peer.peer.since + LOGIN_GRACE <= now;
        while let Some(index) = self.waiting.iter().position(late) {
            self.penalise(index, Offence::GraceExceeded);
            self.refuse(
                index,
                format_args!("it did not log in within {LOGIN_GRACE:?}"),
            );
        }
        let deadline = loop {
            let waiting: Vec<UnauthenticatedPeer> =
                self.waiting.iter().map(|waiting| waiting.peer).collect();
            let logins = self.connections.iter().enumerate();
            let (indices, served): (Vec<usize>, Vec<UnauthenticatedPeer>) = logins
                .filter_map(|(index, one)| Some((index, one.login.as_ref()?.0)))
                .unzip();
            match admission::decide(&waiting, &served, &self.penalties, now) {
                Admission::Serve(index) => {
                    let peer = self.waiting.swap_remove(index);
                    match ConnectionProcess::spawn(self.options, self.strict, &self.host_key, peer)
                    {
                        Ok(connection) => self.connections.push(connection),
                        Err(error) => say(format_args!("{error:#}")),
                    }
                }
                Admission::End(index) => {
                    let connection = &mut self.connections[indices[index]];
                    if let Some((peer, _)) = connection.login.take() {
                        let _ = connection.child.kill();
                        if peer.progress < Stage::Authentication {
                            let offence = Offence::NoAuthentication;
                            self.penalties.add(peer.source, offence, now);
                        }
                        say("too many peers have not logged in; the oldest connection is closed");
                    }
                }
                Admission::Refuse(mut indices) => {
                    // From the last on, since the last takes the place of the one that goes.
                    indices.sort_unstable();
                    for index in indices.into_iter().rev() {
                        self.penalise(index, Offence::NoAuthentication);
                        self.refuse(index, "too many peers have not logged in");
                    }
                }
                Admission::Wait(deadline) => break deadline,
            }
        };
        let oldest = self.waiting.iter().map(|waiting| waiting.peer.since).min();
        let late = oldest.map(|oldest| oldest + LOGIN_GRACE);
        let rest = self.refusals.due();
        deadline.into_iter().chain(late).chain(rest).min()
    }

    /// Sends a peer away that waits.
    fn refuse(&mut self, index: usize, why: impl fmt::Display) {
        let peer = self.waiting.swap_remove(index);
        self.say_refused(&peer.address, &why.to_string());
        peer.reset();
    }

    fn say_refused(&mut self, address: &str, why: &str) {
        let now = Instant::now();
        let unreported = self.refusals.unreported(now);
        if let Some(line) = self.refusals.line(address, why, now) {
            let facts = AuditFacts::default().text("address", address);
            let facts = facts.reason(why);
            let facts = match unreported {
                Some(count) => facts.number("unreported", count),
                None => facts,
            };
            report("refusal", &facts, line);
        }
    }

    fn penalise(&mut self, index: usize, offence: Offence) {
        let source = self.waiting[index].peer.source;
        self.penalties.add(source, offence, Instant::now());
    }

    /// Sleeps until something happens, or until `deadline`, and takes note of what has happened.
    fn sleep(&mut self, deadline: Option<Instant>) {
        let logins = self.connections.iter().filter_map(|one| one.login.as_ref());
        let is_full = self.connections.len() - logins.clone().count() >= MAX_LOGGED_IN;
        let accepts = if is_full {
            PollFlags::empty()
        } else {
            PollFlags::POLLIN
        };
        let mut fds = vec![
            PollFd::new(self.ended.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), accepts),
        ];
        fds.extend(logins.map(|(_, pipe)| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        let waiting = self.waiting.iter();
        fds.extend(waiting.map(|waiting| PollFd::new(waiting.as_fd(), waiting.events())));
        let news = self.announcer.as_ref().map(AsFd::as_fd);
        fds.extend(news.map(|news| PollFd::new(news, PollFlags::POLLIN)));
        if nix::poll::poll(&mut fds, timeout(deadline)).is_err() {
            return; // interrupted
        }
        let mut events = fds
            .iter()
            // nix does not know POLLRDHUP, which means no less than this one here.
            .map(|fd| fd.revents().unwrap_or(PollFlags::POLLHUP))
            .collect::<Vec<_>>()
            .into_iter();
        drop(fds);
        let (_, can_accept) = (
            events.next(),
            events.next().is_some_and(|events| !events.is_empty()),
        );
        for one in self
            .connections
            .iter_mut()
            .filter(|one| one.login.is_some())
        {
            if events.next().is_some_and(|events| !events.is_empty()) {
                one.read_report();
                one.isolate(&mut self.isolations);
            }
        }
        let looks: Vec<_> = self
            .waiting
            .iter_mut()
            .map(|peer| match events.next() {
                Some(events) if !events.is_empty() => peer.look(events),
                _ => Ok(()),
            })
            .collect();
        for (index, look) in looks.into_iter().enumerate().rev() {
            if let Err(why) = look {
                self.penalise(index, Offence::NoAuthentication);
                match why {
                    Farewell::Gone => drop(self.waiting.swap_remove(index)),
                    Farewell::NoSsh => self.refuse(index, "it does not speak SSH"),
                }
            }
        }
        if events.next().is_some_and(|events| !events.is_empty()) {
            self.announce();
        }
        if can_accept {
            self.accept();
        }
        let now = Instant::now();
        if let Some(count) = self.refusals.unreported(now)
            && let Some(rest) = self.refusals.rest(now)
        {
            let facts = AuditFacts::default().number("unreported", count);
            report("refusal", &facts, rest);
        }
    }

    fn announce(&mut self) {
        if let Some(announcer) = &mut self.announcer
            && let Err(error) = announcer.update()
        {
            cannot_announce(&error);
            self.announcer = None;
        }
    }

    fn accept(&mut self) {
        let has_addresses = matches!(self.options.listen, ListenAddr::Tcp(..));
        for _ in 0..ACCEPT_BATCH {
            match crate::sys::accept(self.listener.as_fd()) {
                Ok(socket) => {
                    let peer = WaitingPeer::greet(socket, has_addresses, Instant::now());
                    self.waiting.extend(peer);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // Out of descriptors or memory: neither lasts.
                    say(format_args!("cannot accept a connection: {error}"));
                    std::thread::sleep(ACCEPT_RETRY);
                    return;
                }
            }
        }
    }
}
