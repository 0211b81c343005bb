//! Asks the person at the controlling terminal, wherever the standard streams lead.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

use nix::sys::signal::{Signal, raise};
use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, tcgetattr, tcsetattr};

/// Whether there is a terminal to ask on.
pub(crate) fn can_ask() -> bool {
    terminal().is_ok()
}

fn terminal() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/tty")
}

/// Asks for a line.
pub(crate) fn ask_line(question: &str) -> io::Result<String> {
    let answer = ask(&mut terminal()?, question, |_| false)?;
    String::from_utf8(answer).map_err(io::Error::other)
}

/// Asks for a line without echo. The keys for INT and QUIT end this process as usual, but only after the terminal is
/// restored.
pub(crate) fn ask_hidden(question: &str) -> io::Result<String> {
    let mut terminal = terminal()?;
    let original = tcgetattr(&terminal)?;
    let mut hidden = original.clone();
    hidden
        .local_flags
        .remove(LocalFlags::ECHO | LocalFlags::ISIG);
    hidden.local_flags.insert(LocalFlags::ECHONL);
    // These keys now end the line instead, and are found at its end.
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
    // Discards what was typed before the question.
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

/// The answer without its newline, or with the key that interrupted it.
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
