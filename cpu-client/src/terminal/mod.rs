//! The local terminal: raw mode, questions, escapes; and whether a remote one is to be allocated.

mod escape;
mod job;
mod prompt;
mod raw;

use std::io::{IsTerminal, stderr, stdin, stdout};
use std::os::fd::AsFd as _;
use std::thread::sleep;
use std::time::Duration;

use nix::pty::Winsize;
use nix::sys::termios::{Termios, tcgetattr};

pub(crate) use escape::{ESCAPE_HELP, Escape, EscapeFilter};
use job::is_foreground;
pub(crate) use job::{TerminalRead, read_of};
pub(crate) use prompt::{ask_hidden, ask_line, can_ask};
pub(crate) use raw::RawMode;

/// How long after it has started a command a shell may bring that to the foreground.
const FOREGROUND_DELAY: Duration = Duration::from_millis(100);

/// Whether a remote terminal is to be allocated: `-t`, `-T` or RequestTTY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tty {
    /// For a shell if standard input is a terminal. For a command only if all its streams are: a remote terminal would
    /// add carriage returns to redirected output, and merge standard error into standard output. And only in the foreground: a job in the
    /// background would be stopped when it sets the terminal's modes.
    Auto,
    /// `-t`: even for a command.
    Yes,
    /// `-tt`: even without a terminal here.
    Force,
    /// `-T`
    No,
}

impl Tty {
    /// Whether to allocate a terminal. `input` says whether standard input is used at all.
    pub(crate) fn is_wanted(self, has_command: bool, input: bool) -> bool {
        let here = input && stdin().is_terminal();
        match self {
            Self::No => false,
            Self::Force => true,
            Self::Yes => {
                if !here {
                    warn!(
                        "no terminal is allocated, since standard input is not one; -tt allocates one anyway"
                    );
                }
                here
            }
            Self::Auto => {
                here && (!has_command
                    || (stdout().is_terminal() && stderr().is_terminal() && soon_foreground()))
            }
        }
    }
}

/// Some shells bring a command to the foreground after they have started it.
fn soon_foreground() -> bool {
    is_foreground(stdin()) || {
        sleep(FOREGROUND_DELAY);
        is_foreground(stdin())
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

/// The modes of the terminal at standard input, for the remote one. `None` if standard input is no terminal.
pub(crate) fn modes() -> nix::Result<Option<Termios>> {
    stdin()
        .is_terminal()
        .then(|| tcgetattr(stdin()))
        .transpose()
}
