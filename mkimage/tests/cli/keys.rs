//! `mkimage keys` on a terminal and without one.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::inputs::mkimage;

const FIRST: &str = "(empty for no passphrase): ";
const AGAIN: &str = "the same passphrase again: ";

/// `mkimage keys` with a terminal for its standard streams.
struct OnTerminal {
    terminal: File,
    child: Child,
    shown: String,
}

impl OnTerminal {
    fn keys(directory: &Path, flags: &[&str]) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        unlockpt(&terminal).expect("a terminal");
        let name = ptsname(&terminal, Vec::new()).expect("its name");
        let name = name.to_str().expect("its name").to_owned();
        let other_end = || {
            let open = OpenOptions::new().read(true).write(true).open(&name);
            Stdio::from(open.expect("its other end"))
        };
        let child = mkimage(&[&["keys"], flags].concat())
            .arg("-o")
            .arg(directory)
            .stdin(other_end())
            .stdout(other_end())
            .stderr(other_end())
            .spawn();
        Self {
            terminal: File::from(terminal),
            child: child.expect("mkimage runs"),
            shown: String::new(),
        }
    }

    /// Wait for a question, and type something.
    fn answer(&mut self, question: &str, answer: &str) {
        while !self.shown.ends_with(question) {
            assert!(self.read(), "no {question:?} in {:?}", self.shown);
        }
        self.terminal.write_all(answer.as_bytes()).expect("typed");
    }

    /// Something more of what is shown, while there is anything.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 512];
        match self.terminal.read(&mut buffer) {
            Ok(length @ 1..) => {
                self.shown += &String::from_utf8_lossy(&buffer[..length]);
                true
            }
            // EIO: its other end is closed.
            _ => false,
        }
    }

    fn end(mut self) -> (ExitStatus, String) {
        while self.read() {}
        let status = self.child.wait().expect("mkimage ends");
        let modes = tcgetattr(&self.terminal).expect("modes").local_modes;
        assert!(modes.contains(LocalModes::ECHO | LocalModes::ISIG));
        (status, self.shown)
    }
}

/// Whether ssh-keygen can open the key with a passphrase, and what type it is of.
fn opens(directory: &Path, passphrase: &str) -> Option<String> {
    let output = Command::new("ssh-keygen")
        .args(["-y", "-P", passphrase, "-f"])
        .arg(directory.join("cpu_rsa"))
        .output()
        .expect("ssh-keygen runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}

#[test]
fn a_passphrase_is_asked_for_twice_and_not_shown() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut keys = OnTerminal::keys(dir.path(), &[]);
    keys.answer(FIRST, "sesame\n");
    keys.answer(AGAIN, "sesam\n");
    keys.answer(FIRST, "sesame\n");
    keys.answer(AGAIN, "sesame\n");
    let (status, shown) = keys.end();
    assert!(status.success() && shown.contains("differ"), "{shown}");
    assert!(!shown.contains("sesam"), "{shown}");
    let key = opens(dir.path(), "sesame").expect("it opens");
    assert!(key.starts_with("ssh-ed25519 "), "{key}");
    assert_eq!(opens(dir.path(), ""), None);
}

#[test]
fn no_passphrase_is_set_when_it_is_empty_or_nobody_is_asked() {
    let dir = || tempfile::tempdir().expect("a directory");
    let empty = dir();
    let mut keys = OnTerminal::keys(empty.path(), &[]);
    keys.answer(FIRST, "\n");
    assert!(keys.end().0.success());
    let not_asked = dir();
    let (status, shown) = OnTerminal::keys(not_asked.path(), &["--no-passphrase"]).end();
    assert!(status.success() && !shown.contains("Enter"), "{shown}");
    let no_terminal = dir();
    let output = mkimage(&["keys", "-o"])
        .arg(no_terminal.path())
        .stdin(Stdio::null())
        .output();
    assert!(output.expect("mkimage runs").status.success());
    for dir in [empty, not_asked, no_terminal] {
        assert!(opens(dir.path(), "").is_some());
    }
}

#[test]
fn an_interrupted_question_leaves_neither_keys_nor_a_silent_terminal() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut keys = OnTerminal::keys(dir.path(), &[]);
    keys.answer(FIRST, "ses\x03");
    let (status, _) = keys.end();
    // SIGINT
    assert_eq!(status.signal(), Some(2), "{status}");
    assert_eq!(dir.path().read_dir().expect("it").count(), 0);
}

#[test]
fn the_files_have_their_names_whatever_the_type() {
    let types = [
        (&["--type", "rsa", "--bits", "2048"][..], "ssh-rsa "),
        (&["--type", "ed25519"], "ssh-ed25519 "),
        (&[], "ssh-ed25519 "),
    ];
    for (flags, name) in types {
        let dir = tempfile::tempdir().expect("a directory");
        let output = mkimage(&[&["keys", "--no-passphrase"], flags].concat())
            .arg("-o")
            .arg(dir.path())
            .output()
            .expect("mkimage runs");
        assert!(output.status.success(), "{output:?}");
        let key = std::fs::read_to_string(dir.path().join("cpu_rsa.pub")).expect("the key");
        assert!(key.starts_with(name), "{key}");
        assert!(dir.path().join("cpu_rsa.hostkey").exists());
    }
    let output = mkimage(&["keys", "--bits", "2048"])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("--type rsa"),
        "{said}"
    );
}
