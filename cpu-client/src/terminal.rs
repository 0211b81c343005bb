//! The local terminal: raw while a remote one is shown in it, and back as it was in every case;
//! and the escapes that a person types to leave.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write, stderr, stdin, stdout};
use std::os::fd::AsFd;
use std::sync::OnceLock;

use nix::pty::Winsize;
use nix::sys::signal::{Signal, raise};
use nix::sys::termios::{
    LocalFlags, SetArg, SpecialCharacterIndices, Termios, cfmakeraw, tcgetattr, tcsetattr,
};

/// The modes to go back to. Global, because a panic must find them too.
static ORIGINAL: OnceLock<std::sync::Mutex<Termios>> = OnceLock::new();

/// What the command line says of a remote terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tty {
    /// For a shell when there is a person at the input; for a command only when all its streams
    /// are the terminal, since a terminal would put carriage returns into redirected output and
    /// standard error into standard output.
    Usual,
    /// `-t`: for a command too.
    Command,
    /// `-tt`: also when there is none here.
    Force,
    /// `-T`
    Never,
}

impl Tty {
    /// Whether there will be a terminal. `input` is whether standard input is used at all.
    pub(crate) fn is_wanted(self, has_command: bool, input: bool) -> bool {
        let here = input && stdin().is_terminal();
        match self {
            Self::Never => false,
            Self::Force => true,
            Self::Command => {
                if !here {
                    warn!("no terminal there, since there is none here; -tt makes one");
                }
                here
            }
            Self::Usual => {
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

/// Whether there is a terminal that a person could be asked on.
pub(crate) fn can_ask() -> bool {
    terminal().is_ok()
}

fn terminal() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/tty")
}

/// Asks for what must not be seen. A key that interrupts ends this process, as any program, but only when the
/// terminal is as it was.
pub(crate) fn ask_hidden(question: &str) -> io::Result<String> {
    let mut terminal = terminal()?;
    let original = tcgetattr(&terminal)?;
    let mut hidden = original.clone();
    hidden
        .local_flags
        .remove(LocalFlags::ECHO | LocalFlags::ISIG);
    hidden.local_flags.insert(LocalFlags::ECHONL);
    // These keys then end the line, and are seen at its end.
    let key = |index: SpecialCharacterIndices| original.control_chars.get(index as usize).copied();
    let interrupts = [
        (key(SpecialCharacterIndices::VINTR), Signal::SIGINT),
        (key(SpecialCharacterIndices::VQUIT), Signal::SIGQUIT),
    ];
    let ends = [
        SpecialCharacterIndices::VEOL,
        SpecialCharacterIndices::VEOL2,
    ];
    for ((from, _), to) in interrupts.into_iter().zip(ends) {
        if let (Some(from), Some(to)) = (from, hidden.control_chars.get_mut(to as usize)) {
            *to = from;
        }
    }
    // What was typed before the question is no answer to it.
    tcsetattr(&terminal, SetArg::TCSAFLUSH, &hidden)?;
    let is_interrupt = |byte: u8| {
        interrupts
            .iter()
            .any(|(key, _)| *key == Some(byte) && byte != 0)
    };
    let answer = ask(&mut terminal, question, is_interrupt);
    let restored = tcsetattr(&terminal, SetArg::TCSAFLUSH, &original);
    let answer: Vec<u8> = answer.and_then(|line| restored.map(|()| line).map_err(Into::into))?;
    for (key, signal) in interrupts {
        if key.is_some_and(|key| key != 0) && answer.last().copied() == key {
            let _ = terminal.write_all(b"\n");
            raise(signal)?;
            return Err(io::ErrorKind::Interrupted.into());
        }
    }
    String::from_utf8(answer).map_err(io::Error::other)
}

/// The answer up to the end of its line, or with the key that ended it.
fn ask(
    terminal: &mut File,
    question: &str,
    is_interrupt: impl Fn(u8) -> bool,
) -> io::Result<Vec<u8>> {
    terminal.write_all(question.as_bytes())?;
    let mut line = Vec::new();
    let mut byte = [0];
    while terminal.read(&mut byte)? != 0 && byte != *b"\n" {
        line.extend(byte);
        if is_interrupt(byte[0]) {
            break;
        }
    }
    Ok(line)
}

/// The modes of the terminal at standard input, which the remote one is to have; `None` without one.
pub(crate) fn modes() -> nix::Result<Option<Termios>> {
    stdin()
        .is_terminal()
        .then(|| tcgetattr(stdin()))
        .transpose()
}

/// Raw mode for as long as this lives.
pub(crate) struct Raw(());

impl Raw {
    /// From these modes, which come back at the end.
    pub(crate) fn enter(original: Termios) -> nix::Result<Self> {
        let mut raw = original.clone();
        cfmakeraw(&mut raw);
        if ORIGINAL.set(original.into()).is_ok() {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                previous(info);
            }));
        }
        tcsetattr(stdin(), SetArg::TCSADRAIN, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Put the terminal back as it was.
fn restore() {
    if let Some(Ok(original)) = ORIGINAL.get().map(std::sync::Mutex::lock) {
        // A terminal that has gone needs no restoring.
        let _ = tcsetattr(stdin(), SetArg::TCSADRAIN, &original);
    }
}

/// What a person asked of the client itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Escape {
    /// `~.`: leave.
    Leave,
    /// `~?`: say which escapes there are.
    Help,
}

/// What `~?` prints.
pub(crate) const ESCAPE_HELP: &str = "\r\n\
    Escapes, after a newline:\r\n\
    \x20 ~.  leave\r\n\
    \x20 ~?  this list\r\n\
    \x20 ~~  the character ~\r\n";

/// Finds escapes in what is typed: `~` counts only as the first character of a line.
#[derive(Debug)]
pub(crate) struct EscapeFilter {
    at_line_start: bool,
    after_tilde: bool,
}

impl EscapeFilter {
    pub(crate) fn new() -> Self {
        Self {
            at_line_start: true,
            after_tilde: false,
        }
    }

    /// What of `typed` goes to the remote side, up to the first escape if there is one. What
    /// follows an escape in the same `typed` is returned as the number of bytes used.
    pub(crate) fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, Option<Escape>, usize) {
        let mut out = Vec::with_capacity(typed.len() + 1);
        for (i, &byte) in typed.iter().enumerate() {
            if std::mem::take(&mut self.after_tilde) {
                let escape = match byte {
                    b'.' => Some(Escape::Leave),
                    b'?' => Some(Escape::Help),
                    _ => None,
                };
                if escape.is_some() {
                    self.at_line_start = true;
                    return (out, escape, i + 1);
                }
                out.push(b'~');
                if byte == b'~' {
                    self.at_line_start = false;
                    continue;
                }
            } else if self.at_line_start && byte == b'~' {
                self.after_tilde = true;
                continue;
            }
            out.push(byte);
            self.at_line_start = matches!(byte, b'\r' | b'\n');
        }
        (out, None, typed.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(pieces: &[&str]) -> (String, Option<Escape>) {
        let mut filter = EscapeFilter::new();
        let mut out = Vec::new();
        for piece in pieces {
            let (bytes, escape, _) = filter.filter(piece.as_bytes());
            out.extend(bytes);
            if escape.is_some() {
                return (String::from_utf8(out).unwrap(), escape);
            }
        }
        (String::from_utf8(out).unwrap(), None)
    }

    #[test]
    fn escapes_count_only_at_the_start_of_a_line() {
        assert_eq!(filter(&["~."]), (String::new(), Some(Escape::Leave)));
        assert_eq!(filter(&["ls\r", "~", "."]).1, Some(Escape::Leave));
        assert_eq!(filter(&["ls ~.\r"]), ("ls ~.\r".into(), None));
        assert_eq!(filter(&["~?"]).1, Some(Escape::Help));
    }

    #[test]
    fn a_tilde_that_is_no_escape_is_sent() {
        assert_eq!(filter(&["~~."]), ("~.".into(), None));
        assert_eq!(filter(&["~/bin\r"]), ("~/bin\r".into(), None));
        assert_eq!(filter(&["~\r", "~."]), ("~\r".into(), Some(Escape::Leave)));
    }
}
