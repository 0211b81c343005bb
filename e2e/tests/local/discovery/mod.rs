//! Machines that are found on their network: real programs on a network of the test's own.

mod fixture;
mod hostile;
mod zeroconf;

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::client::ended;
use e2e::lan::Lan;
use e2e::terminal::Terminal;
use e2e::user::{fails, works};
use e2e::{out, wait_until};

use crate::Test;
use crate::interop::TIMEOUT;
use fixture::{DesktopFixture, LanCpud, Script};

pub(crate) const TESTS: &[Test] = &[
    ("discovery_finds_machines_by_what_they_are", finds),
    ("discovery_refuses_an_impostor", hostile::impostor),
    ("discovery_gives_two_machines_two_names", two_of_one_name),
    ("discovery_is_silent_without_the_flag", silent),
    ("discovery_needs_no_address_but_the_links", link_local),
    ("discovery_sees_networks_that_come_up", network_comes_up),
    ("discovery_has_no_privileges", hostile::no_privileges),
    ("discovery_survives_hostile_answers", hostile::hostile),
    ("discovery_works_with_zeroconf", zeroconf::zeroconf),
];

fn finds() -> Result<()> {
    let lan = Lan::new()?;
    let hosts = [lan.plug("192.168.77.7/24")?, lan.plug("192.168.77.8/24")?];
    let desktop = DesktopFixture::new(&lan)?;
    let _seven = LanCpud::found(&hosts[0], "board7")?;
    let eight = LanCpud::found(&hosts[1], "board8.lab.example")?;

    // Nobody is accepted unasked who was not named.
    fails(
        &desktop.cpu(&[".", "true"])?,
        &["is new", "there is no terminal"],
    )?;
    let name = desktop.prints(&["board7.local", "uname", "-n"])?;
    ensure!(name == "board7\n", "{name}");
    desktop.prints(&["board8.local", "true"])?;
    let any = desktop.prints(&[".", "uname", "-n"])?;
    ensure!(any.starts_with("board"), "{any}");
    let by_name = "dnssd://board8-cpud._ncpu._tcp";
    let name = desktop.prints(&[by_name, "uname", "-n"])?;
    ensure!(name == "board8.lab.example\n", "{name}");
    let arch = std::env::consts::ARCH;
    let here = format!("root@dnssd://?arch={arch}&cores=>1&tenants=<0&sort=load");
    desktop.prints(&[&here, "true"])?;
    let output = desktop.cpu(&["dnssd://?arch=sparc64", "true"])?;
    fails(&output, &["none of the 2 machine(s)"])?;
    let known = fs::read_to_string(desktop.user.ssh().join("known_hosts"))?;
    ensure!(known.contains("board8.local"), "{known}");

    // A session is counted as long as it lasts.
    let long = desktop.user.cpu(&[by_name, "sleep", "1000"]);
    let mut long = desktop
        .host
        .command(long.get_program())
        .args(long.get_args())
        .env("HOME", desktop.user.home())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let counted = wait_until("the session is counted", TIMEOUT, || {
        let rows = desktop.table()?;
        let row = rows.iter().find(|row| row[0] == "board8.local");
        let row = row.context("no row")?;
        ensure!(row.len() == 9 && row[1] == "192.168.77.8", "{rows:?}");
        ensure!(row[2] == "17010" && row[4] == "linux", "{rows:?}");
        // It is none of the other machine.
        let counts: Vec<_> = rows.iter().map(|row| row[8].as_str()).collect();
        Ok((row[8] == "1" && counts.contains(&"0")).then_some(()))
    });
    long.kill()?;
    long.wait()?;
    counted?;

    // Who ends says goodbye, and is not found any more.
    drop(eight);
    let names = desktop.names()?;
    ensure!(names == ["board7.local"], "{names:?}");
    Ok(())
}

fn two_of_one_name() -> Result<()> {
    let lan = Lan::new()?;
    let hosts = [lan.plug("192.168.77.7/24")?, lan.plug("192.168.77.8/24")?];
    let desktop = DesktopFixture::new(&lan)?;
    // At the same time.
    let [one, other] = hosts
        .each_ref()
        .map(|host| LanCpud::start(host, "board", &["-dnssd"]));
    let (one, other) = (one?, other?);
    one.says(" is found as ")?;
    other.says(" is found as ")?;
    wait_until("both have names", TIMEOUT, || {
        let names = desktop.names()?;
        Ok((names == ["board-2.local", "board.local"]).then_some(()))
    })
    .with_context(|| format!("{}{}", one.log(), other.log()))?;
    desktop.prints(&["board-2.local", "true"])?;
    Ok(())
}

