//! The machine's screen: the page that cpud draws, as the kernel has it and as a person sees it.

use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::client::{Client, Home};
use e2e::screen::Font;
use e2e::vm::Vm;
use e2e::wait_until;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[("a_console_that_appears_later_is_told_everything", later)];

/// Rows and columns of a PC's text screen under a BIOS, and of OVMF's with characters of 8 by 16 pixels.
pub(crate) const VGA: (usize, usize) = (25, 80);
pub(crate) const GOP: (usize, usize) = (50, 160);

/// A screen draws a few times a second; an emulated machine is slow.
const SOON: Duration = Duration::from_mins(1);

/// Waits until the page shows this very session, then shows the screen's size and its characters, and stays.
const LOOK: &str = "for i in $(seq 300); do grep -q 'sessions [^|]*: sh ' /dev/vcs1 && break; sleep 0.2; done; \
    head -c 2 /dev/vcsa1; cat /dev/vcs1; read stay";

/// That a machine's screen shows the page: what the serial console announces, a session while it lasts, a
/// link that has lost its carrier
pub(crate) fn is_shown(vm: &Vm, client: &Client, (rows, columns): (usize, usize)) -> Result<()> {
    let mut look = client.command(&[], &["sh", "-c", LOOK]);
    let mut session = look.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut output = session.stdout.take().context("no output")?;
    let mut size = [0; 2];
    output.read_exact(&mut size)?;
    ensure!(size.map(usize::from) == [rows, columns], "{size:?}");
    let mut text = vec![0; rows * columns];
    output.read_exact(&mut text)?;
    let text = String::from_utf8(text)?;

    // The screen shows what the kernel has in its buffer.
    let monitor = vm.monitor()?;
    let font = Font::learn(&monitor.screen()?, &text, columns)?;
    let seen = font.read(&monitor.screen()?);
    let announced = vm.announcement().context("nothing was announced")?;
    let mut announced = announced.split(' ').skip_while(|word| *word != "eth0");
    let address = announced.nth(1).context("no address")?;
    let key = announced.find(|word| word.starts_with("SHA256:"));
    let key = key.context("no key")?.trim_end_matches(';');
    for expected in [
        " cpu ",
        &format!("cpud {}, Linux ", env!("CARGO_PKG_VERSION")),
        &format!("\n     eth0 {address}"),
        "\n  serving port 17010 ",
        &format!("\n host key {key}"),
        "\n   logins ",
        "[ED25519 256]--+\n",
        "\n sessions root from 10.0.2.2 ",
        ": sh ",
        &format!("\n      try cpu {address} date"),
        // Then come the last lines of the log.
        " starts sh\n",
    ] {
        ensure!(
            seen.contains(expected),
            "no {expected:?} on the screen:\n{seen}"
        );
    }

    session.stdin.take().context("no input")?.write_all(b"\n")?;
    ensure!(session.wait()?.success(), "the session failed");
    let comes = |text: &str| {
        let mut seen = String::new();
        wait_until(&format!("{text:?} is on the screen"), SOON, || {
            seen = font.read(&monitor.screen()?);
            Ok(seen.contains(text).then_some(()))
        })
        .with_context(|| seen.clone())
    };
    comes("\n sessions none")?;
    let link =
        |up: bool| monitor.execute("set_link", &format!("{{\"name\": \"net0\", \"up\": {up}}}"));
    link(false)?;
    comes("(no carrier)")?;
    link(true)?;
    comes(&format!("\n     eth0 {address} "))
}

fn later() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let late = directory.path().join("late");
    // Two serial ports of a virtual machine, of which the second does not exist yet.
    let words = ["-device", "virtio-serial-pci", "-append", "console=hvc0"];
    let vm = Vm::boot_kernel(&e2e::out().join("cpukernel"), &words)?;
    let monitor = vm.monitor()?;
    let backend = format!(
        "{{\"type\": \"file\", \"data\": {{\"out\": \"{}\"}}}}",
        late.display()
    );
    monitor.execute(
        "chardev-add",
        &format!("{{\"id\": \"late\", \"backend\": {backend}}}"),
    )?;
    monitor.execute(
        "device_add",
        "{\"driver\": \"virtconsole\", \"chardev\": \"late\"}",
    )?;
    let announced = vm.announcement().context("nothing was announced")?;
    wait_until("the new console has the announcement", SOON, || {
        let said = std::fs::read_to_string(&late).unwrap_or_default();
        let all = ["is init", "serving on port 17010", announced.trim_end()];
        Ok(all.iter().all(|line| said.contains(line)).then_some(()))
    })?;
    // It also gets new messages, as the first one does: a session writes to cpud's standard error.
    let home = Home::new()?;
    let client = Client::new(vm.port(), &home);
    client.sh_ok("echo 'cpud: a word for everybody' > /proc/1/fd/2")?;
    wait_until("both have heard it", SOON, || {
        let said = std::fs::read_to_string(&late).unwrap_or_default();
        let both = [said, vm.console()];
        Ok(both
            .iter()
            .all(|said| said.contains("a word for everybody"))
            .then_some(()))
    })
}
