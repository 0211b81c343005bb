//! What a program asked for is fetched ahead when it runs again.

use cpu_client::export::{Rule, RuleKind};
use ninep::learned::{Demand, LearnedTrace};
use ninep::msg::{KEEP_DATA, ReplayRecord, WATCHED};
use ninep::server::Learning;

use super::there::There;
use super::*;

/// A session with what is known from an earlier one.
fn session(export: &Arc<Export>, known: LearnedTrace) -> (There, Arc<Learning>) {
    let learning = Arc::new(Learning::new(known, None));
    let there = There::learning(export.clone(), Arc::default(), Some(learning.clone()));
    (there, learning)
}

/// A tree in memory, which is watched.
fn tree() -> (TempDir, Arc<Export>) {
    let dir = TempDir::new_in("/dev/shm").unwrap();
    fs::create_dir_all(dir.path().join("d/sub")).unwrap();
    for (name, size) in [
        ("d/small", 5),
        ("d/empty", 0),
        ("d/sub/large", 700_000),
        ("d/huge", 3_000_000),
    ] {
        let bytes: Vec<_> = (0..size).map(|n: u32| (n / 3) as u8).collect();
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    symlink("small", dir.path().join("d/link")).unwrap();
    let export = Arc::new(Export::new(dir.path()).unwrap());
    (dir, export)
}

/// Reads a file in larger pieces than others do.
fn cat(there: &mut There, path: &str) -> Vec<u8> {
    let (fid, _) = there.open(path).unwrap();
    let all = there.read_all(fid, 50_000);
    there.clunk(fid);
    all
}

/// What a program does.
fn run(there: &mut There) {
    assert_eq!(there.cat("d/small").unwrap(), [0, 0, 0, 1, 1]);
    assert_eq!(there.cat("d/empty").unwrap(), b"");
    assert_eq!(cat(there, "d/sub/large").len(), 700_000);
    assert!(there.stat("d/none").is_none() && there.stat("d/link").is_some());
    assert_eq!(there.list("d/sub").unwrap(), ["large"]);
}

fn ran(export: &Arc<Export>) -> LearnedTrace {
    let (mut there, learning) = session(export, LearnedTrace::default());
    run(&mut there);
    learning.trace().unwrap()
}

#[test]
fn what_was_asked_for_is_not_waited_for_in_the_next_session() {
    let (_dir, export) = tree();
    let (mut there, learning) = session(&export, LearnedTrace::default());
    run(&mut there);
    assert!(there.waits > 10, "{} waits", there.waits);
    let (mut again, more) = session(&export, learning.trace().unwrap());
    again.deliver_all();
    let before = again.waits;
    run(&mut again);
    assert_eq!(again.waits, before);
    // What is asked for beyond that is learned, too.
    cat(&mut again, "d/huge");
    let (mut third, _) = session(&export, more.trace().unwrap());
    third.deliver_all();
    let before = third.waits;
    run(&mut third);
    assert_eq!(cat(&mut third, "d/huge").len(), 3_000_000);
    assert_eq!(third.waits, before);
}

#[test]
fn to_a_near_machine_nothing_is_told_and_yet_it_is_learned() {
    let (_dir, export) = tree();
    // The machine asks as soon as the session begins.
    let learning = Arc::new(Learning::new(ran(&export), None));
    learning.set_near();
    let mut there = There::learning(export.clone(), Arc::default(), Some(learning.clone()));
    there.deliver_all();
    let before = there.waits;
    run(&mut there);
    let waits = there.waits - before;
    assert!(waits > 5, "{waits}");
    assert!(learning.trace().is_some());
}

#[test]
fn what_has_changed_since_is_seen_whenever_it_changed() {
    let (dir, export) = tree();
    let trace = ran(&export);
    let small = dir.path().join("d/small");
    fs::write(&small, "between").unwrap();
    fs::remove_file(dir.path().join("d/empty")).unwrap();
    fs::write(dir.path().join("d/none"), "new").unwrap();
    let (mut there, _) = session(&export, trace.clone());
    there.deliver_all();
    let before = there.waits;
    assert_eq!(there.cat("d/small").unwrap(), b"between");
    assert_eq!(there.cat("d/empty"), None);
    assert_eq!(there.stat("d/none").unwrap().size, 3);
    assert_eq!(there.waits, before);
    fs::write(&small, "later").unwrap();
    export.settle();
    there.deliver_all();
    assert_eq!(there.cat("d/small").unwrap(), b"later");
    // The reply is under way when it changes.
    let (mut there, _) = session(&export, trace);
    there.receive();
    fs::write(&small, "on the way").unwrap();
    export.settle();
    there.deliver_all();
    assert_eq!(there.cat("d/small").unwrap(), b"on the way");
}

/// All records of a replay in a session with these limits.
fn replayed(raw: &mut RawClient, count: u32) -> Vec<(Vec<u8>, bool, Vec<u8>)> {
    let mut records = Vec::new();
    loop {
        let reply = raw.ask(&Request::Replay { fid: 0, count }).unwrap();
        let data = match reply.reply() {
            Reply::Replay { data } => data.0.to_vec(),
            other => panic!("{other:?}"),
        };
        if data.is_empty() {
            return records;
        }
        let mut rest = BodyReader::new(&data);
        while !rest.is_empty() {
            let record = ReplayRecord::get(&mut rest).unwrap();
            let has_data = record.kept & KEEP_DATA != 0;
            let name = record.name.bytes().to_vec();
            records.push((name, has_data, record.data.0.to_vec()));
        }
    }
}

fn raw(export: &Arc<Export>, known: LearnedTrace, msize: u32) -> RawClient {
    let learning: &'static Learning = Box::leak(Box::new(Learning::new(known, None)));
    let config = Config {
        learning: Some(learning),
        ..Config::default()
    };
    let mut raw = RawClient::attached(export.clone(), config);
    raw.dialect(msize, WATCHED);
    raw.ask(&attach(0)).unwrap();
    raw
}

/// A trace that names these files, as a hostile one may.
fn naming(paths: &[&str]) -> LearnedTrace {
    let mut trace = LearnedTrace::default();
    for path in paths {
        let path = path.as_bytes();
        trace.add(path, Demand::List { open: true });
        trace.add(path, Demand::Name);
        trace.add(
            path,
            Demand::Range {
                offset: 0,
                length: u64::MAX,
            },
        );
    }
    trace
}

#[test]
fn nothing_is_told_that_could_not_be_asked_for() {
    let outside = TempDir::new_in("/dev/shm").unwrap();
    fs::write(outside.path().join("file"), "secret").unwrap();
    let (dir, _) = tree();
    fs::write(dir.path().join("d/key"), "secret").unwrap();
    fs::create_dir(dir.path().join("private")).unwrap();
    fs::write(dir.path().join("private/file"), "secret").unwrap();
    symlink(outside.path(), dir.path().join("d/out")).unwrap();
    symlink("../private", dir.path().join("d/in")).unwrap();
    fs::write(dir.path().join("other"), "secret").unwrap();
    let rule = |path: &str, kind| Rule {
        path: path.into(),
        kind,
    };
    let hidden = [
        rule("/d/key", RuleKind::Hide),
        rule("/private", RuleKind::Hide),
    ];
    let only = [rule("/d", RuleKind::Only), rule("/d/key", RuleKind::Hide)];
    let trace = naming(&[
        "d/key",
        "d/key/x",
        "private",
        "private/file",
        "d/out/file",
        "d/out",
        "d/in/file",
        "d/small",
        "d/none",
        "",
        "other",
        "d",
    ]);
    for (rules, only) in [(&hidden, false), (&only, true)] {
        let export = Export::new(dir.path()).unwrap().with_rules(rules);
        let export = Arc::new(export);
        let told = replayed(&mut raw(&export, trace.clone(), 1 << 20), 1 << 20);
        let is_secret = |data: &[u8]| data.windows(6).any(|part| part == b"secret");
        for (name, _, data) in &told {
            let is_other = only == (*name == b"other");
            assert!(!is_secret(data) || !is_other, "{name:?}");
        }
        let small = told
            .iter()
            .find(|(name, has_data, _)| name == b"small" && *has_data);
        assert_eq!(small.unwrap().2, [0, 0, 0, 1, 1]);
        let secrets: Vec<_> = told.iter().filter(|(_, _, data)| is_secret(data)).collect();
        let expected = usize::from(!only);
        assert_eq!(secrets.len(), expected, "{secrets:?}");
        assert!(secrets.iter().all(|(name, ..)| name == b"other"));
        // Nor was it opened: the user would be told.
        assert!(export.requested_hidden().is_empty());
    }
}

#[test]
fn a_trace_of_something_else_ends_soon() {
    let (dir, export) = tree();
    let names: Vec<_> = (0..12).map(|n| format!("d/other{n}")).collect();
    for name in &names {
        fs::write(dir.path().join(name), "x").unwrap();
    }
    let trace = ran(&export);
    for (opened, goes_on) in [(0, true), (9, true), (10, false), (12, false)] {
        let mut raw = raw(&export, trace.clone(), 1 << 20);
        for (fid, name) in (1..).zip(&names).take(opened) {
            raw.walk(0, fid, name).unwrap();
            let (flags, count) = (RDONLY, 1);
            raw.ask(&Request::Lopenread { fid, flags, count }).unwrap();
        }
        assert_eq!(!replayed(&mut raw, 1 << 20).is_empty(), goes_on, "{opened}");
    }
}

#[test]
fn what_the_machine_has_asked_for_meanwhile_is_not_told_again() {
    let (_dir, export) = tree();
    let mut trace = LearnedTrace::default();
    for (path, length) in [("d/huge", 3_000_000), ("d/sub/large", 10), ("d/small", 5)] {
        trace.add(path.as_bytes(), Demand::Range { offset: 0, length });
    }
    let sizes = |raw: &mut RawClient| {
        let told = replayed(raw, 100_000);
        ["huge", "large", "small"].map(|name| {
            let of_file = told.iter().filter(|record| record.0 == name.as_bytes());
            of_file.map(|record| record.2.len()).sum::<usize>()
        })
    };
    let mut other = raw(&export, trace.clone(), 1 << 20);
    assert_eq!(sizes(&mut other), [3_000_000, 700_000, 5]);
    let mut raw = raw(&export, trace, 1 << 20);
    for (fid, path, count) in [
        (1, "d/huge", 100_000),
        (2, "d/sub/large", 5),
        (3, "d/small", 5),
    ] {
        raw.walk(0, fid, path).unwrap();
        let flags = RDONLY;
        raw.ask(&Request::Lopenread { fid, flags, count }).unwrap();
    }
    assert_eq!(sizes(&mut raw), [2_900_000, 699_995, 0]);
}

#[test]
fn replies_are_as_large_as_they_may_be_whatever_the_trace() {
    let (dir, export) = tree();
    for n in 0..900 {
        fs::write(dir.path().join(format!("d/{n:0>200}")), vec![7; n]).unwrap();
    }
    let mut trace = naming(&["d/huge", "d", "d/sub/large", "d/none"]);
    for n in 0..900 {
        let path = format!("d/{n:0>200}");
        trace.add(
            path.as_bytes(),
            Demand::Range {
                offset: 0,
                length: 900,
            },
        );
    }
    for (msize, count) in [
        (4096, 1 << 20),
        (8192, 5000),
        (1 << 20, 1 << 30),
        (1 << 20, 100_000),
    ] {
        let mut raw = raw(&export, trace.clone(), msize);
        let mut all = 0;
        for _ in 0..3000 {
            let reply = raw.ask(&Request::Replay { fid: 0, count }).unwrap();
            let Reply::Replay { data } = reply.reply() else {
                panic!();
            };
            let is_listing = data.0.len() > 280_000;
            let most = msize.min(if is_listing { 430_000 } else { 280_000 });
            let size = data.0.len() + 11;
            assert!(size <= most as usize, "{msize} {count}: {size}");
            all += data.0.len();
            if data.0.is_empty() {
                break;
            }
        }
        assert!(all > 3_000_000, "{msize} {count}: {all}");
    }
    // Of nothing, and for whom it is not.
    let mut other = raw(&export, trace.clone(), 1 << 20);
    let ask = |raw: &mut RawClient, fid| raw.ask(&Request::Replay { fid, count: 9999 }).err();
    assert_eq!(ask(&mut other, 99), Some(Errno::EBADF));
    other.dialect(1 << 20, EXTENDED);
    other.ask(&attach(0)).unwrap();
    assert_eq!(ask(&mut other, 0), Some(Errno::EOPNOTSUPP));
    let mut without = RawClient::attached(export, Config::default());
    without.dialect(1 << 20, WATCHED);
    without.ask(&attach(0)).unwrap();
    assert_eq!(ask(&mut without, 0), Some(Errno::EOPNOTSUPP));
}

#[test]
fn a_replay_that_has_ended_keeps_no_directory_open() {
    let (dir, export) = tree();
    let known = naming(&["d/sub/large", "d/sub/none"]);
    let mut raw = raw(&export, known, 100_000);
    let beneath = dir.path().join("d");
    let open = || {
        let links = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let links = links.filter_map(|link| fs::read_link(link.path()).ok());
        links.filter(|to| to.starts_with(&beneath)).count()
    };
    assert!(!replayed(&mut raw, 10_000).is_empty());
    assert_eq!(open(), 0);
}
