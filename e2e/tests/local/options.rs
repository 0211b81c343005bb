//! Options of a line of authorized_keys limit what its key may do, as with sshd.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::daemon::{Daemon, keygen};
use e2e::user::{User, works};
use e2e::wait_until;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("options_say_from_where_and_until_when", from_and_expiry),
    ("options_take_rights_away", rights),
    ("options_force_a_command", forced),
];

/// A server for one key with each of these options, which is named by them.
pub(crate) struct KeysWithOptions {
    pub(crate) daemon: Daemon,
    user: User,
    files: HashMap<&'static str, PathBuf>,
}

impl KeysWithOptions {
    pub(crate) fn new(all: &[&'static str], flag: Option<&str>) -> Result<Self> {
        Self::with(all, |keys| Daemon::cpud_for_with(keys, flag))
    }

    /// The server is root of a user namespace, and not of this computer.
    pub(crate) fn in_namespace(all: &[&'static str]) -> Result<Self> {
        Self::with(all, Daemon::cpud_in_namespace)
    }

    /// The server is in a mount namespace that a script changes.
    pub(crate) fn in_mount_namespace(all: &[&'static str], script: &str) -> Result<Self> {
        Self::with(all, |keys| Daemon::cpud_for_in(keys, script))
    }

    fn with(all: &[&'static str], start: impl FnOnce(&Path) -> Result<Daemon>) -> Result<Self> {
        let user = User::new()?;
        let (mut lines, mut files) = (String::new(), HashMap::new());
        for (number, options) in all.iter().enumerate() {
            let file = user.ssh().join(format!("key-{number}"));
            keygen(&file, &["-t", "ed25519"], "")?;
            let public = fs::read_to_string(file.with_extension("pub"))?;
            lines.extend([options, " ", &public]);
            files.insert(*options, file);
        }
        let keys = user.ssh().join("keys");
        fs::write(&keys, lines)?;
        let daemon = start(&keys)?;
        Ok(Self {
            daemon,
            user,
            files,
        })
    }

    /// `ssh` with the key of these options.
    pub(crate) fn ssh(&self, options: &str, flags: &[&str], words: &[&str]) -> Result<Output> {
        Ok(self.command(options, flags, words)?.output()?)
    }

    /// The same, not yet run.
    pub(crate) fn command(&self, options: &str, flags: &[&str], words: &[&str]) -> Result<Command> {
        let mut ssh = Command::new("ssh");
        ssh.args([
            "-F",
            "none",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "LogLevel=INFO",
        ])
        .args([
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "IdentitiesOnly=yes",
        ])
        .args(["-p", &self.daemon.port.to_string(), "-i"])
        .arg(self.files.get(options).context("no such key")?)
        .args(flags)
        .arg("127.0.0.1")
        .args(words)
        .env("HOME", self.user.home())
        .env_remove("SSH_AUTH_SOCK")
        .stdin(Stdio::null());
        Ok(ssh)
    }

    /// The fingerprint of the key of these options.
    pub(crate) fn fingerprint(&self, options: &str) -> Result<String> {
        let file = self.files.get(options).context("no such key")?;
        let line = works(&Command::new("ssh-keygen").arg("-lf").arg(file).output()?)?;
        Ok(line.split(' ').nth(1).context("no fingerprint")?.to_owned())
    }
}

fn from_and_expiry() -> Result<()> {
    let from = r#"from="127.0.0.0/24,!127.0.0.2""#;
    let (past, future) = (r#"expiry-time="20200101""#, r#"expiry-time="99991231""#);
    let keys = KeysWithOptions::new(&[from, past, future, "tunnel=\"0\""], None)?;
    let log = |words: &str| {
        let found = wait_until(words, Duration::from_secs(20), || {
            Ok(keys.daemon.log().contains(words).then_some(()))
        });
        found.with_context(|| keys.daemon.log())
    };
    works(&keys.ssh(from, &["-b", "127.0.0.3"], &["true"])?)?;
    works(&keys.ssh(future, &[], &["true"])?)?;
    for address in ["127.0.0.2", "127.0.1.1"] {
        let output = keys.ssh(from, &["-b", address], &["true"])?;
        ensure!(output.status.code() == Some(255), "{output:?}");
    }
    log("from= does not allow this address")?;
    ensure!(keys.ssh(past, &[], &["true"])?.status.code() == Some(255));
    log("it expired at its expiry-time=")?;
    log("line 4 has options (tunnel=\"0\"), which are not supported; it is left out")?;
    ensure!(keys.ssh("tunnel=\"0\"", &[], &["true"])?.status.code() == Some(255));
    let left_out = keys.daemon.log().matches("it is left out").count();
    ensure!(left_out == 1, "{}", keys.daemon.log());
    Ok(())
}

fn rights() -> Result<()> {
    let all = ["", "restrict", "restrict,pty", "no-pty"];
    let keys = KeysWithOptions::new(&all, Some("-forward"))?;
    for (options, has_pty, forwards) in [
        ("", true, true),
        ("restrict", false, false),
        ("restrict,pty", true, false),
        ("no-pty", false, true),
    ] {
        let output = keys.ssh(options, &["-tt"], &["test", "-t", "1"])?;
        ensure!(output.status.success() == has_pty, "{options}: {output:?}");
        let output = keys.ssh(
            options,
            &["-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1"],
            &["true"],
        )?;
        ensure!(output.status.success() == forwards, "{options}: {output:?}");
    }
    Ok(())
}

fn forced() -> Result<()> {
    let options =
        r#"command="sh -c 'echo forced $A $SSH_ORIGINAL_COMMAND $B; exit 5'",environment="A=a""#;
    let keys = KeysWithOptions::new(&[options, "environment=\"A=a\""], None)?;
    for (flags, words, printed) in [
        (
            &["-o", "SetEnv=B=b PATH=/nosuch"][..],
            &["rm", "-r"][..],
            "forced a rm -r\n",
        ),
        (&["-T"], &[], "forced a\n"),
    ] {
        let output = keys.ssh(options, flags, words)?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        ensure!(
            stdout == printed && output.status.code() == Some(5),
            "{output:?}"
        );
    }
    // With files of its own, the client could replace the command.
    let output = keys.ssh(options, &["-s"], &["9p"])?;
    ensure!(!output.status.success(), "{output:?}");
    ensure!(
        String::from_utf8_lossy(&output.stderr).contains("subsystem request failed"),
        "{output:?}"
    );
    let script = "echo $A $B";
    let output = keys.ssh(
        "environment=\"A=a\"",
        &["-o", "SetEnv=B=b A=c"],
        &["sh", "-c", &format!("'{script}'")],
    )?;
    ensure!(works(&output)? == "a b\n", "{output:?}");
    Ok(())
}
