//! When one side stalls, the other goes on, and memory does not grow.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::client::{Client, finish, parse_peak_memory, peak_memory};
use e2e::daemon::Daemon;
use e2e::delay::Delay;
use e2e::stands_still;
use e2e::user::User;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Machine, Test};

/// The most that either side may use of memory, in KiB.
const MEMORY: u64 = 64 * 1024;

pub(crate) const TESTS: &[Test] = &[
    ("a_signal_passes_stalled_input", stalled_input),
    ("stalled_output_does_not_stop_the_files", stalled_output),
    ("large_writes_are_whole_beside_look_ups", whole_writes),
    (
        "a_slow_reader_on_a_long_path_is_no_burden",
        slow_on_a_long_path,
    ),
];

/// The peak memory of all processes named cpud there, in KiB.
fn peak_there(machine: &Machine) -> Result<u64> {
    let all = machine
        .client
        .sh_ok("for s in $(grep -l '^Name:.*\\(cpud\\|init\\|exe\\)$' /proc/[0-9]*/status); do grep VmHWM $s; done")?;
    let peaks = all
        .lines()
        .map(parse_peak_memory)
        .collect::<Result<Vec<_>>>()?;
    peaks.into_iter().max().context("no cpud there?")
}

/// The peak memory of all processes here that are cpud, in KiB.
fn peak_here() -> Result<u64> {
    let program = e2e::out().join("cpud").canonicalize()?;
    let mut peaks = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?.path();
        // A process that has ended meanwhile has none, and neither have the other entries of /proc.
        if std::fs::read_link(entry.join("exe")).is_ok_and(|exe| exe == program)
            && let Ok(status) = std::fs::read_to_string(entry.join("status"))
            && let Ok(peak) = parse_peak_memory(&status)
        {
            peaks.push(peak);
        }
    }
    peaks.into_iter().max().context("no cpud here?")
}

/// On a path of 100 ms sixteen megabytes are under way, on purpose. What is not taken for a while, and then only
/// slowly, must not add to them; here what the command writes, then what it is given.
fn slow_on_a_long_path(_: &Machine) -> Result<()> {
    let (daemon, user) = (Daemon::cpud()?, User::new()?);
    let path = Delay::start(daemon.port, Duration::from_millis(50))?;
    let port = format!("-sp={}", path.port);
    let own = user.key().display().to_string();
    let words = |words: &[&str]| {
        let own = [port.as_str(), "-key", &own, "127.0.0.1"];
        user.cpu(&[&own, words].concat())
    };
    let (much, slow) = (
        "200000000",
        "sleep 5; head -c 5000000 | while read -r -n 100000 _; do sleep .01; done; cat | wc -c",
    );
    for is_output in [true, false] {
        let mut zeros = Command::new("head");
        let mut reader = Command::new("bash");
        let (mut writer, mut reader) = if is_output {
            reader.args(["-c", slow]);
            (words(&["head", "-c", much, "/dev/zero"]), reader)
        } else {
            zeros.args(["-c", much, "/dev/zero"]);
            (zeros, words(&["bash", "-c", slow]))
        };
        let mut writer = writer.stdout(Stdio::piped()).spawn()?;
        let between = writer.stdout.take().context("no output")?;
        let mut reader = reader.stdin(between).stdout(Stdio::piped()).spawn()?;
        let cpu = if is_output { writer.id() } else { reader.id() };
        let (mut here, mut there) = (0, 0);
        while reader.try_wait()?.is_none() {
            // It may end at any time.
            here = peak_memory(cpu).unwrap_or(here);
            there = peak_here()?.max(there);
            std::thread::sleep(Duration::from_millis(100));
        }
        let output = finish(reader)?;
        ensure!(
            writer.wait()?.success() && output.status.success(),
            "{output:?}"
        );
        ensure!(output.stdout == b"195000000\n", "{output:?}");
        ensure!(here > 1000 && here < MEMORY, "cpu used {here} KiB");
        ensure!(there > 1000 && there < MEMORY, "cpud used {there} KiB");
    }
    Ok(())
}

