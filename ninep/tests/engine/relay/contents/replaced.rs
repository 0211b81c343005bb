//! Files whose name has become another file's, or none's, while the machine has them open.

use ninep::msg::{ListEntry, Time};

use super::*;

const ESTALE: Reply<'_> = Reply::Error { ecode: 116 };
const EXTRA: u64 = 9;

/// The request of this type among those that the server gets.
fn request(mut server: &[u8], wanted: u8) -> Option<Request<'_>> {
    while let Some(header) = server.first_chunk::<HEADER>().map(Header::decode) {
        let (message, rest) = server.split_at(header.size as usize);
        if header.kind == wanted {
            let kind = ninep::msg::Kind::new(wanted).unwrap();
            return Request::decode(kind, &message[HEADER..]).ok();
        }
        server = rest;
    }
    None
}

#[test]
fn while_it_is_open_a_file_that_was_replaced_can_be_opened_again() {
    let mut told = ToldRelay::knowing(b"as it was");
    told.ask(3, &walk(0, 4, "x"));
    told.ask(3, &walk(4, 5, ""));
    told.ask(3, &open(5));
    told.forget(FORGET_NAME, ROOT, "x");
    // Another program opens it. The kernel does not look up a name that is in use.
    let again = |told: &mut ToldRelay, fid: u32| {
        told.ask(3, &walk(4, fid, ""));
        let (server, kernel) = told.ask(3, &open(fid));
        assert!(kernel.is_empty());
        assert_eq!(kinds(&server).last(), Some(&LOPEN));
        told.reply(3, &ESTALE)
    };
    let qid = Qid {
        version: 0,
        ..qid(Qid::FILE, X)
    };
    let opened = reply(3, &Reply::Lopen { qid, iounit: 0 });
    assert_eq!(again(&mut told, 6), opened);
    // This one too, when the first has closed it.
    told.ask(3, &Request::Clunk { fid: 5 });
    for fid in [6, 7] {
        told.ask(3, &read(fid, 3, 100));
        let data = Data(b"it was");
        assert_eq!(told.reply(3, &ESTALE), reply(3, &Reply::Read { data }));
        told.ask(3, &getattr(fid));
        let attr = attr(Qid::FILE, X, 9);
        assert_eq!(told.reply(3, &ESTALE), reply(3, &Reply::Getattr { attr }));
        if fid == 6 {
            assert_eq!(again(&mut told, 7), opened);
            told.ask(3, &Request::Clunk { fid: 6 });
        }
    }
    // When nobody has it open, the kernel is to look again.
    told.ask(3, &Request::Clunk { fid: 7 });
    assert_eq!(again(&mut told, 8), reply(3, &ESTALE));
}

#[test]
fn a_file_that_got_the_number_of_another_is_not_taken_for_it() {
    let born = |second: u64, size: u64| Attr {
        btime: Time {
            sec: second,
            nsec: 5,
        },
        ..attr(Qid::FILE, X, size)
    };
    let found = |attr| lookup(KEEP_NAME | KEEP_ATTR, attr);
    let mut told = ToldRelay::new();
    told.look(0, 1, "x", &found(born(100, 3)));
    told.open(b"old", 3);
    told.ask(3, &Request::Clunk { fid: 2 });
    told.ask(3, &walk(0, 5, "x"));
    told.ask(3, &open(5));
    assert_eq!(told.read(5, 0, 3).unwrap(), b"old");
    told.forget(FORGET_NAME, ROOT, "x");
    let (server, _) = told.ask(2, &walk(0, 6, "x"));
    match request(&server, BIND) {
        // The server is told which one it was.
        Some(Request::Bind { path, btime, .. }) => {
            assert_eq!((path, btime), (X, born(100, 3).btime));
        }
        other => panic!("{other:?}"),
    }
    told.reply(2, &found(born(200, 3)));
    told.ask(3, &open(6));
    told.reply(3, &opened(1, 3, b"new"));
    assert_eq!(told.read(6, 0, 3).unwrap(), b"new");
    assert_eq!(told.read(5, 0, 3), None, "it is another file");
    told.ask(3, &read(5, 0, 3));
    let data = Data(b"old");
    assert_eq!(told.reply(3, &ESTALE), reply(3, &Reply::Read { data }));
}

