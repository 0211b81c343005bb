//! The relay between a kernel and a server: replies are the same as without it, with fewer round trips. (The file is
//! long because each kind of request and each order of replies that matters has its case.)

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
mod contents;
mod mirror;
mod missing_xattr;

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

#[test]
fn a_name_and_its_attributes_are_one_wait() {
    let mem = Arc::new(Mem::default());
    let (mut kernel, _) = Kernel::new(MemFs(mem.clone()), 4096);
    mem.size.store(5, Ordering::SeqCst);
    assert_eq!(kernel.waits(&walk(0, 1, "file")), 1);
    // stat(2) on a busy machine.
    kernel.now += 10 * ATTR_TTL;
    assert_eq!([kernel.size(1), kernel.size(1)], [(5, 0), (5, 0)]);
    mem.size.store(6, Ordering::SeqCst);
    kernel.now += ATTR_TTL;
    assert_eq!(kernel.size(1), (6, 1));
    // Attributes that are asked for long after the walk are not from the cache.
    kernel.done(&walk(0, 3, "file"));
    mem.size.store(7, Ordering::SeqCst);
    kernel.now += 100 * ATTR_TTL;
    assert_eq!(kernel.size(3), (7, 1));
    // A name that does not exist costs one round trip, as without the relay.
    let before = kernel.waits;
    kernel.done(&walk(0, 2, "nothing"));
    assert_eq!(kernel.waits - before, 1);
}

#[test]
fn attributes_are_forgotten_when_something_may_have_changed() {
    let (mut kernel, _) = Kernel::new(MemFs(Arc::default()), 4096);
    for (fid, n) in (1..20_u32).zip(1..) {
        kernel.done(&walk(0, fid, "file"));
        kernel.done(&walk(0, 100 + fid, "dir"));
        kernel.done(&set_size(100 + fid, n));
        assert_eq!(kernel.size(fid), (n, 1));
    }
    // A clone prepares another request, so a later getattr is that of another system call.
    kernel.done(&walk(0, 30, "file"));
    kernel.done(&walk(30, 31, ""));
    assert_eq!(kernel.size(30).1, 1);
}

#[test]
fn every_request_that_may_change_attributes_makes_them_forgotten() {
    let name = name("other");
    let (dfid, fid, newdirfid) = (0, 9, 0);
    let (mode, gid, flags) = (0o600, 0, 0);
    let data = Data(b"x");
    let changes = [
        set_size(9, 1),
        Request::Lopen { fid, flags: 0o1000 },
        Request::Lcreate {
            fid,
            name,
            flags,
            mode,
            gid,
        },
        Request::Symlink {
            dfid,
            name,
            target: text("to"),
            gid,
        },
        Request::Mknod {
            dfid,
            name,
            mode,
            major: 0,
            minor: 0,
            gid,
        },
        Request::Mkdir {
            dfid,
            name,
            mode,
            gid,
        },
        Request::Rename { fid, dfid, name },
        Request::Renameat {
            olddirfid: 0,
            oldname: name,
            newdirfid,
            newname: name,
        },
        Request::Link { dfid, fid, name },
        Request::Unlinkat { dfid, name, flags },
        Request::Write {
            fid,
            offset: 0,
            data,
        },
        Request::Remove { fid },
    ];
    let now = Instant::now();
    let attr = Attr {
        valid: Attr::BASIC,
        ..Attr::default()
    };
    let asked: Bytes = message(3, &getattr(1)).into();
    // When it is sent, and when it is answered before the walk.
    for (request, after) in changes
        .iter()
        .flat_map(|request| [(request, false), (request, true)])
    {
        let mut relay = extended();
        let mut out = Out::default();
        from_kernel(&mut relay, message(1, &walk(0, 1, "file")), now, &mut out);
        let walked = reply(1, &Reply::Walkgetattr { attr });
        if after {
            from_kernel(&mut relay, message(2, request), now, &mut out);
            let mut done = reply(2, &Reply::Clunk {}).to_vec();
            done[4] = request.kind().number() + 1;
            if let Request::Lcreate { .. } = request {
                let qid = MemNode::File.qid();
                done = reply(2, &Reply::Lcreate { qid, iounit: 0 }).to_vec();
            }
            from_server(&mut relay, done, now, &mut out).unwrap();
            from_server(&mut relay, walked, now, &mut out).unwrap();
        } else {
            from_server(&mut relay, walked, now, &mut out).unwrap();
            from_kernel(&mut relay, message(2, request), now, &mut out);
        }
        let mut out = Out::default();
        from_kernel(&mut relay, asked.clone(), now, &mut out);
        assert!(out.kernel.is_empty(), "{request:?}, {after}");
        assert_eq!(out.server.concat(), asked);
    }
    // A request that only reads does not.
    let mut relay = extended();
    let mut out = Out::default();
    from_kernel(&mut relay, message(1, &walk(0, 1, "file")), now, &mut out);
    from_server(
        &mut relay,
        reply(1, &Reply::Walkgetattr { attr }),
        now,
        &mut out,
    )
    .unwrap();
    from_kernel(&mut relay, message(2, &read(9, 0, 1)), now, &mut out);
    let mut out = Out::default();
    from_kernel(&mut relay, asked, now, &mut out);
    assert_eq!(out.kernel.concat(), reply(3, &Reply::Getattr { attr }));
}

