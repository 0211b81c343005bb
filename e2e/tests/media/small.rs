//! Machines with little memory: the least that one needs, and sessions that take all they can get.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::client::Home;
use e2e::soak::{BOMB, EATERS, FILL, FILLER, Guest, LOGIN, hang_up};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("a_machine_of_64_mebibytes_serves", least),
    (
        "a_small_machine_outlives_what_its_sessions_do",
        greedy_sessions,
    ),
    ("memory_that_contents_take_is_given_back", giving_back),
];

fn least() -> Result<()> {
    let guest = Guest::boot(64)?;
    let (_, client) = guest.parts();
    let script = "python3 -c 'import json; print(json.dumps([1]))'; head -c 40M /dev/zero | wc -c";
    ensure!(client.sh_ok(script)? == "[1]\n41943040\n");
    guest.end()
}

fn greedy_sessions() -> Result<()> {
    let mebibytes = std::env::var("SMALL_MACHINE").map_or(Ok(96), |text| text.parse())?;
    let guest = Guest::boot(mebibytes)?;
    let log_in = |when: &'static str| -> Result<()> {
        let took = guest.log_in().context(when)?;
        ensure!(took < LOGIN, "{when}: {took:?}");
        Ok(())
    };
    log_in("before")?;

    let (_, client) = guest.parts();
    let filled = client.sh_ok(FILL)?;
    ensure!(filled.matches("No space left").count() == 4, "{filled}");
    log_in("after all places were full")?;

    let mut fillers = [guest.start(FILLER)?, guest.start(FILLER)?];
    std::thread::sleep(Duration::from_secs(20));
    log_in("while two sessions have filled their /tmp")?;
    for filler in &mut fillers {
        drop(filler.stdin.take());
        filler.wait()?;
    }

    let mut eaters = guest.start(EATERS)?;
    std::thread::sleep(Duration::from_secs(20));
    log_in("while processes take all memory")?;
    hang_up(&mut eaters)?;

    let mut bomb = guest.start(BOMB)?;
    std::thread::sleep(Duration::from_secs(10));
    log_in("during a fork bomb")?;
    hang_up(&mut bomb)?;
    log_in("after a fork bomb")?;
    guest.end()
}

/// KiB that must be free again after another process has taken most of the memory. Of the 12 MiB that were read, what fits into the
/// smaller limit stays, and the other process has brought contents and needed buffers of its own.
const GIVEN_BACK: u64 = 4 << 10;

/// What cpud keeps of the client's files, before, with and after others' need of memory.
fn giving_back() -> Result<()> {
    let guest = Guest::boot(256)?;
    let (_, client) = guest.parts();
    let home = Home::new()?;
    for n in 0..12 {
        std::fs::write(home.path().join(format!("{n}")), vec![n; 1 << 20])?;
    }
    let script = format!(
        r#"memory() {{
            for process in /proc/[0-9]*; do
                if tr '\0' ' ' <$process/cmdline | grep -q '^cpud connection'; then
                    sed -n 's/^VmRSS:[^0-9]*\([0-9]*\) kB/\1/p' $process/status
                fi
            done | sort -n | tail -n 1
        }}
        memory
        cat /tmp/cpu{}/* | wc -c
        kept=$(memory)
        echo $kept
        python3 -c 'import time; x = b"x" * (185 << 20); print(len(x), flush=True); time.sleep(120)' >/tmp/has &
        until test -s /tmp/has; do sleep 0.5; done
        for look in $(seq 6); do
            left=$(memory)
            test $((left + {GIVEN_BACK})) -lt $kept && break
            sleep 1
        done
        kill $!
        echo $left"#,
        home.path().display()
    );
    let told = client.sh_ok(&script)?;
    let numbers: Result<Vec<u64>, _> = told.lines().map(str::parse).collect();
    let numbers = numbers.with_context(|| told.clone())?;
    let [before, read, kept, left] = numbers[..] else {
        anyhow::bail!("{told}")
    };
    ensure!(read == 12 << 20);
    ensure!(kept > before + (8 << 10), "nothing is kept: {told}");
    ensure!(left + GIVEN_BACK < kept, "nothing is given back: {told}");
    guest.end()
}
