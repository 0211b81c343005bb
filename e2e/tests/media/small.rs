//! Machines with little memory: the least that one needs, and sessions that take all they can get.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::soak::{BOMB, EATERS, FILL, FILLER, Guest, LOGIN, hang_up};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("a_machine_of_64_mebibytes_serves", least),
    (
        "a_small_machine_outlives_what_its_sessions_do",
        greedy_sessions,
    ),
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
