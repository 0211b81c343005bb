//! Everything that is refused: with one clear line, exit status 255, and soon.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::client::ended;
use e2e::port::Port;

use crate::{Machine, Test};

pub(crate) const TESTS: &[Test] = &[
    ("a_wrong_key_is_refused", wrong_key),
    ("a_wrong_host_key_is_refused", wrong_host_key),
    ("no_server_says_host_port_and_reason", no_server),
    ("a_silent_server_is_given_up", silent_server),
    ("what_is_no_ssh_server_is_told_as_that", no_ssh_server),
    (
        "a_foreign_peer_without_a_login_is_refused",
        openssh_without_a_key,
    ),
];

/// Runs, and checks the time, the status and that there is one line with these words in it.
fn refused(machine: &Machine, command: Command, words: &[&str]) -> Result<()> {
    let start = Instant::now();
    let output = machine.client.output(command, b"")?;
    let elapsed = start.elapsed();
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        elapsed < Duration::from_secs(15),
        "took {elapsed:?}: {stderr}"
    );
    ensure!(output.status.code() == Some(255), "{output:?}");
    ensure!(output.stdout.is_empty(), "{output:?}");
    ensure!(stderr.lines().count() == 1, "{stderr}");
    for word in words {
        ensure!(stderr.contains(word), "no {word:?} in {stderr}");
    }
    Ok(())
}

fn keygen(path: &std::path::Path) -> Result<()> {
    let status = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(path)
        .status()
        .context("cannot run ssh-keygen (package openssh-client)")?;
    ensure!(status.success());
    Ok(())
}

fn wrong_key(machine: &Machine) -> Result<()> {
    let key = machine.home.path().join("wrong_key");
    keygen(&key)?;
    std::fs::copy(
        e2e::out().join("cpu_rsa.hostkey"),
        machine.home.path().join("wrong_key.hostkey"),
    )?;
    let command = machine.client.with_key(&key).command(&[], &["true"]);
    let key = key.display().to_string();
    refused(machine, command, &["refuses the key", &key])
}

fn wrong_host_key(machine: &Machine) -> Result<()> {
    let other = machine.home.path().join("other_host");
    keygen(&other)?;
    let pin = machine
        .home
        .path()
        .join("other_host.pub")
        .display()
        .to_string();
    let command = machine.client.command(&["-hk", &pin], &["true"]);
    refused(machine, command, &[&pin, "host key", "SHA256:"])
}

fn no_server(machine: &Machine) -> Result<()> {
    let port = Port::reserve()?;
    let port = port.number().to_string();
    let command = machine.client.command(&["-sp", &port], &["true"]);
    refused(machine, command, &["localhost", &port, "refused"])
}

fn silent_server(machine: &Machine) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port().to_string();
    let command = machine.client.command(&["-sp", &port], &["true"]);
    refused(machine, command, &["localhost", &port, "no answer"])
}

fn no_ssh_server(machine: &Machine) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port().to_string();
    let command = machine.client.command(&["-sp", &port], &["true"]);
    let server = std::thread::spawn(move || -> Result<()> {
        let (mut socket, _) = listener.accept()?;
        let _ = socket.read(&mut [0; 100])?;
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")?;
        Ok(socket.shutdown(Shutdown::Write)?)
    });
    refused(machine, command, &["localhost", &port, "an SSH server?"])?;
    server.join().ok().context("a thread panicked")?
}

fn openssh_without_a_key(machine: &Machine) -> Result<()> {
    let output = ended(
        Command::new("ssh")
            .args(["-F", "none", "-o", "StrictHostKeyChecking=no"])
            .args([
                "-o",
                "UserKnownHostsFile=/dev/null",
                "-o",
                "IdentityFile=/nonexistent",
            ])
            .args(["-o", "IdentityAgent=none", "-o", "BatchMode=yes", "-p"])
            .arg(machine.vm.port().to_string())
            .args(["127.0.0.1", "true"]),
    )?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(255), "{output:?}");
    ensure!(stderr.contains("Permission denied (publickey)"), "{stderr}");
    Ok(())
}
