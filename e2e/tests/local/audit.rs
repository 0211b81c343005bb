//! What cpud says about who has logged in and what he ran: one line each, which nobody can forge. The servers run on this
//! machine.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::client::ended;
use e2e::daemon::{Daemon, keygen};
use e2e::user::{User, board, works};
use e2e::wait_until;

use crate::Test;
use crate::limits::paramiko;

pub(crate) const TESTS: &[Test] = &[
    ("audit_has_logins_and_sessions", sessions),
    ("audit_has_keys_that_may_not_log_in", refusals),
    ("audit_lines_are_not_forged", forgery),
    ("audit_processes_say_what_they_are_and_for_whom", titles),
];

/// `SHA256:...` of a key.
fn fingerprint(user: &User) -> Result<String> {
    let shown = works(&ended(
        Command::new("ssh-keygen").arg("-lf").arg(user.key()),
    )?)?;
    Ok(shown
        .split(' ')
        .nth(1)
        .context("no fingerprint")?
        .to_owned())
}

/// Waits for a line that begins and ends so.
fn expect(daemon: &Daemon, begin: &str, end: &str) -> Result<String> {
    let found = wait_until(
        &format!("{begin} ... {end}"),
        Duration::from_secs(20),
        || {
            let log = daemon.log();
            let is_it = |line: &&str| line.starts_with(begin) && line.ends_with(end);
            Ok(log.lines().find(is_it).map(str::to_owned))
        },
    );
    found.with_context(|| daemon.log())
}

/// Waits for a line that ends so. The result is `cpud: login NUMBER`.
fn starts(daemon: &Daemon, end: &str) -> Result<String> {
    let line = expect(daemon, "cpud: login ", end)?;
    let who = line
        .strip_suffix(end)
        .and_then(|who| who.strip_suffix(": "));
    Ok(who.with_context(|| line.clone())?.to_owned())
}

fn sessions() -> Result<()> {
    let (daemon, user) = board()?;
    let end = format!(": root from 127.0.0.1 with key {} cpu", fingerprint(&user)?);
    let script = "cat; echo err >&2; exit 3";
    let mut command = user.cpu(&["board", "sh", "-c", script]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .context("no input")?
        .write_all(b"hello\n")?;
    child.wait()?;
    let who = starts(&daemon, "root starts sh")?;
    expect(&daemon, &who, &end)?;
    let line = expect(
        &daemon,
        &format!("{who}: root ran sh: status 3, "),
        " s, 6 bytes in, 10 bytes out",
    )?;
    ensure!(!line.contains("cat") && line.len() < 80, "{line}");
    // Another login has another number, and the same key.
    user.run(&["board", "id"])?;
    let other = starts(&daemon, "root starts id")?;
    ensure!(other != who, "{other}");
    expect(&daemon, &other, &end)?;
    user.run(&["board", "sh", "-c", "kill -KILL $$"])?;
    let killed = |line: &str| line.contains(": root ran sh: signal SIGKILL, ");
    wait_until("a killed command", Duration::from_secs(20), || {
        Ok(daemon.log().lines().any(killed).then_some(()))
    })?;
    let mut gone = user.cpu(&["board", "sleep", "1000"]).spawn()?;
    let who = starts(&daemon, "root starts sleep")?;
    gone.kill()?;
    gone.wait()?;
    expect(&daemon, &format!("{who}: root ran sleep: "), " bytes out")?;
    Ok(())
}

fn refusals() -> Result<()> {
    let (daemon, user) = (Daemon::cpud()?, User::new()?);
    std::fs::remove_file(user.key())?;
    keygen(&user.key(), &["-t", "ed25519"], "")?;
    let words = [
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
    ];
    for _ in 0..10 {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-p", &daemon.port.to_string(), "-l", "ann"])
            .args(words);
        ssh.arg("-i")
            .arg(user.key())
            .args(["127.0.0.1", "true"])
            .env_remove("SSH_AUTH_SOCK");
        ensure!(!ended(&mut ssh)?.status.success());
    }
    let begin =
        "cpud: the connection from 127.0.0.1 is closed: it offered 1 key(s) that may not log in, ";
    let end = format!("the last one as ann with key {}", fingerprint(&user)?);
    expect(&daemon, begin, &end)?;
    let lines = daemon.log().matches(begin).count();
    ensure!(lines <= 5, "{}", daemon.log());
    Ok(())
}

fn forgery() -> Result<()> {
    let (daemon, user) = (Daemon::cpud()?, User::new()?);
    paramiko(
        daemon.port,
        &user,
        "transport.auth_publickey('x\\ncpud: y\" logged in', key)\n\
         channel = transport.open_session()\n\
         channel.exec_command(b\"'ls: status 0'\")\n\
         channel.recv_exit_status()\n",
    )?;
    let forger = "\"x\u{fffd}cpud: y\\\" logged in\"";
    let who = starts(&daemon, &format!("{forger} starts \"ls: status 0\""))?;
    let end = format!(
        ": {forger} from 127.0.0.1 with key {} cpu",
        fingerprint(&user)?
    );
    expect(&daemon, &who, &end)?;
    expect(
        &daemon,
        &format!("{who}: {forger} ran \"ls: status 0\": status 127, "),
        " bytes out",
    )?;
    Ok(())
}

/// Each process below another one: its name, and its arguments up to `--`.
fn processes_below(pid: u32) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    for child in children.split_whitespace() {
        let name = std::fs::read_to_string(format!("/proc/{child}/comm"))?;
        let line = std::fs::read_to_string(format!("/proc/{child}/cmdline"))?.replace('\0', " ");
        found.push((name.trim().to_owned(), line));
        found.extend(processes_below(child.parse()?)?);
    }
    Ok(found)
}

fn titles() -> Result<()> {
    let (daemon, user) = board()?;
    let mut running = user.cpu(&["board", "sleep", "1000"]).spawn()?;
    let found = wait_until("the command", Duration::from_secs(20), || {
        let found = processes_below(daemon.pid()).unwrap_or_default();
        Ok(found
            .iter()
            .any(|(name, _)| name == "sleep")
            .then_some(found))
    });
    running.kill()?;
    running.wait()?;
    let found = found?;
    let begins = [
        ("cpud", "cpud connection 127.0.0.1 -pk "),
        ("cpud", "cpud session --from root@127.0.0.1 --control "),
        ("sleep", "sleep 1000 "),
    ];
    ensure!(found.len() == begins.len(), "{found:?}");
    for ((name, line), (expected, begin)) in found.iter().zip(begins) {
        ensure!(name == expected && line.starts_with(begin), "{found:?}");
    }
    let own = std::fs::read_to_string(format!("/proc/{}/comm", daemon.pid()))?;
    ensure!(own == "cpud\n", "{own}");
    Ok(())
}
