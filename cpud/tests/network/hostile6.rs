//! A link on which others will not be quiet.

use std::net::UdpSocket;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use crate::dhcp6::{Dhcp6Server, M, REPLY, SOLICIT, machine, option};

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
