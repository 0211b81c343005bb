//! Small files that are fetched before anybody asks for them.

use std::sync::Mutex;

use ninep::msg::{FetchTotals, FetchedFile, Kind};
use ninep::observe::{CompletedRequest, Observer};

use super::*;

/// What a fetch returns of each name: its version, and its data.
fn fetch(raw: &mut RawClient, fid: u32, names: &[&str]) -> Result<Vec<(bool, Vec<u8>)>, Errno> {
    let mut all = WalkVec::default();
    for one in names {
        assert!(all.push(name(one)));
    }
    let reply = raw.ask(&Request::Fetch { fid, names: all })?;
    let data = match reply.reply() {
        Reply::Fetch { data } => data.0.to_vec(),
        other => panic!("{other:?}"),
    };
    let mut rest = BodyReader::new(&data);
    let mut files = Vec::new();
    while !rest.is_empty() {
        let file = FetchedFile::get(&mut rest).unwrap();
        files.push((file.version != 0, file.data.0.to_vec()));
    }
    Ok(files)
}

#[test]
fn what_is_fetched_is_small_and_may_be_read_unasked() {
    // Other places may be of a file system that is not watched.
    let served = ServedTree::at(Path::new("/dev/shm"));
    served.mkdir("d");
    for (name, size) in [
        ("a", 5),
        ("large", 60_000),
        ("more", 10_000),
        ("hidden", 5),
        ("b", 3),
    ] {
        fs::write(served.path("d").join(name), vec![7; size]).unwrap();
    }
    symlink("a", served.path("d/link")).unwrap();
    fs::create_dir(served.path("d/sub")).unwrap();
    fs::hard_link(served.path("d/a"), served.path("d/two")).unwrap();
    let rule = Rule {
        path: "/d/hidden".into(),
        kind: RuleKind::Hide,
    };
    let export = Export::new(&served.path("")).unwrap().with_rules(&[rule]);
    let export = Arc::new(export);
    let mut raw = RawClient::attached(export.clone(), Config::default());
    raw.dialect(1 << 20, WATCHED);
    raw.ask(&attach(0)).unwrap();
    raw.walk(0, 1, "d").unwrap();
    // Nothing of a directory that is not watched.
    assert_eq!(fetch(&mut raw, 1, &["a"]).unwrap(), [(false, vec![])]);
    raw.ask(&Request::List { fid: 1, open: 0 }).unwrap();
    let names = [
        "a", "large", "more", "hidden", "no", "link", "sub", ".", "..", "b",
    ];
    let got = fetch(&mut raw, 1, &names).unwrap();
    let sizes: Vec<_> = got
        .iter()
        .map(|(is_there, data)| is_there.then_some(data.len()))
        .collect();
    let wanted = [
        Some(5),
        Some(60_000),
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        Some(3),
    ];
    assert_eq!(sizes, wanted);
    assert!(
        got.iter()
            .all(|(_, data)| data.iter().all(|byte| *byte == 7))
    );
    // The user is not told that the machine wanted it.
    assert!(export.requested_hidden().is_empty());
    // Nothing in a file, and nothing in other dialects.
    raw.walk(1, 2, "a").unwrap();
    assert_eq!(fetch(&mut raw, 2, &["a"]).unwrap(), [(false, vec![])]);
    assert_eq!(fetch(&mut raw, 99, &["a"]), Err(Errno::EBADF));
    raw.dialect(4096, WATCHED);
    raw.ask(&attach(0)).unwrap();
    raw.walk(0, 1, "d").unwrap();
    let got = fetch(&mut raw, 1, &["large", "a"]).unwrap();
    assert_eq!(got, [(false, vec![]), (true, vec![7; 5])]);
    raw.dialect(8192, EXTENDED);
    raw.ask(&attach(0)).unwrap();
    assert_eq!(fetch(&mut raw, 0, &["a"]), Err(Errno::EOPNOTSUPP));
}

