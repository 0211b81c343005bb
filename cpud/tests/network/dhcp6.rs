//! DHCPv6: dnsmasq's, and a router and a server made here, whose advertisements and leases the tests choose.

use std::io::IoSlice;
use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, recv,
    sendmsg, socket,
};

use crate::dnsmasq::{Dnsmasq, announced};
use crate::fixture::{NetworkFixture, ip, receive_from};

pub(crate) const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;
const REQUEST: u8 = 3;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
pub(crate) const REPLY: u8 = 7;
const INFORMATION_REQUEST: u8 = 11;

pub(crate) const M: u8 = 0x80;
const O: u8 = 0x40;

/// A machine with these arguments of the kernel, and a router's address on this end of the link.
pub(crate) fn machine(cmdline: &str) -> NetworkFixture {
    NetworkFixture::with(cmdline, |_| {
        ip(&["addr", "add", "fe80::1/64", "dev", "wire", "nodad"]);
        ip(&["addr", "add", "fd00:9::1/64", "dev", "wire", "nodad"]);
    })
}

/// The router and DHCPv6 server on this end of the link.
pub(crate) struct Dhcp6Server {
    router: OwnedFd,
    pub(crate) socket: UdpSocket,
    link: u32,
}

/// A message of the client.
pub(crate) struct Dhcp6Message {
    pub(crate) message: Vec<u8>,
    pub(crate) from: std::net::SocketAddr,
}

/// The queueing discipline of a link.
fn qdisc(link: &str) -> String {
    let shown = Command::new("ip").args(["link", "show", link]).output();
    let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
    let words: Vec<_> = shown.split(' ').collect();
    let at = words.iter().position(|word| *word == "qdisc").unwrap();
    words[at + 1].to_owned()
}

impl Dhcp6Server {
    pub(crate) fn new() -> Self {
        let link = if_nametoindex("wire").unwrap();
        let socket = UdpSocket::bind("[::]:547").unwrap();
        let servers: Ipv6Addr = "ff02::1:2".parse().unwrap();
        socket.join_multicast_v6(&servers, link).unwrap();
        Self {
            router: self::socket(
                AddressFamily::Inet6,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::IcmpV6,
            )
            .unwrap(),
            socket,
            link,
        }
    }

    /// Sends a router advertisement with these flags (RFC 4861, 4.2), once the link carries it: for a while after the carrier
    /// has appeared the kernel drops what is sent, the longer the more links come up on this computer.
    pub(crate) fn advertise(&self, flags: u8) {
        self.advertise_with(flags, &[]);
    }

    /// The same with options.
    pub(crate) fn advertise_with(&self, flags: u8, options: &[u8]) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while qdisc("wire") == "noop" {
            assert!(Instant::now() < deadline, "no carrier");
            sleep(Duration::from_millis(20));
        }
        // For half an hour. The kernel sets the checksum.
        let head = [134, 0, 0, 0, 64, flags, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        let to = SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, self.link);
        sendmsg(
            self.router.as_raw_fd(),
            &[IoSlice::new(&head), IoSlice::new(options)],
            &[ControlMessage::Ipv6HopLimit(&255)],
            MsgFlags::empty(),
            Some(&SockaddrIn6::from(to)),
        )
        .unwrap();
    }

    /// Whether a router is asked for (a solicitation, RFC 4861, 4.1) within a time.
    pub(crate) fn is_solicited(&self, time: Duration) -> bool {
        let routers: Ipv6Addr = "ff02::2".parse().unwrap();
        // It may have joined before.
        let _ = self.socket.join_multicast_v6(&routers, self.link);
        let deadline = Instant::now() + time;
        let mut kind = [0];
        while Instant::now() < deadline {
            let received = recv(self.router.as_raw_fd(), &mut kind, MsgFlags::MSG_DONTWAIT);
            if received.is_ok() && kind == [133] {
                return true;
            }
            sleep(Duration::from_millis(20));
        }
        false
    }

    /// The next message within a time.
    pub(crate) fn receive(&self, patience: Duration) -> Option<Dhcp6Message> {
        self.socket.set_read_timeout(Some(patience)).unwrap();
        let mut message = vec![0; 1500];
        let (length, from) = receive_from(&self.socket, &mut message).ok()?;
        message.truncate(length);
        Some(Dhcp6Message { message, from })
    }

    /// The next message, which must have this type.
    pub(crate) fn expect(&self, kind: u8) -> Dhcp6Message {
        let request = self.receive(Duration::from_secs(30));
        let request = request.expect("the client says something");
        assert_eq!(request.message[0], kind);
        request
    }

    /// Answers with these options.
    pub(crate) fn answer(&self, request: &Dhcp6Message, kind: u8, options: &[Vec<u8>]) {
        let mut m = request.message[..4].to_vec();
        m[0] = kind;
        m.extend(option(1, &request.option(1).unwrap()));
        m.extend(option(2, &[0, 3, 0, 1, 2, 0, 0, 0, 0, 1]));
        m.extend(options.concat());
        self.socket.send_to(&m, request.from).unwrap();
    }
}

