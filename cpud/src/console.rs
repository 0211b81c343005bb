//! What cpud says to people: one line on standard error, never a panic because nobody listens.

use std::fmt::Display;
use std::io::Write as _;

/// Writes `cpud: line` in one write(2), so that lines of several processes stay whole.
pub(crate) fn say(line: impl Display) {
    let text = format!("cpud: {line}\n");
    // A closed standard error is no reason to stop working, and there is nowhere else to tell.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
