//! What the relay keeps, and what it makes of a server that lies about it.

use ninep::msg::{
    FORGET_ALL, FORGET_ATTR, FORGET_DIR, FORGET_NAME, FORGET_REMOVED, KEEP_ATTR, KEEP_NAME,
    ListEntry, Qid, Time,
};
use proptest::prelude::*;

use super::*;

pub(super) const ROOT: u64 = 1;

pub(super) fn qid(kind: u8, path: u64) -> Qid {
    Qid {
        kind,
        version: 1,
        path,
    }
}

pub(super) fn attr(kind: u8, path: u64, size: u64) -> Attr {
    Attr {
        valid: Attr::BASIC,
        qid: qid(kind, path),
        mode: if kind == Qid::DIR { 0o40755 } else { 0o100_644 },
        nlink: 1,
        size,
        ..Attr::default()
    }
}

/// A relay that is attached with fid 0 to a server of the test's.
pub(super) struct ToldRelay {
    pub(super) relay: Relay,
    now: Instant,
    out: Out,
    /// Its own requests since the last reply.
    pub(super) own: Vec<u8>,
}

impl ToldRelay {
    pub(super) fn new() -> Self {
        Self::keeping(Arc::default())
    }

    /// With this much room for contents.
    pub(super) fn keeping(budget: Arc<ContentBudget>) -> Self {
        let relay = Relay::new(Upstream::Any).keeping(budget);
        let mut told = Self {
            relay: agree(relay, WATCHED),
            now: Instant::now(),
            out: Out::default(),
            own: Vec::new(),
        };
        told.ask(1, &attach(0));
        let qid = qid(Qid::DIR, ROOT);
        told.reply(1, &Reply::Attach { qid });
        told
    }

    /// The requests that go to the server, and the reply if the relay makes it.
    pub(super) fn ask(&mut self, tag: u16, request: &Request<'_>) -> (Vec<u8>, Vec<u8>) {
        self.out = Out::default();
        let bytes = message(tag, request);
        from_kernel(&mut self.relay, bytes, self.now, &mut self.out);
        (self.out.server.concat(), self.out.kernel.concat())
    }

    /// What goes to the kernel.
    pub(super) fn reply(&mut self, tag: u16, answer: &Reply<'_>) -> Vec<u8> {
        let mut out = Out::default();
        from_server(&mut self.relay, reply(tag, answer), self.now, &mut out).unwrap();
        let mut own = Vec::new();
        self.relay.take_requests(&mut own);
        self.own = own.concat();
        out.kernel.concat()
    }

    pub(super) fn forget(&mut self, what: u8, dir: u64, file: &str) {
        let name = text(file);
        let got = self.reply(NO_TAG, &Reply::Forget { what, dir, name });
        assert!(got.is_empty());
    }

    /// Looks a name up, which is not known.
    pub(super) fn look(&mut self, fid: u32, newfid: u32, file: &str, found: &Reply<'_>) -> Vec<u8> {
        let (server, kernel) = self.ask(2, &walk(fid, newfid, file));
        assert!(!server.is_empty() && kernel.is_empty(), "{file} is known");
        self.reply(2, found)
    }

    /// Whether a name is known, and the size that is.
    fn known(&mut self, file: &str) -> Option<u64> {
        let (_, kernel) = self.ask(3, &walk(0, 90, file));
        if kernel.is_empty() {
            self.reply(3, &Reply::Error { ecode: 5 });
            return None;
        }
        let (_, got) = self.ask(3, &getattr(90));
        self.ask(3, &Request::Clunk { fid: 90 });
        match Reply::decode(got[4], &got[HEADER..]).unwrap() {
            Reply::Getattr { attr } => Some(attr.size),
            other => panic!("{other:?}"),
        }
    }
}

pub(super) fn lookup(kept: u8, attr: Attr) -> Reply<'static> {
    let ecode = 0;
    Reply::Lookup {
        kept,
        ecode,
        attr,
        target: Str::default(),
    }
}

