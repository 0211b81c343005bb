//! Who is logged in, and what they run. Each connection tells the console role over a socket, which ends with the
//! connection, however that ends. Where there is no console role, nothing is sent.

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

/// The most characters of a part of a message.
const MAX_PART: usize = 80;
/// The most commands in a message.
const MAX_COMMANDS: usize = 8;
/// The size of the largest message: all its parts, with four bytes for a character.
const MAX_MESSAGE: usize = (MAX_COMMANDS + 3) * (MAX_PART + 1) * 4;

/// A login, as its connection describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: String,
    /// The peer's address, if the socket has one.
    pub(super) from: String,
    /// The comment of the key.
    pub(super) key: String,
    pub(super) commands: Vec<String>,
}

impl Login {
    /// Formats a message: the parts as lines, none of which contains the end of a line.
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

    /// Parses a message, which is not trusted.
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

/// The connection's entry on the console.
#[derive(Clone)]
pub(crate) struct Roster(Arc<Mutex<RosterState>>);

struct RosterState {
    socket: OwnedFd,
    login: Login,
    /// Each with a number that identifies it.
    commands: Vec<(u64, String)>,
    next: u64,
}

/// A running command in the entry. Dropping it removes the command.
pub(crate) struct ListedCommand(Roster, u64);

impl Roster {
    /// Reports a login, if there is a console role.
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
        let state = RosterState {
            socket,
            login,
            commands: Vec::new(),
            next: 0,
        };
        state.send();
        Some(Self(Arc::new(Mutex::new(state))))
    }

    /// Adds a command.
    pub(crate) fn list(&self, argv: &[Vec<u8>]) -> ListedCommand {
        let name = argv.first().map_or("a shell".into(), |path| {
            String::from_utf8_lossy(path.rsplit(|byte| *byte == b'/').next().unwrap_or(path))
        });
        let number = self.change(|state| {
            state.next += 1;
            state.commands.push((state.next, name.into_owned()));
            state.next
        });
        ListedCommand(self.clone(), number)
    }

    fn change<T>(&self, change: impl FnOnce(&mut RosterState) -> T) -> T {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut state);
        let names = state.commands.iter().map(|(_, name)| name.clone());
        state.login.commands = names.collect();
        state.send();
        result
    }
}

impl RosterState {
    /// Sends the entry without waiting. If the console role does not accept it, it is not shown.
    fn send(&self) {
        let text = self.login.write();
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let _ = send(self.socket.as_raw_fd(), text.as_bytes(), flags);
    }
}

impl Drop for ListedCommand {
    fn drop(&mut self) {
        self.0
            .change(|state| state.commands.retain(|(number, _)| *number != self.1));
    }
}

/// The socket on which the console role accepts connections.
pub(super) fn listener() -> Result<OwnedFd> {
    std::fs::create_dir_all(DIRECTORY).with_context(|| format!("cannot make {DIRECTORY}"))?;
    // Left by a console role that has died.
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

/// The last message of a connection, if one has arrived; an error when the connection has ended.
pub(super) fn read(connection: &OwnedFd) -> nix::Result<Option<Login>> {
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
        let login_of = |user: &str, commands: &[&str]| Login {
            user: user.to_owned(),
            from: "10.0.2.2".to_owned(),
            key: String::new(),
            commands: commands.iter().map(|&name| name.to_owned()).collect(),
        };
        let login = login_of("root", &["bash", "make"]);
        assert_eq!(Login::read(login.write().as_bytes()), login);
        let forged = Login::read(login_of("x\ny\x1b[2J", &[]).write().as_bytes());
        assert_eq!(forged, login_of("x\u{fffd}y\u{fffd}[2J", &[]));
        let most = login_of(
            &"\u{10000}".repeat(500),
            &["\u{10000}".repeat(500).as_str(); 30],
        );
        assert!(most.write().len() <= MAX_MESSAGE, "{}", most.write().len());
        assert_eq!(Login::read(b"\xff").user, "\u{fffd}");
    }
}
