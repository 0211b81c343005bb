//! What the relay keeps of the contents of files: when it answers, when it asks, and what it does not believe.

use std::sync::atomic::{AtomicUsize, Ordering};

use ninep::msg::{
    FORGET_ALL, FORGET_ATTR, FORGET_DIR, FORGET_NAME, FORGET_REMOVED, KEEP_ATTR, KEEP_NAME, Qid,
};

use super::mirror::{ROOT, ToldRelay, attr, lookup, qid};
use super::*;

mod ahead;
mod fetches;
mod replaced;

const X: u64 = 7;
/// What comes with an open at most, in messages of 64 KiB.
const FIRST: u32 = (1 << 16) - 40;

fn open(fid: u32) -> Request<'static> {
    Request::Lopen { fid, flags: 0 }
}

/// The server's reply to an open of a file of which it has read these bytes.
fn opened(version: u32, size: u64, data: &[u8]) -> Reply<'_> {
    Reply::Lopenread {
        qid: qid(Qid::FILE, X),
        iounit: 0,
        version,
        size,
        data: Data(data),
    }
}

/// The types of messages.
fn kinds(mut messages: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let Some(header) = messages.first_chunk::<HEADER>().map(Header::decode) {
        kinds.push(header.kind);
        messages = &messages[header.size as usize..];
    }
    kinds
}

const LOPEN: u8 = 12;
const READ: u8 = 116;
const BIND: u8 = 132;
const LOPENREAD: u8 = 136;

impl ToldRelay {
    /// Looks up the file `x`, which is `size` bytes long, by fid 1.
    fn find(&mut self, size: u64) {
        let file = attr(Qid::FILE, X, size);
        self.look(0, 1, "x", &lookup(KEEP_NAME | KEEP_ATTR, file));
    }

    /// Opens it by fid 2, which the server has to answer.
    fn open(&mut self, data: &[u8], size: u64) {
        self.ask(3, &walk(1, 2, ""));
        let (server, kernel) = self.ask(3, &open(2));
        assert_eq!(kinds(&server).last(), Some(&LOPENREAD));
        assert!(kernel.is_empty());
        let got = self.reply(3, &opened(1, size, data));
        let (qid, iounit) = (qid(Qid::FILE, X), 0);
        assert_eq!(got, reply(3, &Reply::Lopen { qid, iounit }));
    }

    /// A relay that knows all of the file `x`, which is closed.
    fn knowing(data: &[u8]) -> Self {
        let mut told = Self::new();
        told.find(data.len() as u64);
        told.open(data, data.len() as u64);
        told.ask(3, &Request::Clunk { fid: 2 });
        told
    }

    /// What a read returns, if the relay knows it.
    fn read(&mut self, fid: u32, offset: u64, count: u32) -> Option<Vec<u8>> {
        let (server, kernel) = self.ask(4, &read(fid, offset, count));
        if kernel.is_empty() {
            assert_eq!(kinds(&server).last(), Some(&READ));
            self.reply(4, &Reply::Error { ecode: 5 });
            return None;
        }
        match Reply::decode(kernel[4], &kernel[HEADER..]).unwrap() {
            Reply::Read { data } => Some(data.0.to_vec()),
            other => panic!("{other:?}"),
        }
    }

    /// Whether an open by fid 9 is answered by the relay.
    fn opens(&mut self) -> bool {
        self.ask(5, &walk(1, 9, ""));
        let (server, kernel) = self.ask(5, &open(9));
        if kernel.is_empty() {
            assert!(matches!(kinds(&server).last(), Some(&LOPEN | &LOPENREAD)));
            self.reply(5, &Reply::Error { ecode: 5 });
        }
        self.ask(5, &Request::Clunk { fid: 9 });
        !kernel.is_empty()
    }
}

#[test]
fn an_open_brings_the_beginning_which_answers_reads() {
    let mut told = ToldRelay::new();
    told.find(10);
    told.open(b"0123456789", 10);
    for (offset, count, wanted) in [
        (0, 100, "0123456789"),
        (0, 4, "0123"),
        (4, 100, "456789"),
        (10, 100, ""),
        (u64::MAX, 100, ""),
        (3, 0, ""),
    ] {
        let got = told.read(2, offset, count);
        assert_eq!(got.as_deref(), Some(wanted.as_bytes()), "{offset} {count}");
    }
    // A message is as large as was agreed, whatever the kernel asks for.
    let mut told = ToldRelay::new();
    told.find(100_000);
    told.open(&vec![5; FIRST as usize], 100_000);
    told.ask(4, &read(2, FIRST.into(), 60_000));
    let data = vec![6; 100_000 - FIRST as usize];
    told.reply(4, &Reply::Read { data: Data(&data) });
    assert_eq!(told.read(2, 0, u32::MAX).unwrap().len(), (1 << 16) - 11);
    assert!(told.opens());
}

