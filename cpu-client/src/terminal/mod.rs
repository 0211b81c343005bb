//! The local terminal: raw mode, questions, escapes, and whether there is to be a remote one.

mod escape;
mod prompt;
mod raw;

use std::io::{IsTerminal, stderr, stdin, stdout};
use std::os::fd::AsFd;

use nix::pty::Winsize;
use nix::sys::termios::{Termios, tcgetattr};

pub(crate) use escape::{ESCAPE_HELP, Escape, EscapeFilter};
pub(crate) use prompt::{ask_hidden, ask_line, can_ask};
pub(crate) use raw::RawMode;

/// What the command line says of a remote terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tty {
    /// For a shell when there is a person at the input; for a command only when all its streams
    /// are the terminal, since a terminal would put carriage returns into redirected output and
    /// standard error into standard output.
    Auto,
    /// `-t`: for a command too.
    Yes,
    /// `-tt`: also when there is none here.
    Force,
    /// `-T`
    No,
}

impl Tty {
    /// Whether there will be a terminal. `input` is whether standard input is used at all.
    pub(crate) fn is_wanted(self, has_command: bool, input: bool) -> bool {
        let here = input && stdin().is_terminal();
        match self {
            Self::No => false,
            Self::Force => true,
            Self::Yes => {
                if !here {
                    warn!("no terminal there, since there is none here; -tt makes one");
                }
                here
            }
            Self::Auto => {
                here && (!has_command || (stdout().is_terminal() && stderr().is_terminal()))
            }
        }
    }
}

/// The size of the terminal at standard input.
pub(crate) fn size() -> Winsize {
    crate::sys::window_size(stdin().as_fd()).unwrap_or(Winsize {
        ws_row: 24,
        ws_col: 80,
        ws_xpixel: 0,
        ws_ypixel: 0,
    })
}

/// The modes of the terminal at standard input, which the remote one is to have; `None` without one.
pub(crate) fn modes() -> nix::Result<Option<Termios>> {
    stdin()
        .is_terminal()
        .then(|| tcgetattr(stdin()))
        .transpose()
}
