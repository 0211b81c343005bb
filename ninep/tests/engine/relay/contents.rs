//! What the relay keeps of the contents of files: when it answers, when it asks, and what it does not believe.

use ninep::msg::{
    FORGET_ALL, FORGET_ATTR, FORGET_DIR, FORGET_NAME, FORGET_REMOVED, FetchedFile, KEEP_ATTR,
    KEEP_NAME, Qid,
};

use super::mirror::{ROOT, ToldRelay, attr, list_tag, listing, lookup, qid};
use super::*;

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
const FETCH: u8 = 138;

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
    let budget = Arc::new(ContentBudget::new(5 * SIZE));
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

/// The tag and the names of each fetch among requests.
fn fetches(mut requests: &[u8]) -> Vec<(u16, Vec<String>)> {
    let mut all = Vec::new();
    while let Some(header) = requests.first_chunk::<HEADER>().map(Header::decode) {
        let (message, rest) = requests.split_at(header.size as usize);
        if header.kind == FETCH {
            let kind = ninep::msg::Kind::new(FETCH).unwrap();
            match Request::decode(kind, &message[HEADER..]).unwrap() {
                Request::Fetch { names, .. } => {
                    let text =
                        |name: ninep::wire::Name<'_>| name.bytes().escape_ascii().to_string();
                    all.push((header.tag, names.iter().map(text).collect()));
                }
                other => panic!("{other:?}"),
            }
        }
        requests = rest;
    }
    all
}

/// A relay that has listed its root, in which the n-th file has the number and the size 100 + n.
fn listed(names: &[String], budget: Arc<ContentBudget>) -> ToldRelay {
    let mut told = ToldRelay::keeping(budget);
    let (server, _) = told.ask(2, &walk(0, 1, "none"));
    let list = list_tag(&server).unwrap();
    told.reply(2, &Reply::Error { ecode: 2 });
    let data = listing(names);
    let reply = Reply::List {
        kept: KEEP_NAME,
        qid: qid(Qid::DIR, ROOT),
        data: Data(&data),
    };
    told.reply(list, &reply);
    assert_eq!(
        kinds(&told.own),
        [120],
        "the fid that was listed is clunked"
    );
    told
}

impl ToldRelay {
    /// Opens a file by fid 40, which the server answers with an error. Returns what was fetched besides.
    fn open_unknown(&mut self, name: &str) -> Vec<(u16, Vec<String>)> {
        self.ask(3, &walk(0, 40, name));
        let (server, kernel) = self.ask(3, &open(40));
        assert!(kernel.is_empty(), "{name} is known");
        self.reply(3, &Reply::Error { ecode: 5 });
        self.ask(3, &Request::Clunk { fid: 40 });
        fetches(&server)
    }

    /// Whether all of a file is known.
    fn knows(&mut self, name: &str) -> bool {
        self.ask(3, &walk(0, 41, name));
        let (_, kernel) = self.ask(3, &Request::Lopen { fid: 41, flags: 0 });
        if kernel.is_empty() {
            self.reply(3, &Reply::Error { ecode: 5 });
        }
        self.ask(3, &Request::Clunk { fid: 41 });
        !kernel.is_empty()
    }
}

/// The data of an Rfetch with files of these sizes.
fn fetched(files: &[(u32, usize)]) -> Vec<u8> {
    let mut frame = Frame::default();
    frame.start(0, 0);
    for (version, size) in files {
        let data = vec![9; *size];
        let version = *version;
        let data = Data(&data);
        FetchedFile { version, data }.put(&mut frame);
    }
    frame.finish()[HEADER..].to_vec()
}

