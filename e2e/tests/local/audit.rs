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
    ("audit_may_be_objects_of_json", objects),
    ("audit_has_no_place_to_go", bad_descriptor),
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

/// Reads one line of JSON by a parser that is not ours, and prints its members, sorted, but for times.
fn members(line: &str) -> Result<String> {
    let script = "import json, sys\n\
                  it = json.loads(sys.argv[1])\n\
                  assert it.pop('time') > 1.7e9 and it.pop('seconds', 0) >= 0\n\
                  print(json.dumps(it, sort_keys=True, ensure_ascii=False), end='')\n";
    works(&ended(
        Command::new("python3").args(["-c", script]).arg(line),
    )?)
}

fn objects() -> Result<()> {
    let user = User::new()?;
    let stderr = Daemon::cpud_with("-log=json")?;
    let log = user.ssh().join("log");
    std::fs::File::create(&log)?;
    let descriptor = Daemon::cpud_logging_to(&log)?;
    let of_stderr = || stderr.log();
    let of_descriptor = || std::fs::read_to_string(&log).unwrap_or_default();
    let logs: [(&Daemon, &dyn Fn() -> String); 2] =
        [(&stderr, &of_stderr), (&descriptor, &of_descriptor)];
    for (daemon, log) in logs {
        // A quotation mark and a line end in the name, which would forge an object.
        paramiko(
            daemon.port,
            &user,
            "transport.auth_publickey('x\",\\n{\"event\":\"login', key)\n\
             channel = transport.open_session()\n\
             channel.exec_command(b'cat')\n\
             channel.sendall(b'hello')\n\
             channel.shutdown_write()\n\
             channel.recv_exit_status()\n\
             # What a session writes is not the log.\n\
             channel = transport.open_session()\n\
             channel.exec_command(b\"sh -c 'ls /proc/self/fd; echo { >&9'\")\n\
             print(channel.recv_exit_status())\n",
        )?;
        let end = "\"received\":5,\"sent\":5}";
        wait_until(end, Duration::from_secs(20), || {
            Ok(log().contains(end).then_some(()))
        })
        .with_context(log)?;
        let who = format!(
            "\"address\": \"127.0.0.1\", \"comment\": \"COMMENT\", \"event\": \"EVENT\", \"key\": \"{}\"",
            fingerprint(&user)?
        );
        let begin = "{\"time\":";
        let found = log();
        let found: Vec<_> = found
            .lines()
            .filter(|line| line.starts_with(begin))
            .collect();
        let read = members(found.first().context("no line")?)?;
        let comment = read
            .split("\"comment\": \"")
            .nth(1)
            .and_then(|rest| rest.split('"').next());
        let who = who.replace("COMMENT", comment.context("no comment")?);
        let name = "\"user\": \"x\\\",\u{fffd}{\\\"event\\\":\\\"login\"";
        let number = read.split("\"login\": ").nth(1);
        let number = number.and_then(|rest| rest.split(',').next());
        let number: u32 = number.context("no number")?.parse()?;
        let who = who.replace("EVENT", "login");
        ensure!(
            read == format!("{{{who}, \"login\": {number}, {name}}}"),
            "{read}"
        );
        let end = found.iter().find(|line| line.contains("\"event\":\"end\""));
        let read = members(end.context("no end")?)?;
        ensure!(
            read.contains("\"command\": \"cat\"")
                && read.contains("\"received\": 5, \"sent\": 5, \"status\": 0"),
            "{read}"
        );
        let logins = found
            .iter()
            .filter(|line| line.contains("\"event\":\"login\""));
        ensure!(logins.count() == 1, "{found:?}");
        // The text is not there too.
        ensure!(!daemon.log().contains("cpud: login "), "{}", daemon.log());
        // A key that may not log in.
        let stranger = User::new()?;
        std::fs::remove_file(stranger.key())?;
        keygen(&stranger.key(), &["-t", "ed25519"], "")?;
        let port = format!("-sp={}", daemon.port);
        let key = stranger.key().display().to_string();
        let output = stranger.run(&["-key", &key, &port, "127.0.0.1", "true"])?;
        ensure!(!output.status.success(), "{output:?}");
        let reason =
            "\"event\":\"refusal\",\"address\":\"127.0.0.1\",\"reason\":\"it offered 1 key(s)";
        wait_until(reason, Duration::from_secs(20), || {
            Ok(log().contains(reason).then_some(()))
        })
        .with_context(log)?;
    }
    // Every line of the descriptor is an object.
    for line in of_descriptor().lines() {
        members(line)?;
    }
    Ok(())
}

fn bad_descriptor() -> Result<()> {
    let error = Daemon::cpud_with("-log=json:77").err().context("it runs")?;
    ensure!(format!("{error:#}").contains("descriptor 77"), "{error:#}");
    Ok(())
}