#[derive(Default)]
struct HeardTally(Mutex<Vec<(Kind, u32)>>, Mutex<FetchTotals>);

impl Observer for HeardTally {
    fn done(&self, _: &CompletedRequest<'_>) {}
    fn tally(&self, answered: &[(Kind, u32)], fetched: &FetchTotals) {
        self.0.lock().unwrap().extend(answered);
        *self.1.lock().unwrap() = *fetched;
    }
}

#[test]
fn the_last_message_of_a_relay_is_heard_whatever_it_says() {
    let served = ServedTree::at(Path::new("/dev/shm"));
    let heard: &'static HeardTally = Box::leak(Box::default());
    let config = Config {
        observer: Some(heard),
        ..Config::default()
    };
    let mut raw = RawClient::attached(served.export.clone(), config);
    let fetched = FetchTotals {
        files: u32::MAX,
        bytes: u64::MAX,
        used_files: 1,
        used_bytes: 2,
    };
    // Of walks, of a type that there is not, and half of one more.
    let mut answered = vec![0; 4 * 60 + 2];
    answered[4 * 55..4 * 56].copy_from_slice(&[1, 2, 0, 0]);
    answered[4..8].copy_from_slice(&[9; 4]);
    answered[4 * 60] = 7;
    let answered = Data(&answered);
    let tally = Request::Tally { fetched, answered };
    for dialect in [EXTENDED, WATCHED] {
        raw.dialect(1 << 20, dialect);
        assert_eq!(raw.ask(&tally).err(), Some(Errno::EOPNOTSUPP));
    }
    assert!(heard.0.lock().unwrap().is_empty());
    raw.send(NO_TAG, &tally);
    raw.ask(&attach(0)).unwrap();
    assert_eq!(*heard.0.lock().unwrap(), [(Kind::Walk, 0x201)]);
    assert_eq!(*heard.1.lock().unwrap(), fetched);
}

#[test]
fn a_program_that_reads_a_directory_of_small_files_waits_for_few() {
    let mut shared = Shared::new(Path::new("/dev/shm"));
    fs::create_dir(shared.at("m")).unwrap();
    for n in 0..40 {
        fs::write(shared.at(&format!("m/{n}.py")), format!("{n}")).unwrap();
        let before = std::fs::FileTimes::new().set_accessed(UNIX_EPOCH);
        let file = fs::File::options()
            .write(true)
            .open(shared.at(&format!("m/{n}.py")));
        file.unwrap().set_times(before).unwrap();
    }
    shared.settle();
    // A kernel keeps the directory of a file that it has.
    shared.there.walk("m").unwrap();
    let ((), waits) = shared.waits(|there| {
        for n in 0..40 {
            assert_eq!(
                there.cat(&format!("m/{n}.py")).unwrap(),
                format!("{n}").as_bytes()
            );
            // The listing comes after the first, the others after the second whose directory is listed.
            if n <= 2 {
                there.deliver_all();
            }
        }
    });
    // Without that it would be forty at least.
    assert!(waits <= 6, "{waits}");
    let mut out = Vec::new();
    shared.there.relay.end(&mut out);
    // After what was held back: which files were opened here.
    assert_eq!(out.len(), 2);
    let Ok(Request::Tally { fetched, .. }) = Request::decode(Kind::Tally, &out[1][7..]) else {
        panic!("no tally");
    };
    assert!(
        fetched.used_files >= 35 && fetched.used_files <= fetched.files,
        "{fetched:?}"
    );
    // Who owns the files sees from their times what was read, not what was fetched.
    let read = (0..40).filter(|n| {
        let at = shared.at(&format!("m/{n}.py"));
        fs::metadata(at).unwrap().atime() > 0
    });
    let read: Vec<_> = read.collect();
    assert!(read.len() <= 3, "{read:?}");
    // And what changes is seen.
    fs::write(shared.at("m/9.py"), "new").unwrap();
    shared.settle();
    assert_eq!(shared.there.cat("m/9.py").unwrap(), b"new");
}
