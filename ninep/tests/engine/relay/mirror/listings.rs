//! Listings that come with look-ups.

use super::*;

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
fn what_the_relay_asks_itself_is_not_sent_within_a_write() {
    let mut told = ToldRelay::new();
    let (server, _) = told.ask(2, &walk(0, 1, "x"));
    let list = list_tag(&server).expect("a listing");
    told.reply(2, &Reply::Error { ecode: 2 });
    let data = [7; 1000];
    let write = message(
        4,
        &Request::Write {
            fid: 9,
            offset: 0,
            data: Data(&data),
        },
    );
    let (begin, rest) = write.split_at(500);
    let mut out = Out::default();
    from_kernel(&mut told.relay, begin.to_vec(), told.now, &mut out);
    // Another program's look-up is answered meanwhile.
    told.reply(list, &Reply::Error { ecode: 95 });
    assert!(told.own.is_empty(), "within the data of the write");
    assert!(told.relay.has_requests());
    told.relay.end(&mut out.server);
    assert!(out.server.concat() == begin, "nor is the last message");
    from_kernel(&mut told.relay, rest.to_vec(), told.now, &mut out);
    let sent = out.server.concat();
    let (all, own) = sent.split_at(write.len());
    assert!(all == write);
    let clunk = Header::decode(own.first_chunk().expect("a clunk"));
    assert_eq!((clunk.kind, clunk.size as usize), (120, own.len()));
    assert!(!told.relay.has_requests());
}
