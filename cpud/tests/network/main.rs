//! The network role on a real link, and the server that announces its addresses: a pair of veths between
//! two network namespaces, with a small DHCP server at the other end, or dnsmasq. Needs root and the tools
//! `unshare`, `nsenter`, `ip`, `ssh-keygen` and `dnsmasq`.
#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but not in their helpers"
)]

mod advertised;
mod dhcp6;
mod dnsmasq;
mod fixture;
mod hostile6;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use fixture::{NetworkFixture, ip, receive_from};

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;
const OURS: [u8; 4] = [10, 9, 0, 50];
const SERVER: [u8; 4] = [10, 9, 0, 1];

/// A DHCP server on this end of the link.
struct DhcpServer(UdpSocket);

/// A message of the client.
struct DhcpMessage {
    message: Vec<u8>,
    from: SocketAddr,
}

impl DhcpServer {
    fn new() -> Self {
        let socket = UdpSocket::bind("0.0.0.0:67").unwrap();
        socket.set_broadcast(true).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        Self(socket)
    }

    fn receive(&self) -> DhcpMessage {
        let mut message = vec![0; 1500];
        let (length, from) =
            receive_from(&self.0, &mut message).expect("the client says something");
        message.truncate(length);
        DhcpMessage { message, from }
    }

    /// The next message, which must have this type.
    fn expect(&self, kind: u8) -> DhcpMessage {
        let request = self.receive();
        assert_eq!(request.kind(), kind);
        request
    }

    /// Answers to the client's address, or to all if it has none.
    fn answer(&self, request: &DhcpMessage, kind: u8, options: &[(u8, &[u8])]) {
        let mut m = request.message[..240].to_vec();
        m[0] = 2;
        m[16..20].copy_from_slice(&OURS);
        for (code, value) in [(53, &[kind][..]), (54, &SERVER)].iter().chain(options) {
            m.extend([*code, u8::try_from(value.len()).unwrap()]);
            m.extend_from_slice(value);
        }
        m.push(255);
        let to = if request.from.ip().is_unspecified() {
            Ipv4Addr::new(10, 9, 0, 255)
        } else {
            OURS.into()
        };
        self.0.send_to(&m, (to, 68)).unwrap();
    }

    /// Offers and gives an address with these options, however often the client has to ask: the kernel drops what is
    /// sent in the moment after the carrier appears. The leases of other servers are refused.
    fn lease(&self, options: &[(u8, &[u8])]) {
        loop {
            let request = self.receive();
            match (request.kind(), request.option(54)) {
                (DISCOVER, _) => self.answer(&request, OFFER, options),
                (REQUEST, None) => self.answer(&request, NAK, &[]),
                (REQUEST, Some(server)) => {
                    assert_eq!(
                        (request.option(50).unwrap(), server),
                        (OURS.to_vec(), SERVER.to_vec())
                    );
                    return self.answer(&request, ACK, options);
                }
                (other, _) => panic!("message of kind {other}"),
            }
        }
    }
}

impl DhcpMessage {
    fn option(&self, wanted: u8) -> Option<Vec<u8>> {
        let mut rest = &self.message[240..];
        while let [code, length, after @ ..] = rest {
            if *code == 255 {
                break;
            }
            let (value, after) = after.split_at(usize::from(*length));
            if *code == wanted {
                return Some(value.to_vec());
            }
            rest = after;
        }
        None
    }

    fn kind(&self) -> u8 {
        self.option(53).unwrap()[0]
    }
}

const MASK: (u8, &[u8]) = (1, &[255, 255, 255, 0]);
const HOUR: (u8, &[u8]) = (51, &[0, 0, 14, 16]);

#[test]
fn a_lease_is_used_renewed_rebound_and_given_up() {
    let mut machine = NetworkFixture::new("console=ttyS0 root=/dev/ram0\n");
    let server = DhcpServer::new();
    // Four seconds, renewal after one, rebinding after two.
    let short: &[(u8, &[u8])] = &[
        MASK,
        (51, &[0, 0, 0, 4]),
        (58, &[0, 0, 0, 1]),
        (59, &[0, 0, 0, 2]),
        (3, &SERVER),
        (6, &[10, 9, 0, 2]),
        (12, b"board"),
        (15, b"lab.example"),
    ];
    server.lease(short);
    assert_eq!(machine.line(), machine.announcement("10.9.0.50"));
    machine.wait_until(
        "route show",
        "default via 10.9.0.1 dev eth0 proto dhcp src 10.9.0.50",
        true,
    );
    assert!(
        machine
            .ip("addr show eth0")
            .contains("inet 10.9.0.50/24 brd 10.9.0.255 scope global dynamic")
    );
    assert!(machine.ip("addr show lo").contains("inet 127.0.0.1/8"));
    let resolv = machine.file("etc/resolv.conf");
    assert!(
        resolv.ends_with("\nsearch lab.example\nnameserver 10.9.0.2\n"),
        "{resolv}"
    );

    assert_eq!(machine.host_name(), "board");

    let renewal = server.expect(REQUEST);
    assert_eq!((renewal.from.ip(), renewal.option(50)), (OURS.into(), None));
    server.answer(&renewal, ACK, short);

    let unheard = server.expect(REQUEST);
    assert_eq!(unheard.from.ip(), Ipv4Addr::from(OURS));
    let rebinding = server.expect(REQUEST);
    assert_eq!(
        (rebinding.from.ip(), &rebinding.message[12..16]),
        (Ipv4Addr::UNSPECIFIED.into(), &OURS[..])
    );
    server.expect(DISCOVER);
    assert_eq!(
        machine.line(),
        "cpud: eth0: the lease of 10.9.0.50 has ended"
    );
    machine.wait_until("addr show eth0", "10.9.0.50", false);
    assert!(!machine.ip("route show").contains("10.9.0"));
    assert!(!machine.file("etc/resolv.conf").contains("nameserver"));

    // A lease again, for an hour, during which nothing wakes the role up.
    server.lease(&[MASK, HOUR]);
    machine.wait_until("addr show eth0", "10.9.0.50/24", true);
    sleep(Duration::from_millis(300));
    let before = machine.wakes();
    sleep(Duration::from_secs(1));
    assert_eq!(machine.wakes(), before);
}

