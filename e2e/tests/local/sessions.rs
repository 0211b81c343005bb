//! What a session waits for, and tests of the session role that need real root: root of a user namespace cannot make control
//! groups.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::client::{Client, Home, ended};
use e2e::daemon::Daemon;
use e2e::user::{User, board};
use e2e::{is_running, wait_until};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Test;
use crate::limits::paramiko;

pub(crate) const TESTS: &[Test] = &[
    (
        "a_control_group_is_the_sessions_own_and_goes_with_it",
        control_group,
    ),
    (
        "a_session_says_what_it_waits_for_when_its_command_has_ended",
        waiting_is_told,
    ),
    (
        "nowait_ends_the_session_with_its_command",
        ends_with_its_command,
    ),
    (
        "nothing_of_a_killed_session_is_left_without_control_groups",
        killed_session,
    ),
    (
        "sessions_are_hung_up_when_their_server_is_told_to_end",
        hung_up,
    ),
    ("limits_of_sessions_that_cannot_be_are_told", no_limits),
    ("the_steps_of_a_session_are_traced", steps_are_traced),
];

/// How long the processes sleep, which is how they are found.
const MARK: &str = "86423.5";

fn control_group() -> Result<()> {
    // In its own mount namespace, since this machine may not have cgroup v2 mounted.
    let script =
        "mount -t cgroup2 none /sys/fs/cgroup && exec \"$0\" session --control $1 -- sh -c \"$2\"";
    let breed = format!(
        "trap '' HUP; grep ^0:: /proc/self/cgroup; (while :; do (sleep {MARK} &); sleep 0.01; done) & wait"
    );
    let (theirs, ours) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty()))?;
    let mut child = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(e2e::out().join("cpud"))
        .args([&theirs.as_raw_fd().to_string(), &breed])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run unshare (package util-linux)")?;
    let mut group = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut group)?;
    let path = group.rsplit("0::").next().unwrap_or_default().trim_end();
    ensure!(
        path.ends_with(&format!("/cpu-session-{}", child.id())),
        "{group}"
    );
    drop(ours);
    let status = child.wait()?;
    ensure!(status.signal() == Some(9), "{status}");
    ensure!(!is_running(MARK)?, "a process is left");
    let look = "mount -t cgroup2 none /sys/fs/cgroup && ls -d /sys/fs/cgroup/\"$0\"";
    let look = Command::new("unshare")
        .args(["--mount", "sh", "-c", look, path])
        .output()?;
    ensure!(
        String::from_utf8_lossy(&look.stderr).contains("No such file"),
        "{look:?}"
    );
    Ok(())
}

/// One session kills its own process, and another one of the same connection goes on.
fn killed_session() -> Result<()> {
    const MARK: &str = "86423.25";
    let (daemon, user) = (Daemon::cpud_without_cgroups()?, User::new()?);
    let script = format!(
        "transport.auth_publickey('root', key)\n\
         other = transport.open_session()\n\
         other.exec_command('sh -c \"read line; exit $line\"')\n\
         killed = transport.open_session()\n\
         killed.exec_command('sh -c \"\
            trap \\'\\' HUP TERM; (setsid sleep {MARK} &); for i in 1 2 3 4 5 6 7 8 9; do sleep {MARK} & done; \
            kill -KILL $PPID; sleep {MARK}\"')\n\
         print(killed.recv_exit_status())\n\
         other.send('3\\n')\n\
         print(other.recv_exit_status())\n"
    );
    let printed = paramiko(daemon.port, &user, &script)?;
    // A signal has no status.
    ensure!(printed == "-1\n3\n", "{printed}");
    ensure!(!is_running(MARK)?, "a process is left");
    // The session is killed when its connection ends, or has ended, or is stopped.
    for (delay, signal) in [("0", "KILL"), ("0.1", "KILL"), ("1", "KILL"), ("0", "STOP")] {
        let script = format!(
            "transport.auth_publickey('root', key)\n\
             killed = transport.open_session()\n\
             killed.exec_command('sh -c \"trap \\'\\' HUP TERM; sleep {MARK} & sleep {delay}; kill -{signal} $PPID; wait\"')\n\
             transport.close()\n"
        );
        paramiko(daemon.port, &user, &script)?;
        let what = format!("nothing is left of a session that gets SIG{signal} after {delay} s");
        wait_until(&what, Duration::from_secs(20), || {
            Ok((!is_running(MARK)?).then_some(()))
        })?;
    }
    Ok(())
}

