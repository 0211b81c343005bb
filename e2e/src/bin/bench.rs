//! `make bench`: how long images take to make, and what commands on a booted machine cost in time and 9P requests. Everything
//! is measured in one run, so that the lines can be compared; the spread shows the noise.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::client::{Client, Home};
use e2e::out;
use e2e::vm::Vm;
use nix::sys::resource::{UsageWho, getrusage};

/// Runs of each command; the first one is not counted, since it fills this machine's own caches.
const RUNS: usize = 5;

const COMMANDS: &[(&str, &[&str])] = &[
    ("true", &["true"]),
    ("date", &["date"]),
    ("bash -c :", &["bash", "-c", ":"]),
    ("ls -l /usr/bin", &["ls", "-l", "/usr/bin"]),
    (
        "python3 -c 'import json, email, http.client, asyncio'",
        // Debian's, not one that a version manager puts before it in PATH.
        &[
            "/usr/bin/python3",
            "-c",
            "import json, email, http.client, asyncio",
        ],
    ),
];

fn main() -> Result<()> {
    images()?;
    let start = Instant::now();
    let vm = Vm::boot()?;
    println!("boot to serving: {:.1} s", start.elapsed().as_secs_f64());
    let home = Home::new()?;
    let client = Client::new(vm.port(), &home);
    println!(
        "{:<56} {:>8} {:>8} {:>8} {:>9}",
        "command", "best s", "median s", "worst s", "requests"
    );
    for (name, words) in COMMANDS {
        let (mut times, mut requests) = (Vec::new(), 0);
        for run in 0..=RUNS {
            let (time, count) = measure(&client, words)?;
            if run > 0 {
                times.push(time);
                requests = count;
            }
        }
        times.sort();
        let seconds = |time: Option<&Duration>| time.map_or(f64::NAN, Duration::as_secs_f64);
        println!(
            "{name:<56} {:>8.2} {:>8.2} {:>8.2} {requests:>9}",
            seconds(times.first()),
            seconds(times.get(RUNS / 2)),
            seconds(times.last()),
        );
    }
    Ok(())
}

/// How long mkimage takes, with the most memory that any of its runs so far has used.
fn images() -> Result<()> {
    println!("{:<56} {:>8} {:>8}", "image", "best s", "MiB");
    let directory = tempfile::tempdir()?;
    for name in [
        "cpud",
        "cpu",
        "cpu_rsa.pub",
        "ssh_host_ed25519_key",
        "cpukernel",
        "cpu.config",
    ] {
        std::fs::copy(out().join(name), directory.path().join(name))?;
    }
    for command in ["initramfs", "usb"] {
        let mut best = Duration::MAX;
        for _ in 0..3 {
            let start = Instant::now();
            let status = Command::new(out().join("mkimage"))
                .args(["-q", command, "-o"])
                .arg(directory.path())
                .status()?;
            ensure!(status.success(), "mkimage {command}: {status}");
            best = best.min(start.elapsed());
        }
        // In KiB on Linux (getrusage(2)).
        let memory = getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss() / 1024;
        let name = format!("mkimage {command}");
        println!("{name:<56} {:>8.2} {memory:>8}", best.as_secs_f64());
    }
    Ok(())
}

/// The time from start to end, and the number of 9P requests that the client served.
fn measure(client: &Client, words: &[&str]) -> Result<(Duration, u64)> {
    let command = client.command(&["-stats"], words);
    let start = Instant::now();
    let output = client.output(command, b"")?;
    let time = start.elapsed();
    ensure!(output.status.success(), "{output:?}");
    let log = String::from_utf8_lossy(&output.stderr);
    let requests = log
        .lines()
        .find_map(|line| line.strip_prefix("all "))
        .and_then(|sums| sums.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("no count of requests in {log}"))?;
    Ok((time, requests))
}
