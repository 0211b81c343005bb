//! Runs the real `cpu` as a user does, with a home directory made for the test.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{out, wait_until};

/// For one command on a machine that is emulated and busy.
pub const TIMEOUT: Duration = Duration::from_mins(4);

/// A home directory that both sides see: under /home when that can be written (the default
/// namespace has it), else under the user's own home, which the client adds.
pub struct Home(TempDir);

impl Home {
    /// Make one.
    pub fn new() -> Result<Self> {
        let own = std::env::home_dir().context("no home directory")?;
        let directory = tempfile::Builder::new()
            .prefix("cpu-e2e-")
            .tempdir_in("/home")
            .or_else(|_| tempfile::Builder::new().prefix("cpu-e2e-").tempdir_in(own))?;
        Ok(Self(directory))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// How to call the client for one machine.
pub struct Client {
    port: u16,
    key: PathBuf,
    home: PathBuf,
}

impl Client {
    /// With the machine's own key.
    pub fn new(port: u16, home: &Home) -> Self {
        Self {
            port,
            key: out().join("cpu_rsa"),
            home: home.path().to_owned(),
        }
    }

    /// The same with another key.
    #[must_use]
    pub fn with_key(&self, key: &Path) -> Self {
        Self {
            port: self.port,
            key: key.to_owned(),
            home: self.home.clone(),
        }
    }

    /// The client's words so far: flags and host. `flags` come before the host.
    pub fn command(&self, flags: &[&str], words: &[&str]) -> Command {
        let mut command = Command::new(out().join("cpu"));
        command
            .arg("-key")
            .arg(&self.key)
            .arg(format!("-sp={}", self.port))
            .args(flags)
            .arg("localhost")
            .args(words)
            .env("HOME", &self.home)
            .env("PWD", &self.home)
            .env_remove("CPU_FSTAB")
            .env_remove("CPU_NAMESPACE")
            .env_remove("SSH_AUTH_SOCK")
            .current_dir(&self.home);
        command
    }

    /// Run words to their end with no input.
    pub fn run(&self, words: &[&str]) -> Result<Output> {
        self.output(self.command(&[], words), b"")
    }

    /// Run a script with the machine's `sh` (this machine's binary).
    pub fn sh(&self, script: &str) -> Result<Output> {
        self.run(&["sh", "-c", script])
    }

    /// What a script prints; an error if it fails.
    pub fn sh_ok(&self, script: &str) -> Result<String> {
        let output = self.sh(script)?;
        if !output.status.success() {
            bail!(
                "{script:?} ended with {}: {}{}",
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Run a prepared command to its end.
    pub fn output(&self, mut command: Command, input: &[u8]) -> Result<Output> {
        fed(&mut command, input)
    }
}

/// Give a command input, and collect what it makes of it; kill it when it does not end.
pub fn fed(command: &mut Command, input: &[u8]) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let stdin = child.stdin.take();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        if let Some(mut stdin) = stdin {
            // The command may end without reading all of its input.
            let _ = stdin.write_all(&input);
        }
    });
    let output = finish(child)?;
    writer
        .join()
        .ok()
        .context("the writer of the input panicked")?;
    Ok(output)
}

/// The same without input.
pub fn ended(command: &mut Command) -> Result<Output> {
    fed(command, b"")
}

/// Collect the output; kill what does not end.
pub fn finish(child: Child) -> Result<Output> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
    let collector = std::thread::spawn(move || child.wait_with_output());
    let ended = wait_until("the command ends", TIMEOUT, || {
        Ok(collector.is_finished().then_some(()))
    });
    if ended.is_err() {
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
    }
    let output = collector.join().ok().context("a thread panicked")??;
    match ended {
        Ok(()) => Ok(output),
        Err(error) => Err(error.context(format!(
            "it had written {:?} and {:?}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ))),
    }
}

/// What a child uses most of memory, from `/proc/PID/status`, in KiB.
pub fn peak_memory(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    parse_peak_memory(&status)
}

/// `VmHWM` of a `/proc/PID/status` text, in KiB.
pub fn parse_peak_memory(status: &str) -> Result<u64> {
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("no VmHWM in {status:?}"))
}
