//! Who is logged in, and what he runs: each connection tells the console role, over a socket that ends
//! with the connection, in whatever way. Where there is no such role nothing is told.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use cpu_proto::printable;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, listen, recv,
    send, socket,
};

const DIRECTORY: &str = "/run/cpud";
const SOCKET: &str = "/run/cpud/console";

/// Longest part of a message that is shown.
const MAX_PART: usize = 80;
/// Commands that are named.
const MAX_COMMANDS: usize = 8;
/// Largest message: all its parts, in four bytes a character.
const MAX_MESSAGE: usize = (MAX_COMMANDS + 3) * (MAX_PART + 1) * 4;

/// What a connection tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: String,
    /// Where from, if the socket has addresses.
    pub(super) from: String,
    /// The comment of the key.
    pub(super) key: String,
    pub(super) commands: Vec<String>,
}

impl Login {
    /// Lines; no part holds a line's end.
    fn write(&self) -> String {
        let head = [&self.user, &self.from, &self.key];
        let parts = head
            .into_iter()
            .chain(self.commands.iter().take(MAX_COMMANDS));
        let lines: Vec<String> = parts
            .map(|part| printable(part).chars().take(MAX_PART).collect())
            .collect();
        lines.join("\n")
    }

    /// A message, whoever wrote it.
    fn read(message: &[u8]) -> Self {
        let text = String::from_utf8_lossy(message);
        let mut lines = text.split('\n').map(printable);
        let mut next = || lines.next().unwrap_or_default();
        let (user, from, key) = (next(), next(), next());
        Self {
            user,
            from,
            key,
            commands: lines.collect(),
        }
    }
}

/// The connection's side.
#[derive(Clone)]
pub(crate) struct Roster(Arc<Mutex<RosterState>>);

struct RosterState {
    socket: OwnedFd,
    login: Login,
    /// With numbers, to find them by.
    commands: Vec<(u64, String)>,
    next: u64,
}

/// A command that runs; when this is dropped it has ended.
pub(crate) struct ListedCommand(Roster, u64);

impl Roster {
    /// Tell of a login, if there is somebody who shows it.
    pub(crate) fn new(user: &str, from: String, key: &str) -> Option<Self> {
        let login = Login {
            user: user.to_owned(),
            from,
            key: key.to_owned(),
            commands: Vec::new(),
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (family, kind) = (AddressFamily::Unix, SockType::SeqPacket);
        let socket = socket(family, kind, flags, None).ok()?;
        connect(socket.as_raw_fd(), &UnixAddr::new(SOCKET).ok()?).ok()?;
        let told = RosterState {
            socket,
            login,
            commands: Vec::new(),
            next: 0,
        };
        told.tell();
        Some(Self(Arc::new(Mutex::new(told))))
    }

    /// A command begins.
    pub(crate) fn list(&self, words: &[Vec<u8>]) -> ListedCommand {
        let name = words.first().map_or("a shell".into(), |word| {
            String::from_utf8_lossy(word.rsplit(|byte| *byte == b'/').next().unwrap_or(word))
        });
        let number = self.change(|told| {
            told.next += 1;
            told.commands.push((told.next, name.into_owned()));
            told.next
        });
        ListedCommand(self.clone(), number)
    }

    fn change<T>(&self, change: impl FnOnce(&mut RosterState) -> T) -> T {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut told);
        let names = told.commands.iter().map(|(_, name)| name.clone());
        told.login.commands = names.collect();
        told.tell();
        result
    }
}

impl RosterState {
    /// Without waiting: what is not taken is not shown.
    fn tell(&self) {
        let text = self.login.write();
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let _ = send(self.socket.as_raw_fd(), text.as_bytes(), flags);
    }
}

impl Drop for ListedCommand {
    fn drop(&mut self) {
        self.0
            .change(|told| told.commands.retain(|(number, _)| *number != self.1));
    }
}

/// Where the console role hears of connections.
pub(super) fn listener() -> Result<OwnedFd> {
    std::fs::create_dir_all(DIRECTORY).with_context(|| format!("cannot make {DIRECTORY}"))?;
    // Of a role that has died.
    let _ = std::fs::remove_file(SOCKET);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let make = || {
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        bind(socket.as_raw_fd(), &UnixAddr::new(SOCKET)?)?;
        listen(&socket, Backlog::MAXCONN)?;
        Ok::<_, Errno>(socket)
    };
    make().with_context(|| format!("cannot listen on {SOCKET}"))
}

/// What a connection has told last, if anything new; an error when it has ended.
pub(super) fn hear(connection: &OwnedFd) -> nix::Result<Option<Login>> {
    let mut last = None;
    let mut buffer = [0; MAX_MESSAGE];
    loop {
        match recv(connection.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return Err(Errno::EPIPE),
            Ok(length) => last = Some(Login::read(&buffer[..length])),
            Err(Errno::EAGAIN) => return Ok(last),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_read_and_nobody_adds_lines() {
        let told = |user: &str, commands: &[&str]| Login {
            user: user.to_owned(),
            from: "10.0.2.2".to_owned(),
            key: String::new(),
            commands: commands.iter().map(|&name| name.to_owned()).collect(),
        };
        let login = told("root", &["bash", "make"]);
        assert_eq!(Login::read(login.write().as_bytes()), login);
        let forged = Login::read(told("x\ny\x1b[2J", &[]).write().as_bytes());
        assert_eq!(forged, told("x\u{fffd}y\u{fffd}[2J", &[]));
        let most = told(
            &"\u{10000}".repeat(500),
            &["\u{10000}".repeat(500).as_str(); 30],
        );
        assert!(most.write().len() <= MAX_MESSAGE, "{}", most.write().len());
        assert_eq!(Login::read(b"\xff").user, "\u{fffd}");
    }
}
