use proptest::prelude::*;

use super::*;

fn range(offset: u64, length: u64) -> Demand {
    Demand::Range { offset, length }
}

fn demands(trace: &LearnedTrace) -> Vec<(String, Demand)> {
    let text = |item: &TraceItem| String::from_utf8_lossy(&item.path).into_owned();
    let items = trace.items.iter();
    items.map(|item| (text(item), item.demand)).collect()
}

#[test]
fn what_touches_is_joined_in_its_first_place() {
    let mut trace = LearnedTrace::default();
    let list = |open| Demand::List { open };
    for (path, demand) in [
        ("d", list(false)),
        ("d/f", range(0, 10)),
        ("d/g", Demand::Name),
        ("d/f", range(10, 5)),
        ("d/f", Demand::Name),
        ("d/f", range(100, 1)),
        ("d", list(true)),
        ("d", list(false)),
        ("d/f", range(u64::MAX, 9)),
    ] {
        trace.add(path.as_bytes(), demand);
    }
    let expected = [
        ("d", list(true)),
        ("d/f", range(0, 15)),
        ("d/g", Demand::Name),
        ("d/f", range(100, 1)),
        ("d/f", range(u64::MAX, 9)),
    ];
    let expected = expected.map(|(path, demand)| (path.to_owned(), demand));
    assert_eq!(demands(&trace), expected);
    let again = LearnedTrace::decode(&trace.encode()).unwrap();
    assert_eq!(demands(&again), expected);
}

#[test]
fn what_was_asked_for_is_known() {
    let mut trace = LearnedTrace::default();
    trace.add(b"f", range(10, 10));
    trace.add(b"f", range(40, 10));
    trace.add(b"d", Demand::List { open: false });
    for (offset, until) in [
        (0, 0),
        (9, 9),
        (10, 20),
        (15, 20),
        (20, 20),
        (45, 50),
        (60, 60),
    ] {
        assert_eq!(trace.asked_until(b"f", offset), until);
    }
    assert_eq!(trace.asked_until(b"other", 3), 3);
    assert!(trace.covers(b"f", range(11, 9)) && trace.covers(b"f", Demand::Name));
    assert!(trace.covers(b"d", Demand::List { open: false }));
    for (path, demand) in [
        ("f", range(11, 10)),
        ("f", range(0, 100)),
        ("d", Demand::List { open: true }),
        ("d", Demand::Name),
        ("other", Demand::Name),
    ] {
        assert!(!trace.covers(path.as_bytes(), demand), "{path} {demand:?}");
    }
}

#[test]
fn only_paths_beneath_the_root_are_added_or_read() {
    let mut trace = LearnedTrace::default();
    let long = [b'x'; 256];
    let deep = [b"d/".repeat(3000), b"x".to_vec()].concat();
    let bad: [&[u8]; 9] = [
        b"/a", b"a/", b"a//b", b"..", b"a/../b", b".", b"a\0b", &long, &deep,
    ];
    for path in bad {
        trace.add(path, Demand::Name);
        assert!(trace.is_empty(), "{path:?}");
        let mut file = Frame::default();
        file.start(0, 0);
        file.put(MAGIC);
        0_u16.put(&mut file);
        Str::new(path).unwrap().put(&mut file);
        file.put(&[0; 16]);
        assert!(LearnedTrace::decode(&file.finish()[HEADER..]).is_none());
    }
}

#[test]
fn a_file_that_is_read_here_and_there_keeps_no_other_from_being_learned() {
    let mut trace = LearnedTrace::default();
    for n in 0..10_000 {
        trace.add(b"database", range(10 * n, 1));
    }
    trace.add(b"other", Demand::Name);
    assert!(!trace.is_full() && trace.has(b"other"));
    assert_eq!(trace.items.len(), MAX_RANGES + 1);
    assert!(LearnedTrace::decode(&trace.encode()).is_some());
}

#[test]
fn a_trace_without_end_is_bounded_and_starts_over() {
    let mut trace = LearnedTrace::default();
    for n in 0..20_000_u64 {
        trace.add(format!("a/{n}").as_bytes(), Demand::Name);
        trace.add(b"large", range(2 * n, 1));
    }
    assert!(trace.encode().len() <= MAX_TRACE && trace.is_full());
    assert!(trace.items.len() <= MAX_ITEMS);
    let mut long = LearnedTrace::default();
    for n in 0..1000_u64 {
        let path = format!("{}{n}", "some-long-name/".repeat(200));
        long.add(path.as_bytes(), Demand::Name);
    }
    assert!(long.encode().len() <= MAX_TRACE && long.is_full());
    let mut later = LearnedTrace::default();
    later.add(b"new", Demand::Name);
    assert_eq!(demands(&trace.with(&later)), demands(&later));
    assert_eq!(
        demands(&LearnedTrace::default().with(&later)),
        demands(&later)
    );
    let mut two = later.clone();
    two.add(b"other", Demand::Name);
    assert_eq!(demands(&later.with(&two)), demands(&two));
}

#[test]
fn contents_that_nobody_uses_any_more_go() {
    let mut first = LearnedTrace::default();
    for path in ["used", "large"] {
        first.add(path.as_bytes(), range(0, 10));
    }
    first.add(b"name", Demand::Name);
    let mut later = LearnedTrace::default();
    later.add(b"used", range(0, 1));
    let mut trace = first;
    for session in 0..6 {
        trace = LearnedTrace::decode(&trace.with(&later).encode()).unwrap();
        assert_eq!(trace.has(b"large"), session < 2, "{session}");
        assert!(trace.has(b"used") && trace.has(b"name"));
        assert!(trace.covers(b"used", range(0, 10)));
    }
    // Once in a while is enough.
    trace.add(b"large", range(0, 10));
    let mut large = later.clone();
    large.add(b"large", Demand::Name);
    for now in [&later, &later, &large, &later, &later] {
        trace = trace.with(now);
    }
    assert!(trace.has(b"large"));
    assert!(!trace.with(&later).has(b"large"));
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_damage_is_survived(
        items in prop::collection::vec(("[a-c]{1,3}(/[a-c]{1,2}){0,2}", 0..3_u8, any::<u32>(), any::<u16>()), 0..40),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut trace = LearnedTrace::default();
        for (path, kind, offset, length) in items {
            let demand = match kind {
                0 => Demand::Name,
                1 => Demand::List { open: byte % 2 == 0 },
                _ => range(offset.into(), length.into()),
            };
            trace.add(path.as_bytes(), demand);
        }
        let mut bytes = trace.encode();
        prop_assert_eq!(bytes.len(), trace.bytes + MAGIC.len());
        let again = LearnedTrace::decode(&bytes).unwrap();
        // What was joined later may touch what came before.
        prop_assert!(again.items.len() <= trace.items.len());
        prop_assert!(trace.items.iter().all(|item| again.has(&item.path)));
        let _ = LearnedTrace::decode(&bytes[..cut.index(bytes.len())]);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Some(read) = LearnedTrace::decode(&bytes) {
            prop_assert!(read.items.iter().all(|item| is_path(&item.path)));
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = LearnedTrace::decode(&bytes);
        let _ = LearnedTrace::decode(&[MAGIC, &bytes].concat());
    }
}
