//! The number of round trips, measured through a proxy that makes the path long: the additional time of a session divided by
//! the time of a round trip.

use std::io::{BufRead as _, BufReader};
use std::ops::Range;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::client::Client;
use e2e::delay::{Delay, steps};

use crate::{Machine, Test};

pub(crate) const TESTS: &[Test] = &[
    ("path_without_files_is_waited_for_8_times", |machine| {
        within(
            machine,
            8.5,
            &["-9p=false", "-namespace="],
            &["/init", "-V"],
        )
    }),
    (
        // Round trips to mount, use and unmount; docs/performance.md lists them.
        "path_with_the_default_namespace_is_waited_for_14_times",
        |machine| within(machine, 14.5, &[], &["/tmp/local/init", "-V"]),
    ),
    (
        // Walk, getattr and clunk for each, and a second getattr for the last, would be ten.
        "path_of_a_name_and_its_attributes_is_waited_for_once_a_name",
        |machine| names(machine, &["-cache=none"], 2.9..6.0),
    ),
    (
        // Once for each of the three, at the first of six looks.
        "path_of_a_name_that_is_known_is_not_waited_for",
        |machine| names(machine, &[], 0.2..1.0),
    ),
];

/// An ordinary user's session has sudo in it, by a path of three names.
pub(crate) const OF_USERS: &[Test] = &[(
    "path_of_an_ordinary_users_session_is_waited_for_14_times",
    |machine| within(machine, 14.5, &[], &["/tmp/local/init", "-V"]),
)];

/// Each way: long beside what an emulated machine takes now more and now less.
const HOP: Duration = Duration::from_millis(250);

/// The shortest of three times.
fn time(client: &Client, flags: &[&str], words: &[&str]) -> Result<Duration> {
    let times = (0..3).map(|_| {
        let start = Instant::now();
        // A directory that exists with and without the client's files.
        let mut command = client.command(flags, words);
        command.env("PWD", "/");
        // As whoever is logged in has it: the files of root are attached to by each user of the machine.
        if nix::unistd::geteuid().is_root() {
            command.env("USER", "root");
        }
        let output = client.output(command, b"")?;
        ensure!(output.status.success(), "{output:?}");
        Ok(start.elapsed())
    });
    let times = times.collect::<Result<Vec<_>>>()?;
    times.into_iter().min().context("no runs")
}

/// A session takes so many round trips at most.
fn within(machine: &Machine, most: f64, flags: &[&str], words: &[&str]) -> Result<()> {
    let proxy = Delay::start(machine.vm.port(), HOP)?;
    let near = time(&machine.client, flags, words)?;
    let far = time(&Client::new(proxy.port, &machine.home), flags, words)?;
    let waits = far.saturating_sub(near).as_secs_f64() / (2 * HOP).as_secs_f64();
    println!("{waits:.1} round trips");
    ensure!(
        waits <= most,
        "{waits:.1} round trips, not {most} at most: {near:?} near, {far:?} far\n{}",
        steps(&proxy.passed(), HOP)
    );
    // At least as many as SSH itself needs; otherwise nothing was measured.
    ensure!(
        waits > 5.0,
        "{waits:.1} round trips: no session takes so few"
    );
    Ok(())
}

fn names(machine: &Machine, flags: &[&str], wanted: Range<f64>) -> Result<()> {
    const HOP: Duration = Duration::from_millis(75);
    const LOOKS: u16 = 6;
    let directory = machine.home.path().join("path");
    std::fs::create_dir_all(directory.join("a/b"))?;
    std::fs::write(directory.join("a/b/c"), "")?;
    let looks = "test -f a/b/c && ".repeat(LOOKS.into());
    let script = format!("cd path; echo; {looks} echo");
    let proxy = Delay::start(machine.vm.port(), HOP)?;
    let mut command = Client::new(proxy.port, &machine.home).command(flags, &["sh", "-c", &script]);
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    lines.next().context("nothing was printed")??;
    let start = Instant::now();
    lines.next().context("the looks failed")??;
    let took = start.elapsed();
    ensure!(child.wait()?.success());
    let each = took.as_secs_f64() / (2 * HOP).as_secs_f64() / f64::from(LOOKS);
    println!("{each:.1} round trips for three names");
    ensure!(
        wanted.contains(&each),
        "{each:.1} round trips for three names"
    );
    Ok(())
}
