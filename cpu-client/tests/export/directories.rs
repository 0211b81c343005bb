//! Listings of directories, even large ones, and while others change them.

use super::*;

#[test]
fn directories_of_ten_thousand_list_each_name_once() {
    let (served, mut raw) = served();
    served.mkdir("d");
    let wanted: HashSet<String> = (0..10_000)
        .map(|n| format!("file-{n:0width$}", width = n % 200))
        .collect();
    for file in &wanted {
        served.write(&format!("d/{file}"), "");
    }
    raw.open(1, "d", RDONLY).unwrap();
    for count in [1 << 20, 8192, 333] {
        let names = list(&mut raw, 1, count);
        assert_eq!(names.len(), wanted.len(), "count {count}");
        assert_eq!(names.into_iter().collect::<HashSet<_>>(), wanted);
    }
    // Again from where it was, and from the beginning.
    let all = readdir(&mut raw, 1, 0, 100_000).unwrap();
    let after = readdir(&mut raw, 1, all[100].offset, 100_000).unwrap();
    assert_eq!(after[0].name, all[101].name);
    served.write("d/added", "");
    assert!(list(&mut raw, 1, 1 << 20).contains(&"added".to_owned()));
    assert_eq!(
        readdir(&mut raw, 1, 0, 20).err(),
        Some(Errno::EINVAL),
        "not even one fits"
    );
    raw.open(2, "d/added", RDONLY).unwrap();
    assert_eq!(readdir(&mut raw, 2, 0, 4096).err(), Some(Errno::ENOTDIR));
    assert_eq!(raw.read(1, 0, 10).err(), Some(Errno::EISDIR));
}

/// Lists `d`, with a change before each reply. Returns the names and the time it took.
fn list_while_changing(
    served: &ServedTree,
    raw: &mut RawClient,
    entries: usize,
) -> (Vec<String>, Duration) {
    raw.open(1, "d", RDONLY).unwrap();
    let (mut names, mut offset, mut taken) = (Vec::new(), 0, Duration::ZERO);
    for round in 0..entries {
        let started = Instant::now();
        let listed = readdir(raw, 1, offset, 8192).unwrap();
        taken += started.elapsed();
        let Some(last) = listed.last() else { break };
        offset = last.offset;
        let text = |entry: ListedEntry| String::from_utf8(entry.name).unwrap();
        names.extend(listed.into_iter().map(text));
        for n in round * 5..(round * 5 + 5).min(entries / 10) {
            fs::remove_file(served.path(&format!("d/goes-{n}"))).unwrap();
            served.write(&format!("d/comes-{n}"), "");
        }
    }
    raw.clunk(1).unwrap();
    (names, taken)
}

/// Lists directories of 10,000 and of 100,000 entries. The result is how long each took.
fn list_two_sizes() -> [Duration; 2] {
    let (served, mut raw) = served();
    served.mkdir("d");
    let mut made = 0;
    [10_000, 100_000].map(|entries| {
        for n in made..entries {
            served.write(&format!("d/stays-{n}"), "");
        }
        for n in 0..entries / 10 {
            served.write(&format!("d/goes-{n}"), "");
        }
        made = entries;
        let (names, time) = list_while_changing(&served, &mut raw, entries);
        let stayed: Vec<_> = names
            .iter()
            .filter(|name| name.starts_with("stays-"))
            .collect();
        assert_eq!(stayed.len(), entries, "no entry twice, none left out");
        assert_eq!(stayed.iter().collect::<HashSet<_>>().len(), entries);
        for changed in ["goes-", "comes-"] {
            let mut seen = HashSet::new();
            let changed = names.iter().filter(|name| name.starts_with(changed));
            assert!(changed.into_iter().all(|name| seen.insert(name)));
        }
        time
    })
}

/// Ten times as many entries take about ten times as long, not a hundred times. A busy machine can make one try of them look
/// slow, but not each.
#[test]
fn a_hundred_thousand_entries_list_once_each_and_in_linear_time_while_others_change_them() {
    let is_linear = |[few, many]: [Duration; 2]| many < few * 40;
    let mut tries = Vec::new();
    while !tries.last().copied().is_some_and(is_linear) {
        assert!(tries.len() < 5, "{tries:?}");
        tries.push(list_two_sizes());
    }
}

