//! Questions to the person at the terminal, whatever the standard streams are.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

use nix::sys::signal::{Signal, raise};
use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, tcgetattr, tcsetattr};

/// Whether there is a terminal that a person could be asked on.
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
