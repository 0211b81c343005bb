//! The engine seen from its peer: versions, tags, flushes, fids, threads and limits.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "what fails here fails the test; bytes are taken from numbers"
)]

mod raw;

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use ninep::errno::Errno;
use ninep::fs::{Attach, DirSink, FileSystem, OpenFlags, Result};
use ninep::msg::{Attr, Kind, NO_TAG, Qid, Reply, Request};
use ninep::observe::{Counts, Event, Observer};
use ninep::server::{Config, Error};
use raw::{Raw, attach, name, text, version, walk};

/// `/dir/deep`, `/file` whose byte at n is n, `/slow` whose reads wait for [`Mem::release`].
#[derive(Default)]
struct Mem {
    open: AtomicUsize,
    reading: AtomicUsize,
    released: Mutex<bool>,
    wake: Condvar,
    values: Mutex<Vec<Attribute>>,
}

/// A name, and the value it got or `None` if it was removed.
type Attribute = (Vec<u8>, Option<Vec<u8>>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Node {
    Root,
    Dir,
    Deep,
    File,
    Slow,
}

impl Node {
    fn qid(self) -> Qid {
        let kind = match self {
            Self::Root | Self::Dir => Qid::DIR,
            _ => Qid::FILE,
        };
        Qid {
            kind,
            version: 1,
            path: self as u64,
        }
    }
}

/// Counts itself, so that a leak is seen.
struct Open(Node, Arc<Mem>);

impl Drop for Open {
    fn drop(&mut self) {
        self.1.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Mem {
    fn release(&self) {
        *self.released.lock().unwrap() = true;
        self.wake.notify_all();
    }
}

struct MemFs(Arc<Mem>);

impl FileSystem for MemFs {
    type Node = Node;
    type File = Open;

    fn attach(&self, _who: &Attach<'_>) -> Result<(Node, Qid)> {
        Ok((Node::Root, Node::Root.qid()))
    }

    fn walk(&self, dir: &Node, name: &[u8]) -> Result<(Node, Qid)> {
        let node = match (dir, name) {
            (Node::Root, b"dir") => Node::Dir,
            (Node::Root, b"file") => Node::File,
            (Node::Root, b"slow") => Node::Slow,
            (Node::Dir, b"deep") => Node::Deep,
            (Node::Root | Node::Dir, _) => return Err(Errno::ENOENT),
            _ => return Err(Errno::ENOTDIR),
        };
        Ok((node, node.qid()))
    }

    fn parent(&self, node: &Node) -> Result<(Node, Qid)> {
        let node = if *node == Node::Deep {
            Node::Dir
        } else {
            Node::Root
        };
        Ok((node, node.qid()))
    }

    fn getattr(&self, node: &Node, _mask: u64) -> Result<Attr> {
        let qid = node.qid();
        Ok(Attr {
            qid,
            ..Attr::default()
        })
    }

    fn open(&self, node: &Node, _flags: OpenFlags) -> Result<(Open, Qid)> {
        self.0.open.fetch_add(1, Ordering::SeqCst);
        Ok((Open(*node, self.0.clone()), node.qid()))
    }

    fn read(&self, file: &Open, offset: u64, buf: &mut [u8]) -> Result<usize> {
        if file.0 == Node::Slow {
            self.0.reading.fetch_add(1, Ordering::SeqCst);
            let mut released = self.0.released.lock().unwrap();
            while !*released {
                released = self.0.wake.wait(released).unwrap();
            }
        }
        for (at, byte) in (0..).zip(&mut *buf) {
            *byte = offset.wrapping_add(at) as u8;
        }
        Ok(buf.len())
    }

    fn readdir(&self, _: &Node, _: &Open, _: u64, _: &mut DirSink<'_>) -> Result<()> {
        Ok(())
    }

    fn xattr(&self, _node: &Node, name: Option<&[u8]>) -> Result<Vec<u8>> {
        Ok(name.unwrap_or(b"user.a\0").to_vec())
    }

    fn set_xattr(&self, _: &Node, name: &[u8], value: Option<&[u8]>, _: u32) -> Result<()> {
        let value = value.map(<[u8]>::to_vec);
        self.0.values.lock().unwrap().push((name.to_vec(), value));
        Ok(())
    }

    fn path(&self, node: &Node) -> Vec<u8> {
        format!("/{node:?}").to_lowercase().into_bytes()
    }
}

fn mem() -> (Arc<Mem>, Raw) {
    with(Config::default())
}

fn with(config: Config<'static>) -> (Arc<Mem>, Raw) {
    let mem = Arc::new(Mem::default());
    let raw = Raw::attached(Arc::new(MemFs(mem.clone())), config);
    (mem, raw)
}

/// Waits for another thread, but not for ever.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("never: {what}");
}

fn read(fid: u32, offset: u64, count: u32) -> Request<'static> {
    Request::Read { fid, offset, count }
}

fn start() -> (Raw, std::thread::JoinHandle<std::result::Result<(), Error>>) {
    Raw::start(Arc::new(MemFs(Arc::default())), Config::default())
}

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
    // Nothing to wait for.
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
    let (mut raw, server) = start();
    raw.version(8192);
    raw.ask(&attach(0)).unwrap();
    raw.open(1, "slow", 0).unwrap();
    raw.send(5, &read(1, 0, 1));
    raw.send(5, &read(1, 0, 1));
    // The first is never released; the stream's end shows that nothing more is read.
    std::thread::sleep(Duration::from_millis(100));
    drop(raw);
    assert!(!server.is_finished(), "a request in flight is waited for");
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
    // A walk onto itself.
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
    // Announced and not written; removed; set empty; too large.
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
    // They are bounded, and come back.
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

/// With everything of 1 MiB and a peer that reads nothing, all threads end up waiting, and go on
/// when it reads.
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

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Lines;

impl Observer for Lines {
    fn done(&self, event: &Event<'_>) {
        let line = format!("{} {:?}", event.words, event.result);
        LINES.lock().unwrap().push(line);
    }
}

#[test]
fn requests_are_told_in_words_and_counted() {
    let counts: &'static Counts = Box::leak(Box::default());
    let observer: &'static (Lines, &Counts) = Box::leak(Box::new((Lines, counts)));
    let config = Config {
        observer: Some(observer),
        ..Config::default()
    };
    let (_, mut raw) = with(config);
    raw.open(1, "file", 0).unwrap();
    raw.read(1, 7, 100).unwrap();
    raw.walk(0, 2, "dir/no\u{7}thing").unwrap();
    let _ = raw.walk(0, 2, "nothing");
    raw.clunk(1).unwrap();
    let _ = raw.clunk(1);
    assert_eq!(
        *LINES.lock().unwrap(),
        [
            "attach / Ok(None)",
            "walk /root/file Ok(None)",
            "open /file Ok(None)",
            "read /file 100 @7 Ok(Some(100))",
            "walk /root/dir/no\\u{7}thing Ok(None)",
            "walk /root/nothing Err(ENOENT)",
            "clunk /file Ok(None)",
            "clunk (no such fid) Err(EBADF)",
        ]
    );
    let reads = counts
        .totals()
        .into_iter()
        .find(|total| total.kind == Kind::Read)
        .unwrap();
    assert_eq!((reads.requests, reads.failed, reads.bytes), (1, 0, 100));
    assert_eq!(counts.requests(), 8);
}
