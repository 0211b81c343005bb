//! A user of the client on this computer: a home directory with a key and a configuration.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::client::{Home, ended};
use crate::daemon::Daemon;
use crate::out;
use crate::terminal::Terminal;

/// A home directory with a key that has no pin beside it, and nothing else.
pub struct User(Home);

impl User {
    /// A new one.
    pub fn new() -> Result<Self> {
        let user = Self(Home::new()?);
        fs::create_dir(user.ssh())?;
        fs::copy(out().join("cpu_rsa"), user.key())?;
        fs::set_permissions(user.key(), PermissionsExt::from_mode(0o600))?;
        user.configure("")?;
        Ok(user)
    }

    /// The home directory.
    pub fn home(&self) -> &Path {
        self.0.path()
    }

    /// `~/.ssh`.
    pub fn ssh(&self) -> PathBuf {
        self.0.path().join(".ssh")
    }

    /// The private key.
    pub fn key(&self) -> PathBuf {
        self.ssh().join("own")
    }

    /// Write `~/.ssh/config`. New hosts are accepted unless the text says otherwise.
    pub fn configure(&self, text: &str) -> Result<()> {
        self.configure_exactly(&format!(
            "{text}\nHost *\nStrictHostKeyChecking accept-new\n"
        ))
    }

    /// Write `~/.ssh/config` without that.
    pub fn configure_exactly(&self, text: &str) -> Result<()> {
        Ok(fs::write(self.ssh().join("config"), text)?)
    }

    /// `cpu -9p=false` with these words.
    pub fn cpu(&self, words: &[&str]) -> Command {
        self.cpu_in(Path::new("/"), &[&["-9p=false"], words].concat())
    }

    /// `cpu` with these words, in a directory.
    pub fn cpu_in(&self, directory: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(out().join("cpu"));
        command
            .args(words)
            .current_dir(directory)
            .env("HOME", self.0.path())
            .env("PWD", directory)
            .env_remove("SSH_AUTH_SOCK")
            .stdin(Stdio::null());
        command
    }

    /// The same, run to its end.
    pub fn run(&self, words: &[&str]) -> Result<Output> {
        ended(&mut self.cpu(words))
    }

    /// `ssh` from one of this computer's addresses, which runs `true`; how long that took.
    pub fn log_in_from(&self, port: u16, from: Ipv4Addr) -> Result<Duration> {
        let start = Instant::now();
        let output = Command::new("ssh")
            .args(["-F", "none", "-o", "StrictHostKeyChecking=no"])
            .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"])
            .args(["-b", &from.to_string(), "-p", &port.to_string(), "-i"])
            .arg(self.key())
            .args(["127.0.0.1", "true"])
            .env_remove("SSH_AUTH_SOCK")
            .stdin(Stdio::null())
            .output()?;
        let took = start.elapsed();
        works(&output)?;
        Ok(took)
    }

    /// In a terminal.
    pub fn typed(&self, words: &[&str]) -> Result<Terminal> {
        let command = pty_process::blocking::Command::new(out().join("cpu"))
            .arg("-9p=false")
            .args(words)
            .env("HOME", self.0.path())
            .env("PWD", "/")
            .env("TERM", "xterm")
            .env_remove("SSH_AUTH_SOCK");
        Terminal::start(command, 24, 80)
    }
}

/// What it printed; that it succeeded.
pub fn works(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout.clone())?)
}

/// A user whose configuration knows `board`, a cpud here.
pub fn board() -> Result<(Daemon, User)> {
    board_of(Daemon::cpud()?)
}

/// The same for a cpud that has been started.
pub fn board_of(daemon: Daemon) -> Result<(Daemon, User)> {
    let user = User::new()?;
    user.configure(&format!(
        "Host board\nHostName 127.0.0.1\nPort {}\nIdentityFile ~/.ssh/own\n",
        daemon.port
    ))?;
    // The first login adds the host to known_hosts and says so, which tests do not expect later.
    works(&user.run(&["board", "true"])?)?;
    Ok((daemon, user))
}

/// That cpu ended with 255 and said each of these.
pub fn fails(output: &Output, words: &[&str]) -> Result<()> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(255), "{output:?}");
    for word in words {
        ensure!(stderr.contains(word), "no {word:?} in {stderr}");
    }
    Ok(())
}