#[test]
fn a_name_is_known_until_it_is_taken_back() {
    let mut told = ToldRelay::new();
    let file = attr(Qid::FILE, 7, 5);
    told.look(0, 1, "x", &lookup(KEEP_NAME | KEEP_ATTR, file));
    assert_eq!(told.known("x"), Some(5));
    for (what, file_name) in [
        (FORGET_ATTR, "x"),
        (FORGET_NAME, "x"),
        (FORGET_NAME, ""),
        (FORGET_DIR, ""),
        (FORGET_REMOVED, ""),
        (FORGET_ALL, ""),
        (77, ""),
    ] {
        let mut told = ToldRelay::new();
        told.look(0, 1, "x", &lookup(KEEP_NAME | KEEP_ATTR, file));
        // Not those of others.
        told.forget(FORGET_NAME, ROOT, "y");
        told.forget(FORGET_NAME, 99, "x");
        told.forget(FORGET_DIR, 99, "");
        assert_eq!(told.known("x"), Some(5));
        told.forget(what, ROOT, file_name);
        assert_eq!(told.known("x"), None, "{what} {file_name}");
    }
}

#[test]
fn nothing_is_kept_that_may_not_be() {
    let file = attr(Qid::FILE, 7, 5);
    for kept in [0, KEEP_NAME, KEEP_ATTR] {
        let mut told = ToldRelay::new();
        told.look(0, 1, "x", &lookup(kept, file));
        assert_eq!(told.known("x"), None, "{kept}");
    }
    // The name of a directory is not enough either.
    let mut told = ToldRelay::new();
    told.look(0, 1, "d", &lookup(KEEP_NAME, attr(Qid::DIR, 8, 5)));
    assert_eq!(told.known("d"), None);
}

#[test]
fn an_answer_that_was_overtaken_is_not_kept() {
    let file = attr(Qid::FILE, 7, 5);
    for (what, dir, name) in [
        (FORGET_ATTR, ROOT, "x"),
        (FORGET_NAME, ROOT, "other"),
        (FORGET_DIR, ROOT, ""),
        (FORGET_ALL, 0, ""),
    ] {
        for was_known in [false, true] {
            let mut told = ToldRelay::new();
            if was_known {
                told.look(0, 5, "before", &lookup(KEEP_NAME | KEEP_ATTR, file));
            }
            told.ask(2, &walk(0, 1, "x"));
            told.forget(what, dir, name);
            let got = told.reply(2, &lookup(KEEP_NAME | KEEP_ATTR, file));
            assert_eq!(got[4], 111, "it is passed on");
            assert_eq!(told.known("x"), None, "{what} {name}");
        }
    }
}

#[test]
fn own_changes_are_forgotten_when_they_are_sent_and_when_they_are_done() {
    let file = attr(Qid::FILE, 7, 5);
    let mut told = ToldRelay::new();
    told.look(0, 1, "x", &lookup(KEEP_NAME | KEEP_ATTR, file));
    told.ask(4, &set_size(1, 9));
    assert_eq!(told.known("x"), None);
    // Asked before the change was done, so it may be either.
    told.ask(2, &walk(0, 6, "x"));
    told.reply(4, &Reply::Setattr {});
    told.reply(2, &lookup(KEEP_NAME | KEEP_ATTR, file));
    assert_eq!(told.known("x"), None);
    told.look(0, 7, "x", &lookup(KEEP_NAME | KEEP_ATTR, file));
    assert_eq!(told.known("x"), Some(5));
    let name = name("x");
    let (dfid, flags) = (0, 0);
    told.ask(4, &Request::Unlinkat { dfid, name, flags });
    assert_eq!(told.known("x"), None);
}

#[test]
fn a_file_that_is_renamed_leaves_other_names_known() {
    let mut told = ToldRelay::new();
    for (fid, name, number) in [(1, "old", 7), (2, "new", 8), (3, "other", 9)] {
        let file = attr(Qid::FILE, number, number);
        told.look(0, fid, name, &lookup(KEEP_NAME | KEEP_ATTR, file));
    }
    let (oldname, newname) = (name("old"), name("new"));
    let rename = Request::Renameat {
        olddirfid: 0,
        oldname,
        newdirfid: 0,
        newname,
    };
    told.ask(4, &rename);
    told.reply(4, &Reply::Renameat {});
    let known = ["old", "new", "other"].map(|name| told.known(name));
    assert_eq!(known, [None, None, Some(9)]);
}

