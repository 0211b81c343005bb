//! Tests of what is kept, and of its limits.

use proptest::prelude::*;

use super::facts::FileFacts;
use super::store::{Found, KeptDirs};
use crate::msg::{Attr, FORGET_ATTR, FORGET_DIR, FORGET_NAME, ListEntry, Qid};
use crate::wire::Str;

fn file(path: u64) -> Attr {
    let qid = Qid {
        path,
        ..Qid::default()
    };
    Attr {
        valid: Attr::BASIC,
        qid,
        ..Attr::default()
    }
}

fn facts(path: u64, since: u64) -> FileFacts {
    FileFacts::new(file(path), since)
}

fn entries(names: &[String]) -> Vec<ListEntry<'_>> {
    let entry = |name| ListEntry {
        kind: 8,
        name: Str::new(name).unwrap(),
        qid: Qid::default(),
        attr: Some(file(1)),
        lacks_xattrs: false,
        target: Str::default(),
    };
    names.iter().map(|name| entry(name.as_bytes())).collect()
}

#[test]
fn the_oldest_directories_go_when_there_are_too_many_names() {
    let names: Vec<_> = (0..1500).map(|n| format!("{n}")).collect();
    let entries = entries(&names);
    let mut store = KeptDirs::default();
    for dir in 0..200 {
        let now = 2 * dir + 2;
        assert!(store.listed(dir, &entries, false, now - 1, now).is_some());
        // It stays in use.
        assert_eq!(store.find(0, b"none", now), Some(Found::Absent));
        let (dirs, names) = store.len();
        assert!(dirs <= 17 && names <= 24 * 1024, "{dirs} {names}");
    }
    assert_eq!(store.find(199, b"none", 999), Some(Found::Absent));
    assert_eq!(store.find(100, b"none", 999), None);
}

#[test]
fn directories_and_names_without_end_are_bounded() {
    let mut store = KeptDirs::default();
    for n in 0..20_000_u64 {
        let mut attr = file(n);
        attr.qid.kind = Qid::DIR;
        store.found_dir(FileFacts::new(attr, n + 1), n + 1, n + 1);
    }
    assert!(store.len().0 <= 4096);
    let mut store = KeptDirs::default();
    for n in 0..20_000_u64 {
        let name = format!("{n}");
        store.found((1, name.as_bytes()), None, n + 1, n + 1);
    }
    assert!(store.len().1 <= 4096);
    // Names that a server takes back without ever having told them.
    let mut store = KeptDirs::default();
    store.listed(1, &[], false, 1, 2);
    for n in 0..20_000_u64 {
        store.forget(FORGET_NAME, 1, format!("{n}").as_bytes(), n + 3);
    }
    assert!(store.len().1 <= 4096);
    let huge: Vec<_> = (0..3000).map(|n| format!("{n}")).collect();
    assert!(
        store
            .listed(2, &entries(&huge), false, 30_000, 30_001)
            .is_none()
    );
}

#[test]
fn a_directory_that_made_room_leaves_behind_when_it_was_forgotten() {
    let mut store = KeptDirs::default();
    store.found((1, b"x"), Some((file(5).qid, Some(facts(5, 2)))), 1, 2);
    // A request was sent at 3; then the name was taken back, and the directory had to go.
    store.forget(FORGET_NAME, 1, b"x", 4);
    store.forget(FORGET_DIR, 1, b"", 5);
    store.found((1, b"x"), Some((file(5).qid, Some(facts(5, 6)))), 3, 6);
    assert_eq!(store.find(1, b"x", 7), None);
    let names: Vec<_> = (0..2000).map(|n| format!("{n}")).collect();
    let mut store = KeptDirs::default();
    store.found((1, b"x"), Some((file(5).qid, Some(facts(5, 2)))), 1, 2);
    store.forget(FORGET_NAME, 1, b"x", 4);
    for dir in 2..40 {
        store.listed(dir, &entries(&names), false, 10 + dir, 10 + dir);
    }
    store.found((1, b"x"), Some((file(5).qid, Some(facts(5, 60)))), 3, 60);
    assert_eq!(store.find(1, b"x", 61), None);
}

