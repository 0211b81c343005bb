//! The client's programs power a machine off, and reboot it.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::client::{Client, Home};
use e2e::vm::Vm;
use e2e::{tree, wait_until};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    (
        "poweroff_of_the_client_ends_sessions_and_machine",
        power_off,
    ),
    ("reboot_of_busybox_reboots_the_machine", reboot),
    ("poweroff_by_force_asks_nobody", by_force),
];

/// How long a machine may take to end that is emulated and busy.
const END: Duration = Duration::from_mins(2);

/// Waits until QEMU has ended, and that the kernel did not panic.
fn ended(vm: &mut Vm) -> Result<()> {
    wait_until("the machine ends", END, || vm.has_ended())?;
    ensure!(!vm.console().contains("panic"), "{}", vm.console());
    Ok(())
}

/// systemd's, by the name that the package systemd-sysv gives it, which would replace the init of this computer.
fn poweroff(home: &Home) -> Result<String> {
    let name = home.path().join("poweroff");
    std::os::unix::fs::symlink("/bin/systemctl", &name)?;
    Ok(path(&name)?.to_owned())
}

fn power_off() -> Result<()> {
    let mut vm = Vm::boot()?;
    let home = Home::new()?;
    let client = Client::new(vm.port(), &home);
    let script = "trap 'echo told >told; exit 3' HUP; echo ready; sleep 1000 & wait";
    let mut bystander = client
        .command(&[], &["sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut output = BufReader::new(bystander.stdout.take().context("no output")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    ensure!(line == "ready\n", "{line}");

    let systemctl = client.run(&["systemctl", "poweroff"])?;
    ensure!(systemctl.status.code() == Some(1), "{systemctl:?}");
    let poweroff = poweroff(&home)?;
    let asked = client.run(&[&poweroff])?;
    ensure!(asked.status.success(), "{asked:?}");
    let bystander = bystander.wait_with_output()?;
    let said = String::from_utf8(bystander.stderr)?;
    ensure!(
        bystander.status.code() == Some(3),
        "{:?}: {said}",
        bystander.status
    );
    ensure!(
        said.contains("cpud: the server is shutting down\n"),
        "{said}"
    );
    ensure!(std::fs::read_to_string(home.path().join("told"))? == "told\n");
    ended(&mut vm)?;
    let console = vm.console();
    let ran = format!("root ran {poweroff}: status 0");
    for line in ["runlevel 0: power off", &ran] {
        ensure!(console.contains(line), "no {line:?} in {console}");
    }
    Ok(())
}

/// With QEMU's `-no-reboot` a reboot ends it too.
fn reboot() -> Result<()> {
    let mut vm = Vm::boot()?;
    let (home, packages) = (Home::new()?, tempfile::tempdir()?);
    tree::debian("amd64", packages.path())?;
    tree::busybox(packages.path(), home.path(), &["reboot"])?;
    let client = Client::new(vm.port(), &home);
    let reboot = home.path().join("reboot");
    let asked = client.run(&[path(&reboot)?])?;
    ensure!(asked.status.success(), "{asked:?}");
    ended(&mut vm)?;
    ensure!(vm.console().contains("SIGTERM: reboot"), "{}", vm.console());
    Ok(())
}

fn by_force() -> Result<()> {
    let mut vm = Vm::boot()?;
    let home = Home::new()?;
    let client = Client::new(vm.port(), &home);
    let mut asked = client.command(&[], &[&poweroff(&home)?, "-f"]);
    let mut asked = asked.stdin(Stdio::null()).spawn()?;
    let end = ended(&mut vm);
    asked.kill()?;
    asked.wait()?;
    end?;
    ensure!(!vm.console().contains("power off"), "{}", vm.console());
    Ok(())
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}
