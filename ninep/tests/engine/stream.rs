//! Streams with a changed byte, or that end anywhere, lead to an error or to replies, and to nothing else.

use super::*;
use ninep::msg::Header;
use ninep::server::serve;
use ninep::wire::{Data, Frame, HEADER};
use proptest::prelude::*;

const MSIZE: u32 = 4096;

/// The requests of a valid session.
fn stream() -> Vec<u8> {
    let xattr = |fid, newfid| Request::Xattrwalk {
        fid,
        newfid,
        name: text("user.a"),
    };
    let requests = [
        version(MSIZE, b"9P2000.L"),
        attach(0),
        walk(0, 1, "dir/deep"),
        walk(0, 2, "file"),
        Request::Lopen { fid: 2, flags: 0 },
        read(2, 0, 100),
        Request::Write {
            fid: 2,
            offset: 0,
            data: Data(b"0123456789"),
        },
        Request::Readdir {
            fid: 2,
            offset: 0,
            count: 100,
        },
        Request::Flush { oldtag: 3 },
        xattr(0, 3),
        read(3, 0, 100),
        Request::Clunk { fid: 3 },
        Request::Mkdir {
            dfid: 0,
            name: name("new"),
            mode: 0o700,
            gid: 0,
        },
        version(MSIZE, b"9P2000.L"),
        attach(0),
        Request::Getattr { fid: 0, mask: !0 },
    ];
    let mut stream = Vec::new();
    let mut frame = Frame::default();
    for (tag, request) in (1..).zip(requests) {
        request.encode(tag, &mut frame);
        stream.extend_from_slice(frame.finish());
    }
    stream
}

/// The number of replies to a stream. Each must be complete, decodable and no longer than the msize.
fn replies(stream: &[u8]) -> usize {
    let config = Config {
        max_msize: MSIZE,
        ..Config::default()
    };
    let mem = Arc::new(Mem::default());
    mem.release();
    let mut out = Vec::new();
    let _ = serve(&MemFs(mem.clone()), stream, &mut out, &config);
    assert_eq!(mem.open.load(Ordering::SeqCst), 0, "no file stays open");
    let (mut rest, mut count) = (&out[..], 0);
    while let Some(header) = rest.first_chunk() {
        let header = Header::decode(header);
        assert!((HEADER..=MSIZE as usize).contains(&(header.size as usize)));
        let (reply, next) = rest.split_at(header.size as usize);
        Reply::decode(header.kind, &reply[HEADER..]).unwrap();
        (rest, count) = (next, count + 1);
    }
    assert!(rest.is_empty());
    count
}

#[test]
fn every_end_of_a_stream_is_an_end() {
    let stream = stream();
    assert_eq!(replies(&stream), 16);
    for end in 0..stream.len() {
        assert!(replies(&stream[..end]) < 16);
    }
}

proptest! {
    #[test]
    fn a_changed_byte_harms_nobody(at: prop::sample::Index, byte: u8) {
        let mut stream = stream();
        let at = at.index(stream.len());
        stream[at] = byte;
        prop_assert!(replies(&stream) <= 16 + 1);
    }

    #[test]
    fn noise_harms_nobody(noise in prop::collection::vec(any::<u8>(), 0..600)) {
        replies(&noise);
        let mut stream = stream();
        stream.extend_from_slice(&noise);
        prop_assert!(replies(&stream) >= 16);
    }
}
