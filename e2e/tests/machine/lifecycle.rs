//! What remains when sessions end, and what an idle machine does.

use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use e2e::wait_until;

use crate::{Machine, Test};

pub(crate) const TESTS: &[Test] = &[
    ("a_wrong_clock_is_told_and_can_be_set", wrong_clock),
    (
        "a_clock_that_was_never_set_gets_the_clients_time",
        unset_clock,
    ),
    ("a_killed_client_leaves_nothing_there", killed_client),
    (
        "a_session_that_is_killed_itself_leaves_nothing",
        killed_session,
    ),
    ("two_hundred_sessions_leave_nothing", two_hundred),
];

pub(crate) const MEASURING: &[Test] = &[("an_idle_machine_does_nothing", idle)];

/// All processes' command lines, and how many mount namespaces there are.
const PROCESSES: &str = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '";
const NAMESPACES: &str = "readlink /proc/[0-9]*/ns/mnt | sort -u | wc -l";

fn wrong_clock(machine: &Machine) -> Result<()> {
    let told = |flags: &[&str], words: &[&str]| -> Result<String> {
        let output = machine
            .client
            .output(machine.client.command(flags, words), b"")?;
        ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8(output.stderr)?)
    };
    // 2025-06-01, which might be right.
    told(&[], &["date", "-s", "@1748736000"])?;
    let line = told(&[], &["true"])?;
    ensure!(line.contains("days behind this one's"), "{line:?}");
    ensure!(told(&["-q"], &["true"])?.is_empty(), "-q");
    // Run the command that the line advises, with what a shell would insert.
    let advice = line.split_once("cpu HOST ").context("no advice")?.1;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let words = advice.replace("$(date +%s) sets it\n", &now.to_string());
    told(&[], &words.split(' ').collect::<Vec<_>>())?;
    let line = told(&[], &["true"])?;
    ensure!(line.is_empty(), "after {words:?}: {line:?}");
    Ok(())
}

fn unset_clock(machine: &Machine) -> Result<()> {
    machine.client.sh_ok("date -s @34567890")?;
    let output = machine.client.run(&["date", "+%s"])?;
    ensure!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    let there: u64 = String::from_utf8(output.stdout)?.trim().parse()?;
    let here = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    ensure!(there.abs_diff(here) < 600, "{there} there, {here} here");
    let line = ": root: the clock, which was ";
    ensure!(
        machine.vm.console().contains(line),
        "{}",
        machine.vm.console()
    );
    Ok(())
}

fn killed_client(machine: &Machine) -> Result<()> {
    let namespaces_before = machine.client.sh_ok(NAMESPACES)?;
    let mut command = machine.client.command(&[], &["sleep", "98765"]);
    let mut child = command.stdin(Stdio::piped()).spawn()?;
    wait_until("sleep runs there", Duration::from_mins(1), || {
        let all = machine.client.sh_ok(PROCESSES)?;
        Ok(all.contains("sleep 98765").then_some(()))
    })?;
    child.kill()?;
    child.wait()?;
    wait_until("nothing of it runs", Duration::from_mins(1), || {
        let all = machine.client.sh_ok(PROCESSES)?;
        Ok((!all.contains("98765")).then_some(()))
    })?;
    wait_until("its namespace is gone", Duration::from_mins(1), || {
        let namespaces = machine.client.sh_ok(NAMESPACES)?;
        Ok((namespaces == namespaces_before).then_some(()))
    })?;
    Ok(())
}

fn killed_session(machine: &Machine) -> Result<()> {
    // The command's parent is the session; its end would leave the rest to PID 1.
    let script = "(setsid sleep 87654 &) ; sleep 87654 & kill -9 $PPID; sleep 87654";
    let output = machine.client.sh(script)?;
    ensure!(output.status.code() == Some(137), "{output:?}");
    let all = machine.client.sh_ok(PROCESSES)?;
    ensure!(!all.contains("sleep 87654"), "still there: {all}");
    // It is removed when the last process has gone.
    wait_until("one group is left", Duration::from_mins(1), || {
        let groups = machine
            .client
            .sh_ok("ls -d /sys/fs/cgroup/cpu-session-* | wc -l")?;
        Ok((groups == "1\n").then_some(()))
    })?;
    Ok(())
}

/// Zombies, PID 1's mounts, and the descriptors of PID 1 and its children that are not this
/// session's: init, network and server.
fn leftovers(machine: &Machine) -> Result<String> {
    machine.client.sh_ok(
        "echo zombies $(cat /proc/[0-9]*/stat | grep -c ') Z '); \
         echo mounts $(wc -l < /proc/1/mounts); \
         for p in $(grep -l '^PPid:\t[01]$' /proc/[0-9]*/status | cut -d/ -f3); do \
           test \"$(tr -d '\\0' < /proc/$p/cmdline)\" && \
           echo $p $(tr '\\0' ' ' < /proc/$p/cmdline) $(ls /proc/$p/fd | wc -l); done",
    )
}

fn two_hundred(machine: &Machine) -> Result<()> {
    let before = leftovers(machine)?;
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    for _ in 0..50 {
                        let output = machine.client.run(&["true"])?;
                        ensure!(output.status.success(), "{output:?}");
                    }
                    Ok(())
                })
            })
            .collect();
        lanes
            .into_iter()
            .try_for_each(|lane| lane.join().ok().context("a thread panicked")?)
    })?;
    ensure!(before.contains("zombies 0"), "{before}");
    // A process that has just ended may take a moment to disappear.
    let mut after = String::new();
    wait_until("all is as before", Duration::from_secs(10), || {
        after = leftovers(machine)?;
        Ok((before == after).then_some(()))
    })
    .with_context(|| format!("before:\n{before}after:\n{after}"))
}

fn idle(machine: &Machine) -> Result<()> {
    // PID 1, the network and the server: all children of PID 1 and itself.
    let script = "look() { for p in $(grep -l '^PPid:\t[01]$' /proc/[0-9]*/status | cut -d/ -f3); do \
          test \"$(tr -d '\\0' < /proc/$p/cmdline)\" && \
          echo $p $(tr '\\0' ' ' < /proc/$p/cmdline) \
            $(cut -d' ' -f14,15 /proc/$p/stat) \
            $(grep ctxt /proc/$p/status | tr -dc '0-9\n'); done; }; \
        look > /tmp/before; sleep 10; look > /tmp/after; \
        cat /tmp/before; echo ==; cat /tmp/after";
    // A router advertises itself every few minutes (QEMU's every 200 to 600 s), and the network role
    // wakes up for it. Activity of cpud's own would appear in each of three windows.
    let mut windows = Vec::new();
    for _ in 0..3 {
        let seen = machine.client.sh_ok(script)?;
        let (before, after) = seen.split_once("==\n").context("no separator")?;
        ensure!(
            before.lines().count() >= 3,
            "init, network and server are expected:\n{before}"
        );
        if before == after {
            return Ok(());
        }
        windows.push(seen);
    }
    bail!(
        "something ran in each of three times 10 idle seconds:\n{}",
        windows.join("\n")
    )
}
