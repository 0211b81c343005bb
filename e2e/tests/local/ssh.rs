//! cpu behaves as ssh: its configuration, keys and host keys, and a stock sshd as the server. The servers run on this
//! computer.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::client::{ended, fed, finish};
use e2e::daemon::Daemon;
use e2e::delay::Delay;
use e2e::user::{User, fails, works};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getuid};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("ssh_config_says_where_and_how", configuration),
    ("ssh_goes_through_proxies_and_jumps", proxies),
    ("ssh_servers_of_stock_work_as_with_ssh", stock_sshd),
    ("ssh_servers_are_asked_whether_they_live", alive),
    ("ssh_over_a_unix_socket", unix_socket),
    ("ssh_waiting_is_shown_on_a_terminal", waiting),
];

fn configuration() -> Result<()> {
    let (daemon, user) = (Daemon::cpud()?, User::new()?);
    let port = daemon.port;
    user.configure(
        "Include board.conf\nMatch host=127.0.0.1 user bob\n  SetEnv FROM_CONFIG=yes BOB=1\n\
         Host board-*\n  ForwardX11 yes\n  Port 1\n  SetEnv FROM_CONFIG=yes LATE=no\n",
    )?;
    fs::write(
        user.ssh().join("board.conf"),
        format!(
            "Host board-?\n  Port {port}\n  HostName 127.0.0.1\n  IdentityFile ~/.ssh/missing\n  IdentityFile %d/.ssh/own\n  \
             UserKnownHostsFile ~/.ssh/hosts\n  HashKnownHosts no\n  AddressFamily inet\n"
        ),
    )?;
    let script = "echo $FROM_CONFIG $BOB";
    let output = user.run(&["board-1", "sh", "-c", script])?;
    ensure!(works(&output)? == "yes\n", "{output:?}");
    ensure!(
        fs::read_to_string(user.ssh().join("hosts"))?.starts_with(&format!("[127.0.0.1]:{port} "))
    );
    let output = user.run(&["-oSetEnv=FROM_CONFIG=line", "board-1", "sh", "-c", script])?;
    ensure!(works(&output)? == "line\n", "{output:?}");
    let output = user.run(&["bob@board-1", "sh", "-c", script])?;
    ensure!(
        works(&output)? == "yes 1\n" && output.stderr.is_empty(),
        "{output:?}"
    );

    let output = user.run(&["-d", "board-1", "true"])?;
    let stderr = String::from_utf8(output.stderr)?;
    ensure!(stderr.matches("forwardx11").count() == 1, "{stderr}");

    // No local terminal.
    user.configure("Include board.conf\nHost board-1\n  RequestTTY force\n")?;
    for (words, status) in [
        (&["board-1", "test", "-t", "0"][..], 0),
        (&["board-2", "test", "-t", "0"], 1),
        (&["-T", "board-1", "test", "-t", "0"], 1),
    ] {
        let output = user.run(words)?;
        ensure!(output.status.code() == Some(status), "{words:?} {output:?}");
    }

    user.configure("\nHost x\n  Port 1\nHost *\n  Port many\n")?;
    fails(&user.run(&["board-1", "true"])?, &["config line 5", "many"])?;
    user.configure("Port 1\n")?;
    fs::set_permissions(user.ssh().join("config"), PermissionsExt::from_mode(0o666))?;
    fails(&user.run(&["board-1", "true"])?, &["config", "chmod 600"])
}

fn proxies() -> Result<()> {
    let (daemon, bastion, user) = (Daemon::cpud()?, Daemon::sshd()?, User::new()?);
    let ssh = format!(
        "ssh -F none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -i {}",
        user.key().display()
    );
    let common = format!(
        "Host board\nHostName 127.0.0.1\nPort {}\nIdentityFile ~/.ssh/own\n",
        daemon.port
    );
    let through = bastion.port;
    user.configure(&format!(
        "{common}ProxyCommand {ssh} -p {through} -W %h:%p 127.0.0.1\n"
    ))?;
    ensure!(works(&user.run(&["board", "echo", "there"])?)? == "there\n");

    // ssh finds its configuration by passwd(5), not by $HOME, so it is named here.
    let bin = user.home().join("bin");
    fs::create_dir(&bin)?;
    fs::write(
        bin.join("ssh"),
        format!("#!/bin/sh\nexec /usr/bin/{ssh} \"$@\"\n"),
    )?;
    fs::set_permissions(bin.join("ssh"), PermissionsExt::from_mode(0o755))?;
    user.configure(&format!("{common}ProxyJump 127.0.0.1:{through}\n"))?;
    let path = format!("{}:{}", bin.display(), std::env::var("PATH")?);
    let output = ended(user.cpu(&["board", "echo", "there"]).env("PATH", path))?;
    ensure!(works(&output)? == "there\n");

    user.configure(&format!("{common}ProxyCommand exit 3\n"))?;
    fails(&user.run(&["board", "true"])?, &["through", "exit 3"])
}