#[test]
fn attributes_that_a_change_overtook_are_not_kept() {
    let mut relay = extended();
    let now = Instant::now();
    let mut out = Out::default();
    for (tag, request) in [(1, walk(0, 1, "file")), (2, set_size(0, 9))] {
        let bytes = message(tag, &request);
        from_kernel(&mut relay, bytes, now, &mut out);
    }
    // The walk was performed first and answered last.
    let attr = Attr {
        valid: Attr::BASIC,
        ..Attr::default()
    };
    for bytes in [
        reply(2, &Reply::Setattr {}),
        reply(1, &Reply::Walkgetattr { attr }),
    ] {
        from_server(&mut relay, bytes, now, &mut out).unwrap();
    }
    let mut out = Out::default();
    let asked = message(3, &getattr(1));
    from_kernel(&mut relay, asked.clone(), now, &mut out);
    assert!(out.kernel.is_empty());
    assert_eq!(out.server.concat(), asked);
}

/// A relay whose server speaks the dialect.
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

#[test]
fn clones_and_clunks_are_not_waited_for_unless_a_file_was_written() {
    let mem = Arc::new(Mem::default());
    let (mut kernel, _) = Kernel::new(MemFs(mem.clone()), 4096);
    assert_eq!(kernel.waits(&walk(0, 1, "file")), 1);
    for flags in [0, 1, 2, 0o1000] {
        assert_eq!(kernel.waits(&walk(1, 2, "")), 0);
        assert_eq!(kernel.waits(&Request::Lopen { fid: 2, flags }), 1);
        let waited = usize::from(flags != 0);
        assert_eq!(kernel.waits(&Request::Clunk { fid: 2 }), waited, "{flags}");
    }
    assert_eq!(kernel.waits(&walk(1, 2, "")), 0);
    let lock = Request::Lock {
        fid: 2,
        kind: Flock::READ,
        flags: 0,
        start: 0,
        length: 0,
        proc_id: 1,
        client_id: text("there"),
    };
    kernel.done(&lock);
    assert_eq!(kernel.waits(&Request::Clunk { fid: 2 }), 1);
    // The clunk tells the kernel whether the extended attribute was set; here no value was written.
    kernel.done(&walk(1, 3, ""));
    let create = Request::Xattrcreate {
        fid: 3,
        name: text("user.a"),
        size: 4,
        flags: 0,
    };
    kernel.done(&create);
    let refused = Errno::EINVAL.raw();
    assert_eq!(
        kernel.done(&Request::Clunk { fid: 3 }),
        reply(1, &Reply::Error { ecode: refused })
    );
    let create = Request::Lcreate {
        fid: 4,
        name: name("new"),
        flags: 0,
        mode: 0,
        gid: 0,
    };
    kernel.done(&walk(0, 4, ""));
    kernel.done(&create);
    assert_eq!(kernel.waits(&Request::Clunk { fid: 4 }), 1);
    // Everything that was held back has been performed, the last of it with this request.
    assert_eq!(kernel.waits(&walk(0, 2, "dir")), 1);
    assert_eq!(mem.open.load(Ordering::SeqCst), 0);
}

