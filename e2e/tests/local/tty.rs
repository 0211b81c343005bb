//! Terminals, escapes and signals, as with ssh. The servers run on this computer.

use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::client::finish;
use e2e::terminal::Terminal;
use e2e::user::{User, board, works};
use e2e::{is_running, out, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("tty_flags_are_sshs", flags),
    ("tty_kind_and_utf8_are_as_here", kind),
    ("tty_jobs_are_hung_up_with_it", jobs),
    ("tty_escapes_are_sshs", escapes),
    ("tty_keys_before_the_command_runs_are_for_it", typed_early),
    ("tty_job_in_the_background_runs", background),
    (
        "tty_job_that_is_put_into_the_background_runs",
        later_background,
    ),
    ("tty_job_that_nobody_controls_has_no_input", orphan),
    ("signals_are_passed_on", signals),
    ("signals_that_kill_the_command_are_told", killed),
];

/// For a job to start, or to be hung up.
const START: Duration = Duration::from_mins(1);

/// What an interactive shell has left in the background ends with its terminal, and what has left the terminal does not.
fn jobs() -> Result<()> {
    let (_daemon, user) = board()?;
    // Another user's tests run at the same time.
    let id = std::process::id();
    let (running, stopped) = (format!("86426.{id}"), format!("86427.{id}"));
    let run = |job: &str, mark: &str| {
        let begun = Instant::now();
        let mut terminal = user.typed(&["-t", "board", "bash", "--norc", "--noprofile"])?;
        terminal.send(&format!("{job} sleep {mark} >/dev/null 2>&1 &\n"))?;
        terminal.send(&format!("(sleep {stopped}; :) &\n"))?;
        // setsid and nohup have done their work then.
        let argv = format!("sleep\0{mark}\0");
        wait_until("the job", START, || {
            let mut processes = std::fs::read_dir("/proc")?.flatten();
            let runs = |line: Vec<u8>| line == argv.as_bytes();
            let found =
                processes.any(|entry| std::fs::read(entry.path().join("cmdline")).is_ok_and(runs));
            Ok(found.then_some(()))
        })?;
        terminal.send("kill -STOP $!; echo stop''ped\n")?;
        terminal.expect_from(0, "stopped")?;
        let left = Instant::now();
        // A shell says once that there are stopped jobs.
        terminal.send("exit 0\nexit 0\n")?;
        let status = terminal.wait()?;
        ensure!(status.success(), "{job}: {status}");
        anyhow::Ok((begun.elapsed(), left.elapsed()))
    };
    let (_, time) = run("command", &running)?;
    ensure!(time < START, "{time:?}");
    for job in ["setsid", "nohup"] {
        // It is waited for.
        let (time, _) = run(job, &format!("8.{id}"))?;
        ensure!(time > Duration::from_secs(8), "{job}: {time:?}");
    }
    ensure!(!is_running(&running)? && !is_running(&stopped)?);
    Ok(())
}

