//! Creates and setattrs that bring the attributes, and waits for closes, of a peer that is hostile.

use cpu_client::export::{Rule, RuleKind};
use ninep::msg::{Kind, WATCHED};

use super::*;

const CREATE: u32 = 0o100;
const EXCL: u32 = 0o200;
const TRUNC: u32 = 0o1000;

/// A session in the dialect that has them.
fn watched(export: &Arc<Export>) -> RawClient {
    let mut raw = RawClient::attached(export.clone(), Config::default());
    raw.dialect(1 << 20, WATCHED);
    ask(&mut raw, &attach(0)).unwrap();
    raw
}

/// The reply to a request, without what the server takes back meanwhile.
fn answer(raw: &mut RawClient) -> Result<RawReply, Errno> {
    loop {
        let reply = raw.receive();
        if reply.tag != NO_TAG {
            assert_eq!(reply.tag, 1);
            return reply.errno().map_or(Ok(reply), Err);
        }
    }
}

fn ask(raw: &mut RawClient, request: &Request<'_>) -> Result<RawReply, Errno> {
    raw.send(1, request);
    answer(raw)
}

fn make(raw: &mut RawClient, fid: u32, dir: &str, file: &str, flags: u32) -> Result<Attr, Errno> {
    let names = dir.split('/').filter(|name| !name.is_empty());
    let mut all = WalkVec::default();
    for at in names {
        all.push(name(at));
    }
    let (newfid, names) = (fid, all);
    let fid = 0;
    ask(raw, &Request::Walk { fid, newfid, names })?;
    let request = Request::Lcreategetattr {
        fid: newfid,
        name: name(file),
        flags,
        mode: 0o4755,
        gid: 0,
    };
    match ask(raw, &request)?.reply() {
        Reply::Lcreategetattr { qid, attr, .. } => {
            assert_eq!((qid.path, qid.kind), (attr.qid.path, attr.qid.kind));
            Ok(attr)
        }
        other => panic!("{other:?}"),
    }
}

fn set(raw: &mut RawClient, fid: u32) -> Result<Attr, Errno> {
    let attr = SetAttr {
        valid: SetAttr::MODE | SetAttr::SIZE,
        mode: 0o640,
        size: 3,
        ..SetAttr::default()
    };
    match ask(raw, &Request::Setgetattr { fid, attr })?.reply() {
        Reply::Setgetattr { attr } => Ok(attr),
        other => panic!("{other:?}"),
    }
}

#[test]
fn attributes_after_a_change_are_those_of_the_file() {
    let served = ServedTree::new();
    served.mkdir("d");
    let mut raw = watched(&served.export);
    let attr = make(&mut raw, 1, "d", "new", RDWR | CREATE | EXCL).unwrap();
    let meta = served.path("d/new").metadata().unwrap();
    assert_eq!((attr.qid.path + 2, attr.mode), (meta.ino(), meta.mode()));
    let attr = set(&mut raw, 1).unwrap();
    assert_eq!((attr.mode, attr.size), (0o100_640, 3));
    assert_eq!(served.path("d/new").metadata().unwrap().len(), 3);
    // It is open now, and there.
    let again = Request::Lcreategetattr {
        fid: 1,
        name: name("x"),
        flags: RDWR,
        mode: 0,
        gid: 0,
    };
    assert_eq!(errno(ask(&mut raw, &again)), Some(Errno::EBADF));
    assert_eq!(
        make(&mut raw, 2, "d", "new", RDWR | EXCL).err(),
        Some(Errno::EEXIST)
    );
    assert_eq!(make(&mut raw, 3, "d", "new", RDWR | TRUNC).unwrap().size, 0);
    for (fid, wanted) in [(7, Errno::EBADF), (4, Errno::EISDIR)] {
        if fid == 4 {
            let names = WalkVec::default();
            ask(
                &mut raw,
                &Request::Walk {
                    fid: 0,
                    newfid: 4,
                    names,
                },
            )
            .unwrap();
        }
        assert_eq!(set(&mut raw, fid).err(), Some(wanted));
    }
}

#[test]
fn names_that_are_none_make_nothing() {
    let served = ServedTree::new();
    let mut raw = watched(&served.export);
    let long = [b'x'; 256];
    let names: [&[u8]; 9] = [
        b"",
        b".",
        b"..",
        b"a/b",
        b"../x",
        b"/x",
        b"a\0b",
        &long,
        &long[..255],
    ];
    for (n, file) in names.iter().enumerate() {
        let newfid = 10 + n as u32;
        let names = WalkVec::default();
        ask(
            &mut raw,
            &Request::Walk {
                fid: 0,
                newfid,
                names,
            },
        )
        .unwrap();
        let mut body = newfid.to_le_bytes().to_vec();
        body.extend((file.len() as u16).to_le_bytes());
        body.extend(*file);
        for number in [RDWR | CREATE, 0o644, 0] {
            body.extend(u32::to_le_bytes(number));
        }
        let size = (7 + body.len() as u32).to_le_bytes();
        let kind = Kind::Lcreategetattr.number();
        raw.send_bytes(&[&size[..], &[kind, 1, 0], &body].concat());
        assert_eq!(answer(&mut raw).is_ok(), n == 8, "{n}");
    }
    let made: Vec<_> = fs::read_dir(served.path("")).unwrap().collect();
    assert_eq!(made.len(), 1);
    assert!(!served.dir.path().join("x").exists());
}