impl Dhcp6Message {
    pub(crate) fn option(&self, wanted: u16) -> Option<Vec<u8>> {
        let mut rest = &self.message[4..];
        while let [a, b, c, d, after @ ..] = rest {
            let (value, after) = after.split_at(u16::from_be_bytes([*c, *d]).into());
            if u16::from_be_bytes([*a, *b]) == wanted {
                return Some(value.to_vec());
            }
            rest = after;
        }
        None
    }

    /// An address for the client's association: T1, T2, and the valid lifetime.
    pub(crate) fn lease(&self, address: &str, [t1, t2, valid]: [u32; 3]) -> Vec<u8> {
        let address: Ipv6Addr = address.parse().unwrap();
        let times = [valid.to_be_bytes(), valid.to_be_bytes()].concat();
        let given = option(5, &[&address.octets()[..], &times].concat());
        let iaid = &self.option(3).unwrap()[..4];
        option(
            3,
            &[iaid, &t1.to_be_bytes(), &t2.to_be_bytes(), &given].concat(),
        )
    }

    pub(crate) fn names(&self, address: &str) -> bool {
        let address: Ipv6Addr = address.parse().unwrap();
        let ia = self.option(3).unwrap();
        ia.windows(16).any(|part| part == address.octets())
    }
}

pub(crate) fn option(code: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap();
    [&code.to_be_bytes(), &length.to_be_bytes(), value].concat()
}

fn name_server() -> Vec<u8> {
    option(23, &"fd00:9::53".parse::<Ipv6Addr>().unwrap().octets())
}

pub(crate) const HOUR: [u32; 3] = [1800, 2880, 3600];

#[test]
fn a_lease_is_used_renewed_rebound_and_given_up() {
    let mut machine = machine("\n");
    let server = Dhcp6Server::new();
    // The address for its messages is still tentative.
    machine.wait_until("-6 addr show eth0", "fe80::", true);
    server.advertise(M);
    let short = [1, 2, 4];
    let search = || option(24, b"\x03lab\x07example\x00");
    let solicit = server.expect(SOLICIT);
    assert!(solicit.from.to_string().starts_with("[fe80::"));
    let lease = solicit.lease("fd00:9::50", short);
    let options = [lease, option(14, &[]), name_server(), search()];
    server.answer(&solicit, REPLY, &options);
    let renewal = server.expect(RENEW);
    assert!(renewal.option(2).is_some() && renewal.names("fd00:9::50"));
    let lease = renewal.lease("fd00:9::50", short);
    server.answer(&renewal, REPLY, &[lease, name_server(), search()]);
    assert_eq!(machine.line(), machine.announcement("fd00:9::50"));
    let address = "inet6 fd00:9::50/128 scope global dynamic";
    assert!(machine.ip("addr show eth0").contains(address));
    let resolv = machine.file("etc/resolv.conf");
    let expected = "\nsearch lab.example\nnameserver fd00:9::53\n";
    assert!(resolv.ends_with(expected), "{resolv}");

    server.expect(RENEW);
    assert_eq!(server.expect(REBIND).option(2), None);
    assert_eq!(
        machine.line(),
        "cpud: eth0: the lease of fd00:9::50 has ended"
    );
    machine.wait_until("addr show eth0", "fd00:9::50", false);
    assert!(!machine.file("etc/resolv.conf").contains("nameserver"));

    // From a server that knows no rapid commit, for an hour, during which nothing wakes the role up.
    let solicit = server.expect(SOLICIT);
    server.answer(&solicit, ADVERTISE, &[solicit.lease("fd00:9::51", HOUR)]);
    let request = server.expect(REQUEST);
    server.answer(&request, REPLY, &[request.lease("fd00:9::51", HOUR)]);
    let mut dhcp4 = machine.line();
    if dhcp4.contains("no DHCP server") {
        dhcp4 = machine.line();
    }
    assert_eq!(dhcp4, machine.announcement("fd00:9::51"));

    // Another network.
    ip(&["link", "set", "wire", "down"]);
    machine.wait_until("link show eth0", "NO-CARRIER", true);
    ip(&["link", "set", "wire", "up"]);
    ip(&["addr", "add", "fe80::1/64", "dev", "wire", "nodad"]);
    let solicit = server.expect(SOLICIT);
    assert!(solicit.names("fd00:9::51"), "it may be the same network");
    let lease = solicit.lease("fd00:9::52", HOUR);
    server.answer(&solicit, REPLY, &[lease, option(14, &[])]);
    machine.wait_until("addr show eth0", "fd00:9::52/128", true);
    machine.wait_until("addr show eth0", "fd00:9::51", false);
}