#[test]
fn a_file_that_is_known_is_opened_here_and_by_the_server_with_the_next_request() {
    let mut told = ToldRelay::knowing(b"all of it");
    told.ask(3, &walk(0, 5, "x"));
    let (server, kernel) = told.ask(3, &open(5));
    let qid = Qid {
        version: 0,
        ..qid(Qid::FILE, X)
    };
    assert_eq!(kernel, reply(3, &Reply::Lopen { qid, iounit: 0 }));
    assert!(server.is_empty());
    assert_eq!(told.read(5, 0, 100).unwrap(), b"all of it");
    let (server, _) = told.ask(6, &Request::Statfs { fid: 0 });
    let mut all = kinds(&server);
    all.retain(|kind| *kind != 120);
    assert_eq!(all, [BIND, LOPEN, 8]);
    // One that is closed before that never was.
    told.ask(3, &walk(0, 6, "x"));
    told.ask(3, &open(6));
    told.ask(3, &Request::Clunk { fid: 6 });
    assert!(!told.relay.has_batch());
    // Nothing is known of an empty file either until the server has opened it.
    let mut told = ToldRelay::new();
    told.find(0);
    told.open(b"", 0);
    told.ask(3, &Request::Clunk { fid: 2 });
    assert!(told.opens());
}

#[test]
fn contents_are_taken_back() {
    for (what, dir, name, is_taken) in [
        (FORGET_ATTR, ROOT, "x", true),
        (FORGET_NAME, ROOT, "x", true),
        (FORGET_NAME, ROOT, "", true),
        (FORGET_DIR, ROOT, "", true),
        (FORGET_REMOVED, ROOT, "", true),
        (FORGET_ALL, 0, "", true),
        // Those of others.
        (FORGET_ATTR, ROOT, "y", false),
        (FORGET_NAME, ROOT, "y", false),
        (FORGET_ATTR, ROOT, "", false),
        (FORGET_NAME, 99, "x", false),
        (FORGET_DIR, 99, "", false),
    ] {
        let mut told = ToldRelay::knowing(b"contents");
        told.ask(3, &walk(1, 2, ""));
        told.ask(3, &open(2));
        assert!(told.read(2, 0, 3).is_some());
        told.forget(what, dir, name);
        // Also by a fid that is open.
        assert_eq!(told.read(2, 0, 3).is_none(), is_taken, "{what} {name}");
        assert_eq!(!told.opens(), is_taken, "{what} {name}");
    }
}

#[test]
fn what_was_overtaken_is_not_kept() {
    for (what, dir, name) in [
        (FORGET_ATTR, ROOT, "x"),
        (FORGET_NAME, ROOT, "other"),
        (FORGET_DIR, ROOT, ""),
        (FORGET_ALL, 0, ""),
    ] {
        let mut told = ToldRelay::new();
        told.find(4);
        told.ask(3, &walk(1, 2, ""));
        told.ask(3, &open(2));
        told.forget(what, dir, name);
        told.reply(3, &opened(1, 4, b"then"));
        assert_eq!(told.read(2, 0, 4), None, "{what} {name}");
        // Nor a read.
        let mut told = ToldRelay::new();
        told.find(300_000);
        told.open(&vec![1; FIRST as usize], 300_000);
        let at = u64::from(FIRST);
        told.ask(4, &read(2, at, 50));
        told.forget(what, dir, name);
        told.reply(
            4,
            &Reply::Read {
                data: Data(&[1; 50]),
            },
        );
        assert_eq!(told.read(2, at, 50), None, "{what} {name}");
    }
}

#[test]
fn what_cannot_be_is_not_kept() {
    let long = vec![1; FIRST as usize + 1];
    for (version, size, data) in [
        (0, 5, &b"12345"[..]),
        (2, 5, b"12345"),
        (1, 4, b"1234"),
        (1, 6, b"123456"),
        (1, 5, b"1234"),
        (1, 5, b"123456"),
        (1, 5, b""),
        (1, 5, &long),
    ] {
        let mut told = ToldRelay::new();
        told.find(5);
        told.ask(3, &walk(1, 2, ""));
        told.ask(3, &open(2));
        told.reply(3, &opened(version, size, data));
        assert_eq!(told.read(2, 0, 1), None, "{version} {size}");
    }
}

