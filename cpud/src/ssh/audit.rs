//! The lines that say who has logged in, and what he ran. The first has the key; the others have its number, which is that of
//! the connection's process, and fit on a screen of 80 columns. What comes from a peer is in each of them one word, or in
//! quotes, so that no line says what a peer wants it to say; [`report`] keeps it one line.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use cpu_proto::printable;
use nix::sys::signal::Signal;
use russh::keys::PublicKey;

use super::audit_log::{AuditFacts, MAX_TEXT, report};
use crate::console::say;

/// Text of a peer as one word: as it is if it is an ordinary name, and else in quotes.
pub(super) fn word(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_.+@/:".contains(c);
    if !text.is_empty() && text.len() <= MAX_TEXT && text.chars().all(is_plain) {
        return text.to_owned();
    }
    let mut quoted = String::from('"');
    for c in printable(text).chars().take(MAX_TEXT) {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

/// Who has logged in, as the lines name him.
#[derive(Clone, Debug)]
pub(super) struct Who {
    /// In the first line.
    whole: Arc<str>,
    /// In the others.
    short: Arc<str>,
    /// The same for [`report`].
    facts: AuditFacts,
    /// `user@address`, in the titles of processes.
    peer: Arc<str>,
}

impl Who {
    /// A user name, an address, and a key with its comment.
    pub(super) fn new(user: &str, address: &str, key: &PublicKey) -> Self {
        let fingerprint = cpu_proto::fingerprint(key);
        let facts = AuditFacts::default()
            .number("login", std::process::id())
            .text("user", user)
            .text("address", address)
            .text("key", &fingerprint)
            .text("comment", key.comment().as_str_lossy());
        let (user, comment) = (word(user), word(key.comment().as_str_lossy()));
        let short = format!("login {}: {user}", std::process::id());
        Self {
            facts,
            whole: format!("{short} from {address} with key {fingerprint} {comment}").into(),
            short: short.into(),
            peer: format!("{user}@{address}").into(),
        }
    }

    pub(super) fn log_in(&self) {
        report("login", &self.facts, &self.whole);
    }

    /// Something else that has to do with him.
    pub(super) fn say(&self, line: &str) {
        say(format_args!("{}: {line}", self.short));
    }

    /// A session begins that runs these words.
    pub(super) fn start(&self, argv: &[Vec<u8>]) -> SessionAudit {
        let (mut who, mut command) = (self.clone(), "a shell".to_owned());
        if let Some(first) = argv.first() {
            let first = String::from_utf8_lossy(first);
            (who.facts, command) = (who.facts.text("command", &first), word(&first));
        }
        let line = format_args!("{} starts {command}", who.short);
        report("start", &who.facts, line);
        SessionAudit {
            who,
            command,
            began: Instant::now(),
            transferred: Arc::default(),
            status: None,
        }
    }
}

/// Bytes of a command's standard streams.
#[derive(Debug, Default)]
pub(super) struct Transferred {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Transferred {
    /// The command has read more of the client's bytes.
    pub(super) fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The client gets more of the command's bytes.
    pub(super) fn add_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// A session whose end is reported when this is dropped, however it ends.
pub(super) struct SessionAudit {
    who: Who,
    command: String,
    began: Instant,
    transferred: Arc<Transferred>,
    status: Option<ExitStatus>,
}

impl SessionAudit {
    /// Who runs it, as `user@address`.
    pub(super) fn peer(&self) -> &str {
        &self.who.peer
    }

    pub(super) fn transferred(&self) -> Arc<Transferred> {
        self.transferred.clone()
    }

    /// The session has ended in this way. Without this its client has gone.
    pub(super) fn set_status(&mut self, status: Option<ExitStatus>) {
        self.status = status;
    }

    fn line(&self) -> String {
        let signal = self.status.and_then(|status| status.signal());
        let status = match (self.status, signal.map(Signal::try_from)) {
            (_, Some(Ok(signal))) => format!("signal {}", signal.as_str()),
            (Some(status), _) => format!("status {}", status.code().unwrap_or(255)),
            (None, _) => "its client has gone".to_owned(),
        };
        // Not as a floating-point number, whose formatting is 20 KB of code.
        let tenths = self.began.elapsed().as_millis() / 100;
        let (seconds, tenths) = (tenths / 10, tenths % 10);
        let received = self.transferred.received.load(Ordering::Relaxed);
        let sent = self.transferred.sent.load(Ordering::Relaxed);
        let (who, command) = (&self.who.short, &self.command);
        format!(
            "{who} ran {command}: {status}, {seconds}.{tenths} s, {received} bytes in, {sent} bytes out"
        )
    }
}

impl SessionAudit {
    /// Without a status or signal its client has gone.
    fn facts(&self) -> AuditFacts {
        let facts = self.who.facts.clone();
        let signal = self.status.and_then(|status| status.signal());
        let facts = match (self.status, signal.map(Signal::try_from)) {
            (_, Some(Ok(signal))) => facts.text("signal", signal.as_str()),
            (Some(status), _) => facts.number("status", status.code().unwrap_or(255)),
            (None, _) => facts,
        };
        let tenths = self.began.elapsed().as_millis() / 100;
        facts
            .number("seconds", format_args!("{}.{}", tenths / 10, tenths % 10))
            .number(
                "received",
                self.transferred.received.load(Ordering::Relaxed),
            )
            .number("sent", self.transferred.sent.load(Ordering::Relaxed))
    }
}

impl Drop for SessionAudit {
    fn drop(&mut self) {
        report("end", &self.facts(), self.line());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti ann@desk";

    #[test]
    fn names_are_words_and_what_would_forge_is_in_quotes() {
        for plain in ["ann", "ann.b-c_d@desk", "/usr/bin/make", "jürgen"] {
            assert_eq!(word(plain), plain);
        }
        assert_eq!(word(""), "\"\"");
        assert_eq!(word("ann from 10.0.0.1"), "\"ann from 10.0.0.1\"");
        assert_eq!(word("a\" with \\"), "\"a\\\" with \\\\\"");
        assert_eq!(word("a\ncpud: b\x1b[2J"), "\"a\u{fffd}cpud: b\u{fffd}[2J\"");
        assert_eq!(word(&"x".repeat(1000)).len(), MAX_TEXT + 2);
    }

    #[test]
    fn the_end_of_a_session_has_all_of_it() {
        let key = PublicKey::from_openssh(KEY).unwrap();
        let who = Who::new("ann", "192.0.2.7", &key);
        let begin = format!("login {}: ann", std::process::id());
        let fingerprint = cpu_proto::fingerprint(&key);
        assert_eq!(
            &*who.whole,
            format!("{begin} from 192.0.2.7 with key {fingerprint} ann@desk")
        );
        let mut session = who.start(&[b"make".to_vec(), b"all".to_vec()]);
        session.transferred().add_received(3);
        session.transferred().add_sent(70);
        let end = "0.0 s, 3 bytes in, 70 bytes out";
        let line = |status: &str| format!("{begin} ran make: {status}, {end}");
        assert_eq!(session.line(), line("its client has gone"));
        session.set_status(Some(ExitStatus::from_raw(2 << 8)));
        assert_eq!(session.line(), line("status 2"));
        session.set_status(Some(ExitStatus::from_raw(15)));
        assert_eq!(session.line(), line("signal SIGTERM"));
        assert!(who.start(&[]).line().contains(" ran a shell: "));
    }

    proptest! {
        #[test]
        fn a_word_ends_where_it_seems_to_end(text in ".{0,80}") {
            let word = word(&text);
            prop_assert!(!word.chars().any(char::is_control));
            if let Some(quoted) = word.strip_prefix('"') {
                let quoted = quoted.strip_suffix('"').unwrap();
                let rest = quoted.replace("\\\\", "").replace("\\\"", "");
                prop_assert!(!rest.contains('"') && !rest.ends_with('\\'), "{}", word);
            } else {
                prop_assert!(!word.contains([' ', '"']) && !word.is_empty(), "{}", word);
            }
        }
    }
}
