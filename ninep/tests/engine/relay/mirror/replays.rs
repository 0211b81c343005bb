//! What a program asked for when it ran before, which the relay asks for at once.

use std::collections::VecDeque;
use std::time::Duration;

use ninep::msg::{KEEP_DATA, Kind, ReplayRecord};
use proptest::prelude::*;

use super::*;

/// The requests for a replay among these: their tags, and how much they ask for.
fn replays(mut requests: &[u8]) -> Vec<(u16, u32)> {
    let mut found = Vec::new();
    while let Some(header) = requests.first_chunk::<HEADER>().map(Header::decode) {
        let (request, rest) = requests.split_at(header.size as usize);
        if header.kind == Kind::Replay.number() {
            let count = request.last_chunk().unwrap();
            found.push((header.tag, u32::from_le_bytes(*count)));
        }
        requests = rest;
    }
    found
}

/// The tags of the requests for a replay among these.
fn replay_tags(requests: &[u8]) -> Vec<u16> {
    replays(requests).iter().map(|(tag, _)| *tag).collect()
}

fn record<'a>(file: &'a str, attr: Attr, data: &'a [u8]) -> ReplayRecord<'a> {
    ReplayRecord {
        dir: ROOT,
        name: text(file),
        kept: KEEP_NAME | KEEP_ATTR | KEEP_DATA,
        ecode: 0,
        attr,
        target: Str::default(),
        offset: 0,
        data: Data(data),
    }
}

