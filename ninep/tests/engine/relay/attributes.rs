//! Attributes that the relay keeps: what saves a wait, and what makes them forgotten.

use super::*;

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

#[test]
fn attributes_of_more_walks_than_the_cache_holds_are_asked_for() {
    let (mut kernel, _) = Kernel::new(MemFs(Arc::default()), 4096);
    let walks = 1..=33;
    for fid in walks {
        kernel.done(&walk(0, fid, "file"));
    }
    assert_eq!([1, 2, 33].map(|fid| kernel.size(fid).1), [1, 0, 0]);
}
