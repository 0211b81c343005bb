//! Versions, tags, flushes, threads, and how a session ends.

use super::*;

#[test]
fn the_smaller_msize_is_agreed() {
    let (mut raw, _) = start();
    assert_eq!(raw.version(8192), 8192);
    assert_eq!(raw.version(u32::MAX), 1 << 20);
}

#[test]
fn nothing_works_without_a_version() {
    let (mut raw, _) = start();
    assert_eq!(raw.ask(&attach(0)).err(), Some(Errno::EPROTO));
    assert_eq!(
        raw.ask(&version(4095, b"9P2000.L")).err(),
        Some(Errno::EINVAL)
    );
    assert_eq!(raw.ask(&attach(0)).err(), Some(Errno::EPROTO));
    let unknown = raw.ask(&version(8192, b"9P2000.u")).unwrap();
    assert!(
        matches!(unknown.reply(), Reply::Version { version, .. } if version == text("unknown"))
    );
    assert_eq!(raw.ask(&attach(0)).err(), Some(Errno::EPROTO));
    let newer = raw.ask(&version(8192, b"9P2000.L.x")).unwrap();
    assert!(matches!(newer.reply(), Reply::Version { version, .. } if version == text("9P2000.L")));
    raw.ask(&attach(0)).unwrap();
}

#[test]
fn a_version_in_the_middle_waits_and_clunks_everything() {
    let (mem, mut raw) = mem();
    raw.open(1, "slow", 0).unwrap();
    raw.open(2, "file", 0).unwrap();
    raw.send(5, &read(1, 0, 10));
    eventually("the read is on its way", || {
        mem.reading.load(Ordering::SeqCst) == 1
    });
    raw.send(NO_TAG, &version(8192, b"9P2000.L"));
    std::thread::sleep(Duration::from_millis(50));
    mem.release();
    assert_eq!(raw.receive().tag, 5);
    assert_eq!(raw.receive().tag, NO_TAG);
    assert_eq!(mem.open.load(Ordering::SeqCst), 0);
    assert_eq!(raw.ask(&read(2, 0, 1)).err(), Some(Errno::EBADF));
    assert_eq!(
        raw.ask(&Request::Getattr { fid: 0, mask: 0 }).err(),
        Some(Errno::EBADF)
    );
}

#[test]
fn a_blocked_request_stops_no_other() {
    let (mem, mut raw) = mem();
    raw.open(1, "slow", 0).unwrap();
    raw.open(2, "file", 0).unwrap();
    for tag in 10..13 {
        raw.send(tag, &read(1, 0, 10));
    }
    for at in 0..100 {
        assert_eq!(raw.read(2, at, 1).unwrap(), [at as u8]);
    }
    mem.release();
    let mut tags: Vec<u16> = (0..3).map(|_| raw.receive().tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, [10, 11, 12]);
}

#[test]
fn as_many_blocked_requests_as_threads_stop_no_other() {
    let (mem, mut raw) = mem();
    raw.open(1, "slow", 0).unwrap();
    raw.open(2, "file", 0).unwrap();
    let blocked = Config::default().workers.get() as u16 + 2;
    for tag in 10..10 + blocked {
        raw.send(tag, &read(1, 0, 10));
    }
    // The client can give up one of the stuck requests, and all others are served.
    raw.send(5, &Request::Flush { oldtag: 10 });
    assert_eq!(raw.read(2, 3, 1).unwrap(), [3]);
    assert_eq!(mem.reading.load(Ordering::SeqCst), usize::from(blocked));
    mem.release();
    let mut tags: Vec<u16> = (0..=blocked).map(|_| raw.receive().tag).collect();
    tags.sort_unstable();
    assert_eq!(
        tags,
        [5].into_iter().chain(10..10 + blocked).collect::<Vec<_>>()
    );
}

#[test]
fn a_flush_is_answered_after_what_it_flushes_and_takes_no_thread() {
    let (mem, mut raw) = mem();
    raw.open(1, "slow", 0).unwrap();
    raw.send(10, &read(1, 0, 10));
    eventually("the read is on its way", || {
        mem.reading.load(Ordering::SeqCst) == 1
    });
    // More flushes than threads; the second flushes the first.
    raw.send(20, &Request::Flush { oldtag: 10 });
    raw.send(21, &Request::Flush { oldtag: 20 });
    for tag in 22..40 {
        raw.send(tag, &Request::Flush { oldtag: 10 });
    }
    raw.ask(&walk(0, 2, "file")).unwrap();
    mem.release();
    let tags: Vec<u16> = (0..21).map(|_| raw.receive().tag).collect();
    assert_eq!(tags, [10].into_iter().chain(20..40).collect::<Vec<_>>());
    // There is no such request.
    raw.ask(&Request::Flush { oldtag: 999 }).unwrap();
}

