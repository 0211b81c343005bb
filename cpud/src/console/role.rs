//! The console role: one thread that sleeps in poll(2) until a process logs a line, or something that the page shows
//! changes. A line goes to every console at once. Only those rows of a page are redrawn that have changed, and at most
//! a few times a second.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use cpu_proto::printable;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::facts::Facts;
use super::outputs::{Active, Output};
use super::{page, roster};
use crate::flags::ServerOptions;
use crate::netup::netlink::Netlink;
use crate::poll::timeout;

/// How many lines are kept for a console that appears later.
const LAST_LINES: usize = 50;
/// A line that is longer is split.
const MAX_LINE: usize = 4096;
/// The least time between two drawings.
const REDRAW_INTERVAL: Duration = Duration::from_millis(200);
/// The most connections that are listened to; the server allows fewer.
const MAX_CONNECTIONS: usize = 512;
/// How long the consoles have at the end to accept the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

struct ConsoleRole {
    active: Active,
    outputs: Vec<Output>,
    /// The beginning of a line whose end has not arrived.
    partial_line: Vec<u8>,
    last_lines: VecDeque<String>,
    /// The kernel's log, in which lines stay longer than on a screen (dmesg(1)).
    kernel_log: Option<File>,
    facts: Facts,
    /// None if the kernel has no network.
    netlink: Option<Netlink>,
    listener: Option<OwnedFd>,
    connections: Vec<(OwnedFd, roster::Login)>,
    /// poll(2) reports when it has changed (proc_sys_poll in the kernel).
    host_name: Option<File>,
    title: String,
    signals: SignalFd,
    /// Something on the pages may have changed.
    is_stale: bool,
    drawn: Option<Instant>,
}

/// Runs the role until init ends it.
pub(crate) fn run(options: ServerOptions) -> Result<Infallible> {
    let mut role = ConsoleRole::new(options)?;
    loop {
        role.update();
        role.draw();
        role.sleep()?;
    }
}

