//! What a machine has to outlive, over and over again, with the times of those who must not notice: `make soak`, and for two
//! minutes a test.

mod guest;
mod local;

use std::fmt::Write as _;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

pub use guest::{BOMB, EATERS, FILL, FILLER, Guest, LOGIN, hang_up};
pub use local::SoakServer;

/// How long something took, each time, and how long it may take.
#[derive(Debug)]
pub struct Figure {
    what: &'static str,
    limit: Duration,
    times: Vec<Duration>,
    failures: Vec<String>,
}

/// All figures, in the order in which they were first taken.
#[derive(Debug, Default)]
pub struct Table(Vec<Figure>);

impl Table {
    /// Takes a time and what it may be at most, of which the table shows the longest. An error counts as a failure, and is reported at the end.
    pub fn add(&mut self, what: &'static str, limit: Duration, took: Result<Duration>) {
        let index = self.0.iter().position(|figure| figure.what == what);
        let index = index.unwrap_or_else(|| {
            self.0.push(Figure {
                what,
                limit,
                times: Vec::new(),
                failures: Vec::new(),
            });
            self.0.len() - 1
        });
        let figure = &mut self.0[index];
        figure.limit = figure.limit.max(limit);
        match took {
            Ok(took) if took <= limit => figure.times.push(took),
            Ok(took) => {
                figure.times.push(took);
                figure
                    .failures
                    .push(format!("{took:?} instead of {limit:?}"));
            }
            Err(error) => figure.failures.push(format!("{error:#}")),
        }
    }

    /// The table as text.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{:<56} {:>6} {:>6} {:>9} {:>8} {:>8}\n",
            "", "times", "failed", "median s", "worst s", "limit s"
        );
        let seconds = |time: Option<&Duration>| time.map_or(f64::NAN, Duration::as_secs_f64);
        for figure in &self.0 {
            let mut times = figure.times.clone();
            times.sort();
            let _ = writeln!(
                text,
                "{:<56} {:>6} {:>6} {:>9.2} {:>8.2} {:>8.1}",
                figure.what,
                times.len(),
                figure.failures.len(),
                seconds(times.get(times.len() / 2)),
                seconds(times.last()),
                figure.limit.as_secs_f64()
            );
        }
        text
    }

    /// That nothing has failed, and that something was done.
    pub fn check(&self) -> Result<()> {
        let failures = self.0.iter().flat_map(|figure| {
            let failures = figure.failures.iter();
            failures.map(|failure| format!("{}: {failure}", figure.what))
        });
        let failures: Vec<_> = failures.collect();
        ensure!(!self.0.is_empty(), "nothing was done");
        ensure!(
            failures.is_empty(),
            "{}\n{}",
            self.text(),
            failures.join("\n")
        );
        Ok(())
    }
}

/// Runs the scenarios one after the other until the time is over, each at least once.
pub fn run(table: &mut Table, server: Option<&SoakServer>, guest: Option<&Guest>, time: Duration) {
    let end = Instant::now() + time;
    loop {
        if let Some(server) = server {
            for scenario in local::SCENARIOS {
                scenario(server, table);
            }
        }
        if let Some(guest) = guest {
            guest.suffer(table);
        }
        if Instant::now() >= end {
            return;
        }
    }
}

/// How long something takes that works.
fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

/// A random time below this one.
fn random_below(most: Duration) -> Duration {
    let random = std::hash::RandomState::new().build_hasher().finish();
    most * u32::try_from(random % 1000).unwrap_or(0) / 1000
}