#[test]
fn a_tag_is_free_once_its_reply_is_seen() {
    let (_, mut raw) = mem();
    for _ in 0..20_000 {
        raw.ask(&Request::Getattr { fid: 0, mask: 0 }).unwrap();
    }
}

#[test]
fn two_requests_with_one_tag_end_the_session() {
    for attempt in 1..50 {
        let mem = Arc::new(Mem::default());
        let (mut raw, server) = RawClient::start(Arc::new(MemFs(mem.clone())), Config::default());
        raw.version(8192);
        raw.ask(&attach(0)).unwrap();
        raw.open(1, "slow", 0).unwrap();
        for tag in [5, 5, 6] {
            raw.send(tag, &read(1, 0, 1));
        }
        eventually("the first is on its way", || {
            mem.reading.load(Ordering::SeqCst) > 0
        });
        // There is no way to see from here that the second one has been read.
        std::thread::sleep(Duration::from_millis(10 * attempt));
        mem.release();
        raw.hang_up();
        let mut answered = Vec::new();
        while let Some(message) = raw.try_receive() {
            answered.push(message.tag);
        }
        match server.join().unwrap() {
            // The first is answered; nothing after it has been read.
            Err(Error::DuplicateTag(5)) => return assert_eq!(answered, [5]),
            // On a busy machine the first may have ended before the second was read, which is not an error.
            Ok(()) => assert_eq!(answered.len(), 3),
            other => panic!("{other:?}"),
        }
    }
    panic!("the two were never there at once");
}

#[test]
fn sizes_that_no_message_has_end_the_session() {
    for (size, msize) in [(6, 8192), (0, 8192), (8193, 8192), (u32::MAX, 1 << 20)] {
        let (mut raw, server) = start();
        raw.version(msize);
        raw.send_bytes(&size.to_le_bytes());
        raw.send_bytes(&[24, 1, 0]);
        let limit = msize;
        match server.join().unwrap() {
            Err(Error::Size { size: s, limit: l }) => assert_eq!((s, l), (size, limit)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_end_of_the_stream_is_the_end() {
    let (mut raw, server) = start();
    raw.version(8192);
    raw.hang_up();
    server.join().unwrap().unwrap();

    let (mut raw, server) = start();
    raw.version(8192);
    raw.send_bytes(&[30, 0, 0, 0, 24]);
    raw.hang_up();
    assert!(matches!(server.join().unwrap(), Err(Error::Truncated)));
}

#[test]
fn bad_bodies_get_an_error_and_the_session_lives_on() {
    let (_, mut raw) = mem();
    for (number, body, errno) in [
        (24, &b"\0\0"[..], Errno::EPROTO),
        (24, &[0; 13], Errno::EPROTO),
        (25, &[0; 12], Errno::EOPNOTSUPP),
        (0, b"", Errno::EOPNOTSUPP),
        (255, b"", Errno::EOPNOTSUPP),
        (72, b"\0\0\0\0\x03\0a/b\0\0\0\0\0\0\0\0", Errno::EINVAL),
    ] {
        let size = u32::try_from(7 + body.len()).unwrap();
        raw.send_bytes(&[&size.to_le_bytes()[..], &[number, 9, 0], body].concat());
        let reply = raw.receive();
        assert_eq!((reply.tag, reply.errno()), (9, Some(errno)));
    }
}

/// With replies of 1 MiB to a peer that does not read, all threads end up waiting, and continue when it reads.
#[test]
fn a_peer_that_does_not_read_holds_no_more_than_the_threads() {
    let config = Config {
        workers: NonZero::new(3).unwrap(),
        ..Config::default()
    };
    let (_, mut raw) = with(config);
    raw.open(1, "file", 0).unwrap();
    for tag in 0..40 {
        raw.send(tag, &read(1, u64::from(tag), 1 << 20));
    }
    std::thread::sleep(Duration::from_millis(100));
    let mut seen: Vec<u16> = (0..40)
        .map(|_| {
            let message = raw.receive();
            assert_eq!(message.data().len(), (1 << 20) - 11);
            assert_eq!(u16::from(message.data()[0]), message.tag);
            message.tag
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..40).collect::<Vec<_>>());
}

#[test]
fn many_requests_at_once_are_all_answered() {
    let (_, mut raw) = mem();
    raw.open(1, "file", 0).unwrap();
    for round in 0..50_u64 {
        for tag in 0..200 {
            raw.send(tag, &read(1, round + u64::from(tag), 3));
        }
        let mut seen = [false; 200];
        for _ in 0..200 {
            let message = raw.receive();
            assert_eq!(
                u64::from(message.data()[0]),
                (round + u64::from(message.tag)) % 256
            );
            assert!(!std::mem::replace(
                &mut seen[usize::from(message.tag)],
                true
            ));
        }
    }
}