impl ConsoleRole {
    fn new(options: ServerOptions) -> Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGTERM);
        mask.add(Signal::SIGWINCH);
        mask.thread_block().context("cannot block signals")?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals = SignalFd::with_flags(&mask, flags).context("cannot make a signalfd")?;
        let mut role = Self {
            active: Active::new(),
            outputs: Vec::new(),
            partial_line: Vec::new(),
            last_lines: VecDeque::new(),
            kernel_log: File::options().append(true).open("/dev/kmsg").ok(),
            facts: Facts::new(options),
            netlink: Netlink::new().ok(),
            listener: roster::listener()
                .inspect_err(|error| super::say(format_args!("{error:#}")))
                .ok(),
            connections: Vec::new(),
            host_name: File::open("/proc/sys/kernel/hostname").ok(),
            title: String::new(),
            signals,
            is_stale: true,
            drawn: None,
        };
        role.dump_links();
        Ok(role)
    }

    /// Sleeps until something happens, or a stale page may be drawn.
    fn sleep(&self) -> Result<()> {
        let is_shown = self.outputs.iter().any(|output| output.screen.is_some());
        let redraw_at = match self.drawn {
            Some(drawn) if self.is_stale && is_shown => Some(drawn + REDRAW_INTERVAL),
            _ => None,
        };
        let stdin = io::stdin();
        let listener = self
            .listener
            .as_ref()
            .filter(|_| self.connections.len() < MAX_CONNECTIONS);
        let read = [Some(stdin.as_fd()), Some(self.signals.as_fd())]
            .into_iter()
            .chain([
                self.netlink.as_ref().map(AsFd::as_fd),
                listener.map(AsFd::as_fd),
            ])
            .flatten()
            .chain(self.connections.iter().map(|(fd, _)| fd.as_fd()));
        let changes = [self.active.fd(), self.host_name.as_ref().map(File::as_fd)];
        let full = self.outputs.iter().filter(|output| output.is_waiting());
        let mut fds: Vec<PollFd<'_>> = read
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .chain(
                changes
                    .into_iter()
                    .flatten()
                    .map(|fd| PollFd::new(fd, PollFlags::POLLPRI)),
            )
            .chain(full.map(|output| PollFd::new(output.fd(), PollFlags::POLLOUT)))
            .collect();
        match poll(&mut fds, timeout(redraw_at)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno).context("cannot poll"),
        }
    }

    /// Handles what has happened, without waiting.
    fn update(&mut self) {
        self.active.update(&mut self.outputs);
        self.bring_up_to_date();
        for line in self.read_lines() {
            self.say(line);
        }
        self.read_signals();
        self.read_links();
        self.read_connections();
        let host = nix::unistd::gethostname().unwrap_or_default();
        let host = host.to_string_lossy();
        if self.title != host {
            self.title = host.into_owned();
            self.is_stale = true;
        }
        self.outputs.retain_mut(|output| output.flush().is_ok());
    }

    /// Reads complete lines: only so many at a time that everything else gets its turn too.
    fn read_lines(&mut self) -> Vec<String> {
        let mut buffer = [0; MAX_LINE];
        match nix::unistd::read(io::stdin(), &mut buffer) {
            Ok(length) => split_lines(&mut self.partial_line, &buffer[..length]),
            // Nothing has arrived.
            Err(_) => Vec::new(),
        }
    }

    fn say(&mut self, line: String) {
        if let Some(kernel_log) = &mut self.kernel_log {
            // With the lowest priority, which the kernel does not write to the consoles. If there is too much, it drops some.
            let _ = kernel_log.write_all(format!("<7>{line}\n").as_bytes());
        }
        self.outputs
            .retain_mut(|output| !output.is_up_to_date || output.line(&line).is_ok());
        if self.last_lines.len() == LAST_LINES {
            self.last_lines.pop_front();
        }
        self.last_lines.push_back(line);
    }

    /// Writes the last lines to consoles that have appeared. A screen gets them after it has been drawn.
    fn bring_up_to_date(&mut self) {
        let lines = &self.last_lines;
        self.outputs.retain_mut(|output| {
            let rows = match &output.screen {
                _ if output.is_up_to_date => return true,
                Some(screen) if screen.is_new() => return true,
                Some(screen) => screen.log_rows(),
                None => LAST_LINES,
            };
            output.is_up_to_date = true;
            let mut last = lines.iter().skip(lines.len().saturating_sub(rows));
            last.try_for_each(|line| output.line(line)).is_ok()
        });
    }

    fn read_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo == Signal::SIGTERM as u32 {
                self.end();
            }
            for output in &mut self.outputs {
                if output.screen.is_some() {
                    output.read_size();
                    self.is_stale = true;
                }
            }
        }
    }

    fn dump_links(&mut self) {
        self.facts.links.clear();
        let events = self
            .netlink
            .as_mut()
            .and_then(|netlink| netlink.dump().ok());
        for event in events.into_iter().flatten() {
            self.facts.apply(event);
        }
        self.is_stale = true;
    }

    fn read_links(&mut self) {
        match self.netlink.as_ref().map(Netlink::read_events) {
            None => {}
            Some(Ok(Some(events))) => {
                self.is_stale |= !events.is_empty();
                for event in events {
                    self.facts.apply(event);
                }
            }
            Some(Ok(None)) => self.dump_links(),
            Some(Err(error)) => {
                self.say(format!(
                    "cpud: the screen does not show changes of links any more: {error}"
                ));
                self.netlink = None;
            }
        }
    }

    fn read_connections(&mut self) {
        let before = self.facts.logins.len();
        let mut is_stale = false;
        if let Some(listener) = &self.listener {
            while self.connections.len() < MAX_CONNECTIONS
                && let Ok(connection) = crate::sys::accept(listener.as_fd())
            {
                self.connections
                    .push((connection, roster::Login::default()));
            }
        }
        self.connections
            .retain_mut(|(connection, login)| match roster::read(connection) {
                Ok(message) => {
                    is_stale |= message.is_some();
                    *login = message.unwrap_or_else(|| std::mem::take(login));
                    true
                }
                Err(_) => false,
            });
        if is_stale || self.connections.len() != before {
            self.facts.logins = self
                .connections
                .iter()
                .map(|(_, login)| login.clone())
                .collect();
            self.is_stale = true;
        }
    }

    /// Draws what has changed.
    fn draw(&mut self) {
        let is_due = self
            .drawn
            .is_none_or(|drawn| drawn.elapsed() >= REDRAW_INTERVAL);
        if !self.is_stale || !is_due {
            return;
        }
        self.is_stale = false;
        if self.outputs.iter().all(|output| output.screen.is_none()) {
            return;
        }
        self.drawn = Some(Instant::now());
        self.facts.read_keys();
        let (facts, title) = (&self.facts, &self.title);
        self.outputs.retain_mut(|output| {
            let Some(screen) = &mut output.screen else {
                return true;
            };
            let (rows, columns) = screen.size();
            let writes = screen.draw(page::page(facts, title, rows, columns));
            writes
                .iter()
                .try_for_each(|bytes| output.write(bytes))
                .is_ok()
        });
        self.bring_up_to_date();
    }

    /// Init ends everything. The lines that have been logged until now are still written.
    fn end(&mut self) -> ! {
        let deadline = Instant::now() + FLUSH_TIMEOUT;
        loop {
            let lines = self.read_lines();
            if lines.is_empty() {
                break;
            }
            for line in lines {
                self.say(line);
            }
        }
        loop {
            self.outputs
                .retain_mut(|output| output.flush().is_ok() && output.is_waiting());
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds: Vec<PollFd<'_>> = self
                .outputs
                .iter()
                .map(|output| PollFd::new(output.fd(), PollFlags::POLLOUT))
                .collect();
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            if fds.is_empty() || left.is_zero() || !matches!(poll(&mut fds, timeout), Ok(1..)) {
                std::process::exit(0);
            }
        }
    }
}

/// Appends what was read to a partial line. The result is the complete lines, with printable characters only.
fn split_lines(partial_line: &mut Vec<u8>, read: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    for byte in read {
        if *byte != b'\n' {
            partial_line.push(*byte);
        }
        if *byte == b'\n' || partial_line.len() >= MAX_LINE {
            lines.push(printable(&String::from_utf8_lossy(partial_line)));
            partial_line.clear();
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_when_they_are_complete_and_harmless() {
        let mut partial_line = Vec::new();
        assert_eq!(split_lines(&mut partial_line, b"one\ntw"), ["one"]);
        assert_eq!(
            split_lines(&mut partial_line, b"o\n\x1b[2Jthree\n"),
            ["two", "\u{fffd}[2Jthree"]
        );
        let long = vec![b'x'; 2 * MAX_LINE + 1];
        assert_eq!(split_lines(&mut partial_line, &long).len(), 2);
        assert_eq!(split_lines(&mut partial_line, b"\n"), ["x"]);
    }
}
