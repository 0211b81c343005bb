//! Servers that speak 9P2000.L only, and what u-root's gets wrong.

use super::*;

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
