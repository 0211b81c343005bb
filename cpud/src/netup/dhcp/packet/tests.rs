//! Messages as servers send them, right and wrong.

use super::*;
use proptest::prelude::*;

/// A server's message with these options.
pub(in super::super) fn reply(
    kind: u8,
    xid: u32,
    mac: [u8; 6],
    yiaddr: [u8; 4],
    options: &[(u8, &[u8])],
) -> Vec<u8> {
    let mut m = vec![0; OPTIONS_AT];
    m[..3].copy_from_slice(&[2, 1, 6]);
    m[4..8].copy_from_slice(&xid.to_be_bytes());
    m[16..20].copy_from_slice(&yiaddr);
    m[28..34].copy_from_slice(&mac);
    m[236..].copy_from_slice(&MAGIC);
    for (code, value) in [(code::TYPE, &[kind][..])].iter().chain(options) {
        m.extend([*code, u8::try_from(value.len()).unwrap()]);
        m.extend_from_slice(value);
    }
    m.push(code::END);
    m
}

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

#[test]
fn what_is_asked_is_what_the_rfc_lays_out() {
    let request = BootRequest {
        kind: REQUEST,
        xid: 0x0102_0304,
        secs: 5,
        mac: MAC,
        ciaddr: Ipv4Addr::UNSPECIFIED,
        requested: Some(Ipv4Addr::new(10, 0, 0, 7)),
        server: Some(Ipv4Addr::new(10, 0, 0, 1)),
        hostname: Some("board"),
    };
    let m = request.encode();
    assert_eq!(m.len(), MIN_MESSAGE);
    assert_eq!(m[..12], [1, 1, 6, 0, 1, 2, 3, 4, 0, 5, 0, 0]);
    assert_eq!(m[28..34], MAC);
    let sent: Vec<_> = options(&m[OPTIONS_AT..]).take(5).collect();
    assert_eq!(sent[0], (53, &[REQUEST][..]));
    assert_eq!(sent[1], (61, &[1, 2, 0, 0, 0, 0, 9][..]));
    assert_eq!(sent[2], (50, &[10, 0, 0, 7][..]));
    assert_eq!(sent[3], (54, &[10, 0, 0, 1][..]));
    assert_eq!(sent[4], (12, &b"board"[..]));
}

#[test]
fn an_answer_is_read() {
    let bytes = reply(
        ACK,
        7,
        MAC,
        [10, 0, 0, 7],
        &[
            (54, &[10, 0, 0, 1]),
            (1, &[255, 255, 255, 0]),
            (51, &[0, 0, 14, 16]),
            (3, &[10, 0, 0, 1, 10, 0, 0, 2]),
            (6, &[10, 0, 0, 3]),
            (6, &[10, 0, 0, 4]),
            (15, b"lab.example\0"),
            (26, &[5, 120]),
            (119, b"\x03eng\x03lab\x07example\x00\x05sales\xc0\x04"),
        ],
    );
    let r = BootReply::decode(&bytes).unwrap();
    assert_eq!((r.kind, r.xid, r.mac, r.prefix), (ACK, 7, MAC, Some(24)));
    assert_eq!((r.lease, r.t1, r.mtu), (Some(3600), None, Some(1400)));
    let gateway = Some(Ipv4Addr::new(10, 0, 0, 1));
    assert_eq!(
        r.routes,
        [Route {
            to: Ipv4Addr::UNSPECIFIED,
            prefix: 0,
            gateway
        }]
    );
    assert_eq!(
        r.dns,
        [Ipv4Addr::new(10, 0, 0, 3), Ipv4Addr::new(10, 0, 0, 4)]
    );
    assert_eq!(
        r.search,
        ["lab.example", "eng.lab.example", "sales.lab.example"]
    );
}

#[test]
fn classless_routes_replace_the_router() {
    let routes = [
        0, 10, 0, 0, 1, 24, 192, 168, 3, 10, 0, 0, 9, 32, 10, 0, 0, 1, 0, 0, 0, 0,
    ];
    let bytes = reply(
        ACK,
        7,
        MAC,
        [10, 0, 0, 7],
        &[(3, &[10, 0, 0, 5]), (121, &routes)],
    );
    let route = |to: [u8; 4], prefix, gateway: Option<[u8; 4]>| Route {
        to: to.into(),
        prefix,
        gateway: gateway.map(Ipv4Addr::from),
    };
    assert_eq!(
        BootReply::decode(&bytes).unwrap().routes,
        [
            route([0; 4], 0, Some([10, 0, 0, 1])),
            route([192, 168, 3, 0], 24, Some([10, 0, 0, 9])),
            route([10, 0, 0, 1], 32, None),
        ]
    );
    assert_eq!(classless_routes(&[33, 1, 2, 3, 4, 5, 6, 7, 8, 9]), []);
}

#[test]
fn nonsense_is_as_if_absent() {
    let bytes = reply(
        ACK,
        7,
        MAC,
        [255; 4],
        &[
            (1, &[255, 0, 255, 0]),
            (51, &[1, 2]),
            (6, &[0, 0, 0, 0, 127, 0, 0, 1, 9]),
            (12, b"evil\nnameserver 6.6.6.6"),
            (26, &[0, 68]),
            (54, &[224, 0, 0, 1]),
            (119, &[192, 0, 3, b'a']),
        ],
    );
    let r = BootReply::decode(&bytes).unwrap();
    assert_eq!(
        r,
        BootReply {
            kind: ACK,
            xid: 7,
            mac: MAC,
            ..BootReply::default()
        }
    );
    assert_eq!(BootReply::decode(&[0; 300]), None);
    assert_eq!(BootReply::decode(&bytes[..200]), None);
}

#[test]
fn options_go_on_in_the_names_when_they_say_so() {
    let mut bytes = reply(ACK, 7, MAC, [10, 0, 0, 7], &[(52, &[3])]);
    bytes[108..115].copy_from_slice(&[51, 4, 0, 0, 0, 60, 255]);
    bytes[44..51].copy_from_slice(&[54, 4, 10, 0, 0, 1, 255]);
    let r = BootReply::decode(&bytes).unwrap();
    assert_eq!(
        (r.lease, r.server),
        (Some(60), Some(Ipv4Addr::new(10, 0, 0, 1)))
    );
}

proptest! {
    #[test]
    fn any_bytes_are_survived(options in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = reply(ACK, 7, MAC, [10, 0, 0, 7], &[]);
        bytes.truncate(OPTIONS_AT + 3);
        bytes.extend(options);
        if let Some(reply) = BootReply::decode(&bytes) {
            prop_assert!(reply.routes.iter().all(|route| route.prefix <= 32));
            prop_assert!(reply.search.iter().all(|name| !name.contains(['\n', ' '])));
        }
    }
}
