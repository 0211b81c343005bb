//! `make bench-session`: compares a session with OpenSSH's on this machine, in one run: the time of a command that does
//! nothing, bulk input and output, the same over a long path, and the number of round trips, measured through a proxy that
//! delays every byte by 25 ms. docs/performance.md has the results of a run.

mod plain;

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::daemon::Daemon;
use e2e::delay::{Delay, steps};
use e2e::out;
use e2e::vm::Vm;

const RUNS: usize = 50;
const BULK: u64 = 1 << 30;
/// Bytes that are timed behind bulk.
const SMALL: usize = 300;
const HOP: Duration = Duration::from_millis(25);
const CIPHER: &str = "aes128-gcm@openssh.com";

/// One of the two programs, and the words before the command's.
struct Program {
    name: &'static str,
    words: Vec<String>,
}

impl Program {
    fn cpu(port: u16, pin: &Path) -> Self {
        let key = out().join("cpu_rsa").display().to_string();
        let words = [
            &out().join("cpu").display().to_string(),
            "-key",
            &key,
            "-hk",
            &pin.display().to_string(),
            "-9p=false",
            "-namespace",
            "",
            "-sp",
            &port.to_string(),
            "127.0.0.1",
        ];
        Self {
            name: "cpu",
            words: words.map(str::to_owned).to_vec(),
        }
    }

    fn ssh(port: u16) -> Self {
        let key = out().join("cpu_rsa").display().to_string();
        let words = [
            "ssh",
            "-F",
            "none",
            "-o",
            "LogLevel=ERROR",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "IdentitiesOnly=yes",
            "-c",
            CIPHER,
            "-i",
            &key,
            "-p",
            &port.to_string(),
            "127.0.0.1",
        ];
        Self {
            name: "ssh",
            words: words.map(str::to_owned).to_vec(),
        }
    }

    /// No SSH at all.
    fn plain(port: u16) -> Result<Self> {
        let program = std::env::current_exe()?.display().to_string();
        Ok(Self {
            name: "plain",
            words: vec![program, "plain".to_owned(), port.to_string()],
        })
    }

    fn line(&self, more: &[&str]) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).args(more);
        command
            .env("PWD", "/")
            .env("HOME", "/nonexistent")
            .env_remove("SSH_AUTH_SOCK")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    fn time(&self, more: &[&str]) -> Result<Duration> {
        let start = Instant::now();
        let status = self.line(more).stderr(Stdio::null()).status()?;
        ensure!(status.success(), "{} {more:?}: {status}", self.name);
        Ok(start.elapsed())
    }

    /// MiB/s of standard input (`cat` here into it) and of standard output.
    fn bulk(&self, size: u64) -> Result<(f64, f64)> {
        let count = size.to_string();
        let output = self.time(&["head", "-c", &count, "/dev/zero"])?;
        let mut source = Command::new("head")
            .args(["-c", &count, "/dev/zero"])
            .stdout(Stdio::piped())
            .spawn()?;
        let start = Instant::now();
        let mut command = self.line(&["tail", "-c", "1"]);
        let status = command
            .stdin(source.stdout.take().context("no output")?)
            .stderr(Stdio::null())
            .status()?;
        let input = start.elapsed();
        source.wait()?;
        ensure!(status.success(), "{}: {status}", self.name);
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let rate = |time: Duration| size as f64 / 1_048_576.0 / time.as_secs_f64();
        Ok((rate(input), rate(output)))
    }
}