#[test]
fn what_is_read_is_kept() {
    const SIZE: u64 = 400_000;
    let first = u64::from(FIRST);
    let mut told = ToldRelay::new();
    told.find(SIZE);
    told.open(&vec![1; FIRST as usize], SIZE);
    let mut take = |offset: u64, count: u32, n: usize| {
        assert_eq!(told.read(2, offset, count), None);
        told.ask(4, &read(2, offset, count));
        let data = vec![2; n];
        let got = told.reply(4, &Reply::Read { data: Data(&data) });
        assert_eq!(got.len(), HEADER + 4 + n, "the kernel gets it in any case");
        told.read(2, offset, count).map(|data| data.len())
    };
    // More than was asked for, fewer than there are, and bytes after the end.
    assert_eq!(take(first, 1000, 1001), None);
    assert_eq!(take(first, 1000, 999), None);
    assert_eq!(take(SIZE - 10, 1000, 11), None);
    // What may be kept.
    assert_eq!(take(first, 1000, 1000), Some(1000));
    assert_eq!(take(SIZE - 10, 1000, 10), Some(10));
    assert_eq!(told.read(2, SIZE + 10, 1000).unwrap(), b"");
    assert!(!told.opens());
    assert_eq!(
        told.read(2, first - 5, 10).unwrap(),
        [1, 1, 1, 1, 1, 2, 2, 2, 2, 2]
    );
}

#[test]
fn other_opens_and_other_files_are_asked_for_each_time() {
    // To write, to truncate, for a directory, O_DIRECT, O_NOATIME.
    for flags in [1, 2, 0o1000, 0o200_000, 0o40_000, 0o1_000_000] {
        let mut told = ToldRelay::knowing(b"contents");
        told.ask(3, &walk(1, 2, ""));
        let (server, kernel) = told.ask(3, &Request::Lopen { fid: 2, flags });
        assert!(kernel.is_empty());
        assert_eq!(kinds(&server).last(), Some(&LOPEN), "{flags:o}");
        let (qid, iounit) = (qid(Qid::FILE, X), 0);
        told.reply(3, &Reply::Lopen { qid, iounit });
        assert_eq!(told.read(2, 0, 4), None, "{flags:o}");
    }
    // A file that is not watched, and one that is not regular.
    for (kept, mode) in [(KEEP_NAME, 0o100_644), (KEEP_NAME | KEEP_ATTR, 0o10_644)] {
        let mut told = ToldRelay::new();
        let mut file = attr(Qid::FILE, X, 5);
        file.mode = mode;
        told.look(0, 1, "x", &lookup(kept, file));
        let (server, _) = told.ask(3, &open(1));
        assert_eq!(kinds(&server).last(), Some(&LOPEN));
        // It was not asked for.
        told.reply(3, &opened(1, 5, b"12345"));
        assert_eq!(told.read(1, 0, 4), None);
    }
}

#[test]
fn own_changes_are_seen() {
    let data = Data(b"new");
    let (fid, offset) = (2, 0);
    for change in [
        Request::Write { fid, offset, data },
        set_size(2, 1),
        Request::Lopen {
            fid: 3,
            flags: 0o1001,
        },
    ] {
        let mut told = ToldRelay::knowing(b"contents");
        told.ask(3, &walk(1, 2, ""));
        told.ask(3, &walk(1, 3, ""));
        told.ask(3, &walk(1, 4, ""));
        told.ask(3, &open(4));
        assert!(told.read(4, 0, 3).is_some());
        told.ask(6, &change);
        assert_eq!(told.read(4, 0, 3), None, "{change:?}");
    }
}

#[test]
fn a_lock_makes_what_is_read_fresh() {
    let lock = |kind| Request::Lock {
        fid: 2,
        kind,
        flags: 0,
        start: 0,
        length: 0,
        proc_id: 1,
        client_id: text("there"),
    };
    for (kind, status, is_asked) in [
        (Flock::READ, 0, true),
        (Flock::WRITE, 0, true),
        (Flock::WRITE, 1, false),
        (Flock::UNLOCK, 0, false),
    ] {
        let mut told = ToldRelay::knowing(b"contents");
        told.ask(3, &walk(1, 2, ""));
        told.ask(3, &open(2));
        told.ask(6, &lock(kind));
        told.reply(6, &Reply::Lock { status });
        assert_eq!(told.read(2, 0, 3).is_none(), is_asked, "{kind} {status}");
        assert_eq!(told.opens(), !is_asked, "{kind} {status}");
    }
}

