//! OpenSSH's client with our server. docs/interop.md has a table of what this file and go.rs test.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::client::{ended, fed, finish};
use e2e::daemon::Daemon;
use e2e::terminal::Terminal;
use e2e::user::{User, works};
use e2e::{cache, stands_still, wait_until};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("interop_openssh_runs_commands", openssh_commands),
    ("interop_openssh_has_terminals", openssh_terminal),
    (
        "interop_openssh_renews_keys_in_large_streams",
        openssh_rekeys,
    ),
    ("interop_openssh_may_be_slow", openssh_slow),
    ("interop_scp_and_sftp_are_refused_clearly", openssh_copies),
    ("interop_ssh_audit_has_nothing_to_say", ssh_audit),
];

/// `ssh` to a server on this machine, with nobody's configuration.
pub(crate) struct Ssh<'a> {
    daemon: &'a Daemon,
    pub(crate) user: User,
}

impl<'a> Ssh<'a> {
    pub(crate) fn new(daemon: &'a Daemon) -> Result<Self> {
        let user = User::new()?;
        Ok(Self { daemon, user })
    }

    /// Options that ssh, scp and sftp have in common.
    fn options(&self) -> Vec<String> {
        let home = self.user.home().display();
        [
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "LogLevel=ERROR",
            "-o",
            &format!("UserKnownHostsFile={home}/known_hosts"),
            "-i",
            &format!("{home}/.ssh/own"),
        ]
        .map(str::to_owned)
        .to_vec()
    }

    pub(crate) fn command(&self, options: &[&str], words: &[&str]) -> Command {
        let mut command = Command::new("ssh");
        command
            // ssh takes the first of an option that is given twice.
            .args(options)
            .args(self.options())
            .args(["-p", &self.daemon.port.to_string()])
            .arg("127.0.0.1")
            .args(words)
            .env_remove("SSH_AUTH_SOCK")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, options: &[&str], words: &[&str]) -> Result<Output> {
        ended(&mut self.command(options, words))
    }
}

fn openssh_commands() -> Result<()> {
    let daemon = Daemon::cpud()?;
    let ssh = Ssh::new(&daemon)?;
    let output = ssh.run(&[], &["sh -c 'echo out; echo err >&2; exit 3'"])?;
    ensure!(output.status.code() == Some(3), "{output:?}");
    ensure!(
        output.stdout == b"out\n" && output.stderr == b"err\n",
        "{output:?}"
    );
    // cpud uses no shell: what sshd's shell would expand stays as it is.
    let output = ssh.run(&[], &["echo", "$HOME", "'a  b'", "*"])?;
    ensure!(works(&output)? == "$HOME a  b *\n");
    let output = fed(&mut ssh.command(&[], &["cat"]), b"to and fro")?;
    ensure!(works(&output)? == "to and fro");
    let output = ssh.run(&["-o", "SetEnv=ONE=1"], &["sh -c 'echo $ONE'"])?;
    ensure!(works(&output)? == "1\n");
    let output = ssh.run(&[], &["no-such-command"])?;
    ensure!(output.status.code() == Some(127), "{output:?}");

    let output = ssh.run(&["-o", "LogLevel=DEBUG1"], &["sh -c 'kill -TERM $$'"])?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(255) && stderr.contains("rtype exit-signal"),
        "{output:?}"
    );

    let mut shell = ssh.command(&["-o", "SetEnv=SHELL=/bin/sh"], &[]);
    let output = fed(&mut shell, b"echo in $0; exit 4\n")?;
    ensure!(output.status.code() == Some(4), "{output:?}");
    ensure!(output.stdout.starts_with(b"in "), "{output:?}");

    // The command ends with its client.
    let marker = format!("{}", 100_000 + std::process::id());
    let mut client = ssh.command(&[], &["sleep", &marker]).spawn()?;
    let runs = || -> Result<bool> {
        let output = ended(Command::new("pgrep").args(["-fx", &format!("sleep {marker}")]))?;
        Ok(output.status.success())
    };
    wait_until("the command runs", Duration::from_mins(1), || {
        Ok(runs()?.then_some(()))
    })?;
    client.kill()?;
    client.wait()?;
    wait_until("the command has gone", Duration::from_mins(1), || {
        Ok((!runs()?).then_some(()))
    })
}

fn openssh_terminal() -> Result<()> {
    let daemon = Daemon::cpud()?;
    let ssh = Ssh::new(&daemon)?;
    let command = pty_process::blocking::Command::new("ssh")
        .args(ssh.options())
        .args(["-t", "-p", &daemon.port.to_string(), "127.0.0.1"])
        .arg("sh -c 'tty; stty size; until stty size | grep \"30 90\"; do sleep 0.1; done; echo $TERM'")
        .env("TERM", "vt220");
    let mut terminal = Terminal::start(command, 24, 80)?;
    let at = terminal.expect_from(0, "/dev/pts/")?;
    let at = terminal.expect_from(at, "24 80")?;
    terminal.resize(30, 90)?;
    let at = terminal.expect_from(at, "30 90")?;
    terminal.expect_from(at, "vt220")?;
    ensure!(terminal.wait()?.success());
    Ok(())
}

/// Bytes that are not the same twice.
fn much(mib: u32) -> Vec<u8> {
    (0..mib << 18).flat_map(u32::to_le_bytes).collect()
}