#[test]
fn what_is_answered_here_comes_before_the_end_of_its_flush() {
    let mut relay = extended();
    let (now, mut out) = (Instant::now(), Out::default());
    let data = vec![7; 1000];
    let long = reply(1, &Reply::Read { data: Data(&data) });
    from_kernel(&mut relay, message(1, &read(9, 0, 1000)), now, &mut out);
    from_server(&mut relay, long.slice(..500), now, &mut out).unwrap();
    // A process that is killed while it closes a file makes the kernel flush the clunk.
    from_kernel(
        &mut relay,
        message(2, &Request::Clunk { fid: 5 }),
        now,
        &mut out,
    );
    from_kernel(
        &mut relay,
        message(3, &Request::Flush { oldtag: 2 }),
        now,
        &mut out,
    );
    assert_eq!(
        out.kernel.concat(),
        long.slice(..500),
        "not inside another reply"
    );
    assert!(relay.has_replies());
    let flushed = reply(3, &Reply::Flush {});
    let rest = [long.slice(500..), flushed.clone()].concat();
    from_server(&mut relay, rest, now, &mut out).unwrap();
    let clunked = reply(2, &Reply::Clunk {});
    assert_eq!(out.kernel.concat(), [long, clunked, flushed].concat());
    assert!(!relay.has_replies());
}

#[test]
fn what_is_held_back_is_let_go() {
    let mut relay = extended();
    let mut out = Out::default();
    let now = Instant::now();
    let clunk = |fid| Bytes::from(message(1, &Request::Clunk { fid }));
    from_kernel(&mut relay, clunk(1), now, &mut out);
    assert!(out.server.is_empty() && relay.has_batch());
    assert_eq!(out.kernel.concat(), reply(1, &Reply::Clunk {}));
    relay.take_batch(&mut out.server);
    assert_eq!(
        out.server.concat(),
        message(NO_TAG, &Request::Clunk { fid: 1 })
    );
    assert!(!relay.has_batch());
    // If there are many, most of them are sent at once.
    let mut out = Out::default();
    for fid in 0..100_000 {
        from_kernel(&mut relay, clunk(fid), now, &mut out);
    }
    assert!(out.server.concat().len() > 99_000 * 11);
}

#[test]
fn with_a_server_that_speaks_nothing_else_every_byte_passes() {
    let (mut relay, mut out) = (Relay::new(Upstream::Any), Out::default());
    let now = Instant::now();
    let asked = message(NO_TAG, &version(1 << 16, VERSION));
    let asked: Bytes = asked.into();
    from_kernel(&mut relay, asked.clone(), now, &mut out);
    assert_eq!(
        out.server.concat(),
        message(NO_TAG, &version(1 << 16, WATCHED))
    );
    let mut out = Out::default();
    let mut silent = Relay::new(Upstream::URoot);
    from_kernel(&mut silent, asked.clone(), now, &mut out);
    assert_eq!(out.server.concat(), asked);
    // A reply of the dialect from a server that does not speak it is passed on, too.
    let attr = Attr::default();
    let strange = reply(1, &Reply::Walkgetattr { attr });
    let mut out = Out::default();
    from_server(&mut silent, strange.clone(), now, &mut out).unwrap();
    assert_eq!(out.kernel.concat(), strange);
    let mut out = Out::default();
    let plain = Reply::Version {
        msize: 1 << 16,
        version: text("9P2000.L"),
    };
    let plain = reply(NO_TAG, &plain);
    // It may know the older dialect.
    from_server(&mut relay, plain.clone(), now, &mut out).unwrap();
    assert!(out.kernel.is_empty());
    relay.take_requests(&mut out.server);
    assert_eq!(
        out.server.concat(),
        message(NO_TAG, &version(1 << 16, EXTENDED))
    );
    let mut out = Out::default();
    from_server(&mut relay, plain.clone(), now, &mut out).unwrap();
    assert_eq!(out.kernel.concat(), plain);
    relay.take_requests(&mut out.server);
    assert!(out.server.is_empty());
    for request in [
        walk(0, 1, ""),
        walk(0, 1, "a"),
        getattr(1),
        Request::Clunk { fid: 1 },
    ] {
        let mut out = Out::default();
        let bytes = message(3, &request);
        from_kernel(&mut relay, bytes.clone(), now, &mut out);
        assert_eq!(out.server.concat(), bytes);
        assert!(out.kernel.is_empty());
    }
}

