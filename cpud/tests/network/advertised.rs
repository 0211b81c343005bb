//! Name servers in router advertisements (RFC 8106), with and without DHCP.

use std::net::Ipv6Addr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::dhcp6::{Dhcp6Server, machine};
use crate::dnsmasq::{Dnsmasq, announced};
use crate::fixture::{NetworkFixture, ip};

/// Waits until resolv.conf ends so.
fn resolves(machine: &NetworkFixture, end: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let resolv = machine.file("etc/resolv.conf");
        if resolv.ends_with(end) {
            return;
        }
        assert!(Instant::now() < deadline, "{resolv}");
        sleep(Duration::from_millis(20));
    }
}

/// An option with a lifetime in seconds, of type 25 (RDNSS) or 31 (DNSSL).
fn option(kind: u8, lifetime: u32, value: &[u8]) -> Vec<u8> {
    assert!(value.len().is_multiple_of(8));
    let units = u8::try_from(1 + value.len() / 8).unwrap();
    [&[kind, units, 0, 0], &lifetime.to_be_bytes()[..], value].concat()
}

fn server(lifetime: u32, address: &str) -> Vec<u8> {
    option(25, lifetime, &address.parse::<Ipv6Addr>().unwrap().octets())
}

#[test]
fn a_network_of_router_advertisements_alone_has_name_servers() {
    let mut machine = machine("\n");
    let _dnsmasq = Dnsmasq::new(&[
        "--enable-ra",
        "--dhcp-range=fd00:9::,ra-only",
        "--dhcp-option=option6:dns-server,[fd00:9::53],[fd00:9::54]",
        "--dhcp-option=option6:domain-search,lab.example",
    ]);
    announced(&mut machine, "eth0 fd00:9:");
    let end = "\nsearch lab.example\nnameserver fd00:9::53\nnameserver fd00:9::54\n";
    resolves(&machine, end);
}

#[test]
fn advertised_name_servers_last_as_long_as_the_router_says() {
    let machine = machine("\n");
    let router = Dhcp6Server::new();
    machine.wait_until("-6 addr show eth0", "fe80::", true);
    let options = [
        server(2, "fd00:9::53"),
        server(u32::MAX, "fe80::1"),
        server(100, "ff02::1"),
        option(31, 100, b"\x03lab\x00\x04e\nil\0\0\0\0\0\0"),
    ];
    router.advertise_with(0, &options.concat());
    let link = machine.ip("-o link show eth0");
    let index = link.split(':').next().unwrap();
    let router_only = format!("nameserver fe80::1%{index}\n");
    resolves(
        &machine,
        &format!("\nsearch lab\nnameserver fd00:9::53\n{router_only}"),
    );
    resolves(&machine, &format!("\nsearch lab\n{router_only}"));
    let over = [server(0, "fe80::1"), option(31, 0, b"\x03lab\0\0\0\0")];
    router.advertise_with(0, &over.concat());
    resolves(&machine, "ip=.\n");
}

#[test]
fn advertised_name_servers_are_those_of_links_with_dhcp() {
    let machine = machine("ip=off\n");
    let router = Dhcp6Server::new();
    machine.wait_until("-6 addr show eth0", "fe80::", true);
    router.advertise_with(0, &server(100, "fd00:9::53"));
    machine.wait_until("-6 route show", "default via fe80::", true);
    sleep(Duration::from_millis(500));
    assert!(!machine.file("etc/resolv.conf").contains("nameserver"));
}

#[test]
fn a_cable_put_into_another_network_finds_its_router() {
    let machine = machine("\n");
    let router = Dhcp6Server::new();
    assert!(
        router.is_solicited(Duration::from_secs(10)),
        "by the kernel"
    );
    router.advertise_with(0, &[]);
    machine.wait_until("-6 route show", "default via fe80::", true);
    while router.is_solicited(Duration::from_secs(6)) {}
    ip(&["link", "set", "wire", "down"]);
    machine.wait_until("link show eth0", "NO-CARRIER", true);
    ip(&["link", "set", "wire", "up"]);
    // Some may be lost.
    for _ in 0..2 {
        assert!(router.is_solicited(Duration::from_secs(8)));
    }
    while router.is_solicited(Duration::from_secs(6)) {}
}

#[test]
fn a_link_that_joins_a_bridge_leaves_no_name_servers() {
    let machine = machine("\n");
    let router = Dhcp6Server::new();
    machine.wait_until("-6 addr show eth0", "fe80::", true);
    router.advertise_with(0, &server(u32::MAX, "fd00:9::53"));
    resolves(&machine, "nameserver fd00:9::53\n");
    machine.ip("link add br0 type bridge");
    machine.ip("link set eth0 master br0");
    resolves(&machine, "ip=.\n");
}