fn flags() -> Result<()> {
    let (_daemon, user) = board()?;
    let show = "tty; [ -t 0 ] && stty size";
    // Without a local terminal.
    let output = user.run(&["-t", "board", "tty"])?;
    ensure!(output.stdout == b"not a tty\n", "{output:?}");
    ensure!(
        String::from_utf8_lossy(&output.stderr).contains("-tt"),
        "{output:?}"
    );
    for force in [&["-tt"][..], &["-t", "-t"]] {
        let output = user.run(&[force, &["board", "sh", "-c", show]].concat())?;
        let shown = works(&output)?;
        ensure!(
            shown.starts_with("/dev/pts/") && shown.contains("24 80"),
            "{shown}"
        );
    }
    // -n does not read what is there.
    let mut command = user.cpu(&["-n", "board", "cat"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("no input")?;
    // The client may have left by then.
    let _ = std::io::Write::write_all(&mut input, b"not for it\n");
    let output = finish(child)?;
    ensure!(works(&output)?.is_empty(), "{output:?}");

    // With a local terminal. If the output is redirected, only -t allocates a remote one.
    let shell = |words: &str| -> Result<String> {
        let line = format!(
            "{} -9p=false {words} 2>&1 | cat; echo en''d",
            out().join("cpu").display()
        );
        let command = pty_process::blocking::Command::new("sh").args(["-c", &line]);
        // A shell trusts getcwd(2) more than PWD.
        let command = command
            .env("HOME", user.home())
            .env("PWD", "/")
            .current_dir("/");
        let mut terminal = Terminal::start(command, 24, 80)?;
        terminal.expect_from(0, "end")?;
        terminal.wait()?;
        Ok(terminal.screen())
    };
    ensure!(shell("board tty")?.starts_with("not a tty"));
    ensure!(shell("-t board tty")?.starts_with("/dev/pts/"));
    let mut terminal = user.typed(&["board", "tty"])?;
    terminal.wait()?;
    ensure!(
        terminal.screen().starts_with("/dev/pts/"),
        "{}",
        terminal.screen()
    );
    let mut terminal = user.typed(&["-T", "board", "tty"])?;
    terminal.wait()?;
    ensure!(
        terminal.screen().starts_with("not a tty"),
        "{}",
        terminal.screen()
    );
    Ok(())
}

/// Ctrl-C while the session is being made is not lost.
fn typed_early() -> Result<()> {
    let (_daemon, user) = board()?;
    for (typed, command, status) in [
        ("\x03", "sleep 60", 130),
        ("early\n", "read word; test $word = early", 0),
    ] {
        let mut cpu = user.cpu(&["-tt", "board", "sh", "-c", command]);
        let mut child = cpu.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut input = child.stdin.take().context("no input")?;
        std::io::Write::write_all(&mut input, typed.as_bytes())?;
        let begun = Instant::now();
        let output = finish(child)?;
        drop(input);
        ensure!(
            output.status.code() == Some(status),
            "{command}: {output:?}"
        );
        ensure!(begun.elapsed() < Duration::from_secs(50), "{output:?}");
    }
    Ok(())
}

/// With a terminal of its own it would be stopped before the command runs.
fn background() -> Result<()> {
    let (_daemon, user) = board()?;
    let line = format!(
        "{} -9p=false board sh -c 'tty; sleep 1; exit 7' & wait $!; echo status $?",
        out().join("cpu").display()
    );
    let mut terminal = bash(&user, &["-mc", &line])?;
    terminal.expect_from(0, "not a tty")?;
    // For others.
    terminal.send("typed\n")?;
    terminal.expect_from(0, "status 7")?;
    terminal.wait()?;
    Ok(())
}

/// A bash that runs a line, with these flags before it.
fn bash(user: &User, args: &[&str]) -> Result<Terminal> {
    let command = pty_process::blocking::Command::new("bash").args(args);
    let command = command.env("HOME", user.home()).env("PWD", "/");
    Terminal::start(command.env("PS1", "> ").current_dir("/"), 24, 80)
}

fn later_background() -> Result<()> {
    let (_daemon, user) = board()?;
    let mut terminal = bash(&user, &["--norc", "-i"])?;
    terminal.send(&format!(
        "{} -T -9p=false board sh -c 'echo here; sleep 3; echo en''d'\n",
        out().join("cpu").display()
    ))?;
    let at = terminal.expect_from(0, "here\r\n")?;
    terminal.send("\x1a")?;
    let at = terminal.expect_from(at, "Stopped")?;
    terminal.send("bg\n")?;
    let at = terminal.expect_from(at, "end\r\n")?;
    terminal.send("wait; echo wai''ted; exit\n")?;
    terminal.expect_from(at, "waited")?;
    terminal.wait()?;
    Ok(())
}

fn orphan() -> Result<()> {
    let (_daemon, user) = board()?;
    let cpu = out().join("cpu");
    let job = format!(
        "{} -9p=false board sh -c 'cat; echo ended' >$HOME/said &",
        cpu.display()
    );
    let line = format!("bash -mc \"{job}\"; until grep ended $HOME/said; do sleep 0.1; done");
    let mut terminal = bash(&user, &["-c", &line])?;
    terminal.expect_from(0, "ended")?;
    terminal.wait()?;
    Ok(())
}

fn kind() -> Result<()> {
    let (_daemon, user) = board()?;
    for (mode, shown) in [("iutf8", " iutf8"), ("-iutf8", "-iutf8")] {
        let line = format!(
            "stty {mode}; {} -9p=false board sh -c 'echo =$TERM=; stty -a; echo en''d'",
            out().join("cpu").display()
        );
        let command = pty_process::blocking::Command::new("sh").args(["-c", &line]);
        let command = command
            .env("HOME", user.home())
            .env("PWD", "/")
            .env("TERM", "vt220");
        let mut terminal = Terminal::start(command, 24, 80)?;
        let at = terminal.expect_from(0, "=vt220=")?;
        terminal.expect_from(at, "end")?;
        terminal.wait()?;
        ensure!(
            terminal.screen().contains(shown),
            "{mode}: {}",
            terminal.screen()
        );
    }
    Ok(())
}

fn escapes() -> Result<()> {
    let (_daemon, user) = board()?;
    let mut terminal = user.typed(&["board", "sh", "-c", "echo ready; exec cat"])?;
    terminal.expect_from(0, "ready")?;
    terminal.send("first\r")?;
    let at = terminal.expect_from(0, "first\r\nfirst")?;
    terminal.send("~?")?;
    let at = terminal.expect_from(at, "Escapes")?;
    let at = terminal.expect_from(at, "~~")?;
    terminal.send("~~kept\r")?;
    // First the echo, then cat's output.
    let at = terminal.expect_from(at, "~kept")?;
    let at = terminal.expect_from(at, "~kept")?;
    ensure!(
        !terminal.screen().contains("~~kept"),
        "{}",
        terminal.screen()
    );
    terminal.send("x~.\r")?;
    let at = terminal.expect_from(at, "x~.")?;
    terminal.expect_from(at, "x~.")?;
    terminal.send("~.")?;
    ensure!(terminal.wait()?.code() == Some(255));
    Ok(())
}

fn signals() -> Result<()> {
    let (_daemon, user) = board()?;
    for (number, signal) in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ]
    .into_iter()
    .enumerate()
    {
        let name = signal.as_str().trim_start_matches("SIG");
        let status = 40 + i32::try_from(number)?;
        let script = format!(
            "trap 'echo got; exit {status}' {name}; echo ready; while :; do sleep 0.1; done"
        );
        let mut command = user.cpu(&["board", "sh", "-c", &script]);
        // The remote shell prints how its sleep ended.
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let mut from = child.stdout.take().context("no output")?;
        let mut ready = [0; 6];
        from.read_exact(&mut ready)?;
        ensure!(&ready == b"ready\n");
        kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
        let mut rest = String::new();
        from.read_to_string(&mut rest)?;
        let ended = child.wait()?;
        ensure!(
            rest == "got\n" && ended.code() == Some(status),
            "{name}: {rest:?} {ended}"
        );
    }
    Ok(())
}

fn killed() -> Result<()> {
    let (_daemon, user) = board()?;
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGUSR1,
        Signal::SIGKILL,
    ] {
        let number = signal as i32;
        let output = user.run(&["board", "sh", "-c", &format!("kill -{number} $$")])?;
        ensure!(output.status.code() == Some(128 + number), "{output:?}");
    }
    // A real-time signal, which has no name.
    let output = user.run(&["board", "sh", "-c", "kill -40 $$"])?;
    ensure!(output.status.code() == Some(168), "{output:?}");
    Ok(())
}