fn openssh_rekeys() -> Result<()> {
    let daemon = Daemon::cpud()?;
    let ssh = Ssh::new(&daemon)?;
    let input = much(20);
    for cipher in [
        "aes128-gcm@openssh.com",
        "aes128-ctr",
        "chacha20-poly1305@openssh.com",
    ] {
        let options = ["-o", "RekeyLimit=1M", "-o", "LogLevel=DEBUG1", "-c", cipher];
        let output = fed(&mut ssh.command(&options, &["cat"]), &input)?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{cipher}: {stderr}");
        ensure!(
            output.stdout == input,
            "{cipher}: {} bytes",
            output.stdout.len()
        );
        let renewed = stderr.matches("SSH2_MSG_NEWKEYS received").count();
        ensure!(renewed > 10, "{cipher}: {renewed} times: {stderr}");
    }
    Ok(())
}

/// What `ssh` is sent and cannot be given yet is more than cpud takes; meanwhile it must hear that there is
/// room again, and that the client lives.
fn openssh_slow() -> Result<()> {
    let daemon = Daemon::cpud()?;
    let ssh = Ssh::new(&daemon)?;
    let input = much(48);
    // Longer than the time-out of an unanswered keep-alive.
    let mut command = ssh.command(&[], &["sh -c 'sleep 75; exec cat'"]);
    let asleep = {
        let input = input.clone();
        std::thread::spawn(move || fed(&mut command, &input))
    };
    for options in [&[][..], &["-o", "RekeyLimit=1M"]] {
        let mut child = ssh
            .command(options, &["cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("no input")?;
        let (written, taken) = (input.clone(), Arc::new(AtomicUsize::new(0)));
        let counter = taken.clone();
        let writer = std::thread::spawn(move || {
            written.chunks(1 << 16).all(|chunk| {
                counter.fetch_add(chunk.len(), Ordering::Relaxed);
                stdin.write_all(chunk).is_ok()
            })
        });
        stands_still(&taken);
        ensure!(!writer.is_finished(), "48 MiB were taken for nobody");
        let output = finish(child)?;
        ensure!(output.status.success(), "{options:?}: {output:?}");
        ensure!(
            output.stdout == input,
            "{options:?}: {} bytes",
            output.stdout.len()
        );
    }
    let output = asleep.join().ok().context("a thread panicked")??;
    ensure!(output.status.success(), "{:?}", output.stderr);
    ensure!(output.stdout == input, "{} bytes", output.stdout.len());
    Ok(())
}

/// How long something may take that needs no more than a moment.
pub(crate) const TIMEOUT: Duration = Duration::from_mins(1);

fn openssh_copies() -> Result<()> {
    let daemon = Daemon::cpud()?;
    let ssh = Ssh::new(&daemon)?;
    let port = daemon.port.to_string();
    let there = ["/etc/hostname", "127.0.0.1:/nowhere"];
    let here = ["127.0.0.1:/etc/hostname", "/nowhere"];
    for (program, no, words) in [
        ("scp", "sftp", &there[..]),
        ("scp -O", "scp", &there),
        ("scp -O", "scp", &here),
        ("sftp", "sftp", &["127.0.0.1"]),
    ] {
        let mut all = program.split(' ');
        let mut command = Command::new(all.next().unwrap_or_default());
        command.args(all).args(ssh.options()).args(["-P", &port]);
        command.args(words);
        let output = ended(&mut command)?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "{program}: {output:?}");
        ensure!(
            stderr.contains(&format!("no {no} here")) && stderr.contains("cpu HOST cp"),
            "{program}: {stderr}"
        );
    }
    Ok(())
}

/// What PyPI's ssh-audit, which scripts/deps put into the cache, finds bad in a server.
fn faults(daemon: &Daemon) -> Result<Vec<String>> {
    let output = ended(
        Command::new("python3")
            .args(["-m", "ssh_audit.ssh_audit", "--no-colors", "-p"])
            .args([&daemon.port.to_string(), "127.0.0.1"])
            .env("PYTHONPATH", cache()?.join("ssh-audit")),
    )?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    ensure!(
        stdout.contains("(kex) mlkem768x25519-sha256") && stdout.contains("(enc) "),
        "ssh-audit (scripts/deps e2e installs it): {output:?}"
    );
    let faults = |line: &&str| line.contains("[fail]") || line.contains("[warn]");
    Ok(stdout.lines().filter(faults).map(str::to_owned).collect())
}

fn ssh_audit() -> Result<()> {
    // u-root's programs know no other key exchange than the one that ssh-audit warns of.
    let daemon = Daemon::cpud()?;
    for fault in faults(&daemon)? {
        ensure!(fault.contains("curve25519-sha256"), "{fault}");
    }
    let daemon = Daemon::cpud_with("-pq")?;
    let faults = faults(&daemon)?;
    ensure!(faults.is_empty(), "{faults:?}");

    let ssh = Ssh::new(&daemon)?;
    let (port, key) = (format!("-sp={}", daemon.port), ssh.user.key());
    let key = key.display().to_string();
    works(&ssh.user.run(&[&port, "-key", &key, "127.0.0.1", "true"])?)?;
    let old = [
        "-o",
        "LogLevel=INFO",
        "-o",
        "KexAlgorithms=curve25519-sha256",
    ];
    let output = ssh.run(&old, &["true"])?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(255) && stderr.contains("no matching key exchange method"),
        "{output:?}"
    );
    Ok(())
}
