//! Programs on the machine that wait for changes made here.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{Machine, Test};

pub(crate) const TESTS: &[Test] = &[
    ("follow_sees_a_file_grow_here", grows),
    (
        "follow_runs_here_what_was_written_there_when_it_is_told",
        runs_when_told,
    ),
    ("follow_is_told_of_a_network_by_statfs", is_a_network),
];

/// Runs tail(1) on `name` there, and calls `then` after each line that it prints, until that says it was the last.
fn tail(
    machine: &Machine,
    flag: &str,
    name: &str,
    mut then: impl FnMut(&str) -> Result<bool>,
) -> Result<()> {
    // A generous limit, without which a tail that sees nothing would never end.
    let words = ["timeout", "60", "tail", "-n", "+1", flag, name];
    let mut command = machine.client.command(&[], &words);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    loop {
        let line = lines.next().context("tail saw nothing more")??;
        if then(&line)? {
            break;
        }
    }
    // The session ends with its client.
    child.kill()?;
    child.wait()?;
    Ok(())
}

fn grows(machine: &Machine) -> Result<()> {
    let file = machine.home.path().join("grows");
    for flag in ["-f", "-F"] {
        fs::write(&file, "1\n")?;
        let mut seen = 0;
        tail(machine, flag, "grows", |line| {
            seen += 1;
            ensure!(line == seen.to_string(), "tail {flag}: {line}");
            if seen < 3 {
                let mut file = OpenOptions::new().append(true).open(&file)?;
                writeln!(file, "{}", seen + 1)?;
            }
            Ok(seen == 3)
        })?;
    }
    Ok(())
}

/// No close there is waited for, but what is said after it is shown here only when the file is closed here, too: else
/// it could not be run. The large file keeps the client busy.
fn runs_when_told(machine: &Machine) -> Result<()> {
    let script = "dd if=/dev/zero of=large bs=1M count=2000 2>/dev/null &
        for i in $(seq 30); do cp /usr/bin/true run$i; echo run$i; done; kill $!; wait; rm large";
    let mut command = machine.client.command(&[], &["sh", "-c", script]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let mut ran = 0;
    for line in lines {
        let program = machine.home.path().join(line?);
        let status = Command::new(&program).status();
        let status = status.with_context(|| format!("{}", program.display()))?;
        ensure!(status.success(), "{}: {status}", program.display());
        ran += 1;
    }
    ensure!(child.wait()?.success() && ran == 30, "{ran} of 30");
    Ok(())
}

/// What docs/conformance.md says of it.
fn is_a_network(machine: &Machine) -> Result<()> {
    let stdout = machine.client.sh_ok(
        "stat -f -c '%t %T' . /usr; df --output=fstype . | tail -n 1; find . -maxdepth 0 -fstype 9p",
    )?;
    ensure!(stdout == "c36400 ceph\nc36400 ceph\n9p\n.\n", "{stdout}");
    Ok(())
}