#[test]
fn what_is_written_by_a_name_that_was_removed_is_read_by_the_others() {
    for is_place_known in [true, false] {
        let mut told = ToldRelay::new();
        told.find(4);
        // Of a fid that was found by two names at once, the place is not known.
        let writer = if is_place_known {
            walk(1, 2, "")
        } else {
            walk(0, 2, "d/x")
        };
        told.ask(3, &writer);
        if !is_place_known {
            let mut qids = WalkVec::default();
            qids.push(qid(Qid::DIR, ROOT));
            qids.push(qid(Qid::FILE, X));
            told.reply(3, &Reply::Walk { qids });
        }
        told.ask(3, &Request::Lopen { fid: 2, flags: 1 });
        let (qid, iounit) = (qid(Qid::FILE, X), 0);
        told.reply(3, &Reply::Lopen { qid, iounit });
        // It has another name by now, and so has another file.
        let (dfid, flags) = (0, 0);
        let name = name("x");
        told.ask(3, &Request::Unlinkat { dfid, name, flags });
        told.reply(3, &Reply::Unlinkat {});
        for (fid, name, number) in [(11, "y", X), (12, "z", EXTRA)] {
            let file = attr(Qid::FILE, number, 4);
            told.look(0, fid, name, &lookup(KEEP_NAME | KEEP_ATTR, file));
            told.ask(3, &walk(fid, fid + 10, ""));
            told.ask(3, &open(fid + 10));
            told.reply(3, &opened(1, 4, b"then"));
            assert!(told.read(fid + 10, 0, 4).is_some());
        }
        let data = Data(b"now!");
        let (fid, offset) = (2, 0);
        told.ask(6, &Request::Write { fid, offset, data });
        assert_eq!(told.read(21, 0, 4), None, "{is_place_known}");
        assert!(told.read(22, 0, 4).is_some());
        // It is told, and then written.
        told.look(
            0,
            13,
            "y",
            &lookup(KEEP_NAME | KEEP_ATTR, attr(Qid::FILE, X, 4)),
        );
        told.ask(3, &open(13));
        told.reply(3, &opened(1, 4, b"then"));
        assert!(told.read(13, 0, 4).is_some());
        told.reply(6, &Reply::Write { count: 4 });
        assert_eq!(told.read(13, 0, 4), None, "{is_place_known}");
    }
}

#[test]
fn to_list_a_directory_forgets_only_what_has_changed() {
    for (version, is_known) in [(1, true), (2, false)] {
        let mut told = ToldRelay::knowing(b"contents");
        told.forget(FORGET_NAME, ROOT, "new");
        told.ask(3, &walk(0, 30, ""));
        let (_, kernel) = told.ask(3, &open(30));
        assert!(kernel.is_empty());
        let mut file = attr(Qid::FILE, X, 8);
        file.qid.version = version;
        let mut data = Frame::default();
        data.start(0, 0);
        let entry = ListEntry {
            kind: 8,
            name: text("x"),
            qid: file.qid,
            attr: Some(file),
            lacks_xattrs: false,
            target: Str::default(),
        };
        entry.put(&mut data);
        let listed = Reply::List {
            kept: KEEP_NAME,
            qid: qid(Qid::DIR, ROOT),
            data: Data(&data.finish()[HEADER..]),
        };
        told.reply(3, &listed);
        assert_eq!(told.opens(), is_known, "{version}");
    }
}

#[test]
fn an_answer_from_before_a_file_was_told_again_is_not_kept() {
    let ask = Request::Xattrwalk {
        fid: 1,
        newfid: FREE,
        name: text("user.x"),
    };
    let mut told = ToldRelay::new();
    told.find(5);
    told.forget(FORGET_ATTR, ROOT, "x");
    // From here on the server need not say that it changes, until it tells of it again.
    told.ask(6, &ask);
    told.look(
        0,
        8,
        "x",
        &lookup(KEEP_NAME | KEEP_ATTR, attr(Qid::FILE, X, 6)),
    );
    told.reply(6, &Reply::Error { ecode: 61 });
    assert!(told.ask(6, &ask).1.is_empty());
    // One that was asked for afterwards is.
    told.reply(6, &Reply::Error { ecode: 61 });
    assert!(!told.ask(6, &ask).1.is_empty());
}
