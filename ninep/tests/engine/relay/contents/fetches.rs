//! Small files that are fetched before anybody asks for them.

use std::collections::HashMap;

use ninep::msg::{FetchTotals, FetchedFile};

use super::super::mirror::{list_tag, listing};
use super::*;

const FETCH: u8 = 138;

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
fn a_version_is_no_kind_of_file() {
    let names = [
        "liba.so.1",
        "libb.so.1",
        "libc.so.1",
        "a.x1",
        "b.x1",
        "c.x1",
    ]
    .map(String::from);
    let mut told = listed(&names, Arc::default());
    assert_eq!(told.open_unknown("liba.so.1"), []);
    assert_eq!(told.open_unknown("libb.so.1"), []);
    assert_eq!(told.open_unknown("a.x1"), []);
    assert_eq!(told.open_unknown("b.x1").len(), 1);
}

/// What the relay says at the end: of fetches, and of requests that it has answered itself, by kind.
fn tally(told: &mut ToldRelay) -> (FetchTotals, HashMap<u8, u32>) {
    let mut out = Vec::new();
    told.relay.end(&mut out);
    // Before it, there is what was held back.
    let message = out.pop().unwrap();
    let header = Header::decode(message.first_chunk().unwrap());
    assert_eq!((header.kind, header.tag), (140, NO_TAG));
    let kind = ninep::msg::Kind::new(header.kind).unwrap();
    match Request::decode(kind, &message[HEADER..]).unwrap() {
        Request::Tally { fetched, answered } => {
            let numbers = answered.0.as_chunks().0.iter();
            let numbers = numbers.map(|number| u32::from_le_bytes(*number));
            (
                fetched,
                (0..128).map(|half| 2 * half).zip(numbers).collect(),
            )
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_last_message_tells_what_was_answered_here_and_what_was_of_use() {
    let mut out = Vec::new();
    Relay::new(Upstream::Any).end(&mut out);
    assert!(out.is_empty(), "{out:?}");
    let names = ["a.x", "b.x", "c.x"].map(String::from);
    let mut told = listed(&names, Arc::default());
    told.open_unknown("a.x");
    let (tag, _) = told.open_unknown("b.x").pop().unwrap();
    // The last has changed meanwhile.
    let data = fetched(&[(1, 100), (1, 101), (2, 102)]);
    told.reply(tag, &Reply::Fetch { data: Data(&data) });
    let unused = FetchTotals {
        files: 3,
        bytes: 303,
        used_files: 0,
        used_bytes: 0,
    };
    let (totals, before) = tally(&mut told);
    assert_eq!(totals, unused);
    assert!(told.knows("a.x") && told.knows("a.x"));
    told.forget(FORGET_ATTR, ROOT, "b.x");
    assert!(!told.knows("b.x") && !told.knows("c.x"));
    let (totals, answered) = tally(&mut told);
    let used = FetchTotals {
        used_files: 1,
        used_bytes: 100,
        ..unused
    };
    assert_eq!(totals, used);
    let more = |kind| answered[&kind] - before[&kind];
    // Walks, of which one is asked for since nothing is known of the file any more; opens; clunks.
    assert_eq!((more(110), more(12), more(120)), (3, 2, 4));
}

#[test]
fn what_was_read_before_it_arrived_or_after_it_was_forgotten_was_of_no_use() {
    let names = ["a.x", "b.x", "c.x"].map(String::from);
    let mut told = listed(&names, Arc::default());
    told.open_unknown("a.x");
    let (tag, _) = told.open_unknown("b.x").pop().unwrap();
    let open_by = |told: &mut ToldRelay, fid, name, version, size: usize| {
        told.ask(3, &walk(0, fid, name));
        let (_, kernel) = told.ask(3, &open(fid));
        assert!(kernel.is_empty(), "{name} is known");
        told.reply(3, &opened(version, size as u64, &vec![9; size]));
    };
    // One comes with its open, another is open when it arrives.
    open_by(&mut told, 50, "c.x", 1, 102);
    open_by(&mut told, 51, "b.x", 0, 0);
    let data = fetched(&[(1, 100), (1, 101), (1, 102)]);
    told.reply(tag, &Reply::Fetch { data: Data(&data) });
    assert!(told.knows("c.x"));
    assert_eq!(tally(&mut told).0.used_files, 0);
    assert_eq!(told.read(51, 0, 200).unwrap().len(), 101);
    let used = |told: &mut ToldRelay| {
        let totals = tally(told).0;
        (totals.used_files, totals.used_bytes)
    };
    assert_eq!(used(&mut told), (1, 101));
    let lock = Request::Lock {
        fid: 50,
        kind: Flock::READ,
        flags: 0,
        start: 0,
        length: 0,
        proc_id: 1,
        client_id: text("there"),
    };
    told.ask(6, &lock);
    told.reply(6, &Reply::Lock { status: 0 });
    open_by(&mut told, 52, "a.x", 1, 100);
    assert!(told.knows("a.x"));
    assert_eq!(used(&mut told), (1, 101));
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
        assert_eq!(told.knows("a.x"), is_kept, "{what} {name}");
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
