//! Traces and tables of file requests, as the user sees them.

use anyhow::{Context, Result, ensure};

use crate::{Machine, Test};

pub(crate) const TESTS: &[Test] = &[
    ("requests_are_printed_as_asked_for", requests),
    ("a_table_sums_the_requests_up", table),
    ("bad_wishes_are_refused", refusals),
];

/// Standard error of `cat` with a file of this machine, under `flags`.
fn trace(machine: &Machine, flags: &[&str]) -> Result<String> {
    let file = machine.home.path().join("traced");
    std::fs::write(&file, "twelve bytes")?;
    let name = file.to_str().context("a strange directory")?;
    let command = machine.client.command(flags, &["cat", name]);
    let output = machine.client.output(command, b"")?;
    ensure!(output.stdout == b"twelve bytes", "{output:?}");
    Ok(String::from_utf8(output.stderr)?)
}

fn requests(machine: &Machine) -> Result<()> {
    let file = machine.home.path().join("traced");
    let (open, read) = (
        format!("open {} ", file.display()),
        format!("read {} ", file.display()),
    );
    let all = trace(machine, &["-dbg9p"])?;
    ensure!(all.starts_with("version 9P2000.L.cpu.3 1048576 ("), "{all}");
    ensure!(all.contains(&open), "{all}");
    // Otherwise the open may bring what the file has.
    let all = trace(machine, &["-dbg9p", "-cache=none"])?;
    let line = all.lines().find(|line| line.starts_with(&read));
    let line = line.with_context(|| format!("the file was not read: {all}"))?;
    ensure!(line.contains(" @0 → 12 ("), "{line}");

    let opens = trace(machine, &["-dbg9p=open"])?;
    ensure!(opens.contains(&open), "{opens}");
    ensure!(
        opens.lines().all(|line| line.starts_with("open /")),
        "{opens}"
    );

    let to = machine.home.path().join("requests");
    let flag = format!("-dbg9p=open,{}", to.display());
    let nothing = trace(machine, &[&flag])?;
    ensure!(nothing.is_empty(), "{nothing}");
    ensure!(std::fs::read_to_string(&to)?.contains(&open));

    let nothing = trace(machine, &["-dbg9p=false"])?;
    ensure!(nothing.is_empty(), "{nothing}");
    Ok(())
}

fn table(machine: &Machine) -> Result<()> {
    let text = trace(machine, &["-stats"])?;
    let row = |word: &str| {
        let mut rows = text.lines().map(str::split_whitespace);
        rows.find_map(|mut row| (row.next() == Some(word)).then(|| row.collect::<Vec<_>>()))
            .with_context(|| format!("no line {word} in {text}"))
    };
    let number = |text: &str| text.parse::<u64>();
    ensure!(number(row("read")?[2])? >= 12, "{text}");
    // The total time exceeds that of each kind, and each time has a unit.
    let time = |word: &str| -> Result<f64> {
        let row = row(word)?;
        let time = row.last().copied().unwrap_or_default();
        let (number, unit) = time.split_at(
            time.find(|c: char| !c.is_ascii_digit() && c != '.')
                .unwrap_or(0),
        );
        let unit = match unit {
            "ns" => 1e-9,
            "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            _ => anyhow::bail!("{word}: {time:?} is no time: {text}"),
        };
        Ok(number.parse::<f64>()? * unit)
    };
    ensure!(
        time("read")? > 0.0 && time("all")? > time("read")?,
        "{text}"
    );
    let (all, walk) = (number(row("all")?[0])?, number(row("walk")?[0])?);
    ensure!(all > walk && walk > 5, "{text}");
    let slowest = text.lines().skip_while(|line| *line != "slowest").skip(1);
    let slowest = slowest.take_while(|line| *line != "most requests");
    ensure!(slowest.count() == 10, "{text}");
    let most = text.lines().skip_while(|line| *line != "most requests");
    ensure!(most.skip(1).count() == 10, "{text}");
    Ok(())
}

fn refusals(machine: &Machine) -> Result<()> {
    for (flag, complaint) in [
        ("-dbg9p=opne", "no request is called \"opne\""),
        (
            "-dbg9p=/nonexistent/file",
            "cannot write the trace of -dbg9p",
        ),
        ("-stats=perhaps", "write true or false"),
    ] {
        let command = machine.client.command(&[flag], &["true"]);
        let output = machine.client.output(command, b"")?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(255), "{output:?}");
        ensure!(text.contains(complaint), "{text}");
        ensure!(text.lines().count() == 1, "{text}");
    }
    Ok(())
}