#[test]
fn a_walk_that_was_answered_is_made_up_for_before_the_next_request() {
    let mut told = ToldRelay::new();
    let file = attr(Qid::FILE, 7, 5);
    told.look(0, 1, "x", &lookup(KEEP_NAME | KEEP_ATTR, file));
    let (server, kernel) = told.ask(3, &walk(0, 2, "x"));
    assert!(server.is_empty() && !kernel.is_empty());
    let (server, _) = told.ask(3, &Request::Lopen { fid: 2, flags: 0 });
    let bind = Request::Bind {
        fid: 0,
        newfid: 2,
        name: name("x"),
        path: 7,
        btime: Time::default(),
    };
    let open = Request::Lopenread {
        fid: 2,
        flags: 0,
        count: 5,
    };
    assert_eq!(server, [message(NO_TAG, &bind), message(3, &open)].concat());
    told.reply(3, &Reply::Error { ecode: 5 });
    // One that is clunked before that never was.
    told.ask(3, &walk(0, 3, "x"));
    told.ask(3, &walk(3, 4, ""));
    told.ask(3, &Request::Clunk { fid: 4 });
    told.ask(3, &Request::Clunk { fid: 3 });
    assert!(!told.relay.has_batch());
    // But it was, if another has walked from it.
    told.ask(3, &walk(0, 3, "x"));
    told.ask(3, &walk(3, 4, ""));
    told.ask(3, &Request::Clunk { fid: 3 });
    assert!(told.relay.has_batch());
}

/// A listing of `files`, each with its number as size.
pub(super) fn listing(files: &[String]) -> Vec<u8> {
    let mut data = Frame::default();
    data.start(0, 0);
    for (n, file) in (100..).zip(files) {
        let entry = ListEntry {
            kind: 8,
            name: Str::new(file.as_bytes()).unwrap(),
            qid: qid(Qid::FILE, n),
            attr: Some(attr(Qid::FILE, n, n)),
            lacks_xattrs: false,
            target: Str::default(),
        };
        entry.put(&mut data);
    }
    data.finish()[HEADER..].to_vec()
}

/// The tag of the listing among requests to the server.
pub(super) fn list_tag(mut server: &[u8]) -> Option<u16> {
    while let Some(header) = server.first_chunk::<HEADER>().map(Header::decode) {
        if header.kind == 130 {
            return Some(header.tag);
        }
        server = &server[header.size as usize..];
    }
    None
}

#[test]
fn a_listing_comes_with_the_first_look_up_and_answers_the_others() {
    let mut told = ToldRelay::new();
    let (server, _) = told.ask(2, &walk(0, 1, "x"));
    let list = list_tag(&server).expect("a listing");
    let file = attr(Qid::FILE, 100, 5);
    told.reply(2, &lookup(KEEP_NAME | KEEP_ATTR, file));
    let data = listing(&["x".into(), "y".into()]);
    let listed = Reply::List {
        kept: KEEP_NAME,
        qid: qid(Qid::DIR, ROOT),
        data: Data(&data),
    };
    assert!(told.reply(list, &listed).is_empty(), "it is the relay's");
    assert_eq!([told.known("x"), told.known("y")], [Some(100), Some(101)]);
    let (_, got) = told.ask(3, &walk(0, 4, "none"));
    assert_eq!(got, reply(3, &Reply::Error { ecode: 2 }));
    // Who opens the directory first waits for a listing that tells more of its files, and who does so later for nothing.
    told.ask(3, &walk(0, 4, ""));
    let (server, _) = told.ask(3, &Request::Lopen { fid: 4, flags: 0 });
    assert_eq!(list_tag(&server), Some(3));
    assert_eq!(told.reply(3, &listed)[4], 13);
    told.ask(3, &Request::Clunk { fid: 4 });
    told.ask(3, &walk(0, 5, ""));
    let (server, got) = told.ask(3, &Request::Lopen { fid: 5, flags: 0 });
    assert!(list_tag(&server).is_none() && got[4] == 13);
    let read = |offset, count| Request::Readdir {
        fid: 5,
        offset,
        count,
    };
    let (_, both) = told.ask(3, &read(0, 1000));
    assert_eq!(both.len(), HEADER + 4 + 2 * (24 + 1));
    let (_, second) = told.ask(3, &read(1, 1000));
    assert_eq!(second[HEADER + 4..], both[HEADER + 4 + 25..]);
    let (_, end) = told.ask(3, &read(2, 1000));
    assert_eq!(end.len(), HEADER + 4);
    assert_eq!(told.ask(3, &read(0, 10)).1[4], 7);
    // A name that has changed is asked for, and the others are still known.
    told.forget(FORGET_NAME, ROOT, "none");
    let (server, _) = told.ask(3, &walk(0, 4, "none"));
    assert!(!server.is_empty() && list_tag(&server).is_none());
    told.reply(3, &Reply::Error { ecode: 2 });
    assert_eq!(told.known("y"), Some(101));
    let (server, _) = told.ask(3, &walk(0, 6, ""));
    assert!(server.is_empty());
    let (server, _) = told.ask(3, &Request::Lopen { fid: 6, flags: 0 });
    assert!(list_tag(&server) == Some(3), "it is listed again");
}

