//! A link on which others have the machine's address, or will not be quiet.

use std::net::UdpSocket;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use crate::dhcp6::{Dhcp6Server, HOUR, M, REPLY, SOLICIT, machine, option};
use crate::dnsmasq::announced;
use crate::fixture::ip;

const DECLINE: u8 = 9;

#[test]
fn an_address_that_another_machine_has_is_declined() {
    let mut machine = machine("\n");
    ip(&["addr", "add", "fd00:9::50/128", "dev", "wire", "nodad"]);
    let server = Dhcp6Server::new();
    machine.wait_until("-6 addr show eth0", "fe80::", true);
    server.advertise(M);
    // The kernel keeps an address without an end, though it may not be used.
    for lifetimes in [HOUR, [u32::MAX; 3]] {
        let solicit = server.expect(SOLICIT);
        let lease = solicit.lease("fd00:9::50", lifetimes);
        server.answer(&solicit, REPLY, &[lease, option(14, &[])]);
        let decline = server.expect(DECLINE);
        assert!(decline.option(2).is_some() && decline.names("fd00:9::50"));
        server.answer(&decline, REPLY, &[option(13, &[0, 0])]);
        let answered = Instant::now();
        machine.wait_until("addr show eth0", "fd00:9::50", false);
        let taken = "cpud: eth0: another machine has fd00:9::50, which DHCPv6 gave";
        while machine.line() != taken {}
        // Or a host that answers for every address would have the pool emptied.
        assert!(server.receive(Duration::from_secs(7)).is_none());
        assert!(answered.elapsed() >= Duration::from_secs(7));
    }
    let solicit = server.expect(SOLICIT);
    assert!(!solicit.names("fd00:9::50"));
    let lease = solicit.lease("fd00:9::51", HOUR);
    server.answer(&solicit, REPLY, &[lease, option(14, &[])]);
    let line = announced(&mut machine, "eth0 ");
    assert!(line.contains("fd00:9::51"), "{line}");
}

#[test]
fn a_flood_of_messages_delays_no_question() {
    let machine = machine("\n");
    let server = Dhcp6Server::new();
    machine.wait_until("-6 addr show eth0", "fe80::", true);
    server.advertise(M);
    let solicit = server.expect(SOLICIT);
    // A name of 126 labels, and pointers to it up to the end of a frame.
    let names = [b"\x01a".repeat(126), b"\0".to_vec(), b"\xc0\0".repeat(500)].concat();
    let client = solicit.option(1).unwrap();
    let options = [option(1, &client), option(2, &client), option(24, &names)];
    let mut message = [&solicit.message[..4], &options.concat()].concat();
    message[0] = REPLY;
    let until = Instant::now() + Duration::from_secs(6);
    scope(|scope| {
        scope.spawn(|| {
            let socket = UdpSocket::bind("[::]:0").unwrap();
            while Instant::now() < until {
                let _ = socket.send_to(&message, solicit.from);
            }
        });
        sleep(Duration::from_millis(200));
        // They come after 1 and 3 seconds, each with a quarter more or less.
        for _ in 0..2 {
            server.expect(SOLICIT);
        }
        assert!(Instant::now() < until);
    });
}
