//! Traces and tables of file requests, as the user sees them.

use anyhow::{Context, Result, ensure};

use crate::{Machine, Test};

pub(crate) const TESTS: &[Test] = &[
    ("requests_are_printed_as_asked_for", requests),
    ("a_table_sums_the_requests_up", table),
    ("a_session_can_be_seen_as_a_picture", events),
    ("wrong_values_of_flags_are_refused", refusals),
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
    ensure!(all.starts_with("version 9P2000.L.cpu.4 1048576 ("), "{all}");
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
    // What others have taught would be fetched ahead, if the machine takes long to answer.
    let text = trace(machine, &["-stats", "-learn=false"])?;
    let row = |word: &str| {
        let mut rows = text.lines().map(str::split_whitespace);
        rows.find_map(|mut row| (row.next() == Some(word)).then(|| row.collect::<Vec<_>>()))
            .with_context(|| format!("no line {word} in {text}"))
    };
    let number = |text: &str| text.parse::<u64>();
    ensure!(number(row("read")?[4])? >= 12, "{text}");
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
    // Some are waited for, and the machine says at the end how many it has answered itself.
    let waits = number(row("all")?[1])?;
    ensure!(waits > 5 && waits < all, "{text}");
    ensure!(number(row("clunk")?[2])? > 5, "{text}");
    // Where nothing is kept, it has nothing to say.
    let never = trace(machine, &["-stats", "-cache=none"])?;
    let all_row = never.lines().find(|line| line.starts_with("all "));
    let answered = all_row.and_then(|row| row.split_whitespace().nth(3));
    ensure!(answered == Some("-"), "{never}");
    let slowest = text.lines().skip_while(|line| *line != "slowest").skip(1);
    let slowest = slowest.take_while(|line| *line != "most requests");
    ensure!(slowest.count() == 10, "{text}");
    let most = text.lines().skip_while(|line| *line != "most requests");
    ensure!(most.skip(1).count() == 10, "{text}");
    Ok(())
}

/// The steps, the numbers of all requests and of those that were sent ahead, and the files that were opened, by a parser that is not
/// ours.
const SUMMARY: &str = "import json, sys\n\
    all = json.load(open(sys.argv[1]))\n\
    at = sorted((e for e in all if 'ts' in e), key=lambda e: e['ts'])\n\
    print(*(e['name'].replace(' ', '-') for e in at if e['ph'] == 'B'))\n\
    print(sum(e['ph'] == 'X' for e in all), sum(e.get('cat') == 'ahead' for e in all))\n\
    print(*(e['args']['path'] for e in at if e['ph'] == 'X' and e['name'].startswith('open ')))\n";

fn events(machine: &Machine) -> Result<()> {
    let to = machine.home.path().join("session.json");
    let nothing = trace(machine, &[&format!("-dbg9p={}", to.display())])?;
    ensure!(nothing.is_empty(), "{nothing}");
    let mut python = std::process::Command::new("python3");
    let summary = e2e::client::ended(python.args(["-c", SUMMARY]).arg(&to))?;
    ensure!(summary.status.success(), "{summary:?}");
    let text = String::from_utf8(summary.stdout)?;
    let lines: Vec<_> = text.lines().collect();
    let [steps, numbers, opened] = lines[..] else {
        anyhow::bail!("{text}");
    };
    let wanted = "read-keys connect exchange-keys log-in open-channels command unmount";
    ensure!(steps == wanted, "{text}");
    let (requests, ahead) = numbers.split_once(' ').context("no numbers")?;
    ensure!(
        requests.parse::<u32>()? > 20 && ahead.parse::<u32>()? > 0,
        "{text}"
    );
    let file = machine.home.path().join("traced");
    ensure!(opened.contains(&format!("{}", file.display())), "{text}");
    Ok(())
}

fn refusals(machine: &Machine) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let absent = directory.path().join("absent");
    let trace = |name| format!("-dbg9p={}", absent.join(name).display());
    let unwritten = "cannot write the trace of -dbg9p";
    for (flag, complaint) in [
        ("-dbg9p=opne".to_owned(), "no request is called \"opne\""),
        (trace("file"), unwritten),
        (trace("file.json"), unwritten),
        ("-stats=perhaps".to_owned(), "write true or false"),
    ] {
        let command = machine.client.command(&[&flag], &["true"]);
        let output = machine.client.output(command, b"")?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(255), "{output:?}");
        ensure!(text.contains(complaint), "{text}");
        ensure!(text.lines().count() == 1, "{text}");
    }
    Ok(())
}
