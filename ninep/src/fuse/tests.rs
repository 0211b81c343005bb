//! The front between requests as the kernel writes them and replies of a server, both made here.

use proptest::prelude::*;

use super::*;
use crate::msg::{Attr, Header, Kind, Qid, Reply, Request};
use crate::wire::{Data, HEADER, Str, WalkVec};

mod locks;

/// A front of a mount, with the kernel and the server on both sides.
struct FrontFixture(FuseFront);

/// A request for the server: its tag, and the whole message.
struct ServerRequest {
    tag: u16,
    message: Bytes,
}

impl ServerRequest {
    fn request(&self) -> Request<'_> {
        let kind = Kind::new(self.message[4]).unwrap();
        Request::decode(kind, &self.message[HEADER..]).unwrap()
    }
}

impl FrontFixture {
    /// After the first request of the kernel.
    fn new() -> Self {
        let mut front = Self(FuseFront::new(FuseOptions {
            msize: 1 << 20,
            ..FuseOptions::default()
        }));
        front.kernel(26, 1, 0, &[&words(&[7, 38, 1 << 17, !0, 0]), &[0; 44]]);
        let asked = front.asked();
        assert!(matches!(asked.request(), Request::Version { .. }));
        let version = Str::new(crate::msg::VERSION).unwrap();
        let msize = 1 << 20;
        front.server(asked.tag, &Reply::Version { msize, version });
        let asked = front.asked();
        let qid = Qid::default();
        front.server(asked.tag, &Reply::Attach { qid });
        let (errno, body) = front.answer(1).unwrap();
        assert_eq!((errno, body.len()), (0, 64));
        front
    }

    fn kernel(&mut self, opcode: u32, unique: u64, node: u64, body: &[&[u8]]) {
        self.kernel_for(0, opcode, unique, node, body);
    }

    /// A request for a process of this user.
    fn kernel_for(&mut self, uid: u32, opcode: u32, unique: u64, node: u64, body: &[&[u8]]) {
        let mut request = words(&[0, opcode]);
        request.extend([unique.to_ne_bytes(), node.to_ne_bytes()].concat());
        request.extend(words(&[uid, uid, 1, 0]));
        request.extend(body.concat());
        self.0.from_kernel(&request);
    }

    /// The only request that the front has for the server.
    fn asked(&mut self) -> ServerRequest {
        let parts = self.0.take_requests();
        let message = Bytes::from(parts.concat());
        let header = Header::decode(message.first_chunk().unwrap());
        assert_eq!(usize::try_from(header.size), Ok(message.len()));
        let tag = header.tag;
        ServerRequest { tag, message }
    }

    fn server(&mut self, tag: u16, reply: &Reply<'_>) {
        self.0.from_server(encoded(tag, reply), false).unwrap();
    }

    /// What the kernel is told of a request: an error, and the rest.
    fn answer(&mut self, unique: u64) -> Option<(i32, Vec<u8>)> {
        let mut replies = self.0.take_replies();
        assert!(replies.len() < 2, "{replies:?}");
        let reply = replies.pop()?;
        let whole = [&reply.head[..], &reply.data].concat();
        assert_eq!(
            whole[..4],
            u32::try_from(whole.len()).unwrap().to_ne_bytes()
        );
        assert_eq!(whole[8..16], unique.to_ne_bytes());
        let errno = i32::from_ne_bytes(*whole[4..].first_chunk().unwrap());
        Some((-errno, whole[16..].to_vec()))
    }

    /// Looks `name` up in the root, and finds a file with these attributes.
    fn found(&mut self, name: &[u8], attr: Attr) -> Vec<u8> {
        self.kernel(1, 7, 1, &[name, b"\0"]);
        let asked = self.asked();
        assert!(matches!(asked.request(), Request::Walk { .. }));
        let mut qids = WalkVec::default();
        qids.push(attr.qid);
        self.server(asked.tag, &Reply::Walk { qids });
        let asked = self.asked();
        self.server(asked.tag, &Reply::Getattr { attr });
        let (errno, body) = self.answer(7).unwrap();
        assert_eq!((errno, body.len()), (0, 128));
        body
    }
}

