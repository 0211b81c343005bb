//! The log, and the consoles that show it. Every process of cpud writes lines to standard error ([`say`]). Where
//! cpud is the init of a machine, standard error is a pipe ([`pipe_output`]), and the *console* role ([`run`]) copies
//! the lines from there to every console of the kernel: unchanged to a serial line, and on a screen below a page that
//! shows the state of the machine.

mod facts;
mod outputs;
mod page;
mod role;
mod roster;
mod row;
mod screen;

use std::fmt::Display;
use std::io::Write as _;

use cpu_proto::printable;
use nix::fcntl::OFlag;

pub(crate) use role::run;
pub(crate) use roster::{ListedCommand, Roster};

/// Writes `cpud: line` to standard error, in one write(2), so that the lines of several processes stay whole. It is
/// always one printable line, whatever a peer has put into it. If standard error is closed, or is a pipe that is full,
/// the line is lost.
pub(crate) fn say(line: impl Display) {
    let text = format!("cpud: {}\n", printable(&line.to_string()));
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Makes a pipe: its writing end becomes standard output and error of this process and of all that it starts, its
/// reading end standard input, from which the console role reads. Both ends stay open as long as this process lives, so
/// no writer gets SIGPIPE while the console role is not running, and up to 64 KiB are kept for it. Writers never wait:
/// a line that does not fit is lost.
pub(crate) fn pipe_output() -> nix::Result<()> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
    nix::unistd::dup2_stdin(read)?;
    nix::unistd::dup2_stdout(&write)?;
    nix::unistd::dup2_stderr(&write)
}
