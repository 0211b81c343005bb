//! The clunk of a file that was open for writing is not waited for, and the server says when it has closed the file.

use ninep::msg::Qid;

use super::mirror::{ToldRelay, attr, lookup, qid};
use super::*;

/// The tag of a Tsync.
const SYNC_TAG: u16 = 0xfeff;

fn told() -> ToldRelay {
    let mut told = ToldRelay::new();
    told.look(0, 1, "file", &lookup(0, attr(Qid::FILE, 7, 5)));
    told
}

fn open(told: &mut ToldRelay, fid: u32) {
    told.ask(3, &walk(1, fid, ""));
    let flags = 1;
    told.ask(3, &Request::Lopen { fid, flags });
    let qid = qid(Qid::FILE, 7);
    told.reply(3, &Reply::Lopen { qid, iounit: 0 });
}

/// What goes to the server for a wait for what has been closed so far.
fn sync(relay: &mut Relay) -> (u64, Vec<u8>) {
    let closes = relay.sync();
    let mut out = Vec::new();
    relay.take_requests(&mut out);
    (closes, out.concat())
}

#[test]
fn the_clunk_of_a_written_file_is_answered_at_once_and_sent_at_once() {
    let mut told = told();
    open(&mut told, 2);
    let (server, kernel) = told.ask(4, &Request::Clunk { fid: 2 });
    assert_eq!(server, message(NO_TAG, &Request::Clunk { fid: 2 }));
    assert_eq!(kernel, reply(4, &Reply::Clunk {}));

    let (closes, server) = sync(&mut told.relay);
    assert_eq!((closes, server), (1, message(SYNC_TAG, &Request::Sync {})));
    assert_eq!(told.relay.closed(), 0);
    // One at a time.
    open(&mut told, 2);
    told.ask(4, &Request::Clunk { fid: 2 });
    assert_eq!(sync(&mut told.relay), (2, Vec::new()));
    assert!(told.reply(SYNC_TAG, &Reply::Sync {}).is_empty());
    assert_eq!(told.relay.closed(), 1);
    assert_eq!(told.own, message(SYNC_TAG, &Request::Sync {}));
    told.reply(SYNC_TAG, &Reply::Sync {});
    assert_eq!((told.relay.closed(), told.own.len()), (2, 0));
    // Nothing is closed that was not asked for.
    assert_eq!(sync(&mut told.relay), (2, Vec::new()));
    told.reply(SYNC_TAG, &Reply::Sync {});
    assert_eq!(told.relay.closed(), 2);
}

#[test]
fn other_clunks_are_sent_with_the_next_request_or_waited_for() {
    let mut told = told();
    told.ask(3, &walk(1, 2, ""));
    let (server, kernel) = told.ask(4, &Request::Clunk { fid: 2 });
    assert!(server.is_empty() && !kernel.is_empty());
    assert_eq!(told.relay.sync(), 0);

    // With a lock, whoever waits for that would find it taken.
    open(&mut told, 2);
    let lock = Request::Lock {
        fid: 2,
        kind: Flock::WRITE,
        flags: 0,
        start: 0,
        length: 0,
        proc_id: 1,
        client_id: text("cpu"),
    };
    told.ask(4, &lock);
    told.reply(4, &Reply::Lock { status: 0 });
    let (server, kernel) = told.ask(4, &Request::Clunk { fid: 2 });
    assert!(kernel.is_empty());
    assert_eq!(server, message(4, &Request::Clunk { fid: 2 }));
    assert_eq!(told.relay.sync(), 0);
}

#[test]
fn an_older_server_closes_a_written_file_before_the_kernel_goes_on() {
    let mut relay = agree(Relay::new(Upstream::Any), EXTENDED);
    let now = Instant::now();
    let mut out = Out::default();
    let (fid, flags) = (2, 1);
    for (request, answer) in [
        (
            attach(2),
            Reply::Attach {
                qid: qid(Qid::FILE, 7),
            },
        ),
        (
            Request::Lopen { fid, flags },
            Reply::Lopen {
                qid: qid(Qid::FILE, 7),
                iounit: 0,
            },
        ),
    ] {
        from_kernel(&mut relay, message(1, &request), now, &mut out);
        from_server(&mut relay, reply(1, &answer), now, &mut out).unwrap();
    }
    let mut out = Out::default();
    from_kernel(
        &mut relay,
        message(1, &Request::Clunk { fid }),
        now,
        &mut out,
    );
    assert!(out.kernel.is_empty());
    assert_eq!(out.server.concat(), message(1, &Request::Clunk { fid }));
}