#[test]
fn a_listing_with_a_name_twice_is_not_kept() {
    for (second, known) in [("y", Some(100)), ("x", None)] {
        let mut told = ToldRelay::new();
        let (server, _) = told.ask(2, &walk(0, 1, "other"));
        let list = list_tag(&server).expect("a listing");
        told.reply(2, &Reply::Error { ecode: 2 });
        let data = listing(&["x".into(), second.into()]);
        let qid = qid(Qid::DIR, ROOT);
        let (kept, data) = (KEEP_NAME, Data(&data));
        told.reply(list, &Reply::List { kept, qid, data });
        assert_eq!(told.known("x"), known, "{second}");
    }
}

#[test]
fn a_directory_that_is_not_listed_is_not_listed_again_and_again() {
    let mut told = ToldRelay::new();
    let (server, _) = told.ask(2, &walk(0, 1, "x"));
    let list = list_tag(&server).unwrap();
    told.reply(list, &Reply::Error { ecode: 95 });
    told.reply(2, &Reply::Error { ecode: 2 });
    for file in ["x", "y", "z"] {
        let (server, _) = told.ask(2, &walk(0, 1, file));
        assert!(!server.is_empty() && list_tag(&server).is_none());
        told.reply(2, &Reply::Error { ecode: 2 });
    }
}

#[test]
fn that_a_file_has_no_extended_attributes_is_known() {
    let list = |file| Request::Xattrwalk {
        fid: 1,
        newfid: FREE,
        name: text(file),
    };
    let file = attr(Qid::FILE, 7, 5);
    for (name, none) in [
        ("", Reply::Xattrwalk { size: 0 }),
        ("user.x", Reply::Error { ecode: 61 }),
    ] {
        let mut told = ToldRelay::new();
        told.look(0, 1, "x", &lookup(KEEP_NAME | KEEP_ATTR, file));
        for some in [Reply::Xattrwalk { size: 5 }, Reply::Error { ecode: 5 }] {
            assert!(!told.ask(3, &list(name)).0.is_empty());
            told.reply(3, &some);
        }
        assert!(!told.ask(3, &list(name)).0.is_empty());
        told.reply(3, &none);
        let (server, got) = told.ask(3, &list(name));
        assert!(server.is_empty());
        assert_eq!(got, reply(3, &none));
        if name.is_empty() {
            // The server has no such fid.
            let read = read(FREE, 0, 100);
            assert_eq!(
                told.ask(3, &read),
                (
                    Vec::new(),
                    reply(3, &Reply::Read { data: Data(&[]) }).to_vec()
                )
            );
            assert!(!told.ask(3, &Request::Clunk { fid: FREE }).1.is_empty());
            assert!(!told.relay.has_batch());
        }
        told.forget(FORGET_ATTR, ROOT, "x");
        assert!(!told.ask(3, &list(name)).0.is_empty());
    }
}

#[test]
fn what_was_not_asked_for_is_not_believed() {
    let mut told = ToldRelay::new();
    let file = attr(Qid::FILE, 7, 5);
    let data = listing(&["x".into()]);
    let listed = Reply::List {
        kept: KEEP_NAME,
        qid: qid(Qid::DIR, ROOT),
        data: Data(&data),
    };
    for tag in [2, 0xff00, 0xfffe, NO_TAG] {
        assert!(told.reply(tag, &lookup(3, file)).is_empty());
        assert!(told.reply(tag, &listed).is_empty());
        assert!(told.reply(tag, &Reply::Bind {}).is_empty());
    }
    assert_eq!(told.known("x"), None);
    // Nor a listing of another directory.
    let mut told = ToldRelay::new();
    let (server, _) = told.ask(2, &walk(0, 1, "z"));
    let list = list_tag(&server).unwrap();
    let other = Reply::List {
        kept: KEEP_NAME,
        qid: qid(Qid::DIR, 33),
        data: Data(&data),
    };
    told.reply(list, &other);
    told.reply(2, &Reply::Error { ecode: 2 });
    assert_eq!(told.known("x"), None);
}