fn hung_up() -> Result<()> {
    let (daemon, user) = board()?;
    let script = "trap 'echo hup; exit 3' HUP; echo ready; while :; do sleep .1; done";
    let mut child = user
        .cpu(&["board", "sh", "-c", script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    ensure!(lines.next().context("no line")?? == "ready");
    let file = format!("/proc/{0}/task/{0}/children", daemon.pid());
    for connection in fs::read_to_string(file)?.split_whitespace() {
        kill(Pid::from_raw(connection.parse()?), Signal::SIGTERM)?;
    }
    ensure!(lines.next().context("no line")?? == "hup");
    let output = child.wait_with_output()?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(3), "{}: {said}", output.status);
    // The shell says what has become of sleep.
    ensure!(
        said.starts_with("cpud: the server is shutting down\n"),
        "{said}"
    );
    Ok(())
}

fn no_limits() -> Result<()> {
    let flags = ["-session-pids=50", "-session-memory=64M"];
    let daemon = Daemon::cpud_in("mount -t tmpfs none /sys/fs/cgroup", &flags)?;
    for flag in ["-session-pids", "-session-memory"] {
        let line = format!("cpud: {flag} has no effect: there is no cgroup v2 at /sys/fs/cgroup\n");
        ensure!(daemon.log().matches(&line).count() == 1, "{}", daemon.log());
    }
    // Sessions run all the same, and without the flags nothing is said.
    let user = User::new()?;
    let printed = paramiko(
        daemon.port,
        &user,
        "transport.auth_publickey('root', key)\n\
         channel = transport.open_session()\n\
         channel.exec_command('true')\n\
         print(channel.recv_exit_status())\n",
    )?;
    ensure!(printed == "0\n", "{printed}");
    let daemon = Daemon::cpud_without_cgroups()?;
    ensure!(!daemon.log().contains("no effect"), "{}", daemon.log());
    Ok(())
}

/// The steps in a trace, by a parser that is not ours.
const STEPS: &str = "import json, sys\n\
    print(*(e['name'] for e in json.load(open(sys.argv[1])) if e['ph'] == 'B'), sep=', ')\n";

fn steps_are_traced() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("session.json");
    let flag = format!("-dbg9p={}", file.display());
    let output = on_daemon(&[&flag], "exit 7")?;
    ensure!(output.status.code() == Some(7), "{output:?}");
    let output = ended(Command::new("python3").args(["-c", STEPS]).arg(&file))?;
    let steps = b"read keys, connect, exchange keys, log in, open channels, command\n";
    ensure!(output.stdout == steps, "{output:?}");
    Ok(())
}

/// Runs a script on a cpud of this very machine.
fn on_daemon(flags: &[&str], script: &str) -> Result<Output> {
    let (daemon, home) = (Daemon::cpud()?, Home::new()?);
    let client = Client::new(daemon.port, &home);
    let hk = format!("-hk={}", daemon.host_key().display());
    let flags = [&[&hk, "-9p=false"], flags].concat();
    client.output(client.command(&flags, &["sh", "-c", script]), b"")
}

/// When a terminal's shell ends, SIGHUP comes to what has not left its group yet.
const LEAVES_A_SLEEPER: &str =
    "trap '' HUP; setsid -f sleep 4.567 </dev/null >/dev/null 2>&1; echo done";

fn waiting_is_told() -> Result<()> {
    let told = |flags: &[&str], script: &str| -> Result<String> {
        let output = on_daemon(flags, script)?;
        ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8(output.stderr)?)
    };
    let line = told(&[], LEAVES_A_SLEEPER)?;
    ensure!(
        line.starts_with("cpud: the command has ended") && line.ends_with("the rest\n"),
        "{line:?}"
    );
    ensure!(
        line.contains(": sleep (pid ") && line.contains("; cpu -nowait "),
        "{line:?}"
    );
    // With a remote terminal, the local one is raw.
    let line = told(&["-tt"], LEAVES_A_SLEEPER)?;
    ensure!(
        line.contains("sleep (pid ") && line.ends_with("rest\r\n"),
        "{line:?}"
    );
    let line = told(&["-q"], LEAVES_A_SLEEPER)?;
    ensure!(line.is_empty(), "{line:?}");
    let line = told(&[], "(for i in 1 2 3 4; do sleep 1; echo $i; done) &")?;
    ensure!(line.is_empty(), "what prints does not hang: {line:?}");
    let line = told(&[], "sleep 3")?;
    ensure!(line.is_empty(), "a command may be silent: {line:?}");
    Ok(())
}

fn ends_with_its_command() -> Result<()> {
    for script in [
        "setsid -f sleep 65432.1 </dev/null >/dev/null 2>&1; echo done; exit 7",
        // A process that has the output open and ignores SIGHUP.
        "nohup sleep 65432.1 & echo done; exit 7",
    ] {
        let output = on_daemon(&["-nowait"], script)?;
        ensure!(output.status.code() == Some(7), "{output:?}");
        ensure!(output.stdout == b"done\n", "{output:?}");
        ensure!(!is_running("65432.1")?, "{script} left a process");
    }
    Ok(())
}
