//! How often programs wait for the path when the client is far away, the first time, again in the same mount, and in the next session: how often
//! something goes from the machine to the client after something came from there, through a proxy that delays every byte.
//! docs/performance.md has the results of a run.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use e2e::client::{Client, Home};
use e2e::daemon::Daemon;
use e2e::delay::{Delay, waits};
use e2e::vm::Vm;

#[derive(Parser)]
struct PathOptions {
    /// Milliseconds that a byte takes each way.
    #[arg(long, default_value_t = 10)]
    hop: u64,
    /// Megabits that the path carries in a second each way; 0: as many as come.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// Flags for cpu, separated by blanks.
    #[arg(long, default_value = "")]
    flags: String,
    /// No machine: a cpud on this computer, which mounts by FUSE. Needs root.
    #[arg(long)]
    here: bool,
    /// Only programs whose names contain one of these.
    only: Vec<String>,
}

const PROGRAMS: &[(&str, &str)] = &[
    ("true", "/usr/bin/true"),
    (
        "python",
        "/usr/bin/python3 -c 'import json, email, http.client, asyncio'",
    ),
    ("gcc hello.c", "gcc -o hello hello.c"),
    ("git status", "git -C repo status"),
    ("ls -lR", "ls -lR tree"),
    ("git status 5000", "git -C large status"),
    ("ls -lR 5000", "ls -lR large"),
    ("ls -l /usr/bin", "ls -l /usr/bin"),
    ("find", "find tree -type f"),
    ("tar x", "rm -rf new; mkdir new; tar xf tree.tar -C new"),
    (
        "make -j2",
        "make -s -C program clean; make -s -j2 -C program",
    ),
    ("read 64 MiB", "cat random"),
    (
        "write 64 MiB",
        "dd if=/dev/zero of=zeros bs=1M count=64 2>&1",
    ),
];

fn main() -> Result<()> {
    let options = PathOptions::parse();
    let home = Home::new()?;
    prepare(&home)?;
    let hop = Duration::from_millis(options.hop);
    let (mut vm, mut daemon) = (None, None);
    let mut flags = options.flags.clone();
    let port = if options.here {
        let cpud = daemon.insert(Daemon::cpud_with("-mount=fuse")?);
        flags.push_str(" -hk=");
        flags.push_str(&cpud.host_key().to_string_lossy());
        cpud.port
    } else {
        vm.insert(Vm::boot()?).port()
    };
    let rate = (options.rate > 0.0).then_some(options.rate * 1e6 / 8.0);
    let proxy = Delay::with_rate(port, hop, rate)?;
    println!(
        "{:<16} {:>8} {:>8} {:>9} {:>8} {:>9} {:>8} {:>9} {:>8} {:>9}",
        "program",
        "local s",
        "first s",
        "waits",
        "again s",
        "waits",
        "next s",
        "waits",
        "kB",
        "all s"
    );
    let client = Client::new(proxy.port, &home);
    let only = &options.only;
    let is_wanted = |name: &str| only.is_empty() || only.iter().any(|word| name.contains(&**word));
    for (name, words) in PROGRAMS.iter().filter(|(name, _)| is_wanted(name)) {
        let local = local(&home, words)?;
        let forgetful = format!("{flags} -learn=false");
        let [first, again, _] = twice(&client, &proxy, &forgetful, words)?;
        // This one is learned from.
        twice(&client, &proxy, &flags, words)?;
        let [next, _, all] = twice(&client, &proxy, &flags, words)?;
        println!(
            "{name:<16} {:>8.2} {:>8.2} {:>9} {:>8.2} {:>9} {:>8.2} {:>9} {:>8} {:>9.2}",
            local.as_secs_f64(),
            first.0.as_secs_f64(),
            first.1,
            again.0.as_secs_f64(),
            again.1,
            next.0.as_secs_f64(),
            next.1,
            all.1 / 1000,
            all.0.as_secs_f64(),
        );
    }
    Ok(())
}

/// What the program takes the first time in a session, and the second, and how often it waits; what both take from the start of the
/// session on, and how much goes to the machine until the end of the first.
fn twice(
    client: &Client,
    proxy: &Delay,
    flags: &str,
    words: &str,
) -> Result<[(Duration, usize); 3]> {
    let script = format!("echo; {words} >/dev/null; echo; {words} >/dev/null; echo");
    let flags: Vec<_> = flags.split_whitespace().collect();
    let start = Instant::now();
    let mut command = client.command(&flags, &["sh", "-c", &script]);
    let mut child = command
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let mut line = || {
        lines.next().context("the output ends")??;
        let passed = proxy.passed();
        let of_client = passed.iter().filter(|(_, is_client, _)| *is_client);
        let sent: usize = of_client.map(|(.., size)| size).sum();
        Ok::<_, anyhow::Error>((Instant::now(), waits(&passed), sent))
    };
    let at = [line()?, line()?, line()?];
    ensure!(child.wait()?.success(), "{words}");
    proxy.passed();
    Ok([
        (at[1].0 - at[0].0, at[1].1),
        (at[2].0 - at[1].0, at[2].1),
        (at[2].0 - start, at[0].2 + at[1].2),
    ])
}

/// What the program takes on this computer the second time.
fn local(home: &Home, words: &str) -> Result<Duration> {
    let mut last = Duration::ZERO;
    for _ in 0..2 {
        let start = Instant::now();
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{words} >/dev/null")]);
        command.current_dir(home.path()).env("HOME", home.path());
        ensure!(command.status()?.success(), "{words}");
        last = start.elapsed();
    }
    Ok(last)
}

/// A tree of 500 files in 26 directories, and a repository of it; one of 5,000 files in 100 directories; a program of 30 files.
fn prepare(home: &Home) -> Result<()> {
    let script = "mkdir tree && cd tree && for d in a b c d e f g h i j k l m n o p q r s t u v w x y; do
            mkdir $d; for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do echo $d$n >$d/$n; done; done
        cd .. && tar cf tree.tar -C tree . && cp -r tree repo && mkdir large program && cd large &&
        for d in $(seq 100); do mkdir $d; for n in $(seq 50); do echo $d $n >$d/$n; done; done
        cd .. && for at in repo large; do
            git -C $at init -q . && git -C $at add . && git -C $at -c user.name=x -c user.email=x@example.org commit -qm x; done
        head -c 64M /dev/urandom >random; head -c 64M /dev/zero >zeros
        echo '#include <stdio.h>\nint main(void) { puts(\"hello\"); }' >hello.c && cd program &&
        for n in $(seq 30); do echo \"#include <stdio.h>\n#include <stdlib.h>\n#include \\\"all.h\\\"\nint f$n(int n) { return n + $n; }\" >f$n.c; done
        echo 'int main(void) { return 0; }' >main.c; echo '#include <string.h>' >all.h
        echo 'all: $(patsubst %.c,%.o,$(wildcard *.c)); gcc -o all $^\n%.o: %.c all.h; gcc -c -o $@ $<\nclean:; rm -f all *.o' >Makefile";
    let done = Command::new("sh")
        .args(["-ec", script])
        .current_dir(home.path())
        .env("HOME", home.path())
        .status()?;
    ensure!(done.success(), "no trees were made");
    Ok(())
}