/// A message of a server that lies.
fn lie() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let tag = || prop_oneof![0..4_u16, 0xff00..0xff04_u16, Just(NO_TAG)];
    let path = || 0..6_u64;
    let file = || prop::sample::select(vec!["", "x", "y", "d", ".", "a/b"]);
    prop_oneof![
        (tag(), 0..8_u8, 0..3_u32, path(), 0..3_u8).prop_map(|(tag, kept, ecode, path, kind)| {
            let kind = [Qid::DIR, Qid::FILE, Qid::SYMLINK][usize::from(kind)];
            let lie = Reply::Lookup {
                kept,
                ecode,
                attr: attr(kind, path, path),
                target: Str::new(b"lie").unwrap(),
            };
            (tag, reply(tag, &lie).to_vec())
        }),
        (tag(), 0..4_u8, path(), 0..40_usize, any::<bool>()).prop_map(
            |(tag, kept, path, count, is_cut)| {
                let files: Vec<_> = (0..count).map(|n| format!("{}", n % 7)).collect();
                let data = listing(&files);
                let data = &data[..data.len() - usize::from(is_cut && count > 0)];
                let qid = qid(Qid::DIR, path);
                let data = Data(data);
                (tag, reply(tag, &Reply::List { kept, qid, data }).to_vec())
            }
        ),
        (tag(), any::<u8>(), path(), file()).prop_map(|(tag, what, dir, file)| {
            let name = text(file);
            (
                tag,
                reply(
                    tag,
                    &Reply::Forget {
                        what: what % 6,
                        dir,
                        name,
                    },
                )
                .to_vec(),
            )
        }),
        (tag(), path()).prop_map(|(tag, path)| {
            let attr = attr(Qid::DIR, path, 3);
            (tag, reply(tag, &Reply::Getattr { attr }).to_vec())
        }),
        tag().prop_map(|tag| (tag, reply(tag, &Reply::Error { ecode: 61 }).to_vec())),
        (tag(), 0..3_u32, 0..5_u64, 0..7_usize).prop_map(|(tag, version, size, n)| {
            let data = Data(&b"contents"[..n]);
            let (qid, iounit) = (qid(Qid::FILE, size), 0);
            let opened = Reply::Lopenread {
                qid,
                iounit,
                version,
                size,
                data,
            };
            (tag, reply(tag, &opened).to_vec())
        }),
        (tag(), 0..7_usize).prop_map(|(tag, n)| {
            let data = Data(&b"contents"[..n]);
            (tag, reply(tag, &Reply::Read { data }).to_vec())
        }),
        (tag(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(tag, data)| {
            let data = Data(&data);
            (tag, reply(tag, &Reply::Fetch { data }).to_vec())
        }),
        (tag(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(tag, bytes)| (tag, bytes)),
    ]
}

proptest! {
    #[test]
    fn a_server_that_lies_is_survived(
        steps in prop::collection::vec((lie(), 0..4_u16, 0..5_u32, 0..5_u32, 0..9_u8), 0..200),
        piece in 1..300_usize,
    ) {
        let mut told = ToldRelay::new();
        for ((_, bytes), tag, fid, newfid, kind) in steps {
            let request = match kind {
                0 => walk(fid, newfid, "x"),
                1 => walk(fid, newfid, "y"),
                2 => walk(fid, newfid, ""),
                3 => getattr(fid),
                4 => Request::Lopen { fid, flags: 0 },
                5 => Request::Readdir { fid, offset: newfid.into(), count: 100 },
                6 => Request::Readlink { fid },
                7 => read(fid, newfid.into(), 3),
                _ => Request::Clunk { fid },
            };
            told.ask(tag, &request);
            for piece in bytes.chunks(piece) {
                let mut out = Out::default();
                let piece = Bytes::copy_from_slice(piece);
                if from_server(&mut told.relay, piece, told.now, &mut out).is_err() {
                    return Ok(());
                }
            }
        }
    }
}
