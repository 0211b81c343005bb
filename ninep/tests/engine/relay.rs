//! The relay between a kernel and a server: nothing is another than without it, but fewer waits. (One room of
//! over 500 lines: each kind of request and each order of replies that matters has its case.)

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use ninep::msg::{EXTENDED, Header, Record, VERSION};
use ninep::relay::{Broken, FRESH, Relay};
use ninep::wire::{Data, Frame, HEADER, Str};
use proptest::prelude::*;

use super::*;

/// A kernel, which waits for each reply, and a relay.
struct Kernel {
    relay: Relay,
    now: Instant,
    /// Bytes that the relay gets at once.
    piece: usize,
    server: UnixStream,
    waits: usize,
}

/// What is to be sent.
#[derive(Debug, Default)]
struct Out {
    server: Vec<Bytes>,
    kernel: Vec<Bytes>,
}

/// The kernel asks.
fn asks(relay: &mut Relay, bytes: impl Into<Bytes>, now: Instant, out: &mut Out) {
    let bytes = bytes.into();
    relay.from_kernel(bytes, now, &mut out.server).unwrap();
    relay.answers(&mut out.kernel);
}

/// The server says.
fn says(
    relay: &mut Relay,
    bytes: impl Into<Bytes>,
    now: Instant,
    out: &mut Out,
) -> std::result::Result<(), Broken> {
    relay.from_server(bytes.into(), now, &mut out.kernel)?;
    relay.answers(&mut out.kernel);
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

/// A fid that nothing else has.
const FREE: u32 = 50;

fn capability(fid: u32) -> Request<'static> {
    Request::Xattrwalk {
        fid,
        newfid: FREE,
        name: text("security.capability"),
    }
}

/// As setxattr(2) does it.
fn give(fid: u32) -> Vec<Request<'static>> {
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
            relay: Relay::new(true),
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
            asks(&mut self.relay, piece, self.now, &mut out);
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
            says(&mut self.relay, bytes, self.now, &mut out).unwrap();
            got.extend(out.kernel.concat());
        }
        got
    }

    fn done(&mut self, request: &Request<'_>) -> Vec<u8> {
        self.ask(&message(1, request))
    }

    /// The size that a getattr gives, and the waits that it took.
    fn size(&mut self, fid: u32) -> (u64, usize) {
        let before = self.waits;
        let got = self.done(&getattr(fid));
        match Reply::decode(got[4], &got[HEADER..]).unwrap() {
            Reply::Getattr { attr } => (attr.size, self.waits - before),
            other => panic!("{other:?}"),
        }
    }

    /// Waits that a request takes.
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