/// Prints from where something is sent to the group.
const LISTENER: &str = "
import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('224.0.0.251', 5353))
s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
             struct.pack('4s4s', socket.inet_aton('224.0.0.251'), socket.inet_aton('192.168.77.9')))
print('ready')
while True:
    print(s.recvfrom(9000)[1][0])
";

fn silent() -> Result<()> {
    let lan = Lan::new()?;
    let host = lan.plug("192.168.77.7/24")?;
    let desktop = DesktopFixture::new(&lan)?;
    let heard = |flags: &[&str]| -> Result<String> {
        let listener = Script::start(&desktop.host, LISTENER)?;
        let machine = LanCpud::start(&host, "board7", flags)?;
        // As long as one that makes itself known takes.
        std::thread::sleep(Duration::from_secs(3));
        let output = desktop.cpu(&["-hosts"])?;
        if flags.is_empty() {
            fails(&output, &["no machine on this network has answered"])?;
            fails(
                &desktop.cpu(&[".", "true"])?,
                &["no machine on this network"],
            )?;
            ensure!(!machine.log().contains("found"), "{}", machine.log());
        } else {
            machine.says("board7.local is found as board7-cpud._ncpu._tcp")?;
            works(&output)?;
        }
        listener.end()
    };
    let told = heard(&["-dnssd"])?;
    ensure!(told.contains("192.168.77.7"), "{told}");
    let told = heard(&[])?;
    ensure!(
        told.starts_with("ready") && !told.contains("192.168.77.7"),
        "{told}"
    );
    Ok(())
}

/// Two computers with a cable between them, where nobody gives out addresses.
fn link_local() -> Result<()> {
    let lan = Lan::new()?;
    let host = lan.plug("192.168.77.7/24")?;
    let desktop = DesktopFixture::new(&lan)?;
    for host in [&host, &desktop.host] {
        let mut flush = host.command("ip");
        works(&ended(flush.args(["-4", "addr", "flush", "dev", "eth0"]))?)?;
    }
    // Nobody has given it a name either.
    let _machine = LanCpud::found(&host, "cpu")?;
    // The desktop's address may be checked for duplicates until now.
    let row = wait_until("the machine is found", TIMEOUT, || {
        Ok(desktop.table().ok().and_then(|mut rows| rows.pop()))
    })?;
    ensure!(
        row[0].starts_with("cpu-") && row[0].contains(".local"),
        "{row:?}"
    );
    ensure!(row[1].starts_with("fe80::"), "{row:?}");
    let name = desktop.prints(&[&row[0], "uname", "-n"])?;
    ensure!(name == "cpu\n", "{name}");
    desktop.prints(&[".", "true"])?;
    Ok(())
}

/// A laptop whose cable is plugged in while the table is looked at.
fn network_comes_up() -> Result<()> {
    let lan = Lan::new()?;
    let host = lan.plug("192.168.77.7/24")?;
    let desktop = DesktopFixture::new(&lan)?;
    let _machine = LanCpud::found(&host, "board7")?;
    let ip = |words: &str| works(&ended(desktop.host.command("ip").args(words.split(' ')))?);
    // Another network, where nobody is.
    for words in [
        "link set eth0 down",
        "link add br1 type bridge",
        "addr add 10.77.0.1/24 dev br1",
        "link set br1 up",
    ] {
        ip(words)?;
    }
    let cpu = desktop.host.command(out().join("cpu"));
    let command = pty_process::blocking::Command::new(cpu.get_program())
        .args(cpu.get_args())
        .arg("-hosts")
        .env("HOME", desktop.user.home());
    let mut terminal = Terminal::start(command, 24, 80)?;
    let shown = terminal.expect_from(0, "no machine has answered yet")?;
    ip("link set eth0 up")?;
    terminal.expect_from(shown, "board7.local  192.168.77.7")?;
    terminal.send("\x03")?;
    terminal.wait()?;
    Ok(())
}
