//! `make conformance`: runs external test suites for file systems in a session on a booted machine, in a directory of this
//! computer: with our own pair, with the requests of u-root's programs, and some in other cache modes. Arguments select suites
//! and transports by name. At the end it prints the table of outcomes; docs/conformance.md has it too, with the reasons for
//! failures from e2e/suites/explained.

mod suites;
mod transport;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use e2e::client::Home;
use e2e::vm::Vm;

use suites::{SUITES, Sources, Suite};
use transport::{TRANSPORTS, Transport};

/// What fails for a reason that docs/conformance.md gives, a line each: the suite, and the test if the suite has many.
const EXPLAINED: &str = include_str!("../../../suites/explained");

/// The outcome of one suite over one transport.
struct Verdict {
    suite: &'static Suite,
    transport: &'static Transport,
    time: Duration,
    /// The suite's own summary.
    said: String,
    /// Failed without a reason in docs/conformance.md, or passed in spite of one.
    surprises: Vec<String>,
}

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some((transport::AS_U_ROOT, words)) =
        words.split_first().map(|(w, rest)| (w.as_str(), rest))
    {
        return transport::as_u_root(words);
    }
    let (mut wanted_transports, mut wanted_suites) = (Vec::new(), Vec::new());
    for word in &words {
        match (
            TRANSPORTS.iter().find(|transport| transport.name == word),
            SUITES.iter().find(|suite| suite.name == word),
        ) {
            (Some(transport), _) => wanted_transports.push(transport),
            (None, Some(suite)) => wanted_suites.push(suite),
            (None, None) => bail!(
                "no suite and no transport is called {word}; suites: {}; transports: {}",
                SUITES.iter().map(|j| j.name).collect::<Vec<_>>().join(" "),
                TRANSPORTS
                    .iter()
                    .map(|w| w.name)
                    .collect::<Vec<_>>()
                    .join(" ")
            ),
        }
    }
    if wanted_transports.is_empty() {
        wanted_transports.extend(TRANSPORTS);
    }
    if wanted_suites.is_empty() {
        wanted_suites.extend(SUITES);
    }

    let home = Home::new()?;
    let sources = Sources::new(home.path())?;
    let vm = Vm::boot()?;
    // All transports at the same time: each spends most of its time waiting for the machine.
    let verdicts = std::thread::scope(|scope| {
        let (suites, sources, home, vm) = (&wanted_suites, &sources, &home, &vm);
        let threads: Vec<_> = wanted_transports
            .iter()
            .map(|transport| {
                scope.spawn(move || over_one_transport(suites, transport, sources, home, vm))
            })
            .collect();
        let ended = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        ended
            .map(|verdicts| verdicts.ok().context("a thread panicked")?)
            .collect::<Result<Vec<_>>>()
    })
    .with_context(|| format!("the console:\n{}", vm.console()))?;
    let verdicts: Vec<Verdict> = verdicts.into_iter().flatten().collect();
    print_table(&verdicts);
    let surprised = verdicts.iter().any(|verdict| !verdict.surprises.is_empty());
    Ok(ExitCode::from(u8::from(surprised)))
}

fn over_one_transport(
    suites: &[&'static Suite],
    transport: &'static Transport,
    sources: &Sources,
    home: &Home,
    vm: &Vm,
) -> Result<Vec<Verdict>> {
    let mut verdicts = Vec::new();
    for &suite in suites.iter().filter(|suite| transport.is_for(suite.name)) {
        let verdict = run_suite(suite, transport, sources, home, vm)
            .with_context(|| format!("{}, {}", suite.name, transport.name))?;
        let mut line = format!(
            "{:<12} {:<8} {:>6.0} s  {}",
            suite.name,
            transport.name,
            verdict.time.as_secs_f64(),
            verdict.said
        );
        for surprise in &verdict.surprises {
            line.push_str("\n    ");
            line.push_str(surprise);
        }
        println!("{line}");
        verdicts.push(verdict);
    }
    Ok(verdicts)
}

fn run_suite(
    suite: &'static Suite,
    transport: &'static Transport,
    sources: &Sources,
    home: &Home,
    vm: &Vm,
) -> Result<Verdict> {
    let directory = home
        .path()
        .join(format!("{}-{}", suite.name, transport.name));
    std::fs::create_dir(&directory)?;
    let start = Instant::now();
    let outcome = (suite.run)(&transport::SuiteRun {
        transport,
        suite: suite.name,
        port: vm.port(),
        home: home.path(),
        directory: &directory,
        sources,
    });
    let time = start.elapsed();
    // A suite that fails as a whole counts as one failure, and the next suite still runs.
    let (said, failed) = outcome.unwrap_or_else(|error| {
        let failed = BTreeSet::from([suite.name.to_owned()]);
        (format!("{error:#}"), failed)
    });
    let explained: BTreeSet<String> = EXPLAINED
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| line.split([' ', '\t']).next() == Some(suite.name))
        .map(str::to_owned)
        .collect();
    let not_explained = failed
        .difference(&explained)
        .map(|what| format!("FAILED: {what}"));
    let passed = explained.difference(&failed);
    let passed =
        passed.map(|what| format!("PASSED, although it is in e2e/suites/explained: {what}"));
    let surprises: Vec<String> = not_explained.chain(passed).collect();
    // What a failed suite left behind is kept for inspection.
    if surprises.is_empty() {
        std::fs::remove_dir_all(&directory)?;
    }
    Ok(Verdict {
        suite,
        transport,
        time,
        said,
        surprises,
    })
}

/// The table of docs/conformance.md.
fn print_table(verdicts: &[Verdict]) {
    println!("\n| suite | transport | time | outcome |\n|---|---|---|---|");
    for verdict in verdicts {
        let failed = match verdict.surprises.len() {
            0 => String::new(),
            n => format!("; **{n} not as explained**"),
        };
        println!(
            "| {} | {} | {:.0} s | {}{failed} |",
            verdict.suite.name,
            verdict.transport.name,
            verdict.time.as_secs_f64(),
            verdict.said
        );
    }
}
