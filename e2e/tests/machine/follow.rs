//! Programs on the machine that wait for changes made here.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::{Machine, Test};

pub(crate) const TESTS: &[Test] = &[
    ("follow_sees_a_file_grow_here", grows),
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

/// What docs/conformance.md says of it.
fn is_a_network(machine: &Machine) -> Result<()> {
    let stdout = machine.client.sh_ok(
        "stat -f -c '%t %T' . /usr; df --output=fstype . | tail -n 1; find . -maxdepth 0 -fstype 9p",
    )?;
    ensure!(stdout == "c36400 ceph\nc36400 ceph\n9p\n.\n", "{stdout}");
    Ok(())
}
