//! Commands: their output, exit status and input.

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::client::{ended, finish};
use e2e::daemon::Daemon;

use crate::mounts::local;
use crate::{Machine, Test};

pub(crate) const TESTS: &[Test] = &[
    (
        "date_prints_the_date_and_uname_another_name",
        date_and_uname,
    ),
    ("the_exit_status_is_the_commands", exit_status),
    ("bulk_input_comes_back_whole_20_times", bulk),
    ("stderr_arrives_apart_from_stdout", streams_apart),
    (
        "arguments_and_environment_arrive_as_they_are",
        words_and_environment,
    ),
    ("python_imports_its_libraries", python),
    ("a_broken_pipe_here_ends_the_command_there", broken_pipe),
];

fn date_and_uname(machine: &Machine) -> Result<()> {
    // As in the README: from the output directory, with a relative path of the key.
    let output = ended(
        std::process::Command::new("./cpu")
            .current_dir(e2e::out())
            .env("HOME", machine.home.path())
            .args(["-key", "cpu_rsa", "-sp"])
            .arg(machine.vm.port().to_string())
            .args(["localhost", "date", "+%s"]),
    )?;
    ensure!(output.status.success(), "{output:?}");
    let there: u64 = String::from_utf8(output.stdout)?.trim().parse()?;
    let here = std::time::UNIX_EPOCH.elapsed()?.as_secs();
    ensure!(here.abs_diff(there) < 120, "here {here}, there {there}");

    let here = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
    let there = machine.client.sh_ok("uname -n")?;
    ensure!(here.trim() != there.trim(), "both are called {here}");
    Ok(())
}

fn exit_status(machine: &Machine) -> Result<()> {
    for (words, status, says) in [
        (&["true"][..], 0, ""),
        (&["sh", "-c", "exit 42"], 42, ""),
        (&["sh", "-c", "kill -9 $$"], 137, ""),
        (&["sh", "-c", "kill -TERM $$"], 143, ""),
        (&["nosuch-command"], 127, "nosuch-command"),
        (&["/etc/passwd"], 126, "/etc/passwd"),
    ] {
        let output = machine.client.run(words)?;
        ensure!(
            output.status.code() == Some(status),
            "{words:?}: {output:?}"
        );
        let stderr = String::from_utf8(output.stderr)?;
        if says.is_empty() {
            ensure!(stderr.is_empty(), "{words:?}: {stderr}");
        } else {
            ensure!(stderr.contains(says), "{words:?}: {stderr}");
            ensure!(stderr.lines().count() == 1, "{words:?}: {stderr}");
        }
    }
    Ok(())
}

/// 64 MiB of noise, from a generator whose numbers do not repeat.
fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(64 << 20);
    while bytes.len() < 64 << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// On the emulated machine a round takes five to thirteen seconds, so of 24 four are there.
fn bulk(machine: &Machine) -> Result<()> {
    let (noise, daemon) = (noise(), Daemon::cpud()?);
    for round in 0..24 {
        let mut command = if round < 4 {
            machine.client.command(&[], &["cat"])
        } else {
            local(machine, &daemon, &["-9p=false"], &["cat"])
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(mut stdin), Some(mut stdout)) = (child.stdin.take(), child.stdout.take()) else {
            anyhow::bail!("no pipes");
        };
        let same = std::thread::scope(|scope| -> Result<bool> {
            scope.spawn(|| std::io::Write::write_all(&mut stdin, &noise).map(|()| drop(stdin)));
            if round % 4 == 0 {
                std::thread::sleep(Duration::from_millis(500));
            }
            let mut back = Vec::with_capacity(noise.len());
            stdout.read_to_end(&mut back)?;
            Ok(back == noise)
        })?;
        ensure!(same, "round {round}: what came back differs");
        ensure!(finish(child)?.status.success(), "round {round}");
    }
    Ok(())
}

fn streams_apart(machine: &Machine) -> Result<()> {
    let output = machine
        .client
        .sh("echo to-out; echo to-err >&2; echo out-again")?;
    ensure!(output.stdout == b"to-out\nout-again\n", "{output:?}");
    ensure!(output.stderr == b"to-err\n", "{output:?}");
    Ok(())
}

fn words_and_environment(machine: &Machine) -> Result<()> {
    let odd = "a  b'c\"d$HOME\\ *;|\n\u{e4}";
    let mut command = machine.client.command(
        &[],
        &[
            "sh",
            "-c",
            "printf '%s|' \"$@\" \"$ODD\" \"$HOME\"",
            "sh",
            odd,
            "",
        ],
    );
    command.env("ODD", odd);
    let output = machine.client.output(command, b"")?;
    let home = machine.home.path().display();
    let want = format!("{odd}||{odd}|{home}|");
    ensure!(output.stdout == want.as_bytes(), "{output:?}");
    Ok(())
}

fn python(machine: &Machine) -> Result<()> {
    let output = machine.client.run(&[
        "python3",
        "-c",
        "import json, email, http.client, asyncio; print(json.dumps([1, 2]))",
    ])?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(output.stdout == b"[1, 2]\n", "{output:?}");
    Ok(())
}

fn broken_pipe(machine: &Machine) -> Result<()> {
    let mut command = machine.client.command(&[], &["yes"]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut first = [0; 2];
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_exact(&mut first)?;
    }
    ensure!(&first == b"y\n");
    let output = finish(child)?;
    ensure!(output.status.code() == Some(141), "{output:?}");
    Ok(())
}
