//! A session's /etc is the client's, except for the name servers.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::{Machine, Test};

pub(crate) const TESTS: &[Test] = &[("names_are_asked_of_the_machines_servers", name_servers)];

fn name_servers(machine: &Machine) -> Result<()> {
    let etc = machine.home.path().join("etc");
    fs::create_dir(&etc)?;
    // As on every desktop with systemd-resolved.
    let link = Path::new("../run/systemd/resolve/stub-resolv.conf");
    symlink(link, etc.join("resolv.conf"))?;
    fs::write(etc.join("nsswitch.conf"), "hosts: files\n")?;
    let of_link = format!("/lib:/lib64:/usr:/bin:/home:/etc={}", etc.display());
    let script = "cat /etc/resolv.conf; test ! -L /etc/resolv.conf; cat /etc/nsswitch.conf; test ! -e /run/systemd && echo nothing made";
    for flags in [&[][..], &["-namespace", "/"], &["-namespace", &of_link]] {
        let command = machine.client.command(flags, &["sh", "-c", script]);
        let output = machine.client.output(command, b"")?;
        let stdout = String::from_utf8(output.stdout)?;
        ensure!(output.stderr.is_empty(), "{stdout}");
        // The name server that QEMU's DHCP announces.
        ensure!(stdout.starts_with("# Written by cpud"), "{stdout}");
        ensure!(stdout.contains("\nnameserver 10.0.2.3\n"), "{stdout}");
        ensure!(
            stdout.contains("hosts:") && stdout.ends_with("\nnothing made\n"),
            "{stdout}"
        );
    }
    ensure!(fs::read_link(etc.join("resolv.conf"))? == link);
    Ok(())
}
