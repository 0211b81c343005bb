//! What fids refer to, and how requests on them are described.

use super::*;

#[test]
fn fids_are_what_they_are() {
    let (mem, mut raw) = mem();
    // Unknown.
    assert_eq!(raw.clunk(7).err(), Some(Errno::EBADF));
    assert_eq!(raw.ask(&attach(0)).err(), Some(Errno::EBADF));
    raw.walk(0, 1, "file").unwrap();
    // Not open.
    assert_eq!(raw.read(1, 0, 1).err(), Some(Errno::EBADF));
    assert_eq!(raw.write(1, 0, b"x").err(), Some(Errno::EBADF));
    let readdir = Request::Readdir {
        fid: 1,
        offset: 0,
        count: 100,
    };
    assert_eq!(raw.ask(&readdir).err(), Some(Errno::EBADF));
    // In use.
    assert_eq!(raw.walk(0, 1, "dir").err(), Some(Errno::EBADF));
    raw.ask(&Request::Lopen { fid: 1, flags: 0 }).unwrap();
    // Open already.
    assert_eq!(
        raw.ask(&Request::Lopen { fid: 1, flags: 0 }).err(),
        Some(Errno::EBADF)
    );
    assert_eq!(raw.walk(1, 1, "").err(), Some(Errno::EBADF));
    assert_eq!(mem.open.load(Ordering::SeqCst), 1);
    raw.walk(1, 2, "").unwrap();
    raw.clunk(1).unwrap();
    assert_eq!(mem.open.load(Ordering::SeqCst), 0);
    assert_eq!(raw.read(2, 0, 1).err(), Some(Errno::EBADF));
}

#[test]
fn a_walk_stops_where_it_must() {
    let (_, mut raw) = mem();
    assert_eq!(raw.walk(0, 1, "nothing/here").err(), Some(Errno::ENOENT));
    assert_eq!(raw.walk(0, 1, "dir/nothing/here").unwrap(), 1);
    assert_eq!(
        raw.clunk(1).err(),
        Some(Errno::EBADF),
        "a short walk makes no fid"
    );
    assert_eq!(raw.walk(0, 1, "./dir").err(), Some(Errno::EINVAL));
    assert_eq!(raw.walk(0, 1, "dir/deep/../../../../dir/deep").unwrap(), 8);
    // A walk whose newfid is its fid.
    raw.walk(0, 2, "").unwrap();
    assert_eq!(raw.walk(2, 2, "dir").unwrap(), 1);
    assert_eq!(raw.walk(2, 3, "deep").unwrap(), 1);
    assert_eq!(raw.walk(2, 2, "nothing").err(), Some(Errno::ENOENT));
    assert_eq!(raw.walk(2, 4, "deep").unwrap(), 1);
}

#[test]
fn dots_can_not_be_made_or_removed() {
    let (_, mut raw) = mem();
    for dot in [".", ".."] {
        let name = name(dot);
        let requests = [
            Request::Mkdir {
                dfid: 0,
                name,
                mode: 0,
                gid: 0,
            },
            Request::Unlinkat {
                dfid: 0,
                name,
                flags: 0x200,
            },
            Request::Renameat {
                olddirfid: 0,
                oldname: name,
                newdirfid: 0,
                newname: name,
            },
            Request::Symlink {
                dfid: 0,
                name,
                target: text("x"),
                gid: 0,
            },
            Request::Link {
                dfid: 0,
                fid: 0,
                name,
            },
            Request::Mknod {
                dfid: 0,
                name,
                mode: 0,
                major: 0,
                minor: 0,
                gid: 0,
            },
            Request::Rename {
                fid: 0,
                dfid: 0,
                name,
            },
            Request::Lcreate {
                fid: 0,
                name,
                flags: 0,
                mode: 0,
                gid: 0,
            },
        ];
        for request in requests {
            assert_eq!(raw.ask(&request).err(), Some(Errno::EINVAL), "{request:?}");
        }
    }
}

#[test]
fn counts_are_clamped_to_the_message() {
    let (_, mut raw) = mem();
    raw.open(1, "file", 0).unwrap();
    for msize in [4096, 1 << 20] {
        raw.version(msize);
        raw.ask(&attach(0)).unwrap();
        raw.open(1, "file", 0).unwrap();
        let data = raw.read(1, 3, u32::MAX).unwrap();
        assert_eq!(data.len(), msize as usize - 11);
        assert_eq!(&data[..3], [3, 4, 5]);
        raw.read(1, u64::MAX, 0).unwrap();
    }
}

#[test]
fn fids_run_out_with_an_error() {
    let config = Config {
        max_fids: 10,
        ..Config::default()
    };
    let (_, mut raw) = with(config);
    for fid in 1..10 {
        raw.walk(0, fid, "").unwrap();
    }
    assert_eq!(raw.walk(0, 10, "").err(), Some(Errno::EMFILE));
    raw.clunk(5).unwrap();
    raw.walk(0, 10, "").unwrap();
}

