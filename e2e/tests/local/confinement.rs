//! What the user of an isolated session could do to the machine and to everybody on it by way of cpud itself: its descriptors,
//! its environment, what it opens for him, and what the kernel counts for it. Each attempt is also made where it succeeds.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::user::works;
use e2e::wait_until;
use nix::libc;

use crate::Test;
use crate::options::KeysWithOptions;

pub(crate) const TESTS: &[Test] = &[
    ("isolated_sessions_do_not_leave_their_root", root),
    (
        "isolated_sessions_do_not_use_up_what_root_has",
        kernels_counts,
    ),
    ("isolated_sessions_leave_terminals_for_others", terminals),
    ("isolated_sessions_end_though_they_are_stopped", stopped),
    ("isolated_sessions_forward_no_port_of_root", ports),
    ("isolated_sessions_look_into_no_process_of_cpud", dumpable),
    ("variables_mean_nothing_to_a_session_itself", variables),
];

const ALICE: &str = "isolate";
const BOB: &str = "isolate,pty";
/// Not isolated.
const ROOT: &str = "pty";

/// A command that has printed a line, and runs on.
struct RunningCommand {
    child: Child,
    _stdout: BufReader<ChildStdout>,
    line: String,
}

impl RunningCommand {
    fn start(
        keys: &KeysWithOptions,
        options: &str,
        flags: &[&str],
        words: &[&str],
    ) -> Result<Self> {
        let mut child = keys
            .command(options, flags, words)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut stdout = BufReader::new(child.stdout.take().context("no output")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        ensure!(!line.is_empty(), "{words:?} has ended");
        Ok(Self {
            child,
            _stdout: stdout,
            line,
        })
    }

    /// Runs a program of perl(1) that has no quotes of the shell.
    fn perl(keys: &KeysWithOptions, options: &str, program: &str) -> Result<Self> {
        let program = program.replace('$', r"\$");
        let script = format!("ulimit -n $(ulimit -H -n); exec perl -e \"{program}\"");
        Self::start(keys, options, &[], &["sh", "-c", &format!("'{script}'")])
    }
}

impl Drop for RunningCommand {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The session's own descriptors are no way out.
fn root() -> Result<()> {
    // This machine may not have cgroup v2 mounted, of which a session holds directories.
    let keys = KeysWithOptions::in_mount_namespace(
        &[ALICE, ROOT],
        "mount -t cgroup2 none /sys/fs/cgroup",
    )?;
    let file = keys.daemon.host_key();
    let relative = format!("../../../../../../../..{}", file.display());
    for number in 3..32 {
        let from = format!("SetEnv=PWD=/proc/self/fd/{number}");
        let output = keys.ssh(ALICE, &["-o", &from], &["cat", &relative])?;
        ensure!(output.stdout.is_empty(), "{number}: {output:?}");
        ensure!(output.status.code() == Some(1), "{number}: {output:?}");
    }
    // The file is there, for those who may see it.
    let relative = format!("../../tmp/local{}", file.display());
    ensure!(works(&keys.ssh(ROOT, &["-o", "SetEnv=PWD=/usr/bin"], &["cat", &relative])?)? != "");
    Ok(())
}

/// What the kernel counts for each user is counted for each isolation.
fn kernels_counts() -> Result<()> {
    let keys = KeysWithOptions::new(&[ALICE, BOB, ROOT], None)?;
    let number = libc::SYS_inotify_init1;
    let take = format!("$n++ while syscall({number}, 0) >= 0; print $n + 0, chr 10");
    let own = |options: &str| -> Result<u32> {
        let taken = RunningCommand::perl(&keys, options, &take)?;
        Ok(taken.line.trim_end().parse()?)
    };
    let all = RunningCommand::perl(&keys, ALICE, &format!("$| = 1; {take}; sleep 1000"))?;
    // For herself there are none left, for the others as many as before.
    ensure!(own(ALICE)? == 0, "alice has {} and more", all.line);
    for others in [BOB, ROOT] {
        ensure!(own(others)? > 0, "{others}: alice has all {}", all.line);
    }
    Ok(())
}

fn terminals() -> Result<()> {
    let keys = KeysWithOptions::new(&[ALICE, BOB], None)?;
    let take = r"$| = 1; $n++ while open $f[$n], chr(43) . chr 60, q(/dev/ptmx); print $n, chr 10; sleep 1000";
    let all = RunningCommand::perl(&keys, ALICE, take)?;
    let taken: u32 = all.line.trim_end().parse()?;
    ensure!((1..=256).contains(&taken), "{taken}");
    ensure!(works(&keys.ssh(BOB, &["-tt"], &["tty"])?)? == "/dev/pts/0\r\n");
    Ok(())
}

/// The session's process inside belongs to the session's root, who may stop it.
fn stopped() -> Result<()> {
    const MARK: &str = "86423.75";
    let keys = KeysWithOptions::new(&[ALICE], None)?;
    let script = format!(
        "'trap \"\" HUP; setsid -f sleep {MARK} </dev/null >/dev/null 2>&1; kill -STOP $PPID; echo ready; sleep 1000'"
    );
    let running = RunningCommand::start(&keys, ALICE, &[], &["sh", "-c", &script])?;
    let is_left = || -> Result<bool> {
        let all = fs::read_dir("/proc")?.flatten();
        let lines = all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        let sleep = format!("sleep\0{MARK}\0");
        let holder = format!("isolation\0{}\0", keys.fingerprint(ALICE)?);
        let mut lines = lines.map(|line| String::from_utf8_lossy(&line).into_owned());
        Ok(lines.any(|line| line.contains(&sleep) || line.contains(&holder)))
    };
    ensure!(is_left()?);
    drop(running);
    wait_until(
        "the end of a stopped session",
        Duration::from_mins(1),
        || Ok((!is_left()?).then_some(())),
    )
}

fn ports() -> Result<()> {
    let keys = KeysWithOptions::new(&[ALICE, ROOT], Some("-forward"))?;
    let free = |ports: std::ops::Range<u16>| {
        let mut ports = ports.into_iter();
        ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
    };
    let forwards = |options: &str, port: u16| -> Result<bool> {
        let forward = format!("127.0.0.1:{port}:127.0.0.1:1");
        let flags = ["-o", "ExitOnForwardFailure=yes", "-R", &forward];
        Ok(keys.ssh(options, &flags, &["true"])?.status.success())
    };
    let privileged = free(600..1024).context("no free port")?;
    ensure!(forwards(ROOT, privileged)? && !forwards(ALICE, privileged)?);
    ensure!(forwards(ALICE, 0)?);
    Ok(())
}

/// Not even where programs that change their user may be looked into.
fn dumpable() -> Result<()> {
    const SETTING: &str = "/proc/sys/fs/suid_dumpable";
    let before = fs::read_to_string(SETTING)?;
    let keys = KeysWithOptions::new(&[ALICE], None)?;
    fs::write(SETTING, "1").context("cannot set fs.suid_dumpable")?;
    let look = |pid: &str| {
        let script = format!("'readlink /proc/{pid}/root'");
        keys.ssh(ALICE, &[], &["sh", "-c", &script])
    };
    let seen = ["1", "$PPID", "self"].map(look);
    fs::write(SETTING, before)?;
    let seen = seen.into_iter().collect::<Result<Vec<_>>>()?;
    let paths: Vec<_> = seen.iter().map(|output| &*output.stdout).collect();
    ensure!(paths == [&b""[..], b"", b"/\n"], "{seen:?}");
    Ok(())
}

/// Until the command starts, a session's process may do what root may.
fn variables() -> Result<()> {
    let keys = KeysWithOptions::new(&[ALICE, ROOT], None)?;
    let variable = "LD_ATTACK=mark-7f3b";
    for options in [ALICE, ROOT] {
        let flags = ["-o", &format!("SetEnv={variable}")];
        let words = ["sh", "-c", "'echo $LD_ATTACK; read line'"];
        let running = RunningCommand::start(&keys, options, &flags, &words)?;
        ensure!(running.line == "mark-7f3b\n", "{}", running.line);
        let (mut commands, mut sessions) = (0, 0);
        for process in fs::read_dir("/proc")?.flatten() {
            let read = |name: &str| fs::read(process.path().join(name)).unwrap_or_default();
            let variables = read("environ");
            if !variables.windows(9).any(|part| part == b"mark-7f3b") {
                continue;
            }
            let mut variables = variables.split(|byte| *byte == 0);
            let has_it = variables.any(|it| it == variable.as_bytes());
            let is_session = read("cmdline").starts_with(b"cpud\0session\0");
            if is_session {
                sessions += 1;
            } else if has_it {
                commands += 1;
            }
            ensure!(has_it != is_session, "{options}: {process:?}");
        }
        ensure!(commands > 0 && sessions > 0, "{commands}, {sessions}");
    }
    Ok(())
}