#[test]
fn entries_carry_the_inode_and_type_and_the_root_hides_its_parent() {
    let (served, mut raw) = served();
    served.mkdir("d");
    served.write("f", "");
    symlink("f", served.path("l")).unwrap();
    raw.open(1, "", RDONLY).unwrap();
    let root = getattr(&mut raw, 0).qid;
    for entry in readdir(&mut raw, 1, 0, 8192).unwrap() {
        let (kind, d_type) = match &entry.name[..] {
            b"." | b".." => {
                assert_eq!((entry.qid.kind, entry.qid.path), (Qid::DIR, root.path));
                continue;
            }
            b"d" => (Qid::DIR, 4),
            b"f" => (Qid::FILE, 8),
            b"l" => (Qid::SYMLINK, 10),
            other => panic!("{other:?}"),
        };
        assert_eq!((entry.qid.kind, entry.kind), (kind, d_type));
        let name = String::from_utf8(entry.name).unwrap();
        assert_eq!(
            entry.qid.path + 2,
            served.path(&name).symlink_metadata().unwrap().ino()
        );
    }
}

/// All entries of fid 1, listed in one pass.
fn entries(raw: &mut RawClient) -> Vec<ListedEntry> {
    let mut all = Vec::new();
    loop {
        let offset = all.last().map_or(0, |entry: &ListedEntry| entry.offset);
        let some = readdir(raw, 1, offset, 8192).unwrap();
        if some.is_empty() {
            return all;
        }
        all.extend(some);
    }
}

/// More entries than there are recorded cookies for a directory, so that some positions are found by reading.
#[test]
fn offsets_fit_in_31_bits_and_each_leads_to_its_place() {
    let (served, mut raw) = served();
    served.mkdir("d");
    for n in 0..10_000 {
        served.write(&format!("d/file-{n}"), "");
    }
    raw.open(1, "d", RDONLY).unwrap();
    let all = entries(&mut raw);
    assert_eq!(all.len(), 10_002);
    assert!(all.iter().all(|entry| entry.offset < 1 << 31));
    // Seeks forwards and backwards by steps of all sizes.
    for n in (0..all.len()).step_by(17).map(|n| n * 7919 % all.len()) {
        let after = readdir(&mut raw, 1, all[n].offset, 300).unwrap();
        let wanted = all.get(n + 1).map(|entry| &entry.name);
        assert_eq!(after.first().map(|entry| &entry.name), wanted, "after {n}");
    }
    // A position beyond the end is the end.
    assert!(readdir(&mut raw, 1, 1 << 30, 8192).unwrap().is_empty());
    assert_eq!(entries(&mut raw).len(), all.len());
}

#[test]
fn a_place_stays_where_it_was_while_others_change_the_directory() {
    let (served, mut raw) = served();
    served.mkdir("d");
    for n in 0..1000 {
        served.write(&format!("d/file-{n}"), "");
    }
    raw.open(1, "d", RDONLY).unwrap();
    let all = entries(&mut raw);
    let (gone, stay): (Vec<_>, Vec<_>) = all.iter().enumerate().partition(|(n, _)| n % 3 == 0);
    for (n, entry) in &gone {
        let name = String::from_utf8(entry.name.clone()).unwrap();
        if !name.starts_with('.') {
            fs::remove_file(served.path("d").join(name)).unwrap();
            served.write(&format!("d/more-{n}"), "");
        }
    }
    let stay: HashSet<_> = stay.into_iter().map(|(_, entry)| &entry.name).collect();
    for n in (0..all.len()).rev() {
        let after = readdir(&mut raw, 1, all[n].offset, 8192).unwrap();
        let found = after.iter().find(|entry| stay.contains(&entry.name));
        let wanted = all[n + 1..].iter().find(|entry| stay.contains(&entry.name));
        assert_eq!(
            found.map(|entry| &entry.name),
            wanted.map(|entry| &entry.name)
        );
    }
}

/// As a kernel does when a signal has interrupted a request.
#[test]
fn a_reply_that_is_asked_for_again_begins_where_it_did() {
    let (served, mut raw) = served();
    served.mkdir("d");
    for n in 0..30_000 {
        served.write(&format!("d/file-{n}"), "");
    }
    raw.open(1, "d", RDONLY).unwrap();
    let (mut offset, mut before) = (0, Vec::new());
    // So far into the directory that no cookie is recorded for this position.
    while offset < 20_000 || offset % 4 != 3 {
        let some = readdir(&mut raw, 1, offset, 8192).unwrap();
        offset = some.last().unwrap().offset;
        before.extend(some);
    }
    let once = readdir(&mut raw, 1, offset, 8192).unwrap();
    for entry in before.iter().rev().take(50) {
        let name = String::from_utf8(entry.name.clone()).unwrap();
        fs::remove_file(served.path("d").join(name)).unwrap();
    }
    let again = readdir(&mut raw, 1, offset, 8192).unwrap();
    assert_eq!(again[0].name, once[0].name);
    assert_eq!(again.len(), once.len());
}
