//! OpenSSH's client shares one connection of ours among sessions, and forwards ports only when told.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::client::{ended, finish};
use e2e::daemon::Daemon;
use e2e::port::Port;
use e2e::{u_root, wait_until};

use crate::Test;
use crate::interop::{Ssh, TIMEOUT};

pub(crate) const TESTS: &[Test] = &[
    (
        "interop_openssh_shares_a_connection",
        openssh_control_master,
    ),
    ("interop_openssh_forwards_only_when_told", openssh_forwards),
];

fn openssh_control_master() -> Result<()> {
    let daemon = Daemon::cpud()?;
    let ssh = Ssh::new(&daemon)?;
    let path = format!("ControlPath={}/shared", ssh.user.home().display());
    let send = "SendEnv=CPU_FILES";
    let master = ["-o", &path, "-o", "ControlMaster=yes", "-o", send, "-N"];
    let mut master = Hold(ssh.command(&master, &[]).spawn()?);
    wait_until("the connection is shared", Duration::from_mins(1), || {
        let check = ["-o", &path, "-O", "check"];
        Ok(ssh.run(&check, &[])?.status.success().then_some(()))
    })?;
    let sessions: Vec<Child> = (0..10)
        .map(|number| {
            let script = format!("sh -c 'echo {number}; sleep 1; exit {number}'");
            let mut command = ssh.command(&["-o", &path], &[&script]);
            Ok(command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?)
        })
        .collect::<Result<_>>()?;
    for (number, session) in sessions.into_iter().enumerate() {
        let output = finish(session)?;
        ensure!(
            output.stdout == format!("{number}\n").into_bytes(),
            "{output:?}"
        );
        ensure!(
            output.status.code() == i32::try_from(number).ok(),
            "{output:?}"
        );
    }
    ensure!(
        daemon.log().matches(" with key SHA256:").count() == 1,
        "{}",
        daemon.log()
    );
    // The connection keeps no descriptor of a command that has ended, with a terminal or without.
    let before = descriptors_below(&daemon)?;
    for number in 0..20 {
        let terminal = if number % 2 == 0 { "-T" } else { "-tt" };
        let output = ssh.run(&["-o", &path, terminal], &["true"])?;
        ensure!(output.status.success(), "{output:?}");
    }
    wait_until("what the commands had is let go", TIMEOUT, || {
        Ok((descriptors_below(&daemon)? <= before).then_some(()))
    })?;
    // Files that were offered and withdrawn are not used by the next command.
    let offer = ssh
        .command(&["-o", &path, "-s"], &["9p"])
        .spawn()
        .map(Hold)?;
    wait_until("the files are offered", TIMEOUT, || {
        let log = daemon.log();
        Ok(log.contains("the client serves its files").then_some(()))
    })?;
    drop(offer);
    let output = ssh.run(&["-o", &path], &["true"])?;
    ensure!(output.status.success(), "{output:?}");
    // A channel with an id is taken by the command that names it; here in vain, since nobody serves files on it.
    let named = |options: &[&str], command: &str| {
        let sent = ["-o", &path, "-o", send];
        let mut command = ssh.command(&[&sent, options].concat(), &[command]);
        command.env("CPU_FILES", "mine");
        command
    };
    let _offer = named(&["-s"], "9p").spawn().map(Hold)?;
    wait_until("the named files are offered", TIMEOUT, || {
        let offers = daemon.log().matches("the client serves its files").count();
        Ok((offers == 2).then_some(()))
    })?;
    let output = ssh.run(&["-o", &path], &["env"])?;
    ensure!(output.status.success(), "{output:?}");
    let output = ended(&mut named(&[], "true"))?;
    ensure!(output.status.code() == Some(255), "{output:?}");
    let output = ended(&mut named(&[], "env"))?;
    ensure!(output.status.success(), "{output:?}");
    let environment = String::from_utf8_lossy(&output.stdout);
    ensure!(!environment.contains("CPU_FILES"), "{environment}");
    ensure!(master.0.try_wait()?.is_none());
    Ok(())
}

/// Descriptors of the processes that serve the daemon's connections.
fn descriptors_below(daemon: &Daemon) -> Result<usize> {
    let children = format!("/proc/{0}/task/{0}/children", daemon.pid());
    let children = std::fs::read_to_string(children)?;
    ensure!(!children.trim().is_empty(), "no connection");
    let counts = children.split_whitespace().map(|pid| {
        match std::fs::read_dir(format!("/proc/{pid}/fd")) {
            // The service has just ended.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            listing => Ok(listing?.count()),
        }
    });
    counts.sum()
}