#[test]
fn a_cable_put_into_another_network_brings_another_lease() {
    let mut machine = NetworkFixture::new("ip=dhcp\n");
    let server = DhcpServer::new();
    server.lease(&[MASK, HOUR]);
    assert!(machine.line().starts_with("cpud: eth0 10.9.0.50 port"));
    ip(&["link", "set", "wire", "down"]);
    machine.wait_until("link show eth0", "NO-CARRIER", true);
    assert!(
        machine.ip("addr show eth0").contains("10.9.0.50"),
        "it may be the same network again"
    );
    ip(&["link", "set", "wire", "up"]);
    let question = server.expect(REQUEST);
    assert_eq!(
        (question.option(50), question.option(54)),
        (Some(OURS.to_vec()), None)
    );
    // The lease is refused, and a new one is offered with another router.
    server.lease(&[MASK, HOUR, (3, &[10, 9, 0, 9])]);
    assert_eq!(
        machine.line(),
        "cpud: eth0: the lease of 10.9.0.50 has ended"
    );
    machine.wait_until("route show", "default via 10.9.0.9", true);
    // The same address, announced again because it had gone.
    assert!(machine.line().starts_with("cpud: eth0 10.9.0.50 port"));
}

#[test]
fn a_link_that_comes_later_is_served_and_one_that_goes_is_forgotten() {
    let mut machine = NetworkFixture::new("\n");
    let server = DhcpServer::new();
    server.lease(&[MASK, HOUR, (6, &[10, 9, 0, 2])]);
    machine.line();
    ip(&["link", "del", "wire"]);
    machine.wait_until("link show", "eth0", false);
    let pid = machine.child.id().to_string();
    ip(&[
        "link", "add", "wire", "type", "veth", "peer", "name", "eth7", "netns", &pid,
    ]);
    ip(&["addr", "add", "10.9.0.1/24", "dev", "wire"]);
    ip(&["link", "set", "wire", "up"]);
    server.lease(&[MASK, HOUR]);
    assert!(machine.line().starts_with("cpud: eth7 10.9.0.50 port"));
    assert!(!machine.file("etc/resolv.conf").contains("nameserver"));
}

#[test]
fn an_address_on_the_kernels_command_line_is_used_without_dhcp() {
    let arguments = "ip=10.9.0.77::10.9.0.1:255.255.255.0:board:eth0:off:1.1.1.1 ip=nonsense=1:\n";
    let mut machine = NetworkFixture::new(arguments);
    let complaint = machine.line();
    assert!(
        complaint.starts_with("cpud: ip=nonsense=1: on the kernel's command line is ignored: "),
        "{complaint}"
    );
    assert_eq!(machine.line(), machine.announcement("10.9.0.77"));
    machine.wait_until("route show", "default via 10.9.0.1 dev eth0", true);
    assert!(
        machine
            .ip("addr show eth0")
            .contains("inet 10.9.0.77/24 brd 10.9.0.255 scope global eth0")
    );
    assert!(
        machine
            .file("etc/resolv.conf")
            .ends_with("nameserver 1.1.1.1\n")
    );
    assert_eq!(machine.host_name(), "board");
}

#[test]
fn a_configured_link_is_left_alone() {
    // As the kernel's own ip= or a container's runtime leaves a link.
    let mut machine = NetworkFixture::new("ip=off\n");
    let pid = machine.child.id().to_string();
    let inside = |args: &[&str]| {
        let args = [&["--target", &pid, "--net", "ip"], args].concat();
        assert!(
            Command::new("nsenter")
                .args(args)
                .status()
                .unwrap()
                .success()
        );
    };
    inside(&["addr", "add", "10.9.0.88/24", "dev", "eth0"]);
    assert_eq!(machine.line(), machine.announcement("10.9.0.88"));
    let socket = DhcpServer::new().0;
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    assert!(
        receive_from(&socket, &mut [0; 1500]).is_err(),
        "nobody asks for an address"
    );
    assert!(Path::new(&format!("/proc/{pid}")).exists());
}
