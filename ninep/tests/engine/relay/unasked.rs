//! What the relay answers before the server has: clones, clunks and flushes.

use super::*;

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
