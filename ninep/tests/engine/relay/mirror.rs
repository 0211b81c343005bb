//! What the relay keeps, and what makes it forgotten.

use ninep::msg::{
    FORGET_ALL, FORGET_ATTR, FORGET_DIR, FORGET_NAME, FORGET_REMOVED, KEEP_ATTR, KEEP_NAME,
    ListEntry, Qid, Time,
};

use super::*;

mod lies;
mod listings;
mod replays;

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
    pub(super) now: Instant,
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
