//! Any requests of the kernel, and any replies of a server.

use proptest::prelude::*;

use super::*;

/// Requests that a kernel may send. Those that make no sense in the present state of the fids are skipped.
#[derive(Debug, Clone)]
enum Step {
    Walk(u32, u32, &'static str),
    Open(u32, bool),
    Clunk(u32),
    Getattr(u32),
    Size(u32, u64),
    Read(u32),
    Write(u32, usize),
    GetCapability(u32),
    SetCapability(u32),
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
        3 => fid().prop_map(Step::GetCapability),
        1 => fid().prop_map(Step::SetCapability),
        1 => Just(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_reply_is_as_without_it(steps in prop::collection::vec(step(), 1..80), piece in 1..200_usize) {
        let (mut kernel, _) = Kernel::new(MemFs(Arc::default()), piece);
        let mut raw = RawClient::attached(Arc::new(MemFs(Arc::default())), Config::default());
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
                Step::GetCapability(fid) => vec![get_capability(fid), Request::Clunk { fid: FREE }],
                Step::SetCapability(fid) if fids.contains(&fid) => set_capability(fid),
                Step::Wait => {
                    kernel.now += ATTR_TTL;
                    continue;
                }
                Step::Clunk(_) | Step::SetCapability(_) => continue,
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
                Hostile::Request(tag, fid, newfid) => {
                    let asked = match newfid % 4 {
                        0 => message(tag, &Request::Clunk { fid }),
                        1 => message(tag, &getattr(fid)),
                        2 => message(tag, &walk(fid, newfid, "")),
                        _ => message(tag, &walk(fid, newfid, "file")),
                    };
                    from_kernel(&mut relay, asked, now, &mut out);
                    let held = std::mem::take(&mut out.server).concat();
                    relay.take_batch(&mut out.server);
                    // Every request is either answered by the relay or sent on.
                    let answered = usize::from(!out.kernel.is_empty());
                    let local = usize::from(!held.is_empty());
                    // A reply of the relay waits until one of the server is complete.
                    prop_assert!(answered + local == 1 || relay.has_replies());
                    prop_assert!(!relay.has_batch());
                }
                Hostile::Reply(bytes) => {
                    for piece in bytes.chunks(piece) {
                        let piece = Bytes::copy_from_slice(piece);
                        if from_server(&mut relay, piece, now, &mut out).is_err() {
                            return Ok(());
                        }
                    }
                    prop_assert!(out.server.is_empty());
                    // What it passes on is not longer than what it got, except for its own replies.
                    prop_assert!(out.kernel.concat().len() <= bytes.len() + 400);
                }
            }
        }
    }
}

/// A request of the kernel, or bytes of a hostile server.
#[derive(Debug, Clone)]
enum Hostile {
    Request(u16, u32, u32),
    Reply(Vec<u8>),
}

fn hostile() -> impl Strategy<Value = Hostile> {
    let tag = || 0..4_u16;
    let reply_step =
        |reply: &Reply<'_>, tag| Hostile::Reply(super::relay::reply(tag, reply).to_vec());
    prop_oneof![
        4 => (tag(), 0..6_u32, 0..6_u32).prop_map(|(tag, fid, newfid)| Hostile::Request(tag, fid, newfid)),
        4 => (tag(), any::<u64>()).prop_map(move |(tag, size)| {
            let attr = Attr { valid: size, size, ..Attr::default() };
            reply_step(&Reply::Walkgetattr { attr }, tag)
        }),
        1 => tag().prop_map(move |tag| reply_step(&Reply::Setattr {}, tag)),
        1 => tag().prop_map(move |tag| reply_step(&Reply::Error { ecode: 2 }, tag)),
        1 => (tag(), any::<bool>()).prop_map(move |(tag, extended)| {
            let version = Str::new(if extended { EXTENDED } else { VERSION }).unwrap();
            reply_step(&Reply::Version { msize: 1 << 16, version }, tag)
        }),
        1 => prop::collection::vec(any::<u8>(), 0..64).prop_map(Hostile::Reply),
    ]
}
