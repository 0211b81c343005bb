//! Machines, scripts and a user on a network of the test's own.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};

use anyhow::{Context as _, Result};
use e2e::client::ended;
use e2e::daemon::keygen;
use e2e::lan::{Lan, LanHost};
use e2e::user::{User, works};
use e2e::{out, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::interop::TIMEOUT;

/// A cpud on a computer of the network.
pub(super) struct LanCpud {
    pub(super) child: Child,
    directory: TempDir,
}

impl LanCpud {
    pub(super) fn start(host: &LanHost, name: &str, flags: &[&str]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let at = |name: &str| directory.path().join(name);
        keygen(&at("host_key"), &["-t", "ed25519"], "")?;
        fs::copy(out().join("cpu_rsa.pub"), at("keys"))?;
        // With a descriptor that the starter has left open.
        let script = "hostname $0 && exec \"$@\" 7</etc/passwd";
        let child = host
            .command("unshare")
            .args(["--uts", "sh", "-c", script, name])
            .arg(out().join("cpud"))
            .arg("-pk")
            .arg(at("keys"))
            .arg("-hk")
            .arg(at("host_key"))
            .args(flags)
            .stdin(Stdio::null())
            .stderr(File::create(at("log"))?)
            .spawn()?;
        let machine = Self { child, directory };
        machine.says("serving on")?;
        Ok(machine)
    }

    /// One that has made itself known.
    pub(super) fn found(host: &LanHost, name: &str) -> Result<Self> {
        let machine = Self::start(host, name, &["-dnssd"])?;
        machine.says(" is found as ")?;
        Ok(machine)
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    pub(super) fn says(&self, what: &str) -> Result<()> {
        let says = wait_until(what, TIMEOUT, || {
            Ok(self.log().contains(what).then_some(()))
        });
        says.with_context(|| self.log())
    }

    pub(super) fn host_key(&self) -> PathBuf {
        self.directory.path().join("host_key.pub")
    }
}

impl Drop for LanCpud {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}

/// A script that runs beside the test.
pub(super) struct Script(Child);

impl Script {
    /// Python of the system, which has its packages.
    pub(super) fn start(host: &LanHost, text: &str) -> Result<Self> {
        let mut command = host.command("/usr/bin/python3");
        command.args(["-uc", text]).stdin(Stdio::null());
        command.stdout(Stdio::piped());
        let child = command.spawn().context("cannot run python3")?;
        Ok(Self(child))
    }

    /// Ends it; what it has printed.
    pub(super) fn end(mut self) -> Result<String> {
        self.0.kill()?;
        let stdout = self.0.stdout.take().context("no output")?;
        Ok(std::io::read_to_string(stdout)?)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A user at a computer of the network, whose key and configuration are as usual.
pub(super) struct DesktopFixture {
    pub(super) host: LanHost,
    pub(super) user: User,
}

impl DesktopFixture {
    pub(super) fn new(lan: &Lan) -> Result<Self> {
        let (host, user) = (lan.plug("192.168.77.9/24")?, User::new()?);
        user.configure("Host *\nIdentityFile ~/.ssh/own\nHashKnownHosts no\n")?;
        Ok(Self { host, user })
    }

    /// `cpu -9p=false` with these words.
    pub(super) fn cpu(&self, words: &[&str]) -> Result<Output> {
        let cpu = self.user.cpu(words);
        let mut command = self.host.command(cpu.get_program());
        command.args(cpu.get_args());
        for (name, value) in cpu.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        ended(&mut command)
    }

    pub(super) fn prints(&self, words: &[&str]) -> Result<String> {
        works(&self.cpu(words)?).with_context(|| format!("{words:?}"))
    }

    /// The rows of `-hosts`, without the headings.
    pub(super) fn table(&self) -> Result<Vec<Vec<String>>> {
        let table = self.prints(&["-hosts"])?;
        let rows = table.lines().skip(1);
        Ok(rows
            .map(|row| row.split_whitespace().map(str::to_owned).collect())
            .collect())
    }

    pub(super) fn names(&self) -> Result<Vec<String>> {
        let rows = self.table()?.into_iter();
        let mut names: Vec<_> = rows.filter_map(|row| row.into_iter().next()).collect();
        names.sort();
        Ok(names)
    }
}
