//! The server's side of a connection process: how it is started, and what it reports until its peer has logged in.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::admission::{Stage, UnauthenticatedPeer};
use super::connection::{REFUSED, wanted_isolation};
use super::exec::socket_pair;
use super::host_key::PrivateHostKey;
use super::isolations::{Isolations, MAX_CONNECTIONS};
use super::source::PeerSource;
use super::waiting::WaitingPeer;
use crate::console::say;
use crate::flags::ServerOptions;
use crate::isolation::Isolation;
use crate::role::Role;

/// The most bytes of a process's report.
const MAX_REPORT: usize = 1024;

/// A process that serves one connection.
pub(super) struct ConnectionProcess {
    pub(super) child: Child,
    /// What is known of the peer, and a socket that ends when it has logged in.
    pub(super) login: Option<(UnauthenticatedPeer, OwnedFd)>,
    pub(super) source: PeerSource,
    pub(super) address: String,
    /// What the process has written into the socket: [`super::connection::ASKED`], a request for an isolation, or [`REFUSED`] and
    /// why.
    report: Vec<u8>,
    /// The isolation of its sessions, if it has asked for one.
    pub(super) isolation: Option<Rc<Isolation>>,
}

impl ConnectionProcess {
    /// Starts `cpud connection`, with the socket as its standard input, and as its standard output one that it closes after
    /// the login.
    pub(super) fn spawn(
        options: &ServerOptions,
        strict: bool,
        host_key: &PrivateHostKey,
        waiting: WaitingPeer,
    ) -> Result<Self> {
        let (login, theirs) = socket_pair().context("cannot make a socket pair")?;
        let peer = UnauthenticatedPeer {
            since: Instant::now(),
            ..waiting.peer
        };
        let (_host_key, host_key) = host_key.pipe()?;
        let address = waiting.address.clone();
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("cpud")
            .arg(Role::Connection.name())
            .arg(&address)
            .arg("-pk")
            .arg(&options.public_keys)
            .arg("-hk")
            .arg(host_key)
            .arg(format!("-strictmodes={strict}"))
            .stdin(Stdio::from(waiting.into_socket()?))
            .stdout(Stdio::from(theirs));
        if options.forward {
            command.arg("-forward");
        }
        if options.isolate {
            command.arg("-isolate");
        }
        if options.post_quantum {
            command.arg("-pq");
        }
        command.arg(format!("-alive={}", options.alive.as_secs()));
        let limits = [
            ("-session-pids", options.session_limits.processes),
            ("-session-memory", options.session_limits.memory),
        ];
        for (flag, limit) in limits {
            command.args(limit.map(|limit| format!("{flag}={limit}")));
        }
        command.arg(format!("-mount={}", options.mount));
        command.arg(format!("-log={}", options.log));
        if options.debug {
            command.arg("-d");
        }
        let child = command.spawn();
        Ok(Self {
            child: child.context("cannot start a process for a connection")?,
            login: Some((peer, login)),
            source: peer.source,
            address,
            report: Vec::new(),
            isolation: None,
        })
    }

    /// Reads what the process reports. The end of it means that the peer has logged in, or that the process ends.
    pub(super) fn read_report(&mut self) {
        let Some((peer, pipe)) = &mut self.login else {
            return;
        };
        let mut bytes = [0; MAX_REPORT];
        match nix::unistd::read(pipe, &mut bytes) {
            Ok(length @ 1..) => {
                peer.progress = Stage::Authentication;
                self.report.extend_from_slice(&bytes[..length]);
                self.report.truncate(MAX_REPORT);
            }
            _ => self.login = None,
        }
    }

    /// Sends the isolation that the process asks for. One that gets nothing starts no session.
    pub(super) fn isolate(&mut self, isolations: &mut Isolations) {
        let Some((_, socket)) = &self.login else {
            return;
        };
        let Some(key) = wanted_isolation(&self.report) else {
            return;
        };
        if isolations.is_full(&key) {
            say(format_args!(
                "key {key} has {MAX_CONNECTIONS} connections; another one is closed"
            ));
            let _ = self.child.kill();
            return;
        }
        match isolations.of(&key) {
            Ok(isolation) => {
                // It fails if the process has just ended.
                let _ = isolation.send(socket.as_fd());
                self.isolation = Some(isolation);
            }
            Err(error) => {
                say(format_args!(
                    "cannot isolate the sessions of key {key}: {error:#}"
                ));
                let _ = nix::unistd::write(socket, &[0]);
            }
        }
        self.report.clear();
    }

    /// Why the peer of a process that has ended has not logged in.
    pub(super) fn refusal(&mut self) -> Option<String> {
        while self.login.is_some() {
            self.read_report();
        }
        let text = String::from_utf8_lossy(&self.report);
        let (_, why) = text.split_once(char::from(REFUSED))?;
        Some(why.to_owned())
    }
}