#[test]
fn types_and_inode_numbers_of_u_roots_server_are_corrected() {
    let names = |path: u64, kind: fn(u8) -> u8| {
        let mut data = Frame::default();
        data.start(0, 0);
        for (n, (qid, name)) in [(Qid::DIR, "a"), (Qid::SYMLINK, ""), (Qid::FILE, "ccc")]
            .into_iter()
            .enumerate()
        {
            let entry = DirEntry {
                qid: Qid {
                    kind: qid,
                    version: 7,
                    path,
                },
                offset: n as u64 + 1,
                kind: kind(qid),
                name: text(name),
            };
            Wire::put(&entry, &mut data);
        }
        data.finish()[HEADER..].to_vec()
    };
    let readdir = |data: &[u8]| reply(5, &Reply::Readdir { data: Data(data) });
    let relayed = |server, bytes: &[u8]| {
        let (mut relay, mut out) = (Relay::new(server), Out::default());
        // In two chunks.
        let (one, two) = bytes.split_at(bytes.len() / 2);
        for piece in [one, two] {
            from_server(&mut relay, piece.to_vec(), Instant::now(), &mut out).unwrap();
        }
        out.kernel.concat()
    };
    let types = |qid| match qid {
        Qid::DIR => 4,
        Qid::SYMLINK => 10,
        _ => 0,
    };
    let theirs = readdir(&names(9, |qid| qid));
    assert_eq!(relayed(Upstream::URoot, &theirs), readdir(&names(7, types)));
    // Correct types are left alone, and so is all that other servers say.
    let typed = readdir(&names(9, types));
    assert_eq!(relayed(Upstream::URoot, &typed), readdir(&names(7, types)));
    assert_eq!(relayed(Upstream::Any, &theirs), theirs);

    // All replies with a qid that Linux reads.
    let replies = |paths: [u64; 2]| {
        let [qid, other] = paths.map(|path| Qid {
            kind: Qid::FILE,
            version: 7,
            path,
        });
        let mut qids = WalkVec::default();
        assert!(qids.push(qid) && qids.push(other));
        let attr = Attr {
            qid,
            size: 5,
            ..Attr::default()
        };
        let all = [
            Reply::Attach { qid },
            Reply::Walk { qids },
            Reply::Lopen { qid, iounit: 5 },
            Reply::Lcreate { qid, iounit: 5 },
            Reply::Getattr { attr },
        ];
        all.map(|one| reply(5, &one))
    };
    let meant = replies([1 << 40, 0]);
    for (theirs, meant) in replies([(1 << 40) + 2, 2]).iter().zip(&meant) {
        assert_eq!(relayed(Upstream::URoot, theirs), *meant);
        assert_eq!(relayed(Upstream::Any, theirs), *theirs);
    }
    // A listing that ends too early does no harm.
    for cut in 0..theirs.len() - HEADER {
        let mut short = theirs[..theirs.len() - cut].to_vec();
        let size = u32::try_from(short.len()).unwrap();
        short[..4].copy_from_slice(&size.to_le_bytes());
        assert_eq!(relayed(Upstream::URoot, &short).len(), short.len());
    }
}

