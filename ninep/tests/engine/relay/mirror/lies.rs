//! A server that sends what was not asked for, or says what is not so.

use proptest::prelude::*;

use super::*;

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
