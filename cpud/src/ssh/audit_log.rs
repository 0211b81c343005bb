//! Where the lines about logins, sessions and refusals go: as text among the other lines, or each as an object of JSON
//! (RFC 8259) on a line of its own.

use std::fmt::{Display, Write as _};
use std::fs::File;
use std::io::Write as _;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use cpu_proto::printable;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

use crate::console::say;
use crate::flags::LogFormat;
use crate::sys;

/// The most characters of a text.
pub(super) const MAX_TEXT: usize = 64;

/// The most characters of a reason, which may have several texts in it.
const MAX_REASON: usize = 1024;

/// Where the objects go; without it there is text.
static OBJECTS: OnceLock<Objects> = OnceLock::new();

enum Objects {
    Stderr,
    Descriptor(File),
}

/// Prepares this process to report so. A descriptor is left to the processes that it starts if `is_inherited`, and else to
/// none: a session could write to it what it likes.
pub(super) fn open(format: LogFormat, is_inherited: bool) -> Result<()> {
    let objects = match format {
        LogFormat::Text => return Ok(()),
        LogFormat::Json(None) => Objects::Stderr,
        LogFormat::Json(Some(number)) => {
            let what = || format!("cannot write the log to the descriptor {number} of -log");
            let file = File::from(sys::inherit(number).with_context(what)?);
            let flags = OFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GETFL)?);
            if flags & OFlag::O_ACCMODE == OFlag::O_RDONLY {
                bail!("{}: it is open for reading", what());
            }
            let flag = if is_inherited {
                FdFlag::empty()
            } else {
                FdFlag::FD_CLOEXEC
            };
            fcntl(&file, FcntlArg::F_SETFD(flag)).with_context(what)?;
            Objects::Descriptor(file)
        }
    };
    // Fails if it was called before.
    let _ = OBJECTS.set(objects);
    Ok(())
}

/// Reports an event: the line, or an object with these facts.
pub(super) fn report(event: &str, facts: &AuditFacts, line: impl Display) {
    let Some(objects) = OBJECTS.get() else {
        return say(line);
    };
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    let object = facts.object(event, time.unwrap_or_default().as_millis());
    // One write, so that the lines of several processes stay whole. If it fails, nobody reads it.
    let _ = match objects {
        Objects::Stderr => std::io::stderr().write_all(object.as_bytes()),
        Objects::Descriptor(file) => { file }.write_all(object.as_bytes()),
    };
}

/// The members of an object, each with a comma before it.
#[derive(Clone, Debug, Default)]
pub(super) struct AuditFacts(String);

impl AuditFacts {
    /// With a text, which may be a peer's: as much of it as the lines have, and as printable.
    pub(super) fn text(self, name: &str, value: &str) -> Self {
        self.limited(name, value, MAX_TEXT)
    }

    /// With the reason for something.
    pub(super) fn reason(self, why: &str) -> Self {
        self.limited("reason", why, MAX_REASON)
    }

    fn limited(mut self, name: &str, value: &str, max: usize) -> Self {
        let _ = write!(self.0, ",\"{name}\":\"");
        for c in printable(value).chars().take(max) {
            if matches!(c, '"' | '\\') {
                self.0.push('\\');
            }
            self.0.push(c);
        }
        self.0.push('"');
        self
    }

    /// With a number.
    pub(super) fn number(mut self, name: &str, value: impl Display) -> Self {
        let _ = write!(self.0, ",\"{name}\":{value}");
        self
    }

    fn object(&self, event: &str, milliseconds: u128) -> String {
        let (seconds, rest) = (milliseconds / 1000, milliseconds % 1000);
        let members = &self.0;
        format!("{{\"time\":{seconds}.{rest:03},\"event\":\"{event}\"{members}}}\n")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_event_is_one_object_on_one_line() {
        let facts = AuditFacts::default()
            .text("user", "ann")
            .number("status", 3);
        let object = "{\"time\":1800000000.007,\"event\":\"end\",\"user\":\"ann\",\"status\":3}\n";
        assert_eq!(facts.object("end", 1_800_000_000_007), object);
        let forged = AuditFacts::default().text("user", "x\",\"user\":\"root\n{\\");
        let object = forged.object("login", 0);
        assert!(
            object.contains(r#""user":"x\",\"user\":\"root"#),
            "{object}"
        );
        assert_eq!(object.matches('\n').count(), 1, "{object}");
    }

    proptest! {
        /// What is between the quotation marks, read as RFC 8259 says, is the text as it is printed.
        #[test]
        fn any_text_is_read_back_as_it_is_printed(text in ".{0,80}") {
            let members = AuditFacts::default().text("a", &text).0;
            let inner = members.strip_prefix(",\"a\":\"").unwrap().strip_suffix('"').unwrap();
            let (mut read, mut characters) = (String::new(), inner.chars());
            while let Some(c) = characters.next() {
                prop_assert!(c != '"' && !c.is_control());
                read.push(if c == '\\' { characters.next().unwrap() } else { c });
            }
            let expected: String = printable(&text).chars().take(MAX_TEXT).collect();
            prop_assert_eq!(read, expected);
        }
    }
}