/// Requests that a kernel may send; what makes no sense in the state that the fids are in is left out.
#[derive(Debug, Clone)]
enum Step {
    Walk(u32, u32, &'static str),
    Open(u32, bool),
    Clunk(u32),
    Getattr(u32),
    Size(u32, u64),
    Read(u32),
    Write(u32, usize),
    /// Ask for the capability, give one.
    Ask(u32),
    Give(u32),
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    let fid = || 0..6_u32;
    let path = prop::sample::select(vec![
        "", "dir", "file", "deep", "nothing", "dir/deep", "..", ".",
    ]);
    prop_oneof![
        4 => (fid(), fid(), path).prop_map(|(fid, newfid, path)| Step::Walk(fid, newfid, path)),
        1 => (fid(), any::<bool>()).prop_map(|(fid, write)| Step::Open(fid, write)),
        2 => fid().prop_map(Step::Clunk),
        3 => fid().prop_map(Step::Getattr),
        1 => (fid(), any::<u64>()).prop_map(|(fid, size)| Step::Size(fid, size)),
        1 => fid().prop_map(Step::Read),
        2 => (fid(), 0..5000_usize).prop_map(|(fid, n)| Step::Write(fid, n)),
        3 => fid().prop_map(Step::Ask),
        1 => fid().prop_map(Step::Give),
        1 => Just(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_reply_is_as_without_it(steps in prop::collection::vec(step(), 1..80), piece in 1..200_usize) {
        let (mut kernel, _) = Kernel::new(MemFs(Arc::default()), piece);
        let mut raw = Raw::attached(Arc::new(MemFs(Arc::default())), Config::default());
        raw.dialect(1 << 16, VERSION);
        raw.ask(&attach(0)).unwrap();
        let mut fids = BTreeSet::from([0]);
        let data = vec![7; 5000];
        let mut tag = 0;
        for step in steps {
            let requests = match step {
                Step::Walk(fid, newfid, path) => {
                    let cloned = path.is_empty();
                    if (fids.contains(&newfid) && newfid != fid) || (cloned && !fids.contains(&fid)) {
                        continue;
                    }
                    vec![walk(fid, newfid, path)]
                }
                Step::Open(fid, write) => vec![Request::Lopen { fid, flags: write.into() }],
                Step::Clunk(fid) if fid != 0 && fids.contains(&fid) => vec![Request::Clunk { fid }],
                Step::Getattr(fid) => vec![getattr(fid)],
                Step::Size(fid, size) => vec![set_size(fid, size)],
                Step::Read(fid) => vec![read(fid, 3, 1000)],
                Step::Write(fid, n) => {
                    vec![Request::Write { fid, offset: 1, data: Data(&data[..n]) }]
                }
                Step::Ask(fid) => vec![capability(fid), Request::Clunk { fid: FREE }],
                Step::Give(fid) if fids.contains(&fid) => give(fid),
                Step::Wait => {
                    kernel.now += FRESH;
                    continue;
                }
                Step::Clunk(_) | Step::Give(_) => continue,
            };
            for request in requests {
                if matches!(request, Request::Clunk { fid } if fid == FREE && !fids.contains(&fid)) {
                    continue;
                }
                tag += 1;
                let got = kernel.ask(&message(tag, &request));
            raw.send(tag, &request);
            let wanted = raw.receive();
            let failed = wanted.errno().is_some();
            prop_assert_eq!(&got, &reply(tag, &wanted.reply()), "{:?}", request);
            match request {
                Request::Walk { newfid, names, .. } if !failed => {
                    let qids = match wanted.reply() {
                        Reply::Walk { qids } => qids.len(),
                        other => panic!("{other:?}"),
                    };
                    if qids == names.len() {
                        fids.insert(newfid);
                    }
                }
                Request::Clunk { fid } => {
                    fids.remove(&fid);
                }
                Request::Xattrwalk { newfid, .. } if !failed => {
                    fids.insert(newfid);
                }
                _ => {}
            }
            }
        }
    }

    #[test]
    fn a_hostile_server_is_survived(steps in prop::collection::vec(hostile(), 0..200), piece in 1..400_usize) {
        let mut relay = extended();
        let now = Instant::now();
        for step in steps {
            let mut out = Out::default();
            match step {
                Hostile::Asked(tag, fid, newfid) => {
                    let asked = match newfid % 4 {
                        0 => message(tag, &Request::Clunk { fid }),
                        1 => message(tag, &getattr(fid)),
                        2 => message(tag, &walk(fid, newfid, "")),
                        _ => message(tag, &walk(fid, newfid, "file")),
                    };
                    asks(&mut relay, asked, now, &mut out);
                    let held = std::mem::take(&mut out.server).concat();
                    relay.release(&mut out.server);
                    // Every request is answered once here, or goes.
                    let answered = usize::from(!out.kernel.is_empty());
                    let local = usize::from(!held.is_empty());
                    // An answer waits while a reply of the server's is not whole.
                    prop_assert!(answered + local == 1 || relay.has_answers());
                    prop_assert!(!relay.holds());
                }
                Hostile::Said(bytes) => {
                    for piece in bytes.chunks(piece) {
                        let piece = Bytes::copy_from_slice(piece);
                        if says(&mut relay, piece, now, &mut out).is_err() {
                            return Ok(());
                        }
                    }
                    prop_assert!(out.server.is_empty());
                    // It makes no more of it than it is.
                    prop_assert!(out.kernel.concat().len() <= bytes.len() + 400);
                }
            }
        }
    }
}

/// What comes from the kernel, and what a server says to it.
#[derive(Debug, Clone)]
enum Hostile {
    Asked(u16, u32, u32),
    Said(Vec<u8>),
}

fn hostile() -> impl Strategy<Value = Hostile> {
    let tag = || 0..4_u16;
    let said = |reply: &Reply<'_>, tag| Hostile::Said(super::relay::reply(tag, reply).to_vec());
    prop_oneof![
        4 => (tag(), 0..6_u32, 0..6_u32).prop_map(|(tag, fid, newfid)| Hostile::Asked(tag, fid, newfid)),
        4 => (tag(), any::<u64>()).prop_map(move |(tag, size)| {
            let attr = Attr { valid: size, size, ..Attr::default() };
            said(&Reply::Walkgetattr { attr }, tag)
        }),
        1 => tag().prop_map(move |tag| said(&Reply::Setattr {}, tag)),
        1 => tag().prop_map(move |tag| said(&Reply::Error { ecode: 2 }, tag)),
        1 => (tag(), any::<bool>()).prop_map(move |(tag, extended)| {
            let version = Str::new(if extended { EXTENDED } else { VERSION }).unwrap();
            said(&Reply::Version { msize: 1 << 16, version }, tag)
        }),
        1 => prop::collection::vec(any::<u8>(), 0..64).prop_map(Hostile::Said),
    ]
}

#[test]
fn a_name_and_its_attributes_are_one_wait() {
    let mem = Arc::new(Mem::default());
    let (mut kernel, _) = Kernel::new(MemFs(mem.clone()), 4096);
    mem.size.store(5, Ordering::SeqCst);
    assert_eq!(kernel.waits(&walk(0, 1, "file")), 1);
    // As stat(2) asks for them, on a machine that is busy at the moment.
    kernel.now += 10 * FRESH;
    assert_eq!([kernel.size(1), kernel.size(1)], [(5, 0), (5, 0)]);
    mem.size.store(6, Ordering::SeqCst);
    kernel.now += FRESH;
    assert_eq!(kernel.size(1), (6, 1));
    // Who walks and asks for nothing gets nothing old.
    kernel.done(&walk(0, 3, "file"));
    mem.size.store(7, Ordering::SeqCst);
    kernel.now += 100 * FRESH;
    assert_eq!(kernel.size(3), (7, 1));
    // A path of names that are not there costs what it did.
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
    // A clone is for something else to come, so what is asked later is another system call's.
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
    // When it goes, and when it was done before the walk's answer came.
    for (request, after) in changes
        .iter()
        .flat_map(|request| [(request, false), (request, true)])
    {
        let mut relay = extended();
        let mut out = Out::default();
        asks(&mut relay, message(1, &walk(0, 1, "file")), now, &mut out);
        let walked = reply(1, &Reply::Walkgetattr { attr });
        if after {
            asks(&mut relay, message(2, request), now, &mut out);
            let mut done = reply(2, &Reply::Clunk {}).to_vec();
            done[4] = request.kind().number() + 1;
            if let Request::Lcreate { .. } = request {
                let qid = Node::File.qid();
                done = reply(2, &Reply::Lcreate { qid, iounit: 0 }).to_vec();
            }
            says(&mut relay, done, now, &mut out).unwrap();
            says(&mut relay, walked, now, &mut out).unwrap();
        } else {
            says(&mut relay, walked, now, &mut out).unwrap();
            asks(&mut relay, message(2, request), now, &mut out);
        }
        let mut out = Out::default();
        asks(&mut relay, asked.clone(), now, &mut out);
        assert!(out.kernel.is_empty(), "{request:?}, {after}");
        assert_eq!(out.server.concat(), asked);
    }
    // What only looks does not.
    let mut relay = extended();
    let mut out = Out::default();
    asks(&mut relay, message(1, &walk(0, 1, "file")), now, &mut out);
    says(
        &mut relay,
        reply(1, &Reply::Walkgetattr { attr }),
        now,
        &mut out,
    )
    .unwrap();
    asks(&mut relay, message(2, &read(9, 0, 1)), now, &mut out);
    let mut out = Out::default();
    asks(&mut relay, asked, now, &mut out);
    assert_eq!(out.kernel.concat(), reply(3, &Reply::Getattr { attr }));
}

#[test]
fn attributes_that_a_change_overtook_are_not_kept() {
    let mut relay = extended();
    let now = Instant::now();
    let mut out = Out::default();
    for (tag, request) in [(1, walk(0, 1, "file")), (2, set_size(0, 9))] {
        let bytes = message(tag, &request);
        asks(&mut relay, bytes, now, &mut out);
    }
    // The walk was done first, and answered last.
    let attr = Attr {
        valid: Attr::BASIC,
        ..Attr::default()
    };
    for bytes in [
        reply(2, &Reply::Setattr {}),
        reply(1, &Reply::Walkgetattr { attr }),
    ] {
        says(&mut relay, bytes, now, &mut out).unwrap();
    }
    let mut out = Out::default();
    let asked = message(3, &getattr(1));
    asks(&mut relay, asked.clone(), now, &mut out);
    assert!(out.kernel.is_empty());
    assert_eq!(out.server.concat(), asked);
}

/// A relay whose server speaks the dialect.
fn extended() -> Relay {
    let mut relay = Relay::new(true);
    let mut out = Out::default();
    let version = Reply::Version {
        msize: 1 << 16,
        version: Str::new(EXTENDED).unwrap(),
    };
    let version = reply(NO_TAG, &version);
    says(&mut relay, version, Instant::now(), &mut out).unwrap();
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
        kind: Record::READ,
        flags: 0,
        start: 0,
        length: 0,
        proc_id: 1,
        client_id: text("there"),
    };
    kernel.done(&lock);
    assert_eq!(kernel.waits(&Request::Clunk { fid: 2 }), 1);
    // The kernel learns from the clunk what became of an extended attribute, here that none was written.
    kernel.done(&walk(1, 3, ""));
    let wish = Request::Xattrcreate {
        fid: 3,
        name: text("user.a"),
        size: 4,
        flags: 0,
    };
    kernel.done(&wish);
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
    // All that was held back has been done by now, the last of it with this.
    assert_eq!(kernel.waits(&walk(0, 2, "dir")), 1);
    assert_eq!(mem.open.load(Ordering::SeqCst), 0);
}

#[test]
fn what_is_answered_here_comes_before_the_end_of_its_flush() {
    let mut relay = extended();
    let (now, mut out) = (Instant::now(), Out::default());
    let data = vec![7; 1000];
    let long = reply(1, &Reply::Read { data: Data(&data) });
    asks(&mut relay, message(1, &read(9, 0, 1000)), now, &mut out);
    says(&mut relay, long.slice(..500), now, &mut out).unwrap();
    // Somebody lets go of a file, is killed while he waits, and asks for that to be forgotten.
    asks(
        &mut relay,
        message(2, &Request::Clunk { fid: 5 }),
        now,
        &mut out,
    );
    asks(
        &mut relay,
        message(3, &Request::Flush { oldtag: 2 }),
        now,
        &mut out,
    );
    assert_eq!(
        out.kernel.concat(),
        long.slice(..500),
        "not within the other"
    );
    assert!(relay.has_answers());
    let flushed = reply(3, &Reply::Flush {});
    let rest = [long.slice(500..), flushed.clone()].concat();
    says(&mut relay, rest, now, &mut out).unwrap();
    let clunked = reply(2, &Reply::Clunk {});
    assert_eq!(out.kernel.concat(), [long, clunked, flushed].concat());
    assert!(!relay.has_answers());
}

#[test]
fn what_is_held_back_is_let_go() {
    let mut relay = extended();
    let mut out = Out::default();
    let now = Instant::now();
    let clunk = |fid| Bytes::from(message(1, &Request::Clunk { fid }));
    asks(&mut relay, clunk(1), now, &mut out);
    assert!(out.server.is_empty() && relay.holds());
    assert_eq!(out.kernel.concat(), reply(1, &Reply::Clunk {}));
    relay.release(&mut out.server);
    assert_eq!(
        out.server.concat(),
        message(NO_TAG, &Request::Clunk { fid: 1 })
    );
    assert!(!relay.holds());
    // Of many, most go at once.
    let mut out = Out::default();
    for fid in 0..100_000 {
        asks(&mut relay, clunk(fid), now, &mut out);
    }
    assert!(out.server.concat().len() > 99_000 * 11);
}

#[test]
fn with_a_server_that_speaks_nothing_else_every_byte_passes() {
    let (mut relay, mut out) = (Relay::new(true), Out::default());
    let now = Instant::now();
    let asked = message(NO_TAG, &version(1 << 16, VERSION));
    let asked: Bytes = asked.into();
    asks(&mut relay, asked.clone(), now, &mut out);
    assert_eq!(
        out.server.concat(),
        message(NO_TAG, &version(1 << 16, EXTENDED))
    );
    let mut out = Out::default();
    let mut silent = Relay::new(false);
    asks(&mut silent, asked.clone(), now, &mut out);
    assert_eq!(out.server.concat(), asked);
    // Nor does it make anything of what such a server can't mean.
    let attr = Attr::default();
    let strange = reply(1, &Reply::Walkgetattr { attr });
    let mut out = Out::default();
    says(&mut silent, strange.clone(), now, &mut out).unwrap();
    assert_eq!(out.kernel.concat(), strange);
    let mut out = Out::default();
    let plain = Reply::Version {
        msize: 1 << 16,
        version: text("9P2000.L"),
    };
    let plain = reply(NO_TAG, &plain);
    says(&mut relay, plain.clone(), now, &mut out).unwrap();
    assert_eq!(out.kernel.concat(), plain);
    for request in [
        walk(0, 1, ""),
        walk(0, 1, "a"),
        getattr(1),
        Request::Clunk { fid: 1 },
    ] {
        let mut out = Out::default();
        let bytes = message(3, &request);
        asks(&mut relay, bytes.clone(), now, &mut out);
        assert_eq!(out.server.concat(), bytes);
        assert!(out.kernel.is_empty());
    }
}

#[test]
fn requests_without_a_tag_are_done_in_order_and_not_answered() {
    let (mut raw, _) = start();
    raw.dialect(1 << 16, EXTENDED);
    raw.ask(&attach(0)).unwrap();
    // Four threads take requests: whichever comes first, the number is free.
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
            // The clunk may come before the getattr is done, as it may in plain 9P.
            assert!(reply.tag == 1 || reply.errno().is_none());
        }
    }
}