#[test]
fn a_file_that_was_replaced_while_it_was_opened_is_read_as_it_was() {
    const ESTALE: Reply<'_> = Reply::Error { ecode: 116 };
    let mut told = ToldRelay::knowing(b"as it was");
    told.ask(3, &walk(0, 5, "x"));
    told.ask(3, &open(5));
    told.forget(FORGET_NAME, ROOT, "x");
    let (server, kernel) = told.ask(4, &read(5, 3, 100));
    assert!(kernel.is_empty());
    let mut all = kinds(&server);
    all.retain(|kind| *kind != 120);
    assert_eq!(all, [BIND, LOPEN, READ]);
    let data = Data(b"it was");
    assert_eq!(told.reply(4, &ESTALE), reply(4, &Reply::Read { data }));
    told.ask(4, &getattr(5));
    let file = attr(Qid::FILE, X, 9);
    assert_eq!(
        told.reply(4, &ESTALE),
        reply(4, &Reply::Getattr { attr: file })
    );
    // Any other error is the server's business, and so is a file that the server has opened.
    told.ask(4, &read(5, 3, 100));
    let error = Reply::Error { ecode: 5 };
    assert_eq!(told.reply(4, &error), reply(4, &error));
    let mut told = ToldRelay::new();
    told.find(9);
    told.open(b"as it was", 9);
    told.forget(FORGET_NAME, ROOT, "x");
    told.ask(4, &read(2, 3, 100));
    assert_eq!(told.reply(4, &ESTALE), reply(4, &ESTALE));
    told.ask(4, &getattr(2));
    assert_eq!(told.reply(4, &ESTALE), reply(4, &ESTALE));
}

#[test]
fn the_contents_that_were_not_used_for_long_make_room() {
    const SIZE: usize = 10_000;
    static RELEASED: AtomicUsize = AtomicUsize::new(0);
    let budget = ContentBudget::new(5 * SIZE).releasing(|bytes| {
        bytes.fill(0);
        RELEASED.fetch_add(bytes.len(), Ordering::Relaxed);
    });
    let budget = Arc::new(budget);
    let mut told = ToldRelay::keeping(budget.clone());
    let look = |told: &mut ToldRelay, n: u64| {
        let file = attr(Qid::FILE, 100 + n, SIZE as u64);
        told.look(0, 20, &format!("{n}"), &lookup(KEEP_NAME | KEEP_ATTR, file));
        told.ask(3, &Request::Clunk { fid: 20 });
    };
    let opens = |told: &mut ToldRelay, n: u64| {
        told.ask(3, &walk(0, 20, &format!("{n}")));
        let (_, kernel) = told.ask(3, &open(20));
        if kernel.is_empty() {
            told.reply(3, &opened(1, SIZE as u64, &[n as u8; SIZE]));
        }
        told.ask(3, &Request::Clunk { fid: 20 });
        !kernel.is_empty()
    };
    for n in 0..8 {
        look(&mut told, n);
        assert!(!opens(&mut told, n));
        // It stays in use.
        assert!(opens(&mut told, 0));
    }
    let known: Vec<_> = (0..8).filter(|n| opens(&mut told, *n)).collect();
    assert_eq!(known.first(), Some(&0));
    assert!(opens(&mut told, 7));
    // Others need the memory.
    let (before, limit) = (budget.used(), 4 * SIZE + 200);
    assert!(before > limit);
    budget.set_limit(limit);
    assert!(opens(&mut told, 7));
    assert_eq!(budget.used(), before, "nothing is dropped at once");
    assert_eq!(RELEASED.load(Ordering::Relaxed), 0);
    told.relay.give_back();
    assert!(budget.used() <= limit && budget.used() >= 3 * SIZE);
    assert!(opens(&mut told, 7), "the last one that was used stays");
    budget.set_limit(0);
    told.relay.give_back();
    assert_eq!(budget.used(), 0);
    assert_eq!(RELEASED.load(Ordering::Relaxed), 4 * SIZE);
    // Nobody needs it any more.
    budget.set_limit(5 * SIZE);
    assert!(!opens(&mut told, 7) && opens(&mut told, 7));
    for n in 0..8 {
        opens(&mut told, n);
    }
    // Another mount has what is left, and gives it back.
    let mut other = ToldRelay::keeping(budget);
    look(&mut other, 1);
    assert!(!opens(&mut other, 1));
    assert!(!opens(&mut other, 1), "there is no room");
    drop(told);
    assert!(!opens(&mut other, 1));
    assert!(opens(&mut other, 1));
    // A file that is too large for the budget.
    let file = attr(Qid::FILE, 99, 2 * SIZE as u64);
    other.look(0, 21, "large", &lookup(KEEP_NAME | KEEP_ATTR, file));
    let (server, _) = other.ask(3, &open(21));
    assert_eq!(kinds(&server).last(), Some(&LOPEN));
}
