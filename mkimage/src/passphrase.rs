//! Asks for a passphrase on the terminal that is standard input, without showing it.

use std::io::{self, IsTerminal as _, Write as _};

use rustix::process::{Signal, getpid, kill_process};
use rustix::stdio::stdin;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};

/// How often two passphrases may differ.
const TRIES: usize = 3;

/// A new passphrase, typed twice; `None` when it is empty, or when there is no terminal to ask on.
pub(crate) fn ask_new() -> io::Result<Option<String>> {
    if !io::stdin().is_terminal() {
        return Ok(None);
    }
    for _ in 0..TRIES {
        let first = ask("Enter passphrase for the key that logs in (empty for no passphrase): ")?;
        if first.is_empty() {
            return Ok(None);
        }
        if ask("Enter the same passphrase again: ")? == first {
            return Ok(Some(first));
        }
        eprintln!("The passphrases differ. Try again.");
    }
    Err(io::Error::other("the passphrases differ"))
}

/// The keys for INT and QUIT end this process as usual, but only after the terminal is restored: until then they end
/// the line, at whose end they are found.
fn ask(question: &str) -> io::Result<String> {
    let original = tcgetattr(stdin())?;
    let mut hidden: Termios = original.clone();
    hidden
        .local_modes
        .remove(LocalModes::ECHO | LocalModes::ISIG);
    hidden.local_modes.insert(LocalModes::ECHONL);
    let codes = &original.special_codes;
    let (interrupt, quit) = (
        codes[SpecialCodeIndex::VINTR],
        codes[SpecialCodeIndex::VQUIT],
    );
    hidden.special_codes[SpecialCodeIndex::VEOL] = interrupt;
    hidden.special_codes[SpecialCodeIndex::VEOL2] = quit;
    // Input typed before the question is discarded.
    tcsetattr(stdin(), OptionalActions::Flush, &hidden)?;
    let answer = io::stderr()
        .write_all(question.as_bytes())
        .and_then(|()| read_line(&[interrupt, quit]));
    tcsetattr(stdin(), OptionalActions::Flush, &original)?;
    let line = answer?;
    for (code, signal) in [(interrupt, Signal::INT), (quit, Signal::QUIT)] {
        if code != 0 && line.last() == Some(&code) {
            eprintln!();
            kill_process(getpid(), signal)?;
            return Err(io::ErrorKind::Interrupted.into());
        }
    }
    String::from_utf8(line).map_err(|_| io::Error::other("the passphrase is not UTF-8"))
}

/// A line without its newline, or up to and with one of these characters.
fn read_line(ends: &[u8]) -> io::Result<Vec<u8>> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while rustix::io::read(stdin(), &mut byte)? != 0 && byte != *b"\n" {
        line.extend(byte);
        if byte[0] != 0 && ends.contains(&byte[0]) {
            break;
        }
    }
    Ok(line)
}