fn words(all: &[u32]) -> Vec<u8> {
    all.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn encoded(tag: u16, reply: &Reply<'_>) -> Bytes {
    let mut frame = Frame::default();
    reply.encode(tag, &mut frame);
    Bytes::copy_from_slice(frame.finish())
}

fn file(path: u64, size: u64) -> Attr {
    Attr {
        valid: Attr::ALL,
        qid: Qid {
            path,
            ..Qid::default()
        },
        mode: 0o100_644,
        size,
        ..Attr::default()
    }
}

/// They come along with the reply: what is kept for another fid would answer a later request.
#[test]
fn attributes_after_a_setattr_are_asked_of_the_fid_that_was_set() {
    const FATTR_SIZE: u32 = 8;
    const FATTR_FH: u32 = 64;
    let mut front = FrontFixture::new();
    front.found(b"a", file(40, 5));
    for (which, wanted) in [(FATTR_SIZE | FATTR_FH, 77), (FATTR_SIZE, 1)] {
        let body = words(&[which, 0, 77, 0, 9, 0]);
        front.kernel(4, 8, 2, &[&body, &[0; 64]]);
        let asked = front.asked();
        assert!(matches!(asked.request(), Request::Setattr { fid, .. } if fid == wanted));
        front.server(asked.tag, &Reply::Setattr {});
        let asked = front.asked();
        assert!(matches!(asked.request(), Request::Getattr { fid, .. } if fid == wanted));
        let attr = file(40, 9);
        front.server(asked.tag, &Reply::Getattr { attr });
        assert_eq!(front.answer(8).unwrap().0, 0);
    }
}

#[test]
fn a_name_leads_to_one_number_with_the_inode_number_of_9p() {
    let mut front = FrontFixture::new();
    let first = front.found(b"a", file(40, 5));
    assert_eq!(first[..8], 2_u64.to_ne_bytes());
    assert_eq!(first[40..48], 42_u64.to_ne_bytes());
    // What the server has been asked for may not be kept.
    assert_eq!(first[16..40], [0; 24]);
    let again = front.found(b"b", file(40, 5));
    assert_eq!(again[..8], 2_u64.to_ne_bytes());
    let clunk = front.asked();
    assert!(matches!(clunk.request(), Request::Clunk { fid: 2 }));
}

#[test]
fn what_the_relay_answers_itself_is_kept_for_a_moment() {
    let mut front = FrontFixture::new();
    front.kernel(1, 7, 1, &[b"none\0"]);
    let asked = front.asked();
    let none = Reply::Error {
        ecode: Errno::ENOENT.raw(),
    };
    front
        .0
        .from_server(encoded(asked.tag, &none), true)
        .unwrap();
    let (errno, body) = front.answer(7).unwrap();
    assert_eq!((errno, &body[..8]), (0, &[0; 8][..]));
    assert_eq!(body[32..36], 10_000_000_u32.to_ne_bytes());
    front.kernel(1, 8, 1, &[b"none\0"]);
    let asked = front.asked();
    front.server(asked.tag, &none);
    assert_eq!(front.answer(8).unwrap().0, 2);
}

#[test]
fn a_name_that_is_too_long_is_refused() {
    let mut front = FrontFixture::new();
    front.kernel(1, 7, 1, &[&[b'x'; 256], b"\0"]);
    assert_eq!(front.answer(7).unwrap().0, 36);
    front.kernel(1, 8, 1, &[&[b'x'; 255], b"\0"]);
    assert!(front.0.has_requests());
}

#[test]
fn a_read_ends_before_its_size_only_at_the_end_of_the_file() {
    let mut front = FrontFixture::new();
    front.found(b"a", file(40, 10));
    let read = |front: &mut FrontFixture, unique| {
        let fields = [&9_u64.to_ne_bytes()[..], &4_u64.to_ne_bytes()].concat();
        front.kernel(15, unique, 2, &[&fields, &words(&[100, 0, 0, 0, 0, 0])]);
    };
    read(&mut front, 8);
    let asked = front.asked();
    let data = Data(b"four");
    front.server(asked.tag, &Reply::Read { data });
    assert_eq!(front.answer(8), None);
    let asked = front.asked();
    let rest = Request::Read {
        fid: 9,
        offset: 8,
        count: 96,
    };
    assert_eq!(asked.request(), rest);
    let data = Data(b"56");
    front.server(asked.tag, &Reply::Read { data });
    assert_eq!(front.answer(8).unwrap(), (0, b"four56".to_vec()));
}

#[test]
fn a_request_that_is_interrupted_fails_unless_it_is_done() {
    let mut front = FrontFixture::new();
    for is_done in [false, true] {
        front.kernel(1, 8, 1, &[b"a\0"]);
        let asked = front.asked();
        front.kernel(36, 9, 0, &[&8_u64.to_ne_bytes()]);
        let flush = front.asked();
        assert_eq!(flush.request(), Request::Flush { oldtag: asked.tag });
        if is_done {
            let none = Errno::ENOENT.raw();
            front.server(asked.tag, &Reply::Error { ecode: none });
            assert_eq!(front.answer(8).unwrap().0, 2);
            front.server(flush.tag, &Reply::Flush {});
            assert_eq!(front.answer(8), None);
        } else {
            front.server(flush.tag, &Reply::Flush {});
            assert_eq!(front.answer(8).unwrap().0, 4);
            // The server may have made the fid.
            let clunk = front.asked();
            assert!(matches!(clunk.request(), Request::Clunk { .. }));
        }
    }
    // One that nobody knows.
    front.kernel(36, 9, 0, &[&8_u64.to_ne_bytes()]);
    assert!(!front.0.has_requests());
}

#[test]
fn a_file_that_exists_already_is_not_opened_as_a_new_one() {
    let mut front = FrontFixture::new();
    for (flags, expected) in [(0o101, Errno::ESTALE), (0o301, Errno::EEXIST)] {
        front.kernel(35, 8, 1, &[&words(&[flags, 0o100_644, 0, 0]), b"a\0"]);
        let clone = front.asked();
        let qids = WalkVec::default();
        front.server(clone.tag, &Reply::Walk { qids });
        let create = front.asked();
        let Request::Lcreate { flags, .. } = create.request() else {
            panic!("{:?}", create.request());
        };
        assert_eq!(flags, 0o301);
        let ecode = Errno::EEXIST.raw();
        front.server(create.tag, &Reply::Error { ecode });
        let errno = front.answer(8).unwrap().0;
        assert_eq!(errno, expected.raw().cast_signed());
        assert!(matches!(front.asked().request(), Request::Clunk { .. }));
    }
}

#[test]
fn a_new_file_that_may_not_be_given_away_stays_its_makers() {
    for errno in [Errno::EPERM, Errno::EIO] {
        let mut front = FrontFixture::new();
        front.0.options.own = true;
        front.kernel_for(1000, 9, 8, 1, &[&words(&[0o755, 0]), b"d\0"]);
        let mkdir = front.asked();
        assert!(matches!(mkdir.request(), Request::Mkdir { .. }));
        let qid = Qid::default();
        front.server(mkdir.tag, &Reply::Mkdir { qid });
        let walk = front.asked();
        let mut qids = WalkVec::default();
        qids.push(qid);
        front.server(walk.tag, &Reply::Walk { qids });
        let owner = front.asked();
        let Request::Setattr { attr, .. } = owner.request() else {
            panic!("{:?}", owner.request());
        };
        assert_eq!((attr.uid, attr.gid), (1000, 1000));
        let ecode = errno.raw();
        front.server(owner.tag, &Reply::Error { ecode });
        if errno == Errno::EPERM {
            let asked = front.asked();
            assert!(matches!(asked.request(), Request::Getattr { .. }));
            let attr = file(41, 0);
            front.server(asked.tag, &Reply::Getattr { attr });
            assert_eq!(front.answer(8).unwrap().0, 0);
        } else {
            assert_eq!(front.answer(8).unwrap().0, errno.raw().cast_signed());
        }
    }
}

#[test]
fn a_name_that_is_too_long_is_not_asked_for() {
    let mut front = FrontFixture::new();
    front.kernel(1, 8, 1, &[&[b'n'; 256], b"\0"]);
    assert_eq!(front.answer(8).unwrap().0, 36);
    assert!(!front.0.has_requests());
}

#[test]
fn files_not_used_for_long_have_no_fid_until_they_are_used_again() {
    let mut front = FrontFixture::new();
    let count = 2 * u64::try_from(nodes::MAX_IDLE).unwrap();
    // An open one keeps its fid.
    front.found(b"2", file(2, 0));
    front.kernel(14, 8, 2, &[&words(&[0, 0])]);
    let asked = front.asked();
    let qids = WalkVec::default();
    front.server(asked.tag, &Reply::Walk { qids });
    let asked = front.asked();
    let (qid, iounit) = (Qid::default(), 0);
    front.server(asked.tag, &Reply::Lopen { qid, iounit });
    assert_eq!(front.answer(8).unwrap().0, 0);
    let mut clunks = 0;
    for number in 3..count {
        front.found(number.to_string().as_bytes(), file(number, 0));
        if front.0.has_requests() {
            let clunk = front.asked();
            assert!(matches!(clunk.request(), Request::Clunk { .. }));
            front.server(clunk.tag, &Reply::Clunk {});
            clunks += 1;
        }
    }
    let held = count - clunks;
    assert!(held < count * 3 / 5, "{held} fids");
    front.kernel(3, 8, 2, &[&[0; 16]]);
    assert!(matches!(front.asked().request(), Request::Getattr { .. }));

    for is_same in [true, false] {
        let number = if is_same { 3 } else { 4 };
        front.kernel(3, 8, number, &[&[0; 16]]);
        let walk = front.asked();
        let Request::Walk { fid: 0, names, .. } = walk.request() else {
            panic!("{:?}", walk.request());
        };
        let names: Vec<_> = names.iter().map(|name| name.bytes().to_vec()).collect();
        assert_eq!(names, [number.to_string().as_bytes()]);
        let mut qids = WalkVec::default();
        qids.push(file(3, 0).qid);
        front.server(walk.tag, &Reply::Walk { qids });
        if is_same {
            // Another file may lose its fid.
            let message = front.0.take_requests().pop().unwrap();
            let tag = Header::decode(message.first_chunk().unwrap()).tag;
            let asked = ServerRequest { tag, message };
            assert!(matches!(asked.request(), Request::Getattr { .. }));
            let attr = file(3, 77);
            front.server(tag, &Reply::Getattr { attr });
            assert_eq!(front.answer(8).unwrap().0, 0);
        } else {
            assert_eq!(
                front.answer(8).unwrap().0,
                Errno::ESTALE.raw().cast_signed()
            );
        }
    }
}

#[test]
fn a_listing_takes_no_more_room_than_there_is() {
    let mut front = FrontFixture::new();
    let fields = [&9_u64.to_ne_bytes()[..], &0_u64.to_ne_bytes()].concat();
    front.kernel(28, 8, 1, &[&fields, &words(&[64, 0, 0, 0, 0, 0])]);
    let asked = front.asked();
    let mut frame = Frame::default();
    frame.start(0, 0);
    for (name, offset) in [(b"a", 1), (b"b", 2), (b"c", 3)] {
        let entry = crate::msg::DirEntry {
            qid: file(40, 0).qid,
            offset,
            kind: 8,
            name: Str::new(name).unwrap(),
        };
        crate::wire::Wire::put(&entry, &mut frame);
    }
    let data = Data(&frame.finish()[HEADER..]);
    front.server(asked.tag, &Reply::Readdir { data });
    let (errno, body) = front.answer(8).unwrap();
    assert_eq!((errno, body.len()), (0, 64));
    assert_eq!(body[..8], 42_u64.to_ne_bytes());
    assert_eq!(body[40..48], 2_u64.to_ne_bytes());
}

proptest! {
    /// Whatever a kernel and a server send, there is at most one reply to a request, and no panic.
    #[test]
    fn any_requests_and_replies_are_survived(
        events in prop::collection::vec((0..55_u32, 0..4_u64, prop::collection::vec(any::<u8>(), 0..120), any::<[u8; 4]>()), 1..40),
    ) {
        let mut front = FrontFixture::new();
        front.found(b"a", file(40, 10));
        let mut answered = std::collections::HashSet::new();
        for (unique, (opcode, node, bytes, choice)) in (100..).zip(events) {
            front.kernel(opcode, unique, node, &[&bytes]);
            let requests = front.0.take_requests().concat();
            let mut rest = &requests[..];
            while let Some(header) = rest.first_chunk::<HEADER>().map(Header::decode) {
                let (message, more) = rest.split_at(usize::try_from(header.size).unwrap());
                rest = more;
                // The reply of its kind with any bytes, an error, or none.
                let body = match choice[0] % 3 {
                    0 => continue,
                    1 => &bytes[..],
                    _ => &message[HEADER..],
                };
                let mut reply = Frame::default();
                let kind = if choice[1] % 4 == 0 { Reply::ERROR } else { header.kind + 1 };
                reply.start(kind, header.tag);
                reply.put(body);
                let reply = Bytes::copy_from_slice(reply.finish());
                let _ = front.0.from_server(reply, choice[2] % 2 == 0);
            }
            if choice[3] % 8 == 0 {
                front.0.retry_locks();
            }
            for reply in front.0.take_replies() {
                let unique = u64::from_ne_bytes(*reply.head[8..].first_chunk().unwrap());
                prop_assert!(answered.insert(unique), "two replies to {unique}");
                let errno = i32::from_ne_bytes(*reply.head[4..].first_chunk().unwrap());
                prop_assert!((-511..=0).contains(&errno));
            }
        }
    }
}