fn encoded(records: &[ReplayRecord<'_>]) -> Vec<u8> {
    let mut frame = Frame::default();
    frame.start(0, 0);
    for record in records {
        record.put(&mut frame);
    }
    frame.finish()[HEADER..].to_vec()
}

impl ToldRelay {
    fn replay(&mut self, tag: u16, records: &[ReplayRecord<'_>]) {
        let data = encoded(records);
        let data = Data(&data);
        assert!(self.reply(tag, &Reply::Replay { data }).is_empty());
    }
}

/// Just attached, and the tag of its request.
fn attached() -> (ToldRelay, u16) {
    let told = ToldRelay::new();
    let tags = replay_tags(&told.own);
    assert_eq!(tags.len(), 1);
    (told, tags[0])
}

#[test]
fn what_is_told_is_known_and_more_is_asked_for_until_there_is_none() {
    let (mut told, tag) = attached();
    let data = listing(&["100".into()]);
    let absent = ReplayRecord {
        kept: KEEP_NAME,
        ecode: 2,
        ..record("none", Attr::default(), b"")
    };
    let list = ReplayRecord {
        dir: 8,
        ..record("", Attr::default(), &data)
    };
    let subdirectory = ReplayRecord {
        kept: KEEP_NAME | KEEP_ATTR,
        ..record("d", attr(Qid::DIR, 8, 0), b"")
    };
    let file = record("x", attr(Qid::FILE, 7, 5), b"12345");
    let files = listing(&["x".into()]);
    let root = record("", Attr::default(), &files);
    let x = ReplayRecord {
        attr: attr(Qid::FILE, 100, 100),
        ..record("x", Attr::default(), b"")
    };
    // In whatever order.
    told.replay(tag, &[root, x, absent, file, subdirectory, list]);
    // Two are under way now.
    let tags = replay_tags(&told.own);
    assert_eq!(tags.len(), 2);
    assert_eq!(told.known("x"), Some(5));
    told.ask(3, &walk(0, 1, "x"));
    let (server, kernel) = told.ask(3, &Request::Lopen { fid: 1, flags: 0 });
    assert!(server.is_empty() && !kernel.is_empty());
    let (server, got) = told.ask(3, &read(1, 0, 100));
    assert!(server.is_empty() && got.ends_with(b"12345"));
    let (server, got) = told.ask(3, &walk(0, 2, "none"));
    assert!(server.is_empty());
    assert_eq!(got, reply(3, &Reply::Error { ecode: 2 }));
    told.ask(3, &walk(0, 4, "d"));
    let (server, got) = told.ask(3, &walk(4, 5, "nothing"));
    assert!(server.is_empty() && got[4] == 7);
    // It is used for the first time, so the server learns of it, though it is closed at once.
    told.ask(3, &Request::Clunk { fid: 1 });
    assert!(told.relay.has_batch());
    told.replay(tags[1], &[]);
    assert!(replay_tags(&told.own).is_empty());
    told.replay(tags[0], &[record("y", attr(Qid::FILE, 9, 1), b"y")]);
    assert!(replay_tags(&told.own).is_empty());
    assert_eq!(told.known("y"), Some(1));
}

/// How much the last of ten replies made the relay ask for, when the path carries `rate` bytes a second and a round trip takes
/// `round_trip`.
fn count_asked_for(rate: u32, round_trip: Duration) -> u32 {
    let mut told = ToldRelay::new();
    let mut asked: VecDeque<_> = replays(&told.own)
        .into_iter()
        .map(|asked| (asked, told.now))
        .collect();
    let mut last = 0;
    for n in 0..10 {
        let ((tag, count), sent) = asked.pop_front().unwrap();
        last = count;
        let data = vec![7; count as usize / 2];
        let file = attr(Qid::FILE, 100 + n, u64::from(count / 2));
        let takes = Duration::from_secs_f64(f64::from(count / 2) / f64::from(rate));
        told.now = told.now.max(sent + round_trip) + takes;
        told.replay(tag, &[record(&n.to_string(), file, &data)]);
        asked.extend(
            replays(&told.own)
                .into_iter()
                .map(|asked| (asked, told.now)),
        );
    }
    last
}

#[test]
fn as_much_is_asked_for_as_holds_nobody_up() {
    let ms = Duration::from_millis;
    for round_trip in [ms(2), ms(20), ms(100)] {
        assert_eq!(count_asked_for(12_500_000, round_trip), 256 * 1024);
        let slow = count_asked_for(1_250_000, round_trip);
        assert!((60_000..64_000).contains(&slow), "{slow}");
        assert_eq!(count_asked_for(100_000, round_trip), 16 * 1024);
    }
}

#[test]
fn a_server_that_knows_nothing_of_it_is_not_asked_again() {
    let (mut told, tag) = attached();
    assert!(told.reply(tag, &Reply::Error { ecode: 95 }).is_empty());
    assert!(told.own.is_empty());
    told.ask(1, &attach(5));
    told.reply(
        1,
        &Reply::Attach {
            qid: qid(Qid::DIR, ROOT),
        },
    );
    assert!(told.own.is_empty());
}

#[test]
fn what_was_taken_back_meanwhile_is_not_kept() {
    for (what, dir, name) in [
        (FORGET_ATTR, ROOT, "x"),
        (FORGET_NAME, ROOT, "x"),
        (FORGET_NAME, ROOT, ""),
        (FORGET_DIR, ROOT, ""),
        (FORGET_ALL, 0, ""),
    ] {
        let file = record("x", attr(Qid::FILE, 7, 5), b"12345");
        let (mut told, tag) = attached();
        told.forget(what, dir, name);
        told.replay(tag, &[file]);
        assert_eq!(told.known("x"), None, "{what}");
        // And afterwards.
        let (mut told, tag) = attached();
        told.replay(tag, &[file]);
        assert_eq!(told.known("x"), Some(5));
        told.forget(what, dir, name);
        assert_eq!(told.known("x"), None, "{what}");
    }
}

#[test]
fn contents_have_to_fit_what_is_said_of_the_file() {
    let opens = |records: &[ReplayRecord<'_>]| {
        let (mut told, tag) = attached();
        told.replay(tag, records);
        told.ask(3, &walk(0, 1, "x"));
        told.ask(3, &Request::Lopen { fid: 1, flags: 0 })
            .0
            .is_empty()
    };
    let file = attr(Qid::FILE, 7, 5);
    assert!(opens(&[record("x", file, b"12345")]));
    let part = |offset, data| ReplayRecord {
        offset,
        ..record("x", file, data)
    };
    assert!(opens(&[part(0, b"12"), part(2, b"345")]));
    assert!(opens(&[record("x", attr(Qid::FILE, 7, 0), b"")]));
    assert!(!opens(&[record("x", file, b"1234")]));
    assert!(!opens(&[record("x", file, b"123456")]));
    assert!(!opens(&[part(1, b"12345")]));
    assert!(!opens(&[part(u64::MAX, b"12345")]));
    let mut other = file;
    other.qid.version = 2;
    let changed = record("x", other, b"345");
    let rest = ReplayRecord {
        offset: 2,
        ..changed
    };
    assert!(!opens(&[part(0, b"12"), rest]));
    for kept in [0, KEEP_NAME, KEEP_ATTR, KEEP_DATA, KEEP_NAME | KEEP_ATTR] {
        let file = ReplayRecord {
            kept,
            ..record("x", file, b"12345")
        };
        assert!(!opens(&[file]), "{kept}");
    }
}

#[test]
fn nothing_has_to_make_room_for_it() {
    let budget = Arc::new(ContentBudget::new(2 << 20));
    let mut told = ToldRelay::keeping(budget);
    let mut tags = replay_tags(&told.own);
    let bytes = vec![7; 200_000];
    let mut asked = 0;
    while let Some(tag) = tags.pop() {
        asked += 1;
        assert!(asked < 20, "it goes on for ever");
        let name = format!("{asked}");
        let file = attr(Qid::FILE, 100 + asked, 200_000);
        told.replay(tag, &[record(&name, file, &bytes)]);
        tags.extend(replay_tags(&told.own));
    }
    // The first is still there.
    told.ask(3, &walk(0, 1, "1"));
    assert!(
        told.ask(3, &Request::Lopen { fid: 1, flags: 0 })
            .0
            .is_empty()
    );
    assert!(asked > 5);
}

proptest! {
    #[test]
    fn any_records_are_survived(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        offset in any::<u64>(),
        kept in any::<u8>(),
        dir in 0..5_u64,
        cut in any::<prop::sample::Index>(),
    ) {
        let (mut told, tag) = attached();
        let names = ["x", "", "..", "a/b", "d"];
        let records: Vec<_> = names.iter().map(|name| ReplayRecord {
            offset,
            kept,
            dir,
            ..record(name, attr(Qid::FILE, 7, bytes.len() as u64), &bytes)
        }).collect();
        let all = encoded(&records);
        for data in [&all[..cut.index(all.len())], &bytes, &all] {
            let data = Data(data);
            let got = told.reply(tag, &Reply::Replay { data });
            prop_assert!(got.is_empty());
        }
    }
}
