//! The codec as a whole: every message survives a round trip, and invalid bytes are errors.

use proptest::prelude::*;

use super::*;

fn kinds() -> impl Strategy<Value = Kind> {
    prop::sample::select(Kind::ALL)
}

fn body(frame: &[u8]) -> &[u8] {
    &frame[HEADER..]
}

proptest! {
    #[test]
    fn every_message_survives_the_wire(
        kind in kinds(),
        tag: u16,
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut frame = Frame::default();
        let request = Request::sample(kind, &mut Entropy::new(&bytes));
        request.encode(tag, &mut frame);
        let sent = frame.finish().to_vec();
        let header = Header::decode(sent.first_chunk().unwrap());
        prop_assert_eq!(header, Header { size: u32::try_from(sent.len()).unwrap(), kind: kind.number(), tag });
        prop_assert_eq!(Request::decode(kind, body(&sent)), Ok(request));

        let reply = Reply::sample(kind, &mut Entropy::new(&bytes));
        reply.encode(tag, &mut frame);
        let sent = frame.finish().to_vec();
        prop_assert_eq!(sent[4], kind.number() + 1);
        prop_assert_eq!(Reply::decode(sent[4], body(&sent)), Ok(reply));
    }

    #[test]
    fn a_message_cut_short_is_an_error(
        kind in kinds(),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut frame = Frame::default();
        Request::sample(kind, &mut Entropy::new(&bytes)).encode(1, &mut frame);
        let sent = body(frame.finish()).to_vec();
        for end in 0..sent.len() {
            prop_assert!(Request::decode(kind, &sent[..end]).is_err());
        }

        Reply::sample(kind, &mut Entropy::new(&bytes)).encode(1, &mut frame);
        let sent = frame.finish().to_vec();
        for end in HEADER..sent.len() {
            prop_assert!(Reply::decode(sent[4], &sent[HEADER..end]).is_err());
        }
    }

    #[test]
    fn every_change_of_one_byte_is_an_error_or_a_message(
        kind in kinds(),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        by in 1u8..,
    ) {
        let mut frame = Frame::default();
        Request::sample(kind, &mut Entropy::new(&bytes)).encode(1, &mut frame);
        let mut sent = body(frame.finish()).to_vec();
        for at in 0..sent.len() {
            sent[at] ^= by;
            if let Ok(request) = Request::decode(kind, &sent) {
                request.encode(1, &mut frame);
                prop_assert_eq!(body(frame.finish()), &sent[..]);
            }
            sent[at] ^= by;
        }

        Reply::sample(kind, &mut Entropy::new(&bytes)).encode(1, &mut frame);
        let mut sent = frame.finish().to_vec();
        for at in HEADER..sent.len() {
            sent[at] ^= by;
            if let Ok(reply) = Reply::decode(sent[4], &sent[HEADER..]) {
                reply.encode(1, &mut frame);
                prop_assert_eq!(body(frame.finish()), &sent[HEADER..]);
            }
            sent[at] ^= by;
        }
    }

    #[test]
    fn what_decodes_encodes_to_the_same_bytes(
        kind in kinds(),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        noise in prop::collection::vec(any::<u8>(), 0..80),
        at: prop::sample::Index,
        byte: u8,
    ) {
        let mut frame = Frame::default();
        Request::sample(kind, &mut Entropy::new(&bytes)).encode(1, &mut frame);
        let mut changed = body(frame.finish()).to_vec();
        if !changed.is_empty() {
            let at = at.index(changed.len());
            changed[at] = byte;
        }
        for bytes in [&changed, &noise] {
            if let Ok(request) = Request::decode(kind, bytes) {
                request.encode(1, &mut frame);
                prop_assert_eq!(body(frame.finish()), &bytes[..]);
            }
            if let Ok(reply) = Reply::decode(kind.number() + 1, bytes) {
                reply.encode(1, &mut frame);
                prop_assert_eq!(body(frame.finish()), &bytes[..]);
            }
        }
    }
}

/// Bytes recorded from Linux 6.12, so that our own encoder does not define what is right.
#[test]
fn a_walk_as_the_kernel_sends_it() {
    let frame = b"\x18\0\0\0\x6e\x07\0\x01\0\0\0\x02\0\0\0\x01\0\x05\0local";
    let header = Header::decode(frame.first_chunk().unwrap());
    assert_eq!((header.size, header.tag), (24, 7));
    let mut names = WalkVec::default();
    assert!(names.push(Name::new(b"local").unwrap()));
    let kind = Kind::new(header.kind).unwrap();
    assert_eq!(
        Request::decode(kind, body(frame)),
        Ok(Request::Walk {
            fid: 1,
            newfid: 2,
            names
        })
    );
}

#[test]
fn names_that_no_file_has_and_walks_too_long_are_refused() {
    for name in [&b""[..], b"a/b", b"/", b"a\0"] {
        assert_eq!(Name::new(name), None);
    }
    let walk = |n: u16| {
        let mut body = vec![0; 8];
        body.extend(n.to_le_bytes());
        for _ in 0..n {
            body.extend(b"\x01\0a");
        }
        Request::decode(Kind::Walk, &body).map(|_| ())
    };
    assert_eq!(walk(16), Ok(()));
    assert_eq!(walk(17), Err(Malformed::TooMany(17)));
    assert_eq!(walk(u16::MAX), Err(Malformed::TooMany(u16::MAX)));
}