#[test]
fn what_rules_keep_is_neither_made_nor_changed_nor_told() {
    let served = ServedTree::new();
    for dir in ["h", "ro", "out"] {
        served.mkdir(dir);
    }
    for file in ["h/key", "ro/f", "out/f"] {
        served.write(file, "secret");
    }
    let rule = |kind, path: &str| Rule {
        path: path.to_owned(),
        kind,
    };
    let rules = [
        rule(RuleKind::Hide, "/h/key"),
        rule(RuleKind::Hide, "/h/new"),
        rule(RuleKind::ReadOnly, "/ro"),
    ];
    let export = Export::new(&served.path("")).unwrap().with_rules(&rules);
    let mut raw = watched(&Arc::new(export));
    let mut fid = 1;
    for (dir, file) in [("h", "key"), ("h", "new"), ("ro", "f"), ("ro", "new")] {
        for flags in [0, RDWR, WRONLY | TRUNC, RDWR | EXCL, TRUNC] {
            fid += 1;
            let made = make(&mut raw, fid, dir, file, flags | CREATE);
            let may_be = (dir, file, flags) == ("ro", "f", 0);
            assert_eq!(made.is_ok(), may_be, "{dir}/{file} {flags:o} {made:?}");
        }
    }
    for (dir, file) in [("h", "key"), ("ro", "f"), ("ro", "")] {
        fid += 1;
        let mut names = WalkVec::default();
        names.push(name(dir));
        if !file.is_empty() {
            names.push(name(file));
        }
        ask(
            &mut raw,
            &Request::Walk {
                fid: 0,
                newfid: fid,
                names,
            },
        )
        .unwrap();
        assert!(set(&mut raw, fid).is_err(), "{dir}/{file}");
    }
    for (file, is) in [
        ("h/key", true),
        ("ro/f", true),
        ("h/new", false),
        ("ro/new", false),
    ] {
        assert_eq!(
            fs::read(served.path(file)).ok(),
            is.then(|| b"secret".to_vec()),
            "{file}"
        );
    }
}

#[test]
fn many_waits_for_closes_are_all_answered() {
    let served = ServedTree::new();
    let mut raw = watched(&served.export);
    for round in 0..20_u32 {
        for n in 0..50 {
            let fid = 1 + n;
            let file = format!("f{round}-{n}");
            make(&mut raw, fid, "", &file, RDWR | CREATE).unwrap();
        }
        for n in 0..50 {
            raw.send(NO_TAG, &Request::Clunk { fid: 1 + n });
            raw.send(100 + n as u16, &Request::Sync {});
            // Of what is not there.
            raw.send(NO_TAG, &Request::Clunk { fid: 5000 });
        }
        let mut tags = HashSet::new();
        while tags.len() < 50 {
            let reply = raw.receive();
            if reply.tag != NO_TAG {
                assert_eq!(reply.reply(), Reply::Sync {});
                assert!(tags.insert(reply.tag));
            }
        }
    }
    for (number, body) in [
        (Kind::Sync, &[0_u8; 4][..]),
        (Kind::Setgetattr, &[]),
        (Kind::Lcreategetattr, &[1, 0, 0]),
    ] {
        let size = (7 + body.len() as u32).to_le_bytes();
        raw.send_bytes(&[&size[..], &[number.number(), 1, 0], body].concat());
        assert!(answer(&mut raw).is_err());
    }
    raw.dialect(1 << 20, EXTENDED);
    raw.ask(&attach(0)).unwrap();
    for request in [
        Request::Sync {},
        Request::Setgetattr {
            fid: 0,
            attr: SetAttr::default(),
        },
    ] {
        assert_eq!(errno(raw.ask(&request)), Some(Errno::EOPNOTSUPP));
    }
}

/// Who sees the new name may run the file, which fails while it is open for writing.
#[test]
fn what_is_renamed_after_its_clunk_is_closed() {
    let served = ServedTree::new();
    let mut raw = watched(&served.export);
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // So that a thread that is to close a file has to wait for a processor now and then.
        for _ in 0..4 {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let mut open = 0;
        for round in 0..400 {
            make(&mut raw, 1, "", "tmp", RDWR | CREATE).unwrap();
            raw.send(NO_TAG, &Request::Clunk { fid: 1 });
            let file = format!("x{round}");
            let rename = Request::Renameat {
                olddirfid: 0,
                oldname: name("tmp"),
                newdirfid: 0,
                newname: name(&file),
            };
            ask(&mut raw, &rename).unwrap();
            let path = served.path(&file);
            let all = fs::read_dir("/proc/self/fd").unwrap();
            let mut all = all.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
            open += usize::from(all.any(|it| it == path));
        }
        is_done.store(true, Ordering::Relaxed);
        assert_eq!(open, 0);
    });
}