#[test]
fn requests_without_a_tag_are_done_in_order_and_not_answered() {
    let (mut raw, _) = start();
    raw.dialect(1 << 16, EXTENDED);
    raw.ask(&attach(0)).unwrap();
    // Four threads take requests. In whatever order they finish, the number can be reused.
    let mut all = Vec::new();
    for _ in 0..2000 {
        all.extend(message(NO_TAG, &walk(0, 1, "")));
        all.extend(message(1, &getattr(1)));
        all.extend(message(NO_TAG, &Request::Clunk { fid: 1 }));
        all.extend(message(2, &walk(0, 1, "file")));
        all.extend(message(NO_TAG, &Request::Clunk { fid: 1 }));
        raw.send_bytes(&all);
        all.clear();
        for _ in 0..2 {
            let reply = raw.receive();
            assert!([1, 2].contains(&reply.tag));
            // The clunk may be performed before the getattr, as in plain 9P.
            assert!(reply.tag == 1 || reply.errno().is_none());
        }
    }
}

#[test]
fn files_that_cannot_be_closed_stop_no_other() {
    let (mem, mut raw) = mem();
    raw.dialect(1 << 16, EXTENDED);
    raw.ask(&attach(0)).unwrap();
    mem.slow_close.store(true, Ordering::SeqCst);
    let closed = Config::default().workers.get() + 2;
    for fid in 1..=closed as u32 {
        raw.open(fid, "slow", 0).unwrap();
    }
    for fid in 1..=closed as u32 {
        raw.send(NO_TAG, &Request::Clunk { fid });
    }
    raw.walk(0, 100, "file").unwrap();
    eventually("all are closed at the same time", || {
        mem.closing.load(Ordering::SeqCst) == closed
    });
    mem.release();
    eventually("all are closed", || mem.open.load(Ordering::SeqCst) == 0);
}

#[test]
fn a_clone_that_is_refused_without_a_reply_leaves_no_fid() {
    let (mut raw, _) = start();
    raw.dialect(1 << 16, EXTENDED);
    raw.ask(&attach(0)).unwrap();
    raw.walk(0, 1, "file").unwrap();
    // It is in use: a request on it must not get the other file.
    raw.send(NO_TAG, &walk(0, 1, ""));
    assert_eq!(raw.ask(&getattr(1)).err(), Some(Errno::EBADF));
    raw.send(NO_TAG, &walk(7, 2, ""));
    assert_eq!(raw.ask(&getattr(2)).err(), Some(Errno::EBADF));
}

#[test]
fn a_peer_that_speaks_9p2000_l_has_only_that() {
    let (mut raw, _) = start();
    raw.version(1 << 16);
    raw.ask(&attach(0)).unwrap();
    let both = Request::Walkgetattr {
        fid: 0,
        newfid: 1,
        name: name("file"),
    };
    assert_eq!(raw.ask(&both).err(), Some(Errno::EOPNOTSUPP));
    // NO_TAG is a tag like any other.
    raw.send(NO_TAG, &walk(0, 1, ""));
    assert_eq!(raw.receive().tag, NO_TAG);
    raw.send(NO_TAG, &Request::Clunk { fid: 1 });
    assert_eq!(raw.receive().tag, NO_TAG);

    raw.dialect(1 << 16, EXTENDED);
    raw.ask(&attach(0)).unwrap();
    let attr = match raw.ask(&both).unwrap().reply() {
        Reply::Walkgetattr { attr } => attr,
        other => panic!("{other:?}"),
    };
    assert_eq!(attr.qid, MemNode::File.qid());
    for (dot, errno) in [(".", Errno::EINVAL), ("..", Errno::EINVAL)] {
        let dots = Request::Walkgetattr {
            fid: 0,
            newfid: 2,
            name: name(dot),
        };
        assert_eq!(raw.ask(&dots).err(), Some(errno));
    }
    assert_eq!(raw.ask(&both).err(), Some(Errno::EBADF), "in use");
}

#[test]
fn attributes_of_more_walks_than_the_cache_holds_are_asked_for() {
    let (mut kernel, _) = Kernel::new(MemFs(Arc::default()), 4096);
    let walks = 1..=33;
    for fid in walks {
        kernel.done(&walk(0, fid, "file"));
    }
    assert_eq!([1, 2, 33].map(|fid| kernel.size(fid).1), [1, 0, 0]);
}
