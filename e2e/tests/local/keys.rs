//! With which keys cpu logs in: files of every kind, with and without a passphrase, and agents, as with ssh.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::client::ended;
use e2e::daemon::{Daemon, keygen};
use e2e::user::{User, fails, works};
use e2e::{out, wait_until};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("ssh_keys_are_tried_in_turn", several_keys),
    ("ssh_keys_of_every_kind_log_in", kinds_of_keys),
    ("ssh_passphrases_are_asked_for_without_echo", passphrase),
    ("ssh_agents_sign", agent),
];

fn several_keys() -> Result<()> {
    let (daemon, user) = (Daemon::cpud()?, User::new()?);
    let port = format!("-sp={}", daemon.port);
    let (wrong, own) = (user.ssh().join("wrong"), user.key().display().to_string());
    keygen(&wrong, &["-t", "ecdsa"], "")?;
    let wrong = wrong.display().to_string();
    let words = [&port, "-key", &wrong, "-key", &own, "127.0.0.1", "true"];
    works(&user.run(&words)?)?;
    let words = [&port, "-key", &wrong, "127.0.0.1", "true"];
    fails(&user.run(&words)?, &["refuses the key", &wrong])?;

    // Default key names are tried without a flag.
    fs::rename(user.key(), user.ssh().join("id_rsa"))?;
    works(&user.run(&[&port, "127.0.0.1", "true"])?)?;
    fs::set_permissions(user.ssh().join("id_rsa"), PermissionsExt::from_mode(0o644))?;
    let output = user.run(&[&port, "127.0.0.1", "true"])?;
    fails(
        &output,
        &["id_rsa is not used", "0644", "no key to log in with"],
    )
}

fn passphrase() -> Result<()> {
    let (daemon, user) = (Daemon::cpud()?, User::new()?);
    let own = user.key().display().to_string();
    let changed = ended(Command::new("ssh-keygen").args(["-q", "-p", "-N", "sesame", "-f", &own]))?;
    ensure!(changed.status.success(), "{changed:?}");
    let port = format!("-sp={}", daemon.port);
    let words = [port.as_str(), "-key", &own, "127.0.0.1", "echo", "in''side"];
    let mut terminal = user.typed(&words)?;
    let at = terminal.expect_from(0, &format!("Enter passphrase for key '{own}': "))?;
    terminal.send("wrong\r")?;
    let at = terminal.expect_from(at, "Enter passphrase")?;
    terminal.send("sesame\r")?;
    terminal.expect_from(at, "in''side")?;
    ensure!(terminal.wait()?.success());
    ensure!(
        !terminal.screen().contains("sesame"),
        "{}",
        terminal.screen()
    );

    // Nobody can be asked: setsid takes the terminal away.
    let mut command = Command::new("setsid");
    command
        .arg("-w")
        .arg(out().join("cpu"))
        .arg("-9p=false")
        .args(words);
    let output = ended(command.env("HOME", user.home()).env_remove("SSH_AUTH_SOCK"))?;
    fails(&output, &["no terminal", "passphrase", "ssh-agent"])
}

/// `ssh-agent`, until dropped.
pub(crate) struct Agent {
    child: Child,
    pub(crate) socket: PathBuf,
}

impl Agent {
    /// With one key.
    pub(crate) fn start(socket: &Path, key: &Path) -> Result<Self> {
        let agent = Self::run(Command::new("ssh-agent"), socket)?;
        agent.add(key, &[])?;
        Ok(agent)
    }

    /// Without a key, run by this command.
    pub(crate) fn run(mut command: Command, socket: &Path) -> Result<Self> {
        command.arg("-D").arg("-a").arg(socket);
        let agent = Self {
            child: command.stdout(Stdio::null()).spawn()?,
            socket: socket.to_owned(),
        };
        wait_until("ssh-agent listens", Duration::from_mins(1), || {
            Ok(UnixStream::connect(socket).is_ok().then_some(()))
        })?;
        Ok(agent)
    }

