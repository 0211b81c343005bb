//! What a client cannot do to a cpud: wait for ever, hold all of its memory, or log in by key files that anybody may
//! change. The clients are paramiko's, which does what OpenSSH's never does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::client::ended;
use e2e::daemon::{Daemon, keygen};
use e2e::out;
use e2e::user::{User, works};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    (
        "limits_a_second_service_request_is_no_wait",
        service_requests,
    ),
    ("limits_a_connection_has_a_thousand_channels", channels),
    ("limits_variables_of_a_connection_are_a_mebibyte", variables),
    ("limits_key_files_of_others_are_refused", strict_modes),
];

/// A script with `paramiko`, a `transport` that has connected, and the user's `key`. The result is what it prints.
pub(crate) fn paramiko(port: u16, user: &User, script: &str) -> Result<String> {
    let start = format!(
        "import paramiko, time\n\
         transport = paramiko.Transport(('127.0.0.1', {port}))\n\
         transport.start_client()\n\
         for kind in paramiko.Ed25519Key, paramiko.RSAKey:\n    \
             try: key = kind.from_private_key_file('{}')\n    \
             except paramiko.SSHException: pass\n",
        user.key().display()
    );
    // Debian's python3, for which python3-paramiko is installed.
    let mut command = Command::new("/usr/bin/python3");
    works(&ended(command.args(["-c", &(start + script)]))?)
}

/// Until russh answers it, the connection ends with a reason.
fn service_requests() -> Result<()> {
    let (daemon, user) = (Daemon::cpud()?, User::new()?);
    let start = Instant::now();
    let printed = paramiko(
        daemon.port,
        &user,
        "wrong = paramiko.RSAKey.generate(2048)\n\
         try:\n    transport.auth_publickey('root', wrong)\n\
         except paramiko.AuthenticationException: print('refused')\n\
         try:\n    transport.auth_publickey('root', key)\n    print('logged in')\n\
         except paramiko.SSHException as error: print(type(error).__name__)\n",
    )?;
    ensure!(printed.starts_with("refused\n"), "{printed}");
    ensure!(
        start.elapsed() < Duration::from_secs(30),
        "{:?}",
        start.elapsed()
    );
    let line = "a peer waits for an answer to a second service request";
    ensure!(daemon.log().contains(line), "{}", daemon.log());
    // A client that pauses after a wrong key is not disconnected.
    let printed = paramiko(
        daemon.port,
        &user,
        "wrong = paramiko.RSAKey.generate(2048)\n\
         try:\n    transport.auth_publickey('root', wrong)\n\
         except paramiko.AuthenticationException: time.sleep(10)\n\
         print(transport.is_active())\n",
    )?;
    ensure!(printed == "True\n", "{printed}");
    Ok(())
}

fn channels() -> Result<()> {
    let (daemon, user) = (Daemon::cpud()?, User::new()?);
    let printed = paramiko(
        daemon.port,
        &user,
        "transport.auth_publickey('root', key)\n\
         channels = [transport.open_session() for _ in range(1000)]\n\
         try: transport.open_session()\n\
         except paramiko.ChannelException as error: print(error.code)\n\
         channels.pop().close()\n\
         while True:\n    \
             try:\n        channels.append(transport.open_session())\n        break\n    \
             except paramiko.ChannelException: time.sleep(.1)\n\
         channels[-1].exec_command('echo works')\n\
         print(channels[-1].recv(100).decode(), end='')\n",
    )?;
    // RFC 4254, section 5.1: 4 is "resource shortage".
    ensure!(printed == "4\nworks\n", "{printed}");
    Ok(())
}

fn variables() -> Result<()> {
    let (daemon, user) = (Daemon::cpud()?, User::new()?);
    let script = |count| {
        format!(
            "transport.auth_publickey('root', key)\n\
             channel = transport.open_session()\n\
             for n in range({count}): channel.set_environment_variable('V%02d' % n, 'x' * 100000)\n\
             channel.exec_command('sh -c \"env | grep -c ^V\"')\n\
             print(channel.recv(100).decode(), end='')\n"
        )
    };
    let printed = paramiko(daemon.port, &user, &script(10))?;
    ensure!(printed == "10\n", "{printed}");
    // A command that would run without some of its variables is not started.
    let printed = paramiko(
        daemon.port,
        &user,
        &script(15).replace("recv(", "recv_stderr("),
    )?;
    ensure!(
        printed.contains("the environment has more than 1048576 bytes"),
        "{printed}"
    );
    Ok(())
}

fn strict_modes() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (keys, host_key) = (
        directory.path().join("keys"),
        directory.path().join("host_key"),
    );
    fs::copy(out().join("cpu_rsa.pub"), &keys)?;
    keygen(&host_key, &["-t", "ed25519"], "")?;
    let mode = |file, mode| fs::set_permissions(file, PermissionsExt::from_mode(mode));
    let run = |flags: &[&str]| {
        let mut command = Command::new("timeout");
        command
            .arg("2")
            .arg(out().join("cpud"))
            .args(["-port", "127.0.0.1:0"]);
        command.arg("-pk").arg(&keys).arg("-hk").arg(&host_key);
        let output = ended(command.args(flags))?;
        String::from_utf8(output.stderr).context("no text")
    };
    mode(&keys, 0o644)?;
    let said = run(&[])?;
    ensure!(said.contains("serving on"), "{said}");
    for (file, loose, tight, cure) in [
        (&keys, 0o666, 0o644, "chmod go-w"),
        (&host_key, 0o644, 0o600, "chmod 600"),
    ] {
        mode(file, loose)?;
        let said = run(&[])?;
        let cure = format!("{cure} {}", file.display());
        ensure!(said.contains(&cure) && !said.contains("serving"), "{said}");
        ensure!(said.lines().count() == 1, "{said}");
        let said = run(&["-strictmodes=false"])?;
        ensure!(said.contains("serving on"), "{said}");
        mode(file, tight)?;
    }
    Ok(())
}