#[test]
fn the_second_open_of_its_kind_fetches_the_others() {
    let names = ["a.x", "b.x", "c.x", "d.y", "e.x", "none", "f.x"].map(String::from);
    let mut told = listed(&names, Arc::default());
    assert_eq!(told.open_unknown("a.x"), []);
    assert_eq!(told.open_unknown("d.y"), [], "it is of another kind");
    let all = told.open_unknown("b.x");
    let [(tag, files)] = &all[..] else {
        panic!("{all:?}")
    };
    assert_eq!(files, &["a.x", "b.x", "c.x", "e.x", "f.x"]);
    assert_eq!(told.open_unknown("c.x"), [], "once");
    // One of each: as it is known, as it was before, cut short, changed while it was read; the last is missing.
    let data = fetched(&[(1, 100), (2, 101), (1, 101), (0, 0)]);
    let data = Data(&data);
    assert!(told.reply(*tag, &Reply::Fetch { data }).is_empty());
    assert_eq!(
        kinds(&told.own),
        [120],
        "the fid of the directory is clunked"
    );
    let known: Vec<_> = names.iter().filter(|name| told.knows(name)).collect();
    assert_eq!(known, ["a.x"]);
    assert_eq!(told.read(1, 0, 1), None);
}

#[test]
fn what_was_fetched_and_overtaken_is_not_kept() {
    for (what, name, is_kept) in [
        (FORGET_ATTR, "a.x", false),
        (FORGET_NAME, "z", false),
        (FORGET_DIR, "", false),
        (FORGET_ATTR, "none", false),
        (77, "elsewhere", true),
    ] {
        let names = ["a.x", "b.x"].map(String::from);
        let mut told = listed(&names, Arc::default());
        told.open_unknown("a.x");
        let (tag, files) = told.open_unknown("b.x").pop().unwrap();
        assert_eq!(files.len(), 2);
        told.forget(what, if is_kept { 99 } else { ROOT }, name);
        let data = fetched(&[(1, 100), (1, 101)]);
        told.reply(tag, &Reply::Fetch { data: Data(&data) });
        // What is not of a known directory may be of any.
        assert!(!told.knows("a.x"), "{what} {name}");
    }
}

#[test]
fn fetches_are_small_and_few_at_one_time_and_make_nothing_go() {
    let names: Vec<_> = (0..3000).map(|n| format!("{n}.x")).collect();
    let names = &names[..1900];
    let mut told = listed(names, Arc::new(ContentBudget::new(20_000)));
    told.open_unknown("0.x");
    let mut under_way = told.open_unknown("1.x");
    let mut files = 0;
    let mut is_clunked = false;
    while !under_way.is_empty() {
        let (tag, names) = under_way.remove(0);
        assert!(under_way.len() < 2 && names.len() <= 16);
        files += names.len();
        let sizes: Vec<_> = names
            .iter()
            .map(|name| name.trim_end_matches(".x"))
            .collect();
        let sizes = sizes.iter().map(|n| (1, 100 + n.parse::<usize>().unwrap()));
        let data = fetched(&sizes.collect::<Vec<_>>());
        told.reply(tag, &Reply::Fetch { data: Data(&data) });
        under_way.extend(fetches(&told.own));
        is_clunked |= kinds(&told.own).contains(&120);
    }
    assert!(is_clunked);
    // 1 MiB of them: 100 + 101 + ... bytes.
    assert!((1300..1500).contains(&files), "{files}");
    // The first have stayed.
    let known: Vec<_> = (0..1900)
        .filter(|n| told.knows(&format!("{n}.x")))
        .collect();
    assert!(
        (40..80).contains(&known.len()) && known[..30] == (0..30).collect::<Vec<_>>(),
        "{known:?}"
    );
    // A server that answers with an error is not asked again.
    let mut told = listed(names, Arc::default());
    told.open_unknown("0.x");
    let mut under_way = told.open_unknown("1.x");
    assert_eq!(under_way.len(), 2);
    while let Some((tag, _)) = under_way.pop() {
        told.reply(tag, &Reply::Error { ecode: 116 });
        assert_eq!(fetches(&told.own), []);
    }
    assert_eq!(kinds(&told.own), [120]);
}