    /// Give it a key, with options of ssh-add.
    pub(crate) fn add(&self, key: &Path, options: &[&str]) -> Result<()> {
        let mut add = Command::new("ssh-add");
        add.arg("-q").args(options).arg(key);
        ensure!(add.env("SSH_AUTH_SOCK", &self.socket).status()?.success());
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn agent() -> Result<()> {
    let (daemon, user) = (Daemon::cpud()?, User::new()?);
    let socket = user.ssh().join("agent");
    let _agent = Agent::start(&socket, &user.key())?;
    let port = format!("-sp={}", daemon.port);
    // Now only the agent has the key.
    fs::remove_file(user.key())?;
    let words = [&port, "127.0.0.1", "true"];
    let run = || ended(user.cpu(&words).env("SSH_AUTH_SOCK", &socket));
    works(&run()?)?;
    user.configure("IdentityAgent none\n")?;
    fails(&run()?, &["no key to log in with"])?;
    user.configure("IdentityAgent ~/.ssh/agent\n")?;
    works(&user.run(&words)?)?;
    let other = user.ssh().join("other");
    keygen(&other, &["-t", "ed25519"], "")?;
    let only = "IdentityAgent ~/.ssh/agent\nIdentitiesOnly yes\nIdentityFile ~/.ssh/other\n";
    user.configure(only)?;
    fails(&user.run(&words)?, &["refuses the key", "other"])?;
    // If only the public key file exists, the key is the agent's; also if the .pub file itself is named.
    let public = fs::read_to_string(out().join("cpu_rsa.pub"))?;
    fs::write(user.ssh().join("token.pub"), public)?;
    for name in ["token", "token.pub"] {
        user.configure(&only.replace("other", name).replace("yes", "Yes"))?;
        works(&user.run(&words)?)?;
    }
    Ok(())
}

/// `ssh-keygen`'s kinds of keys and formats.
fn kinds_of_keys() -> Result<()> {
    let (user, mut allowed) = (User::new()?, String::new());
    let kinds = [
        ("ed25519", "-t ed25519", "OPENSSH PRIVATE KEY"),
        ("p256", "-t ecdsa -b 256", "OPENSSH PRIVATE KEY"),
        ("p384", "-t ecdsa -b 384", "OPENSSH PRIVATE KEY"),
        ("p521", "-t ecdsa -b 521", "OPENSSH PRIVATE KEY"),
        ("rsa", "-t rsa -b 2048", "OPENSSH PRIVATE KEY"),
        ("rsa-pem", "-t rsa -b 2048 -m PEM", "RSA PRIVATE KEY"),
        ("rsa-pkcs8", "-t rsa -b 2048 -m PKCS8", "PRIVATE KEY"),
        ("p256-pem", "-t ecdsa -b 256 -m PEM", "EC PRIVATE KEY"),
        ("p384-pkcs8", "-t ecdsa -b 384 -m PKCS8", "PRIVATE KEY"),
    ];
    for (name, arguments, header) in kinds {
        let key = user.ssh().join(name);
        let arguments: Vec<_> = arguments.split(' ').collect();
        keygen(&key, &arguments, "")?;
        let begin = format!("-----BEGIN {header}-----\n");
        ensure!(fs::read_to_string(&key)?.starts_with(&begin), "{name}");
        allowed += &fs::read_to_string(key.with_extension("pub"))?;
    }
    let keys = user.ssh().join("allowed");
    fs::write(&keys, allowed)?;
    let daemon = Daemon::cpud_for(&keys)?;
    let port = format!("-sp={}", daemon.port);
    for (name, ..) in kinds {
        let key = user.ssh().join(name).display().to_string();
        let output = user.run(&[&port, "-key", &key, "127.0.0.1", "echo", name])?;
        ensure!(works(&output)? == format!("{name}\n"), "{output:?}");
        let mut ssh = Command::new("ssh");
        ssh.args([
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=no",
        ]);
        ssh.args([
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "IdentitiesOnly=yes",
        ]);
        ssh.args(["-i", &key, "-p", &daemon.port.to_string(), "127.0.0.1"]);
        ssh.args(["echo", name]).env_remove("SSH_AUTH_SOCK");
        let output = ended(&mut ssh)?;
        ensure!(works(&output)? == format!("{name}\n"), "{output:?}");
    }
    // The key that the machine presents is not in the file.
    let own = user.key().display().to_string();
    let output = user.run(&[&port, "-key", &own, "127.0.0.1", "true"])?;
    fails(&output, &["refuses the key"])
}