/// What the machine asks of its own for the look-ups, listings among it, is not written into the file.
fn whole_writes(machine: &Machine) -> Result<()> {
    const LENGTH: usize = 32 << 20;
    let path = Delay::start(machine.vm.port(), Duration::from_millis(10))?;
    let client = Client::new(path.port, &machine.home);
    let dir = machine.home.path().join("whole-writes");
    for number in 0..40 {
        let inner = dir.join(number.to_string());
        std::fs::create_dir_all(&inner)?;
        std::fs::write(inner.join("a"), "a")?;
        std::fs::write(inner.join("b"), "b")?;
    }
    let script = format!(
        "cd {}; (for file in */?; do read -r _ <$file; done; ls -lR >/dev/null) & \
         tr '\\0' x </dev/zero | dd of=large bs=1M count={LENGTH} iflag=fullblock,count_bytes status=none; wait",
        dir.display()
    );
    client.sh_ok(&script)?;
    let written = std::fs::read(dir.join("large"))?;
    let other = written.iter().position(|&byte| byte != b'x');
    ensure!(
        written.len() == LENGTH && other.is_none(),
        "{} bytes, and another one at {other:?}",
        written.len()
    );
    Ok(())
}

fn stalled_input(machine: &Machine) -> Result<()> {
    let mut command = machine.client.command(&[], &["sleep", "30"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let feeder = std::thread::spawn(move || {
        let block = vec![0; 1 << 16];
        while counter.fetch_add(block.len(), Ordering::Relaxed) < 1 << 30
            && stdin.write_all(&block).is_ok()
        {}
    });
    stands_still(&sent);
    let memory = peak_memory(child.id())?;
    ensure!(memory < MEMORY, "the client used {memory} KiB");
    let there = peak_there(machine)?;
    ensure!(there < MEMORY, "a process there used {there} KiB");
    let start = Instant::now();
    kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGINT)?;
    let output = finish(child)?;
    let elapsed = start.elapsed();
    ensure!(output.status.code() == Some(130), "{output:?}");
    ensure!(elapsed < Duration::from_secs(5), "Ctrl-C took {elapsed:?}");
    feeder.join().ok().context("the feeder panicked")?;
    let sent = sent.load(Ordering::Relaxed);
    ensure!(
        sent < 1 << 24,
        "{sent} bytes went into a command that reads none"
    );
    Ok(())
}

fn stalled_output(machine: &Machine) -> Result<()> {
    // Writes more than all buffers hold, and at the same time reads files of this machine.
    let script = "seq 1000000 & \
        for i in 1 2 3 4 5 6 7 8; do cat /usr/bin/* 2>/dev/null | head -c 2000000 | cksum > /dev/null; echo $i >> ~/progress; done; \
        wait";
    let progress = machine.home.path().join("progress");
    let mut command = machine.client.command(&[], &["sh", "-c", script]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdout = child.stdout.take().context("no stdout")?;
    // Nobody reads the output for a while; file requests must go on meanwhile.
    let done = e2e::wait_until(
        "eight rounds of reading files",
        Duration::from_mins(3),
        || {
            let lines = std::fs::read_to_string(&progress).unwrap_or_default();
            Ok((lines.lines().count() == 8).then_some(()))
        },
    );
    let memory = peak_memory(child.id())?;
    ensure!(memory < MEMORY, "the client used {memory} KiB");
    let there = peak_there(machine)?;
    ensure!(there < MEMORY, "a process there used {there} KiB");
    let mut all = String::new();
    stdout.read_to_string(&mut all)?;
    let status = finish(child)?.status;
    done?;
    ensure!(status.success(), "{status}");
    let lines = all.lines().zip(1_u32..);
    ensure!(
        lines.clone().all(|(line, n)| line.parse() == Ok(n)),
        "torn or missing lines"
    );
    ensure!(lines.count() == 1_000_000, "{} bytes came", all.len());
    Ok(())
}