fn stock_sshd() -> Result<()> {
    let (daemon, user) = (Daemon::sshd()?, User::new()?);
    user.configure(&format!(
        "Host sshd\nHostName 127.0.0.1\nIdentityFile ~/.ssh/own\nUserKnownHostsFile ~/.ssh/hosts\n\
         SetEnv FROM_CONFIG=set\nSendEnv SENT\nPort {}\n",
        daemon.port
    ))?;
    let run = |words: &[&str]| user.run(&[&["-namespace", "", "sshd"], words].concat());
    // The remote shell parses the words, as with ssh.
    let output = run(&["echo $((6*7)) | tr 4 5; exit 3"])?;
    ensure!(
        output.status.code() == Some(3) && output.stdout == b"52\n",
        "{output:?}"
    );
    ensure!(run(&["kill -TERM $$"])?.status.code() == Some(143));
    // Arguments are joined by blanks, without quoting.
    let output = run(&["echo", "a  b", "'c  d'", "$((1+1))"])?;
    ensure!(works(&output)? == "a b c  d 2\n", "{output:?}");
    signals_to_sshd(&user)?;
    let mut command = user.cpu(&["sshd", "echo $FROM_CONFIG $SENT $KEPT; echo err >&2"]);
    let output = ended(command.env("SENT", "sent").env("KEPT", "kept"))?;
    ensure!(
        works(&output)? == "set sent\n" && output.stderr == b"err\n",
        "{output:?}"
    );

    let output = fed(&mut user.cpu(&["sshd"]), b"echo shell $0; exit 4\n")?;
    ensure!(output.status.code() == Some(4), "{output:?}");
    ensure!(output.stdout.starts_with(b"shell "), "{output:?}");

    let mut terminal = user.typed(&["sshd", "tty; stty size; sleep 1; stty size"])?;
    let at = terminal.expect_from(0, "/dev/pts/")?;
    let at = terminal.expect_from(at, "24 80")?;
    terminal.resize(30, 90)?;
    terminal.expect_from(at, "30 90")?;
    ensure!(terminal.wait()?.success());
    Ok(())
}

/// To root's commands sshd passes no signals on ("session signalling requires privilege separation"): cpu, which
/// asked for it, ends by itself then. Others' get them.
fn signals_to_sshd(user: &User) -> Result<()> {
    // It must end by itself: nobody signals it.
    let script =
        "trap 'echo got TERM; exit 9' TERM; echo ready; for i in $(seq 300); do sleep 0.1; done";
    let mut child = user
        .cpu(&["-namespace", "", "sshd", script])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdout = BufReader::new(child.stdout.take().context("no output")?);
    let mut line = String::new();
    stdout.read_line(&mut line)?;
    ensure!(line == "ready\n", "{line:?}");
    kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
    let output = finish(child)?;
    let status = if getuid().is_root() { 143 } else { 9 };
    ensure!(output.status.code() == Some(status), "{output:?}");
    Ok(())
}

/// `ServerAliveInterval`: a server that is there is left alone, also while nobody reads what it sends; one that
/// has gone is not waited for.
fn alive() -> Result<()> {
    let (sshd, cpud) = (Daemon::sshd()?, Daemon::cpud()?);
    // Tests of both kinds wait most of the time.
    std::thread::scope(|scope| {
        let sshd = scope.spawn(|| is_asked(&sshd, &["-namespace", ""]));
        is_asked(&cpud, &[])?;
        sshd.join().ok().context("a thread panicked")?
    })
}

fn is_asked(daemon: &Daemon, flags: &[&str]) -> Result<()> {
    let (path, user) = (Delay::start(daemon.port, Duration::ZERO)?, User::new()?);
    user.configure(&format!(
        "Host board\nHostName 127.0.0.1\nIdentityFile ~/.ssh/own\nUserKnownHostsFile ~/.ssh/hosts\n\
         StrictHostKeyChecking no\nPort {}\nServerAliveInterval 1\nServerAliveCountMax 2\n",
        path.port
    ))?;
    // Longer than a silent server is waited for.
    let long = Duration::from_secs(5);
    let words = [flags, &["board", "head", "-c", "60000000", "/dev/zero"]].concat();
    let mut child = user.cpu(&words).stdout(Stdio::piped()).spawn()?;
    std::thread::sleep(long);
    ensure!(child.try_wait()?.is_none(), "it did not wait");
    let output = finish(child)?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(output.stdout.len() == 60_000_000, "{}", output.stdout.len());

    let mut child = user
        .cpu(&[flags, &["board", "sleep", "1000"]].concat())
        .stderr(Stdio::piped())
        .spawn()?;
    std::thread::sleep(long);
    ensure!(child.try_wait()?.is_none(), "an idle server was given up");
    path.fall_silent();
    fails(
        &finish(child)?,
        &["the connection to board was lost: no answer for 3 seconds"],
    )
}

fn unix_socket() -> Result<()> {
    let (daemon, user) = (Daemon::cpud_at_a_socket()?, User::new()?);
    let (socket, own) = (
        daemon.socket().display().to_string(),
        user.key().display().to_string(),
    );
    let words = [
        "-net", "unix", "-sp", &socket, "-key", &own, "board", "echo", "there",
    ];
    ensure!(works(&user.run(&words)?)? == "there\n");
    drop(daemon);
    fails(
        &user.run(&words)?,
        &["cannot connect to the socket", &socket],
    )?;
    fails(
        &user.run(&["-net", "unix", "board", "true"])?,
        &["-sp PATH"],
    )?;
    fails(
        &user.run(&["-net", "udp", "board", "true"])?,
        &["tcp, unix or vsock"],
    )
}

fn waiting() -> Result<()> {
    let user = User::new()?;
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let port = format!("-sp={}", silent.local_addr()?.port());
    let own = user.key().display().to_string();
    user.configure("ConnectTimeout 3\n")?;
    let words = [port.as_str(), "-key", &own, "127.0.0.1", "true"];
    let mut terminal = user.typed(&words)?;
    let at = terminal.expect_from(0, "waiting for 127.0.0.1 port")?;
    terminal.expect_from(at, "no answer within 3 seconds")?;
    ensure!(terminal.wait()?.code() == Some(255));
    let output = user.run(&words)?;
    fails(&output, &["no answer within 3 seconds"])?;
    let stderr = String::from_utf8(output.stderr)?;
    ensure!(
        stderr.lines().count() == 1 && !stderr.contains("waiting"),
        "{stderr}"
    );
    Ok(())
}