#[test]
fn only_what_a_router_advertises_is_asked_for() {
    let machine = machine("\n");
    let server = Dhcp6Server::new();
    let silence = Duration::from_secs(3);
    machine.wait_until("-6 addr show eth0 -tentative", "fe80::", true);
    server.advertise(0);
    machine.wait_until("-6 route show", "default via fe80::", true);
    assert!(server.receive(silence).is_none(), "neither M nor O");
    server.advertise(O);
    let request = server.expect(INFORMATION_REQUEST);
    assert_eq!(request.option(3), None);
    server.answer(&request, REPLY, &[name_server()]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !machine.file("etc/resolv.conf").contains("fd00:9::53") {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(20));
    }
    assert!(server.receive(silence).is_none(), "once is enough");
    server.advertise(M | O);
    server.expect(SOLICIT);
    server.advertise(0);
    // A second one would come a second after the first, but for one that crosses the advertisement.
    sleep(Duration::from_millis(200));
    let _ = server.receive(Duration::from_millis(1));
    assert!(server.receive(silence).is_none(), "not any more");
}

#[test]
fn links_without_dhcp_have_none_of_ipv6_either() {
    let machine = machine("ip=off\n");
    let server = Dhcp6Server::new();
    machine.wait_until("-6 addr show eth0 -tentative", "fe80::", true);
    server.advertise(M | O);
    machine.wait_until("-6 route show", "default via fe80::", true);
    assert!(server.receive(Duration::from_secs(3)).is_none());
}

#[test]
fn a_network_of_ipv6_alone_is_enough() {
    let begun = Instant::now();
    let mut machine = machine("\n");
    let _dnsmasq = Dnsmasq::new(&[
        "--enable-ra",
        "--dhcp-range=fd00:9::100,fd00:9::1ff,64,2m",
        "--dhcp-option=option6:dns-server,[fd00:9::53]",
        "--dhcp-option=option6:domain-search,lab.example",
    ]);
    let line = announced(&mut machine, "eth0 fd00:9::1");
    let address = line.split(' ').nth(2).unwrap();
    machine.wait_until(
        "addr show eth0",
        &format!("{address}/128 scope global dynamic"),
        true,
    );
    machine.wait_until("-6 route show", "default via fe80:", true);
    machine.wait_until("-6 route get fd00:9::1", &format!("src {address}"), true);
    let resolv = machine.file("etc/resolv.conf");
    let expected = "\nsearch lab.example\nnameserver fd00:9::53\n";
    assert!(resolv.ends_with(expected), "{resolv}");
    // Nobody misses DHCPv4, which would be said after 15 seconds.
    let told = begun + Duration::from_secs(17);
    machine.says_nothing(told.saturating_duration_since(Instant::now()));
}

#[test]
fn a_network_of_router_advertisements_hears_no_dhcp6() {
    let mut machine = machine("\n");
    let server = Dhcp6Server::new();
    let _dnsmasq = Dnsmasq::new(&["--enable-ra", "--dhcp-range=fd00:9::,ra-only"]);
    announced(&mut machine, "eth0 fd00:9:");
    assert!(server.receive(Duration::from_secs(3)).is_none());
}

#[test]
fn a_server_that_is_missed_is_reported_and_heard_later() {
    let mut machine = machine("\n");
    let server = Dhcp6Server::new();
    machine.wait_until("-6 addr show eth0", "fe80::", true);
    server.advertise(M);
    let missed = "cpud: eth0: a router advertises DHCPv6, but no server has given an address in 15 s; still asking";
    while machine.line() != missed {}
    let solicits = std::iter::from_fn(|| server.receive(Duration::from_millis(1)));
    // After 1, 3, 7 seconds, each with a quarter more or less.
    assert!((4..=6).contains(&solicits.count()));
    let solicit = server.receive(Duration::from_mins(1)).unwrap();
    let lease = solicit.lease("fd00:9::50", HOUR);
    server.answer(&solicit, REPLY, &[lease, option(14, &[])]);
    announced(&mut machine, "eth0 fd00:9::50");
}
