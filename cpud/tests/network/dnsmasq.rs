//! What a real DHCP server does, dnsmasq, and what networks do.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::fixture::{NetworkFixture, ip};

const RANGE: &str = "--dhcp-range=10.9.0.60,10.9.0.69,1h";

/// dnsmasq on this end of the link.
pub(crate) struct Dnsmasq(Child);

impl Dnsmasq {
    pub(crate) fn new(options: &[&str]) -> Self {
        let child = Command::new("dnsmasq")
            // It stays the user that it is: in a user namespace it may become no other.
            .args(["--no-daemon", "--conf-file=/dev/null", "--port=0"])
            .args(["--interface=wire", "--bind-interfaces"])
            .args([
                "--pid-file=",
                "--dhcp-leasefile=/dev/null",
                "--leasefile-ro",
            ])
            .args(["--dhcp-authoritative", "--no-ping"])
            .args(options)
            .stderr(Stdio::null())
            .spawn()
            .expect("dnsmasq (package dnsmasq-base) is needed");
        Self(child)
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for an announcement of an address that begins so.
pub(crate) fn announced(machine: &mut NetworkFixture, begin: &str) -> String {
    loop {
        let line = machine.line();
        if line.contains(begin) && line.contains(" port 17010 ") {
            return line;
        }
        assert!(!line.is_empty(), "the console has ended");
    }
}

#[test]
fn routes_search_list_and_mtu_are_used() {
    let mut machine = NetworkFixture::new("\n");
    let _dnsmasq = Dnsmasq::new(&[
        RANGE,
        "--dhcp-option=option:router,10.9.0.1",
        // With these, the router above is not used (RFC 3442).
        "--dhcp-option=121,0.0.0.0/0,10.9.0.9,192.168.5.0/24,10.9.0.8",
        "--dhcp-option-force=119,lab.example,example.com",
        "--dhcp-option=option:dns-server,10.9.0.2,10.9.0.3",
        "--dhcp-option-force=26,1400",
        "--dhcp-option=option:ntp-server,10.9.0.4",
    ]);
    announced(&mut machine, "eth0 10.9.0.6");
    machine.wait_until("route show", "default via 10.9.0.9 dev eth0", true);
    machine.wait_until("route show", "192.168.5.0/24 via 10.9.0.8 dev eth0", true);
    assert!(!machine.ip("route show").contains("via 10.9.0.1 "));
    machine.wait_until("link show eth0", "mtu 1400", true);
    let resolv = machine.file("etc/resolv.conf");
    assert!(
        resolv.ends_with(
            "\nsearch lab.example example.com\nnameserver 10.9.0.2\nnameserver 10.9.0.3\n"
        ),
        "{resolv}"
    );
}

#[test]
fn networks_of_one_and_two_addresses_have_a_router() {
    for (mask, prefix) in [("255.255.255.255", 32), ("255.255.255.254", 31)] {
        let mut machine = NetworkFixture::new("\n");
        let mask = format!("--dhcp-option-force=option:netmask,{mask}");
        let _dnsmasq = Dnsmasq::new(&[
            "--dhcp-range=10.9.0.61,10.9.0.61,1h",
            &mask,
            "--dhcp-option=option:router,10.9.0.1",
        ]);
        announced(&mut machine, "eth0 10.9.0.61 ");
        let address = format!("inet 10.9.0.61/{prefix} ");
        machine.wait_until("addr show eth0", &address, true);
        machine.wait_until("route show", "default via 10.9.0.1 dev eth0", true);
        // The router is reached.
        machine.wait_until("route get 1.1.1.1", "via 10.9.0.1 dev eth0", true);
    }
}

#[test]
fn a_server_that_comes_later_is_heard() {
    let mut machine = NetworkFixture::new("\n");
    // Frames are lost too while a switch looks for loops (IEEE 802.1D), though there is a carrier.
    assert_eq!(
        machine.line(),
        "cpud: eth0: no DHCP server has answered in 15 s; still asking (ip= on the kernel's command line gives a fixed address)"
    );
    let _dnsmasq = Dnsmasq::new(&[RANGE]);
    let begun = Instant::now();
    announced(&mut machine, "eth0 10.9.0.6");
    // It asks after 1, 3, 7, 15 and 31 seconds, each with a quarter more or less.
    assert!(begun.elapsed() < Duration::from_secs(30), "{begun:?}");
}

#[test]
fn a_fixed_address_serves_while_no_server_answers() {
    let mut machine =
        NetworkFixture::new("ip=10.9.0.77::10.9.0.1:255.255.255.0::eth0:dhcp:10.9.0.3\n");
    assert_eq!(
        machine.line(),
        "cpud: eth0: no DHCP server has answered in 15 s; using 10.9.0.77 as ip= says, and still asking"
    );
    assert_eq!(machine.line(), machine.announcement("10.9.0.77"));
    machine.wait_until("route show", "default via 10.9.0.1 dev eth0", true);
    assert!(machine.file("etc/resolv.conf").contains("10.9.0.3"));
    let _dnsmasq = Dnsmasq::new(&[RANGE, "--dhcp-option=option:router,10.9.0.9"]);
    announced(&mut machine, "eth0 10.9.0.6");
    machine.wait_until("addr show eth0", "10.9.0.77", false);
    machine.wait_until("route show", "default via 10.9.0.9 dev eth0", true);
    assert!(!machine.ip("route show").contains("via 10.9.0.1 "));
    assert!(!machine.file("etc/resolv.conf").contains("10.9.0.3"));
}

#[test]
fn a_lease_that_another_server_refuses_is_given_up() {
    let mut machine = NetworkFixture::new("\n");
    let first = Dnsmasq::new(&[RANGE]);
    let line = announced(&mut machine, "eth0 10.9.0.6");
    drop(first);
    ip(&["link", "set", "wire", "down"]);
    machine.wait_until("link show eth0", "NO-CARRIER", true);
    let _second = Dnsmasq::new(&["--dhcp-range=10.9.0.80,10.9.0.89,1h"]);
    ip(&["link", "set", "wire", "up"]);
    let ended = machine.line();
    let address = line.split(' ').nth(2).unwrap();
    assert_eq!(
        ended,
        format!("cpud: eth0: the lease of {address} has ended")
    );
    announced(&mut machine, "eth0 10.9.0.8");
}

/// A machine whose neighbour has these addresses, the first that the server gives.
fn beside_a_machine_with(last: u8, options: &[&str]) -> (NetworkFixture, Dnsmasq) {
    beside_a_machine("\n", last, options)
}

fn beside_a_machine(cmdline: &str, last: u8, options: &[&str]) -> (NetworkFixture, Dnsmasq) {
    let machine = NetworkFixture::with(cmdline, |_| {
        ip(&["link", "set", "lo", "up"]);
        for number in 60..=last {
            ip(&["addr", "add", &format!("10.9.0.{number}/32"), "dev", "lo"]);
        }
    });
    (machine, Dnsmasq::new(options))
}

fn conflict(line: &str, address: &str) -> bool {
    line.starts_with("cpud: eth0: another machine (")
        && line.contains(&format!(") has {address}, which DHCP gave; asking for"))
}

#[test]
fn an_address_that_another_machine_has_is_declined() {
    let (mut machine, _dnsmasq) = beside_a_machine_with(60, &[RANGE, "--dhcp-sequential-ip"]);
    let line = machine.line();
    assert!(conflict(&line, "10.9.0.60"), "{line}");
    assert!(!machine.ip("addr show eth0").contains("10.9.0.60"));
    assert_eq!(machine.line(), machine.announcement("10.9.0.61"));
    machine.wait_until("addr show eth0", "inet 10.9.0.61/24 ", true);
}

#[test]
fn a_taken_address_is_not_used_however_often_the_server_gives_it() {
    let range = "--dhcp-range=10.9.0.60,10.9.0.60,1h";
    let (mut machine, _dnsmasq) = beside_a_machine_with(60, &[range]);
    let line = machine.line();
    assert!(conflict(&line, "10.9.0.60"), "{line}");
    let line = machine.line();
    assert!(
        line.starts_with(
            "cpud: eth0: DHCP gives only addresses that other machines have; still asking"
        ),
        "{line}"
    );
    machine.says_nothing(Duration::from_secs(12));
    assert!(!machine.ip("addr show eth0").contains("10.9.0.60"));
    ip(&["addr", "del", "10.9.0.60/32", "dev", "lo"]);
    assert_eq!(machine.line(), machine.announcement("10.9.0.60"));
}

#[test]
fn where_something_answers_for_every_address_one_is_used_all_the_same() {
    let (mut machine, _dnsmasq) = beside_a_machine_with(69, &[RANGE]);
    for _ in 0..3 {
        let line = machine.line();
        let address = line.split(' ').find(|word| word.starts_with("10.9.0.6"));
        let address = address
            .map(|word| word.trim_end_matches(','))
            .unwrap_or_default();
        assert!(conflict(&line, address), "{line}");
    }
    let line = machine.line();
    assert!(
        line.ends_with(" answers for every address, and is not believed any more"),
        "{line}"
    );
    announced(&mut machine, "eth0 10.9.0.6");
}

#[test]
fn a_server_that_gives_taken_addresses_in_turn_is_asked_for_another() {
    let (mut machine, _dnsmasq) = beside_a_machine_with(61, &[RANGE, "--dhcp-sequential-ip"]);
    for address in ["10.9.0.60", "10.9.0.61"] {
        let line = machine.line();
        assert!(conflict(&line, address), "{line}");
    }
    assert_eq!(machine.line(), machine.announcement("10.9.0.62"));
}

#[test]
fn a_fixed_address_serves_while_the_server_gives_a_taken_one() {
    let cmdline = "ip=10.9.0.77::10.9.0.1:255.255.255.0::eth0:dhcp\n";
    let range = "--dhcp-range=10.9.0.60,10.9.0.60,1h";
    let (mut machine, _dnsmasq) = beside_a_machine(cmdline, 60, &[range]);
    let line = machine.line();
    assert!(conflict(&line, "10.9.0.60"), "{line}");
    assert_eq!(
        machine.line(),
        "cpud: eth0: DHCP gives only addresses that other machines have; using 10.9.0.77 as ip= says, and still asking"
    );
    assert_eq!(machine.line(), machine.announcement("10.9.0.77"));
    ip(&["addr", "del", "10.9.0.60/32", "dev", "lo"]);
    assert_eq!(machine.line(), machine.announcement("10.9.0.60"));
    machine.wait_until("addr show eth0", "10.9.0.77", false);
}

/// Linux answers on each card for the addresses of all.
#[test]
fn a_card_of_this_machine_is_no_other_machine() {
    let mut machine = NetworkFixture::with("\n", |pid| {
        let run = |line: &str| ip(&line.split(' ').collect::<Vec<_>>());
        run("link add bridge type bridge");
        run(&format!(
            "link add wire1 type veth peer name eth1 netns {pid}"
        ));
        run("link set wire master bridge up");
        run("link set wire1 master bridge up");
        run("addr flush dev wire");
        // dnsmasq wants one of each interface that it is given.
        run("addr add 10.8.0.1/32 dev wire");
        run("addr add 10.9.0.1/24 dev bridge");
        run("link set bridge up");
        for line in ["link set eth1 up", "addr add 10.9.0.65/32 dev eth1"] {
            let line = format!("-t {pid} -n ip {line}");
            let ended = Command::new("nsenter").args(line.split(' ')).status();
            assert!(ended.unwrap().success());
        }
    });
    let _dnsmasq = Dnsmasq::new(&["--interface=bridge", "--dhcp-range=10.9.0.65,10.9.0.65,1h"]);
    let line = machine.line();
    assert!(line.contains(" eth1 10.9.0.65 port "), "{line}");
    machine.wait_until("addr show eth0", "inet 10.9.0.65/24 ", true);
}

#[test]
fn a_carrier_that_comes_late_and_a_dead_card_keep_nothing_from_working() {
    let mut machine = NetworkFixture::with("\n", |pid| {
        ip(&["link", "set", "wire", "down"]);
        ip(&[
            "link", "add", "dead", "type", "veth", "peer", "name", "eth1", "netns", pid,
        ]);
    });
    let mut told = [machine.line(), machine.line()];
    told.sort();
    assert_eq!(
        told,
        ["eth0", "eth1"]
            .map(|name| format!("cpud: {name} has no carrier: is the cable plugged in?"))
    );
    ip(&["link", "set", "wire", "up"]);
    let _dnsmasq = Dnsmasq::new(&[RANGE]);
    announced(&mut machine, "eth0 10.9.0.6");
}

#[test]
fn an_address_from_router_advertisements_alone_is_announced() {
    let mut machine = NetworkFixture::with("ip=off\n", |_| {
        ip(&["addr", "add", "fd00:9::1/64", "dev", "wire"]);
    });
    let _dnsmasq = Dnsmasq::new(&["--enable-ra", "--dhcp-range=fd00:9::,ra-only"]);
    announced(&mut machine, "eth0 fd00:9:");
    machine.wait_until("-6 route show", "default via fe80:", true);
}