#[test]
fn what_is_forgotten_of_unknown_directories_is_of_them_only_as_long_as_they_are_few() {
    let mut store = KeptDirs::default();
    let finds = |store: &mut KeptDirs, dir, sent, now| {
        store.found(
            (dir, b"x"),
            Some((file(5).qid, Some(facts(5, now)))),
            sent,
            now,
        );
        store.find(dir, b"x", now).is_some()
    };
    for now in 10..20 {
        store.forget(FORGET_NAME, 100, b"log", now);
    }
    // Sent before, and arrived since.
    assert!(finds(&mut store, 1, 5, 20));
    assert!(!finds(&mut store, 100, 18, 21));
    assert!(!finds(&mut store, 100, 19, 21));
    assert!(finds(&mut store, 100, 20, 22));
    // It is known now, and was not when it was forgotten.
    store.forget(FORGET_NAME, 100, b"x", 23);
    assert!(!finds(&mut store, 100, 23, 24));
    for dir in 1000..1100 {
        store.forget(FORGET_NAME, dir, b"x", dir);
        assert!(!finds(&mut store, dir, dir, dir + 1));
    }
    assert!(!finds(&mut store, 2, 900, 2000));
    assert!(
        !finds(&mut store, 1000, 1000, 2000),
        "the first, which made room"
    );
}

#[test]
fn a_file_that_is_read_and_changed_again_and_again_is_remembered_once() {
    let mut store = KeptDirs::default();
    let mut attr = file(5);
    attr.size = 1;
    for n in 0..60_000 {
        let at = 4 * n + 1;
        store.found(
            (1, b"x"),
            Some((attr.qid, Some(FileFacts::new(attr, at)))),
            at,
            at,
        );
        store.keep(attr.qid, (1, b"x"), (at + 1, at + 2), (0, b"c"), |_| true);
        assert!(store.remembered() <= 50_000, "{n}");
        store.forget(FORGET_ATTR, 1, b"x", at + 3);
    }
}

/// What may happen to a store, in any order.
#[derive(Debug, Clone)]
enum ModelEvent {
    Found(u64, u8, u64),
    Absent(u64, u8, u64),
    Dir(u64, u64),
    List(u64, u8, u64),
    Forget(u8, u64, u8),
}

fn event() -> impl Strategy<Value = ModelEvent> {
    let (dir, name, lag) = (|| 0..4_u64, || 0..4_u8, || 0..4_u64);
    prop_oneof![
        (dir(), name(), lag()).prop_map(|(dir, name, lag)| ModelEvent::Found(dir, name, lag)),
        (dir(), name(), lag()).prop_map(|(dir, name, lag)| ModelEvent::Absent(dir, name, lag)),
        (dir(), lag()).prop_map(|(dir, lag)| ModelEvent::Dir(dir, lag)),
        (dir(), name(), lag()).prop_map(|(dir, most, lag)| ModelEvent::List(dir, most, lag)),
        (0..6_u8, dir(), name()).prop_map(|(what, dir, name)| ModelEvent::Forget(what, dir, name)),
    ]
}

proptest! {
    /// The count is right whatever happens, and a name that was taken back is not known from an older answer.
    #[test]
    fn a_store_counts_and_forgets(events in prop::collection::vec(event(), 0..120)) {
        let name = |n: u8| format!("{n}");
        let mut store = KeptDirs::default();
        let mut forgotten = std::collections::HashMap::new();
        for (now, event) in (10_u64..).zip(events) {
            match event {
                ModelEvent::Found(dir, n, lag) => {
                    let found = Some((file(now).qid, Some(facts(now, now))));
                    store.found((dir, name(n).as_bytes()), found, now - lag, now);
                    if forgotten.get(&(dir, n)).is_none_or(|at| *at < now - lag) {
                        forgotten.remove(&(dir, n));
                    }
                }
                ModelEvent::Absent(dir, n, lag) => {
                    store.found((dir, name(n).as_bytes()), None, now - lag, now);
                    if forgotten.get(&(dir, n)).is_none_or(|at| *at < now - lag) {
                        forgotten.remove(&(dir, n));
                    }
                }
                ModelEvent::Dir(dir, lag) => {
                    let mut attr = file(dir);
                    attr.qid.kind = Qid::DIR;
                    store.found_dir(FileFacts::new(attr, now), now - lag, now);
                }
                ModelEvent::List(dir, most, lag) => {
                    let names: Vec<_> = (0..most).map(name).collect();
                    store.listed(dir, &entries(&names), false, now - lag, now);
                    forgotten.retain(|(d, _), at| *d != dir || *at >= now - lag);
                }
                ModelEvent::Forget(what, dir, n) => {
                    store.forget(what, dir, name(n).as_bytes(), now);
                    if what == FORGET_NAME {
                        forgotten.insert((dir, n), now);
                    }
                }
            }
            prop_assert!(store.count_is_right());
            for (dir, n) in forgotten.keys() {
                prop_assert_eq!(store.find(*dir, name(*n).as_bytes(), now), None);
            }
        }
    }
}
