//! Messages as servers send them, right and wrong.

use super::*;
use proptest::prelude::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const OURS: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7);
pub(in super::super) const SERVER: &[u8] = &[0, 3, 0, 1, 2, 0, 0, 0, 0, 0xfe];

/// An option as bytes.
pub(in super::super) fn encoded(code: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    option(&mut bytes, code, value);
    bytes
}

/// The identity association of this client, with what it contains.
pub(in super::super) fn ia(mac: [u8; 6], t1: u32, t2: u32, content: &[u8]) -> Vec<u8> {
    let head = [iaid(mac), t1.to_be_bytes(), t2.to_be_bytes()].concat();
    encoded(code::IA_NA, &[&head, content].concat())
}

/// An address option.
pub(in super::super) fn given(address: Ipv6Addr, preferred: u32, valid: u32) -> Vec<u8> {
    let times = [preferred.to_be_bytes(), valid.to_be_bytes()].concat();
    encoded(code::IA_ADDRESS, &[&address.octets()[..], &times].concat())
}

/// A server's message with these options.
pub(in super::super) fn reply(kind: u8, xid: u32, mac: [u8; 6], options: &[Vec<u8>]) -> Vec<u8> {
    let mut m = (u32::from(kind) << 24 | xid).to_be_bytes().to_vec();
    m.extend(encoded(code::CLIENT, &duid(mac)));
    m.extend(encoded(code::SERVER, SERVER));
    m.extend(options.concat());
    m
}

#[test]
fn what_is_asked_is_what_the_rfc_lays_out() {
    let mut request = Dhcp6Request {
        kind: SOLICIT,
        xid: 0x0102_0304 & 0xff_ffff,
        elapsed: 0x0506,
        mac: MAC,
        server: None,
        address: None,
    };
    let duid = [0, 1, 0, 10, 0, 3, 0, 1, 2, 0, 0, 0, 0, 9];
    let rest = [
        &[0, 8, 0, 2, 5, 6, 0, 6, 0, 6, 0, 23, 0, 24, 0, 32][..],
        &[0, 14, 0, 0],
        &[0, 3, 0, 12, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0],
    ];
    let expected = [&[1, 2, 3, 4], &duid[..], &rest.concat()].concat();
    assert_eq!(request.encode(), expected);

    request.kind = INFORMATION_REQUEST;
    let expected = [&[11, 2, 3, 4], &duid[..], rest[0]].concat();
    assert_eq!(request.encode(), expected);

    request.kind = REQUEST;
    request.server = Some(SERVER);
    request.address = Some(OURS);
    let expected = [
        &[3, 2, 3, 4],
        &duid[..],
        rest[0],
        &encoded(2, SERVER),
        &ia(MAC, 0, 0, &given(OURS, 0, 0)),
    ];
    assert_eq!(request.encode(), expected.concat());
}

#[test]
fn an_answer_is_read() {
    let dns = [[0xfd; 16], [0xfe; 16]];
    let other = ia([9; 6], 1, 2, &given(Ipv6Addr::from([9; 16]), 3, 4));
    let bytes = reply(
        REPLY,
        7,
        MAC,
        &[
            encoded(13, b"\0\0fine"),
            other,
            ia(MAC, 50, 80, &given(OURS, 100, u32::MAX)),
            encoded(23, dns.as_flattened()),
            encoded(24, b"\x03lab\x07example\x00\x03eng\x00"),
            encoded(14, &[]),
            encoded(32, &[0, 0, 2, 88]),
        ],
    );
    let expected = Dhcp6Reply {
        kind: REPLY,
        server: SERVER.to_vec(),
        succeeded: true,
        rapid_commit: true,
        addresses: vec![IaAddress {
            address: OURS,
            preferred: 100,
            valid: u32::MAX,
        }],
        t1: 50,
        t2: 80,
        dns: dns.map(Ipv6Addr::from).to_vec(),
        search: vec!["lab.example".into(), "eng".into()],
        refresh: Some(600),
    };
    assert_eq!(Dhcp6Reply::decode(&bytes, MAC), Some(expected));
}

