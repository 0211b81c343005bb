//! What comes with the reply to a create or a setattr answers what the kernel asks next, and nothing later.

use ninep::msg::{FORGET_NAME, Qid};

use super::mirror::{ROOT, ToldRelay, attr, qid};
use super::*;

fn create(fid: u32) -> Request<'static> {
    Request::Lcreate {
        fid,
        name: name("new"),
        flags: 0o301,
        mode: 0o644,
        gid: 0,
    }
}

/// Creates `new` in the root, with fid 1: what goes to the kernel.
fn created(told: &mut ToldRelay) -> Vec<u8> {
    told.ask(2, &walk(0, 1, ""));
    let (server, _) = told.ask(2, &create(1));
    let sent = server.get(server.len() - 7 - 4 - 5 - 12..).unwrap();
    assert_eq!(sent[4], 142, "{server:?}");
    told.reply(
        2,
        &Reply::Lcreategetattr {
            qid: qid(Qid::FILE, 7),
            iounit: 0,
            attr: attr(Qid::FILE, 7, 5),
        },
    )
}

/// The size that the kernel gets at once.
fn size(told: &mut ToldRelay, fid: u32) -> Option<u64> {
    let (server, got) = told.ask(4, &getattr(fid));
    if got.is_empty() {
        told.reply(4, &Reply::Error { ecode: 5 });
        return None;
    }
    assert!(server.is_empty());
    match Reply::decode(got[4], &got[HEADER..]).unwrap() {
        Reply::Getattr { attr } => Some(attr.size),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_file_is_walked_to_and_its_attributes_are_known() {
    let mut told = ToldRelay::new();
    let got = created(&mut told);
    let expected = Reply::Lcreate {
        qid: qid(Qid::FILE, 7),
        iounit: 0,
    };
    assert_eq!(got, reply(2, &expected));
    let (server, got) = told.ask(3, &walk(0, 2, "new"));
    // The server walks at once, and nowhere if there is another file by then.
    let bind = Request::Bind {
        fid: 0,
        newfid: 2,
        name: name("new"),
        path: 7,
        btime: attr(Qid::FILE, 7, 5).btime,
    };
    assert_eq!(server, message(NO_TAG, &bind));
    let mut qids = WalkVec::default();
    qids.push(qid(Qid::FILE, 7));
    assert_eq!(got, reply(3, &Reply::Walk { qids }).to_vec());
    assert_eq!(size(&mut told, 2), Some(5));
    // Only the first walk.
    let (server, got) = told.ask(3, &walk(0, 4, "new"));
    assert!(!server.is_empty() && got.is_empty());
}

#[test]
fn other_names_and_directories_are_walked_to_by_the_server() {
    let mut told = ToldRelay::new();
    told.look(0, 9, "d", &super::mirror::lookup(0, attr(Qid::DIR, 8, 0)));
    created(&mut told);
    for walk in [walk(0, 2, "newer"), walk(9, 2, "new")] {
        let (server, got) = told.ask(3, &walk);
        assert!(!server.is_empty() && got.is_empty());
        told.reply(3, &Reply::Error { ecode: 2 });
    }
    let (_, got) = told.ask(3, &walk(0, 2, "new"));
    assert!(!got.is_empty());
}

#[test]
fn what_may_have_changed_since_is_asked_for() {
    type Change = fn(&mut ToldRelay);
    let changes: [Change; 4] = [
        |told| told.forget(FORGET_NAME, ROOT, "new"),
        |told| {
            told.ask(5, &set_size(0, 9));
        },
        |told| {
            told.ask(5, &Request::Remove { fid: 1 });
        },
        // Sent before, and done after what the reply tells.
        |told| {
            told.reply(6, &Reply::Write { count: 4 });
        },
    ];
    for change in changes {
        for is_create in [true, false] {
            let mut told = ToldRelay::new();
            told.look(
                0,
                2,
                "old",
                &super::mirror::lookup(0, attr(Qid::FILE, 7, 3)),
            );
            let data = Data(b"four");
            let offset = 0;
            told.ask(
                6,
                &Request::Write {
                    fid: 2,
                    offset,
                    data,
                },
            );
            if is_create {
                created(&mut told);
                change(&mut told);
                let (server, got) = told.ask(3, &walk(0, 3, "new"));
                assert!(!server.is_empty() && got.is_empty());
            } else {
                told.ask(4, &set_size(2, 5));
                let attr = attr(Qid::FILE, 7, 5);
                told.reply(4, &Reply::Setgetattr { attr });
                change(&mut told);
                assert_eq!(size(&mut told, 2), None);
            }
        }
    }
}

#[test]
fn attributes_that_something_else_may_have_changed_meanwhile_do_not_count() {
    let mut told = ToldRelay::new();
    told.look(
        0,
        2,
        "old",
        &super::mirror::lookup(0, attr(Qid::FILE, 7, 3)),
    );
    told.ask(4, &set_size(2, 5));
    let data = Data(b"four");
    let offset = 0;
    told.ask(
        6,
        &Request::Write {
            fid: 2,
            offset,
            data,
        },
    );
    told.reply(6, &Reply::Write { count: 4 });
    let attr = attr(Qid::FILE, 7, 5);
    told.reply(4, &Reply::Setgetattr { attr });
    assert_eq!(size(&mut told, 2), None);
}

/// The server does not say when they change: only what the kernel asks for at once is answered, not what a program asks for later,
/// which may have heard of a change meanwhile.
#[test]
fn the_attributes_after_a_setattr_answer_one_getattr_and_soon() {
    let changed = || {
        let mut told = ToldRelay::new();
        let old = super::mirror::lookup(0, attr(Qid::FILE, 7, 3));
        told.look(0, 2, "old", &old);
        told.ask(4, &set_size(2, 5));
        let attr = attr(Qid::FILE, 7, 5);
        told.reply(4, &Reply::Setgetattr { attr });
        told
    };
    let mut told = changed();
    assert_eq!(size(&mut told, 2), Some(5));
    assert_eq!(size(&mut told, 2), None);
    let mut told = changed();
    told.now += ATTR_TTL;
    assert_eq!(size(&mut told, 2), None);
}

#[test]
fn nothing_of_it_is_known_after_input() {
    let mut told = ToldRelay::new();
    created(&mut told);
    told.ask(3, &walk(0, 2, "new"));
    assert_eq!(size(&mut told, 2), Some(5));
    assert_eq!(size(&mut told, 2), Some(5));
    told.relay.forget_unwatched();
    assert_eq!(size(&mut told, 2), None);
    created(&mut told);
    told.relay.forget_unwatched();
    let (_, got) = told.ask(3, &walk(0, 3, "new"));
    assert!(got.is_empty());
}

#[test]
fn a_setattr_brings_the_attributes_unless_there_are_none() {
    for valid in [Attr::BASIC, 0] {
        let mut told = ToldRelay::new();
        told.look(
            0,
            2,
            "old",
            &super::mirror::lookup(0, attr(Qid::FILE, 7, 3)),
        );
        let (server, _) = told.ask(4, &set_size(2, 5));
        assert_eq!(server[4], 144);
        let attr = Attr {
            valid,
            ..attr(Qid::FILE, 7, 5)
        };
        let got = told.reply(4, &Reply::Setgetattr { attr });
        assert_eq!(got, reply(4, &Reply::Setattr {}).to_vec());
        assert_eq!(size(&mut told, 2), (valid != 0).then_some(5));
    }
}
