//! What a session sees of this machine: the five combinations of 9P, binds and fstab.
//!
//! The machine has no programs, so the static `cpud -V` stands for one; where a machine with files
//! of its own is needed, cpud runs on this one.

use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use e2e::client::Client;
use e2e::daemon::Daemon;

use crate::{Machine, Test};

pub(crate) const TESTS: &[Test] = &[
    ("mounts_are_9p_with_binds_by_default", with_binds),
    ("mounts_of_9p_and_of_fstab_go_together", with_fstab),
    ("mounts_without_binds_leave_only_tmp_cpu", without_binds),
    ("mounts_of_fstab_need_no_9p", only_fstab),
    ("mounts_of_no_kind_are_plain_ssh", plain),
    ("mounts_may_be_named_after_the_host", after_the_host),
    ("mounts_that_9p_cannot_serve_are_refused", contradiction),
    ("mounts_joined_by_a_shell_are_refused", joined),
    ("mounts_of_a_foreign_root_warn_of_nothing", foreign_root),
];

const MOUNTS: &str = "cat /proc/self/mounts";

fn text(output: Output) -> Result<String> {
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Whether a mount table has this file system at this place.
fn has(table: &str, place: &str, kind: &str) -> bool {
    table
        .lines()
        .any(|line| line.contains(&format!(" {place} {kind} ")))
}

/// A program that needs nothing else, by the name it has beneath the client's tree.
fn static_program() -> Result<String> {
    let path = e2e::out().join("cpud").canonicalize()?;
    Ok(format!("/tmp/cpu{}", path.display()))
}

fn with_binds(machine: &Machine) -> Result<()> {
    let output = machine.client.run(&["sh", "-c", MOUNTS])?;
    ensure!(output.stderr.is_empty(), "{output:?}");
    let table = text(output)?;
    for place in ["/tmp/cpu", "/usr", "/bin", "/etc", "/home"] {
        ensure!(has(&table, place, "9p"), "{place} in {table}");
    }
    Ok(())
}

fn with_fstab(machine: &Machine) -> Result<()> {
    let file = machine.home.path().join("fstab");
    std::fs::write(
        &file,
        "# two\nnone /mnt tmpfs size=1m 0 0\nnone /srv tmpfs ro\n",
    )?;
    let file = file.display().to_string();
    let own = "none /media tmpfs rw 0 0";

    let mut command = machine.client.command(&[], &["sh", "-c", MOUNTS]);
    command.env("CPU_FSTAB", own);
    let table = text(machine.client.output(command, b"")?)?;
    ensure!(
        has(&table, "/usr", "9p") && has(&table, "/media", "tmpfs"),
        "{table}"
    );

    let mut command = machine
        .client
        .command(&["-fstab", &file], &["sh", "-c", MOUNTS]);
    command.env("CPU_FSTAB", own);
    let table = text(machine.client.output(command, b"")?)?;
    ensure!(has(&table, "/usr", "9p"), "{table}");
    ensure!(
        has(&table, "/mnt", "tmpfs") && has(&table, "/srv", "tmpfs"),
        "{table}"
    );
    ensure!(!has(&table, "/media", "tmpfs"), "the file wins: {table}");
    Ok(())
}

fn without_binds(machine: &Machine) -> Result<()> {
    let program = static_program()?;
    for variable in [false, true] {
        let flags: &[&str] = if variable { &[] } else { &["-namespace", ""] };
        let prepared = |words: &[&str]| {
            let mut command = machine.client.command(flags, words);
            if variable {
                command.env("CPU_NAMESPACE", "");
            }
            machine.client.output(command, b"")
        };
        ensure!(text(prepared(&[&program, "-V"])?)?.starts_with("cpud "));
        let output = prepared(&["/bin/true"])?;
        ensure!(output.status.code() == Some(127), "{output:?}");
    }
    Ok(())
}

/// A client of a cpud here; the pin file beside the key is another machine's.
fn local(machine: &Machine, daemon: &Daemon, flags: &[&str], words: &[&str]) -> Command {
    let client = Client::new(daemon.port, &machine.home);
    let pin = daemon.host_key().display().to_string();
    client.command(&[&["-hk", &pin], flags].concat(), words)
}

fn only_fstab(machine: &Machine) -> Result<()> {
    let daemon = Daemon::cpud()?;
    let words = ["cat", "/proc/self/mounts"];
    for flags in [&["-9p=false"][..], &["-9p=false", "-namespace", ""]] {
        let mut command = local(machine, &daemon, flags, &words);
        command.env("CPU_FSTAB", "none /mnt tmpfs rw 0 0");
        let table = text(machine.client.output(command, b"")?)?;
        ensure!(has(&table, "/mnt", "tmpfs"), "{table}");
        ensure!(!has(&table, "/tmp/cpu", "9p"), "{table}");
    }
    Ok(())
}

fn plain(machine: &Machine) -> Result<()> {
    let daemon = Daemon::cpud()?;
    let flags = ["-namespace=", "-9p=false"];
    let mut command = local(machine, &daemon, &flags, &["/bin/ls"]);
    command.env("PWD", "/");
    let output = machine.client.output(command, b"")?;
    ensure!(output.stderr.is_empty(), "{output:?}");
    let listing = text(output)?;
    for name in ["proc", "tmp", "usr"] {
        ensure!(listing.lines().any(|line| line == name), "{listing}");
    }
    Ok(())
}

fn after_the_host(machine: &Machine) -> Result<()> {
    let program = static_program()?;
    let output = machine.client.run(&["-namespace=/home", &program, "-V"])?;
    ensure!(text(output)?.starts_with("cpud "));
    let output = machine.client.run(&["-namespace=/home", "/bin/date"])?;
    ensure!(output.status.code() == Some(127), "{output:?}");
    let words = ["-namespace=/bin:/lib:/lib64:/usr", "/bin/date", "+%s"];
    text(machine.client.run(&words)?)?.trim().parse::<u64>()?;
    Ok(())
}

fn contradiction(machine: &Machine) -> Result<()> {
    let command = machine
        .client
        .command(&["-9p=false", "-namespace=/home"], &["true"]);
    let output = machine.client.output(command, b"")?;
    ensure!(output.status.code() == Some(255), "{output:?}");
    let expected = "cpu: 9p is false but the namespace is non-empty; \
                    to force an empty namespace use -namespace=\"\"\n";
    ensure!(output.stderr == expected.as_bytes(), "{output:?}");
    Ok(())
}

fn joined(machine: &Machine) -> Result<()> {
    let mut command = machine.client.command(&[], &["true"]);
    command.env("CPU_FSTAB", "a /a tmpfs rw 0 0 b /b tmpfs rw 0 0");
    let output = machine.client.output(command, b"")?;
    let stderr = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(255), "{stderr}");
    ensure!(
        stderr.contains("CPU_FSTAB") && stderr.contains("separated by newlines"),
        "{stderr}"
    );
    Ok(())
}

/// A tree with nothing but a program and a directory: no warning for what the default namespace
/// would have of a bigger one.
fn foreign_root(machine: &Machine) -> Result<()> {
    let root: PathBuf = machine.home.path().join("arm");
    std::fs::create_dir_all(root.join("bin")).context("cannot make a tree")?;
    std::fs::copy(e2e::out().join("cpud"), root.join("bin/theirs"))?;
    let root = root.display().to_string();
    let mut command = machine.client.command(&["-root", &root], &["theirs", "-V"]);
    command.env("PWD", "/").env("PATH", "/bin");
    let output = machine.client.output(command, b"")?;
    ensure!(output.stderr.is_empty(), "{output:?}");
    ensure!(text(output)?.starts_with("cpud "));

    let flags = ["-root", &root, "-namespace", "/opt=/bin"];
    let mut command = machine.client.command(&flags, &["/opt/theirs", "-V"]);
    command.env("PWD", "/");
    ensure!(text(machine.client.output(command, b"")?)?.starts_with("cpud "));
    Ok(())
}