/// A process that ends with this value.
struct Hold(Child);

impl Drop for Hold {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a port that greets and echoes gives back.
fn echoed(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_mins(1)))?;
    stream.write_all(b"there and back")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut back = String::new();
    stream.read_to_string(&mut back)?;
    Ok(back)
}

/// A port of this machine that echoes, until the listener is dropped.
fn echo() -> Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut from, mut to) = (&stream, &stream);
                // The server speaks first, as many do.
                let _ = to.write_all(b"hello\n");
                let _ = std::io::copy(&mut from, &mut to);
            });
        }
    });
    Ok(port)
}

fn openssh_forwards() -> Result<()> {
    let echo = echo()?;
    let whole = "hello\nthere and back";
    ensure!(echoed(echo)? == whole);
    let reserved = Port::reserve()?;
    let local = reserved.number();
    let to_echo = format!("{local}:127.0.0.1:{echo}");
    let from_there = format!("127.0.0.1:0:127.0.0.1:{echo}");
    let strict = [
        "-o",
        "ExitOnForwardFailure=yes",
        "-o",
        "LogLevel=INFO",
        "-N",
    ];
    let listens = |what: &str| {
        wait_until(what, Duration::from_mins(1), || {
            Ok(TcpStream::connect(("127.0.0.1", local))
                .is_ok()
                .then_some(()))
        })
    };

    let told = Daemon::cpud_with("-forward")?;
    let ssh = Ssh::new(&told)?;
    let log = ssh.user.home().join("log");
    let both = [&strict[..], &["-L", &to_echo, "-R", &from_there]].concat();
    let mut command = ssh.command(&both, &[]);
    let client = Hold(command.stderr(fs::File::create(&log)?).spawn()?);
    listens("ssh -L listens")?;
    ensure!(echoed(local)? == whole);
    let port = wait_until("ssh -R is granted", Duration::from_mins(1), || {
        let log = fs::read_to_string(&log)?;
        let port = log.split("Allocated port ").nth(1);
        Ok(port.and_then(|rest| rest.split(' ').next()?.parse::<u16>().ok()))
    })?;
    for _ in 0..20 {
        ensure!(echoed(port)? == whole);
    }
    drop(client);
    wait_until("the port is free again", Duration::from_mins(1), || {
        Ok(TcpStream::connect(("127.0.0.1", port))
            .is_err()
            .then_some(()))
    })?;
    // Channels that the client has closed do not stay open towards a silent service.
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let go = u_root::Cpu {
        port: told.port,
        key: &ssh.user.key(),
        root: None,
        environment: &[],
        terminal: None,
        input: b"",
        second_choice: false,
    };
    go.forwards(silent.local_addr()?.port(), 50, || {
        let held = (0..50).map(|_| silent.accept());
        let _held = held.collect::<std::io::Result<Vec<_>>>()?;
        wait_until("closed channels are let go", TIMEOUT, || {
            Ok((descriptors_below(&told)? < 50).then_some(()))
        })
    })?;
    for outside in ["0.0.0.0:0:127.0.0.1:1", "*:0:127.0.0.1:1"] {
        let output = ssh.run(&[&strict[..], &["-R", outside]].concat(), &[])?;
        ensure!(output.status.code() == Some(255), "{outside}: {output:?}");
    }
    let output = ssh.run(&["-W", &format!("127.0.0.2:{echo}")], &[])?;
    ensure!(
        output.status.code() == Some(255) && output.stdout.is_empty(),
        "{output:?}"
    );

    let untold = Daemon::cpud()?;
    let ssh = Ssh::new(&untold)?;
    let output = ssh.run(&[&strict[..], &["-R", &from_there]].concat(), &[])?;
    ensure!(output.status.code() == Some(255), "{output:?}");
    let target = format!("127.0.0.1:{echo}");
    let output = ssh.run(&["-o", "LogLevel=INFO", "-W", &target], &[])?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(stderr.contains("administratively prohibited"), "{output:?}");
    ensure!(output.stdout.is_empty(), "{output:?}");
    Ok(())
}