#[test]
fn failures_give_no_address() {
    let no_addresses = encoded(13, b"\0\x02none left");
    let fine = given(OURS, 100, 200);
    for options in [
        vec![no_addresses.clone(), ia(MAC, 50, 80, &fine)],
        vec![ia(
            MAC,
            50,
            80,
            &[no_addresses.clone(), fine.clone()].concat(),
        )],
        vec![ia(MAC, 50, 80, &[fine.clone(), encoded(13, &[])].concat())],
        vec![ia([9; 6], 50, 80, &fine)],
        vec![encoded(3, &[0; 11])],
        vec![ia(MAC, 50, 80, &given(OURS, 200, 100))],
        vec![ia(MAC, 50, 80, &encoded(5, &[1; 23]))],
        vec![{
            let of_address = [&fine[4..], &no_addresses].concat();
            ia(MAC, 50, 80, &encoded(5, &of_address))
        }],
    ] {
        let reply = Dhcp6Reply::decode(&reply(REPLY, 7, MAC, &options), MAC).unwrap();
        assert_eq!(reply.addresses, [], "{options:?}");
    }
}

#[test]
fn nonsense_is_as_if_absent() {
    for wrong in ["::", "::1", "ff02::1", "fe80::1", "::ffff:10.0.0.1"] {
        let wrong: Ipv6Addr = wrong.parse().unwrap();
        let options = [
            ia(MAC, 1, 2, &given(wrong, 100, 200)),
            encoded(23, &[&wrong.octets()[..], &[1]].concat()),
            encoded(24, b"\x0eevil\nnameserver\x00"),
            encoded(32, &[1]),
        ];
        let reply = Dhcp6Reply::decode(&reply(REPLY, 7, MAC, &options), MAC).unwrap();
        // A router may well be the name server, at its address on this link.
        let dns: &[_] = if wrong.is_unicast_link_local() {
            &[wrong]
        } else {
            &[]
        };
        assert_eq!((&reply.addresses[..], &reply.dns[..]), (&[][..], dns));
        assert_eq!((&reply.search[..], reply.refresh), (&[][..], None));
    }
    let bytes = reply(REPLY, 7, MAC, &[]);
    assert!(Dhcp6Reply::decode(&bytes, MAC).is_some());
    assert_eq!(Dhcp6Reply::decode(&bytes, [9; 6]), None, "for another");
    assert_eq!(
        Dhcp6Reply::decode(&bytes[..bytes.len() - 1], MAC),
        None,
        "no server"
    );
    let mut long = reply(REPLY, 7, MAC, &[]);
    long.truncate(18);
    long.extend(encoded(2, &[1; MAX_DUID + 1]));
    assert_eq!(Dhcp6Reply::decode(&long, MAC), None, "too long a DUID");
}

proptest! {
    #[test]
    fn any_bytes_are_survived(rest in prop::collection::vec(any::<u8>(), 0..200), nested: bool) {
        let options = if nested { ia(MAC, 1, 2, &rest) } else { rest };
        if let Some(reply) = Dhcp6Reply::decode(&reply(REPLY, 7, MAC, std::slice::from_ref(&options)), MAC) {
            prop_assert!(reply.addresses.iter().all(|given| given.preferred <= given.valid));
            prop_assert!(reply.search.iter().all(|name| !name.contains(['\n', ' '])));
        }
        let _ = Dhcp6Reply::decode(&options, MAC);
    }

    /// Options with the right codes and lengths that are off by a little.
    #[test]
    fn any_options_are_survived(pieces in prop::collection::vec((0u16..36, 0u16..40, any::<u8>()), 0..20)) {
        let options: Vec<_> = pieces.iter().map(|&(code, length, byte)| {
            let mut bytes = encoded(code, &vec![byte; length.into()]);
            bytes.truncate(bytes.len() - usize::from(byte % 16 == 0));
            bytes
        }).collect();
        let nested = reply(REPLY, 7, MAC, &[ia(MAC, 1, 2, &options.concat())]);
        let _ = Dhcp6Reply::decode(&nested, MAC);
        let _ = Dhcp6Reply::decode(&reply(REPLY, 7, MAC, &options), MAC);
    }
}
