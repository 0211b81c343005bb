//! A machine with little memory, whose sessions take all they can get.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::client::{Client, Home};
use e2e::vm::Vm;
use e2e::{out, root};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[(
    "a_small_machine_outlives_what_its_sessions_do",
    greedy_sessions,
)];

/// Of a login on an emulated machine that does nothing else; the promise for hardware is a tenth of this.
const LOGIN: Duration = Duration::from_secs(100);

/// Prints which of these places took less than all memory, each filled to the end.
const FILL: &str = "for place in /tmp /dev/shm /run /tmp/local; do
    cat /dev/zero 2>why >$place/fill; grep -o 'No space left' why; rm $place/fill
done";

fn greedy_sessions() -> Result<()> {
    let mut script = Command::new(root().join("qemu/run"));
    script
        .env("KERNEL", out().join("cpukernel"))
        .env("MEMORY", "256M");
    let vm = Vm::start(script)?;
    let home = Home::new()?;
    let client = Client::new(vm.port(), &home);
    let start = |script: &str| -> Result<Child> {
        let mut command = client.command(&["-q"], &["sh", "-c", script]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Ok(command.spawn()?)
    };
    let log_in = |when: &str| -> Result<()> {
        let begun = Instant::now();
        let output = client.sh("cat /proc/self/oom_score_adj")?;
        ensure!(
            output.status.success() && output.stdout == b"0\n",
            "{when}: {output:?}"
        );
        ensure!(begun.elapsed() < LOGIN, "{when}: {:?}", begun.elapsed());
        Ok(())
    };
    // An idle bystander, whose session must survive.
    let mut bystander = start("cat; exit 7")?;
    log_in("before")?;

    let filled = client.sh_ok(FILL)?;
    ensure!(filled.matches("No space left").count() == 4, "{filled}");
    log_in("after all places were full")?;

    let fill = "cat /dev/zero >/tmp/fill; cat";
    let mut fillers = [start(fill)?, start(fill)?];
    std::thread::sleep(Duration::from_secs(20));
    log_in("while two sessions have filled their /tmp")?;
    for filler in &mut fillers {
        drop(filler.stdin.take());
        filler.wait()?;
    }

    // tail(1) buffers everything until the end of a line, so it eats memory.
    let mut eaters = start("for i in 1 2 3 4 5 6 7 8; do tail /dev/zero & done; wait; cat")?;
    std::thread::sleep(Duration::from_secs(20));
    log_in("while processes take all memory")?;
    hang_up(&mut eaters)?;

    let mut bomb = start("bomb() { bomb | bomb & }; bomb; cat")?;
    std::thread::sleep(Duration::from_secs(10));
    log_in("during a fork bomb")?;
    hang_up(&mut bomb)?;
    log_in("after a fork bomb")?;

    ensure!(bystander.try_wait()?.is_none(), "the bystander has ended");
    drop(bystander.stdin.take());
    ensure!(bystander.wait()?.code() == Some(7));
    let killed = vm.console().matches("Killed process").count();
    ensure!(!vm.console().contains("panic"), "{}", vm.console());
    ensure!(
        !vm.console().contains("(cpud)"),
        "{killed} killed: {}",
        vm.console()
    );
    Ok(())
}

/// Kills a client without a word.
fn hang_up(client: &mut Child) -> Result<()> {
    kill(Pid::from_raw(i32::try_from(client.id())?), Signal::SIGKILL)?;
    client.wait()?;
    Ok(())
}