impl Program {
    /// How long a byte takes there and back, while standard output is full all the time.
    fn small_behind_bulk(&self) -> Result<Vec<Duration>> {
        let mut command = self.line(&["sh", "-c", "'cat /dev/zero & exec cat >&2'"]);
        if self.name == "cpu" {
            // It takes the arguments as they are; ssh's pass through a shell.
            command = self.line(&["sh", "-c", "cat /dev/zero & exec cat >&2"]);
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (mut to, mut from) = (child.stdin.take(), child.stderr.take());
        let mut bulk = child.stdout.take().context("no output")?;
        let sink =
            std::thread::spawn(move || std::io::copy(&mut bulk, &mut std::io::sink()).unwrap_or(0));
        let mut times = Vec::new();
        for _ in 0..SMALL {
            std::thread::sleep(Duration::from_millis(10));
            let start = Instant::now();
            to.as_mut().context("no input")?.write_all(b"x")?;
            from.as_mut().context("no errors")?.read_exact(&mut [0])?;
            times.push(start.elapsed());
        }
        child.kill()?;
        child.wait()?;
        let moved = sink.join().ok().context("a thread panicked")?;
        ensure!(moved > 1 << 26, "only {moved} bytes of bulk");
        Ok(sorted(times))
    }
}

fn sorted(mut times: Vec<Duration>) -> Vec<Duration> {
    times.sort();
    times
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn main() -> Result<()> {
    if let Some(ended) = plain::role(std::env::args().skip(1)) {
        return ended;
    }
    let (cpud, sshd) = (Daemon::cpud()?, Daemon::sshd()?);
    let pair = [
        Program::cpu(cpud.port, &cpud.host_key()),
        Program::ssh(sshd.port),
    ];
    println!("a session that runs true, {RUNS} runs each, in turn");
    println!(
        "{:<8} {:>9} {:>9} {:>9}",
        "", "best ms", "median ms", "worst ms"
    );
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..RUNS {
        for (program, times) in pair.iter().zip(&mut times) {
            times.push(program.time(&["true"])?);
        }
    }
    let times = times.map(sorted);
    for (program, times) in pair.iter().zip(&times) {
        let [best, median, worst] = [0, RUNS / 2, RUNS - 1].map(|n| millis(times[n]));
        println!("{:<8} {best:>9.1} {median:>9.1} {worst:>9.1}", program.name);
    }
    let ratio = millis(times[0][RUNS / 2]) / millis(times[1][RUNS / 2]);
    println!("cpu / ssh, medians: {ratio:.2} (to reach: 0.50)\n");

    println!("bulk, MiB/s, {} MiB, {CIPHER}, best of three", BULK >> 20);
    let plain = plain::PlainServer::start()?;
    let [cpu, ssh] = &pair;
    let programs = [cpu, ssh, &Program::plain(plain.port)?];
    let mut rates = [(0.0, 0.0); 3];
    for _ in 0..3 {
        for (program, rate) in programs.iter().zip(&mut rates) {
            let (input, output) = program.bulk(BULK)?;
            *rate = (f64::max(rate.0, input), f64::max(rate.1, output));
        }
    }
    for (program, (input, output)) in programs.iter().zip(rates) {
        println!("{:<8} in {input:>7.0}  out {output:>7.0}", program.name);
    }
    println!(
        "cpu / ssh: in {:.1}, out {:.1} (to reach: 3)",
        rates[0].0 / rates[1].0,
        rates[0].1 / rates[1].1
    );
    println!(
        "plain TCP, nothing encrypted / ssh: in {:.1}, out {:.1}\n",
        rates[2].0 / rates[1].0,
        rates[2].1 / rates[1].1
    );
    drop(plain);

    println!("a byte there and back behind full output, {SMALL} of each, ms");
    for program in &pair {
        let times = program.small_behind_bulk()?;
        let [median, late, worst] =
            [SMALL / 2, SMALL * 95 / 100, SMALL - 1].map(|n| millis(times[n]));
        println!(
            "{:<8} median {median:.1}, 95 of 100 within {late:.1}, worst {worst:.1} (to reach: 5)",
            program.name
        );
    }
    println!();

    let long = Delay::start(cpud.port, 2 * HOP)?;
    let (input, output) = Program::cpu(long.port, &cpud.host_key()).bulk(BULK)?;
    println!("a path of 100 ms, MiB/s: in {input:.0}, out {output:.0} (to reach: 95)\n");

    let pin = cpud.host_key().display().to_string();
    let flags = ["-9p=false", "-hk", &pin];
    round_trips("a session without files", cpud.port, &flags, &["true"])?;
    drop((cpud, sshd));
    let vm = Vm::boot()?;
    // A program of the machine itself, so that only the mounts are measured.
    round_trips(
        "files, nothing bound",
        vm.port(),
        &["-namespace", ""],
        &["/init", "-V"],
    )?;
    round_trips(
        "files, the default namespace",
        vm.port(),
        &[],
        &["/tmp/local/init", "-V"],
    )
}

/// How many times a session waits for the path, and what goes by in between.
fn round_trips(what: &str, port: u16, flags: &[&str], words: &[&str]) -> Result<()> {
    let run = |port: u16| -> Result<Duration> {
        let start = Instant::now();
        let output = Command::new(out().join("cpu"))
            .arg("-key")
            .arg(out().join("cpu_rsa"))
            .args(flags)
            .args(["-sp", &port.to_string(), "127.0.0.1"])
            .args(words)
            .env("PWD", "/")
            .env("HOME", "/nonexistent")
            .env_remove("SSH_AUTH_SOCK")
            .stdin(Stdio::null())
            .output()?;
        ensure!(output.status.success(), "{what}: {output:?}");
        Ok(start.elapsed())
    };
    let proxy = Delay::start(port, HOP)?;
    let best = |port: u16| -> Result<Duration> {
        let times = (0..5).map(|_| run(port)).collect::<Result<Vec<_>>>()?;
        times.into_iter().min().context("no runs")
    };
    let near = best(port)?;
    let far = best(proxy.port)?;
    proxy.passed();
    run(proxy.port)?;
    let passed = proxy.passed();
    let trips = millis(far.saturating_sub(near)) / millis(2 * HOP);
    println!(
        "{what}: {:.1} ms near, {:.1} ms far: {trips:.1} round trips",
        millis(near),
        millis(far)
    );
    print!("{}", steps(&passed, HOP));
    println!();
    Ok(())
}