#[test]
fn extended_attributes_are_read_and_set_through_fids() {
    let (mem, mut raw) = mem();
    let xattrwalk = |newfid, name| Request::Xattrwalk {
        fid: 0,
        newfid,
        name: text(name),
    };
    let reply = raw.ask(&xattrwalk(1, "user.long")).unwrap();
    assert_eq!(reply.reply(), Reply::Xattrwalk { size: 9 });
    assert_eq!(raw.read(1, 5, 100).unwrap(), b"long");
    assert_eq!(raw.read(1, 50, 100).unwrap(), b"");
    raw.ask(&xattrwalk(2, "")).unwrap();
    assert_eq!(raw.read(2, 0, 100).unwrap(), b"user.a\0");

    let create = |fid, size, flags| Request::Xattrcreate {
        fid,
        name: text("user.b"),
        size,
        flags,
    };
    raw.walk(0, 3, "").unwrap();
    raw.ask(&create(3, 4, 0)).unwrap();
    raw.write(3, 0, b"ab").unwrap();
    assert_eq!(
        raw.write(3, 1, b"x").err(),
        Some(Errno::EINVAL),
        "not in order"
    );
    assert_eq!(
        raw.write(3, 2, b"cde").err(),
        Some(Errno::EINVAL),
        "more than announced"
    );
    raw.write(3, 2, b"cd").unwrap();
    raw.clunk(3).unwrap();
    // Announced but not written; removed; set to nothing; too large.
    raw.walk(0, 3, "").unwrap();
    raw.ask(&create(3, 4, 0)).unwrap();
    assert_eq!(raw.clunk(3).err(), Some(Errno::EINVAL));
    raw.walk(0, 3, "").unwrap();
    raw.ask(&create(3, 0, 2)).unwrap();
    raw.clunk(3).unwrap();
    raw.walk(0, 3, "").unwrap();
    raw.ask(&create(3, 0, 0)).unwrap();
    raw.clunk(3).unwrap();
    raw.walk(0, 3, "").unwrap();
    assert_eq!(raw.ask(&create(3, 65537, 0)).err(), Some(Errno::E2BIG));
    let b = || b"user.b".to_vec();
    assert_eq!(
        *mem.values.lock().unwrap(),
        [
            (b(), Some(b"abcd".to_vec())),
            (b(), None),
            (b(), Some(Vec::new()))
        ]
    );
    // Their number is limited, and clunks make space again.
    let mut last = Ok(());
    for fid in 100..200 {
        last = raw.ask(&xattrwalk(fid, "user.x")).map(drop);
    }
    assert_eq!(last, Err(Errno::EMFILE));
    for fid in 100..150 {
        raw.clunk(fid).unwrap();
    }
    raw.ask(&xattrwalk(300, "user.x")).unwrap();
}

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Lines;

impl Observer for Lines {
    fn done(&self, event: &CompletedRequest<'_>) {
        let line = format!("{} {:?}", event.description, event.result);
        LINES.lock().unwrap().push(line);
    }
}

#[test]
fn requests_are_described_and_counted() {
    let counts: &'static Counts = Box::leak(Box::default());
    let observer: &'static (Lines, &Counts) = Box::leak(Box::new((Lines, counts)));
    let config = Config {
        observer: Some(observer),
        ..Config::default()
    };
    let (mem, mut raw) = with(config);
    raw.open(1, "file", 0).unwrap();
    raw.read(1, 7, 100).unwrap();
    raw.walk(0, 2, "dir/no\u{7}thing").unwrap();
    let _ = raw.walk(0, 2, "nothing");
    raw.clunk(1).unwrap();
    let _ = raw.clunk(1);
    raw.ask(&Request::Flush { oldtag: 999 }).unwrap();
    // A flush, whose reply waits for another.
    raw.open(1, "slow", 0).unwrap();
    raw.send(10, &read(1, 0, 5));
    eventually("the read is on its way", || {
        mem.reading.load(Ordering::SeqCst) == 1
    });
    raw.send(20, &Request::Flush { oldtag: 10 });
    eventually("the flush is told of", || LINES.lock().unwrap().len() == 13);
    mem.release();
    assert_eq!((raw.receive().tag, raw.receive().tag), (10, 20));
    assert_eq!(
        *LINES.lock().unwrap(),
        [
            "version 9P2000.L 1048576 Ok(None)",
            "attach / Ok(None)",
            "walk /root/file Ok(None)",
            "open /file Ok(None)",
            "read /file 100 @7 Ok(Some(100))",
            "walk /root/dir/no\\u{7}thing Err(ENOENT)",
            "walk /root/nothing Err(ENOENT)",
            "clunk /file Ok(None)",
            "clunk (no such fid) Err(EBADF)",
            "flush tag 999 Ok(None)",
            "walk /root/slow Ok(None)",
            "open /slow Ok(None)",
            "flush tag 10 Ok(None)",
            "read /slow 5 @0 Ok(Some(5))",
        ]
    );
    let reads = counts
        .totals()
        .into_iter()
        .find(|total| total.kind == Kind::Read)
        .unwrap();
    assert_eq!((reads.requests, reads.failed, reads.bytes), (2, 0, 105));
    assert_eq!(counts.requests(), 14);
}
