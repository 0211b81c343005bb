//! `make conformance`: judges from outside look at the files that a session sees. Each runs on a booted machine,
//! in a directory of this one, once as our own pair serves it and once by the habits of u-root's; some in other cache modes too. A table of
//! what they said comes at the end; docs/conformance.md has it, and the reasons for what is in
//! e2e/judges/explained. Words on the command line choose: names of judges and of ways.

mod judges;
mod way;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use e2e::client::Home;
use e2e::vm::Vm;

use judges::{JUDGES, Judge, Sources};
use way::{WAYS, Way};

/// What fails for a reason that docs/conformance.md gives, a line each: the judge, and the test if it has many.
const EXPLAINED: &str = include_str!("../../../judges/explained");

/// What a judge said.
struct Verdict {
    judge: &'static Judge,
    way: &'static Way,
    time: Duration,
    /// In its own words.
    said: String,
    /// Failed without a reason in docs/conformance.md, or passed in spite of one.
    surprises: Vec<String>,
}

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some((way::AS_U_ROOT, words)) = words.split_first().map(|(w, rest)| (w.as_str(), rest)) {
        return way::as_u_root(words);
    }
    let (mut wanted_ways, mut wanted_judges) = (Vec::new(), Vec::new());
    for word in &words {
        match (
            WAYS.iter().find(|way| way.name == word),
            JUDGES.iter().find(|judge| judge.name == word),
        ) {
            (Some(way), _) => wanted_ways.push(way),
            (None, Some(judge)) => wanted_judges.push(judge),
            (None, None) => bail!(
                "no judge and no way is called {word}; judges: {}; ways: {}",
                JUDGES.iter().map(|j| j.name).collect::<Vec<_>>().join(" "),
                WAYS.iter().map(|w| w.name).collect::<Vec<_>>().join(" ")
            ),
        }
    }
    if wanted_ways.is_empty() {
        wanted_ways.extend(WAYS);
    }
    if wanted_judges.is_empty() {
        wanted_judges.extend(JUDGES);
    }

    let home = Home::new()?;
    let sources = Sources::new(home.path())?;
    let vm = Vm::boot()?;
    // The ways at the same time: each waits for the machine more than it uses this one.
    let verdicts = std::thread::scope(|scope| {
        let (judges, sources, home, vm) = (&wanted_judges, &sources, &home, &vm);
        let threads: Vec<_> = wanted_ways
            .iter()
            .map(|way| scope.spawn(move || by_one_way(judges, way, sources, home, vm)))
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

fn by_one_way(
    judges: &[&'static Judge],
    way: &'static Way,
    sources: &Sources,
    home: &Home,
    vm: &Vm,
) -> Result<Vec<Verdict>> {
    let mut verdicts = Vec::new();
    for &judge in judges.iter().filter(|judge| way.is_for(judge.name)) {
        let verdict = judged(judge, way, sources, home, vm)
            .with_context(|| format!("{}, {}", judge.name, way.name))?;
        let mut line = format!(
            "{:<12} {:<8} {:>6.0} s  {}",
            judge.name,
            way.name,
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

fn judged(
    judge: &'static Judge,
    way: &'static Way,
    sources: &Sources,
    home: &Home,
    vm: &Vm,
) -> Result<Verdict> {
    let directory = home.path().join(format!("{}-{}", judge.name, way.name));
    std::fs::create_dir(&directory)?;
    let start = Instant::now();
    let judged = (judge.run)(&way::Place {
        way,
        judge: judge.name,
        port: vm.port(),
        home: home.path(),
        directory: &directory,
        sources,
    });
    let time = start.elapsed();
    // Who fails as a whole is one of those that failed; the next ones are heard all the same.
    let (said, failed) = judged.unwrap_or_else(|error| {
        let failed = BTreeSet::from([judge.name.to_owned()]);
        (format!("{error:#}"), failed)
    });
    let explained: BTreeSet<String> = EXPLAINED
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| line.split([' ', '\t']).next() == Some(judge.name))
        .map(str::to_owned)
        .collect();
    let not_explained = failed
        .difference(&explained)
        .map(|what| format!("FAILED: {what}"));
    let passed = explained.difference(&failed);
    let passed = passed.map(|what| format!("PASSED in spite of e2e/judges/explained: {what}"));
    let surprises: Vec<String> = not_explained.chain(passed).collect();
    // What a failure left behind is worth a look.
    if surprises.is_empty() {
        std::fs::remove_dir_all(&directory)?;
    }
    Ok(Verdict {
        judge,
        way,
        time,
        said,
        surprises,
    })
}

/// As docs/conformance.md has it.
fn print_table(verdicts: &[Verdict]) {
    println!("\n| judge | way | time | what it said |\n|---|---|---|---|");
    for verdict in verdicts {
        let failed = match verdict.surprises.len() {
            0 => String::new(),
            n => format!("; **{n} not as explained**"),
        };
        println!(
            "| {} | {} | {:.0} s | {}{failed} |",
            verdict.judge.name,
            verdict.way.name,
            verdict.time.as_secs_f64(),
            verdict.said
        );
    }
}
