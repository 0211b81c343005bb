//! Limits of sessions: `-session-pids` on the kernel that make has built, which has no memory controller, and
//! `-session-memory` on Debian's.

use std::process::Stdio;

use anyhow::{Result, ensure};
use e2e::client::{Client, Home};
use e2e::image::debian_kernel;
use e2e::out;
use e2e::vm::Vm;

use crate::Test;
use crate::distributions::{machine_of, take};

pub(crate) const TESTS: &[Test] = &[
    ("sessions_have_the_limits_that_the_kernel_knows", processes),
    ("sessions_have_a_limit_of_memory_on_debians_kernel", memory),
];

const FLAGS: &str = "-- -session-pids=40 -session-memory=96M";

/// Forks fifty times, as far as it gets, and says how often. A shell that cannot fork can't count either.
const MANY: &str = "import os, time
count = 0
try:
    while count < 50:
        if os.fork() == 0: time.sleep(1000)
        count += 1
except BlockingIOError: pass
print(count)";

/// The groups that there are; this session's is one.
const GROUPS: &str = "ls -d /sys/fs/cgroup/cpu-session-* | wc -l";

fn processes() -> Result<()> {
    let vm = Vm::boot_kernel(&out().join("cpukernel"), &["-append", FLAGS])?;
    let lacking = "cpud: -session-memory has no effect: /sys/fs/cgroup has no controller memory \
                   (is the kernel without CONFIG_MEMCG?)";
    ensure!(vm.console().contains(lacking), "{}", vm.console());
    ensure!(
        !vm.console().contains("-session-pids has"),
        "{}",
        vm.console()
    );
    let home = Home::new()?;
    let client = Client::new(vm.port(), &home);
    // Each session has its own forty.
    for _ in 0..2 {
        let words = ["/usr/bin/python3", "-c", MANY];
        let output = client.output(client.command(&["-nowait"], &words), b"")?;
        let count: u32 = String::from_utf8(output.stdout)?.trim().parse()?;
        ensure!((30..40).contains(&count), "{count} processes");
    }
    ensure!(client.sh_ok("cat /sys/fs/cgroup/cpu-session-*/pids.max")? == "40\n");
    ensure!(client.sh_ok(GROUPS)? == "1\n");
    Ok(())
}

fn memory() -> Result<()> {
    let directory = machine_of(&out())?;
    let cmdline = format!("console=ttyS0 panic=10 {FLAGS}");
    take(
        directory.path(),
        &debian_kernel("amd64")?,
        &["--cmdline", &cmdline],
    )?;
    let vm = Vm::boot_kernel(&directory.path().join("cpukernel"), &[])?;
    ensure!(!vm.console().contains("no effect"), "{}", vm.console());
    let home = Home::new()?;
    let client = Client::new(vm.port(), &home);
    let mut bystander = client
        .command(&["-q"], &["sh", "-c", "cat; exit 7"])
        .stdin(Stdio::piped())
        .spawn()?;
    // tail(1) keeps all that it reads until a line ends; a session's /tmp is memory too, and larger than the limit.
    for greedy in [
        "tail /dev/zero & tail /dev/zero; sleep 1000",
        "cat /dev/zero >/tmp/fill; sleep 1000",
    ] {
        let output = client.sh(greedy)?;
        ensure!(output.status.code() == Some(137), "{greedy}: {output:?}");
    }
    // Half of the limit is no harm.
    client.sh_ok("head -c 48M /dev/zero >/tmp/fill")?;
    ensure!(
        client.sh_ok("cat /sys/fs/cgroup/cpu-session-*/memory.max | sort -u")? == "100663296\n"
    );
    ensure!(bystander.try_wait()?.is_none(), "the bystander has ended");
    drop(bystander.stdin.take());
    ensure!(bystander.wait()?.code() == Some(7));
    ensure!(client.sh_ok(GROUPS)? == "1\n");
    ensure!(!vm.console().contains("(cpud)"), "{}", vm.console());
    Ok(())
}
