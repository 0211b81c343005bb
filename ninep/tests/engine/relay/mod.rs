//! The relay between a kernel and a server: replies are the same as without it, with fewer round trips.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use ninep::msg::{DirEntry, EXTENDED, Flock, Header, VERSION, WATCHED};
use ninep::relay::{ATTR_TTL, ContentBudget, Error as RelayError, Relay, Upstream};
use ninep::wire::{Data, Frame, HEADER, Str, WalkVec, Wire};

use super::*;

mod any;
mod attributes;
mod closes;
mod contents;
mod dialects;
mod made;
mod mirror;
mod missing_xattr;
mod unasked;

/// A kernel that waits for each reply, behind a relay.
struct Kernel {
    relay: Relay,
    now: Instant,
    /// Bytes that the relay gets at a time.
    piece: usize,
    server: UnixStream,
    waits: usize,
}

/// What the relay sends.
#[derive(Debug, Default)]
struct Out {
    server: Vec<Bytes>,
    kernel: Vec<Bytes>,
}

/// Relays bytes from the kernel.
fn from_kernel(relay: &mut Relay, bytes: impl Into<Bytes>, now: Instant, out: &mut Out) {
    let bytes = bytes.into();
    relay.from_kernel(bytes, now, &mut out.server).unwrap();
    relay.take_replies(&mut out.kernel);
}

/// Relays bytes from the server.
fn from_server(
    relay: &mut Relay,
    bytes: impl Into<Bytes>,
    now: Instant,
    out: &mut Out,
) -> std::result::Result<(), RelayError> {
    relay.from_server(bytes.into(), now, &mut out.kernel)?;
    relay.take_replies(&mut out.kernel);
    Ok(())
}

/// A whole message.
fn message(tag: u16, request: &Request<'_>) -> Vec<u8> {
    let mut frame = Frame::default();
    request.encode(tag, &mut frame);
    frame.finish().to_vec()
}

fn reply(tag: u16, reply: &Reply<'_>) -> Bytes {
    let mut frame = Frame::default();
    reply.encode(tag, &mut frame);
    Bytes::copy_from_slice(frame.finish())
}

fn getattr(fid: u32) -> Request<'static> {
    let mask = Attr::BASIC;
    Request::Getattr { fid, mask }
}

/// A fid that nothing else uses.
const FREE: u32 = 50;

fn get_capability(fid: u32) -> Request<'static> {
    Request::Xattrwalk {
        fid,
        newfid: FREE,
        name: text("security.capability"),
    }
}

/// The requests of setxattr(2).
fn set_capability(fid: u32) -> Vec<Request<'static>> {
    let name = text("security.capability");
    vec![
        walk(fid, FREE, ""),
        Request::Xattrcreate {
            fid: FREE,
            name,
            size: 4,
            flags: 0,
        },
        Request::Write {
            fid: FREE,
            offset: 0,
            data: Data(b"caps"),
        },
        Request::Clunk { fid: FREE },
    ]
}

fn set_size(fid: u32, size: u64) -> Request<'static> {
    let attr = SetAttr {
        valid: SetAttr::SIZE,
        size,
        ..SetAttr::default()
    };
    Request::Setattr { fid, attr }
}

impl Kernel {
    /// With a version and fid 0 on the root.
    fn new(fs: MemFs, piece: usize) -> (Self, JoinHandle<std::result::Result<(), Error>>) {
        let (server, theirs) = UnixStream::pair().unwrap();
        server
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let served = std::thread::spawn(move || {
            ninep::server::serve(&fs, &theirs, &theirs, &Config::default())
        });
        let mut kernel = Self {
            relay: Relay::new(Upstream::Any),
            now: Instant::now(),
            piece,
            server,
            waits: 0,
        };
        let agreed = kernel.ask(&message(NO_TAG, &version(1 << 16, VERSION)));
        let wanted = Reply::Version {
            msize: 1 << 16,
            version: text("9P2000.L"),
        };
        assert_eq!(agreed, reply(NO_TAG, &wanted));
        kernel.ask(&message(1, &attach(0)));
        (kernel, served)
    }

    /// Sends a request and waits for its reply.
    fn ask(&mut self, request: &[u8]) -> Vec<u8> {
        let mut out = Out::default();
        for piece in request.chunks(self.piece) {
            let piece = Bytes::copy_from_slice(piece);
            from_kernel(&mut self.relay, piece, self.now, &mut out);
        }
        self.server.write_all(&out.server.concat()).unwrap();
        let mut got = out.kernel.concat();
        self.waits += usize::from(got.is_empty());
        let mut buffer = vec![0; self.piece];
        while !is_whole(&got) {
            let n = self.server.read(&mut buffer).unwrap();
            assert!(n > 0, "the server has gone");
            let mut out = Out::default();
            let bytes = Bytes::copy_from_slice(&buffer[..n]);
            from_server(&mut self.relay, bytes, self.now, &mut out).unwrap();
            got.extend(out.kernel.concat());
        }
        got
    }

    fn done(&mut self, request: &Request<'_>) -> Vec<u8> {
        self.ask(&message(1, request))
    }

    /// The size that a getattr returns, and the round trips that it took.
    fn size(&mut self, fid: u32) -> (u64, usize) {
        let before = self.waits;
        let got = self.done(&getattr(fid));
        match Reply::decode(got[4], &got[HEADER..]).unwrap() {
            Reply::Getattr { attr } => (attr.size, self.waits - before),
            other => panic!("{other:?}"),
        }
    }

    /// Round trips that a request takes.
    fn waits(&mut self, request: &Request<'_>) -> usize {
        let before = self.waits;
        let got = self.done(request);
        assert_ne!(got[4], 7, "{request:?} fails");
        self.waits - before
    }
}

fn is_whole(bytes: &[u8]) -> bool {
    let header = bytes.first_chunk::<HEADER>().map(Header::decode);
    header.is_some_and(|header| header.size as usize == bytes.len())
}

fn extended() -> Relay {
    agreed(EXTENDED)
}

fn agreed(dialect: &[u8]) -> Relay {
    agree(Relay::new(Upstream::Any), dialect)
}

fn agree(mut relay: Relay, dialect: &[u8]) -> Relay {
    let mut out = Out::default();
    let now = Instant::now();
    let asked = message(NO_TAG, &version(1 << 16, VERSION));
    from_kernel(&mut relay, asked, now, &mut out);
    let version = Reply::Version {
        msize: 1 << 16,
        version: Str::new(dialect).unwrap(),
    };
    let version = reply(NO_TAG, &version);
    from_server(&mut relay, version, now, &mut out).unwrap();
    relay
}
