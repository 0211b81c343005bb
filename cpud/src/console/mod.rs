//! What cpud says to people. Every process of it writes lines to standard error ([`say`]). Where cpud is
//! the init of a machine that is a pipe ([`pipe_output`]), and the *console* role ([`run`]) takes the
//! lines from there to every console that the kernel has: as they are to a serial line, and on a screen
//! beneath a page that shows how the machine is.

mod facts;
mod outputs;
mod page;
mod role;
mod roster;
mod screen;

use std::fmt::Display;
use std::io::Write as _;

use cpu_proto::printable;
use nix::fcntl::OFlag;

pub(crate) use role::run;
pub(crate) use roster::{ListedCommand, Roster};

/// Writes `cpud: line` in one write(2), so that lines of several processes stay whole, and never more
/// than a line, whatever a peer has put into it. A standard error that is closed, or a pipe that is
/// full, is no reason to stop working.
pub(crate) fn say(line: impl Display) {
    let text = format!("cpud: {}\n", printable(&line.to_string()));
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Makes a pipe standard output and error of this process and of all that it starts, and its other end
/// standard input, where the console role reads. Both ends live as long as this process: no writer is
/// ever killed for want of a reader, and what is written while there is none is kept, up to the pipe's
/// 64 KiB. Nobody waits: a line that finds it full is lost.
pub(crate) fn pipe_output() -> nix::Result<()> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
    nix::unistd::dup2_stdin(read)?;
    nix::unistd::dup2_stdout(&write)?;
    nix::unistd::dup2_stderr(&write)
}