#[test]
fn a_clone_that_is_refused_unheard_leaves_its_number_meaning_nothing() {
    let (mut raw, _) = start();
    raw.dialect(1 << 16, EXTENDED);
    raw.ask(&attach(0)).unwrap();
    raw.walk(0, 1, "file").unwrap();
    // In use: who goes on with it must not get the other file.
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
    // No tag is a tag like any other.
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
    assert_eq!(attr.qid, Node::File.qid());
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
fn attributes_of_more_walks_than_there_are_at_a_time_are_asked_for() {
    let (mut kernel, _) = Kernel::new(MemFs(Arc::default()), 4096);
    let walks = 1..=33;
    for fid in walks {
        kernel.done(&walk(0, fid, "file"));
    }
    assert_eq!([1, 2, 33].map(|fid| kernel.size(fid).1), [1, 0, 0]);
}

#[test]
fn a_file_that_was_just_written_is_not_asked_about() {
    let (mut kernel, _) = Kernel::new(MemFs(Arc::default()), 4096);
    for fid in [1, 2] {
        kernel.done(&walk(0, fid, ["file", "slow"][fid as usize - 1]));
    }
    kernel.done(&walk(1, 3, ""));
    kernel.done(&Request::Lopen { fid: 3, flags: 1 });
    let asks = |kernel: &mut Kernel, fid| {
        let before = kernel.waits;
        let got = kernel.done(&capability(fid));
        if got[4] != 7 {
            kernel.done(&Request::Clunk { fid: FREE });
        }
        (got[4] != 7, kernel.waits - before)
    };
    let write = |n| Request::Write {
        fid: 3,
        offset: 0,
        data: Data(&b"bytes"[..n]),
    };
    assert_eq!(asks(&mut kernel, 1), (false, 1));
    for _ in 0..3 {
        kernel.done(&write(5));
        assert_eq!(asks(&mut kernel, 1), (false, 0));
    }
    // Another file, and the same one later.
    assert_eq!(asks(&mut kernel, 2), (false, 1));
    kernel.now += FRESH;
    assert_eq!(asks(&mut kernel, 1), (false, 1));
    // It was given one after the write; a write of nothing leaves it.
    kernel.done(&write(5));
    for request in give(1) {
        kernel.done(&request);
    }
    assert_eq!(asks(&mut kernel, 1), (true, 1));
    kernel.done(&write(0));
    assert_eq!(asks(&mut kernel, 1), (true, 1));
    // While it is given another, what is written is the attribute.
    for mut request in give(1) {
        if let Request::Walk { newfid: fid, .. }
        | Request::Xattrcreate { fid, .. }
        | Request::Write { fid, .. }
        | Request::Clunk { fid } = &mut request
        {
            *fid += 1;
        }
        kernel.done(&request);
        assert_eq!(asks(&mut kernel, 1), (true, 1), "{request:?}");
    }
    kernel.done(&write(1));
    assert_eq!(asks(&mut kernel, 1), (false, 0));
}

/// The server did the write first, then gave the attribute, and told of it first.
#[test]
fn a_write_that_another_change_overtook_says_nothing() {
    let now = Instant::now();
    for overtaken in [true, false] {
        let mut relay = extended();
        let mut out = Out::default();
        let qid = Node::File.qid();
        let attr = Attr {
            qid,
            ..Attr::default()
        };
        asks(&mut relay, message(1, &walk(0, 1, "file")), now, &mut out);
        let walked = reply(1, &Reply::Walkgetattr { attr });
        says(&mut relay, walked, now, &mut out).unwrap();
        let [clone, create, value, clunk] = give(1).try_into().unwrap();
        for request in [clone, create, value] {
            asks(&mut relay, message(1, &request), now, &mut out);
        }
        let write = Request::Write {
            fid: 1,
            offset: 0,
            data: Data(b"bytes"),
        };
        asks(&mut relay, message(2, &write), now, &mut out);
        asks(&mut relay, message(3, &clunk), now, &mut out);
        let clunked = reply(3, &Reply::Clunk {});
        let written = reply(2, &Reply::Write { count: 5 });
        let replies = if overtaken {
            [clunked, written]
        } else {
            [written, clunked]
        };
        for reply in replies {
            says(&mut relay, reply, now, &mut out).unwrap();
        }
        let mut out = Out::default();
        asks(&mut relay, message(1, &capability(1)), now, &mut out);
        assert!(
            !out.server.is_empty() && out.kernel.is_empty(),
            "{overtaken}"
        );
    }
}

#[test]
fn a_file_that_was_just_made_is_not_asked_about() {
    let now = Instant::now();
    for (flags, is_new) in [(0o301, true), (0o1101, true), (0o101, false)] {
        let mut relay = extended();
        let mut out = Out::default();
        let create = Request::Lcreate {
            fid: 1,
            name: name("new"),
            flags,
            mode: 0o644,
            gid: 0,
        };
        asks(&mut relay, message(1, &create), now, &mut out);
        let qid = Node::File.qid();
        let created = reply(1, &Reply::Lcreate { qid, iounit: 0 });
        says(&mut relay, created, now, &mut out).unwrap();
        asks(&mut relay, message(1, &walk(0, 2, "new")), now, &mut out);
        let attr = Attr {
            qid,
            ..Attr::default()
        };
        let walked = reply(1, &Reply::Walkgetattr { attr });
        says(&mut relay, walked, now, &mut out).unwrap();
        let mut out = Out::default();
        asks(&mut relay, message(1, &capability(2)), now, &mut out);
        assert_eq!(out.server.is_empty(), is_new, "{flags:o}");
        assert_eq!(out.kernel.is_empty(), !is_new, "{flags:o}");
    }
}
