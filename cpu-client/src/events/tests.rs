//! What is written is JSON, whatever the names of files are and whenever cpu ends.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use cpu_client::export::Export;
use ninep::errno::Errno;
use ninep::msg::{NO_TAG, Request};
use ninep::server::Config;
use ninep_testing::RawClient;
use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

use super::*;

/// A trace in a directory of its own.
struct TracedDir {
    dir: TempDir,
    trace: EventTrace,
}

impl TracedDir {
    fn new(kinds: Vec<Kind>) -> Self {
        // Of a file system that can be watched.
        let dir = TempDir::new_in("/dev/shm").unwrap();
        let trace = EventTrace::create(&dir.path().join("t.json"), kinds).unwrap();
        Self { dir, trace }
    }

    /// The events that are in the file, but for the names of rows.
    fn events(&self) -> Vec<Value> {
        let text = fs::read(self.dir.path().join("t.json")).unwrap();
        let all: Vec<Value> = serde_json::from_slice(&text).unwrap();
        all.into_iter().filter(|event| event["ph"] != "M").collect()
    }
}

fn done(trace: &EventTrace, path: &str, result: Result<Option<u32>, Errno>) {
    trace.done(&CompletedRequest {
        kind: Kind::Read,
        request: Some(&Request::Read {
            fid: 1,
            offset: 7,
            count: 100,
        }),
        urgency: Urgency::Awaited,
        description: &format!("read {path} 100 @7"),
        path: &path,
        result,
        begun: Instant::now(),
        elapsed: Duration::from_nanos(1_234_567),
    });
}

#[test]
fn a_request_is_an_event_with_what_matters() {
    let traced = TracedDir::new(Vec::new());
    done(&traced.trace, "/a", Ok(Some(42)));
    done(&traced.trace, "/b", Err(Errno::EIO));
    traced.trace.finish().unwrap();
    let events = traced.events();
    let [good, bad] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(good["ph"], "X");
    assert_eq!(good["name"], "read /a");
    assert_eq!(good["cat"], "awaited");
    assert_eq!(good["dur"], 1234.567);
    assert!(good["ts"].as_f64().unwrap() > 0.0);
    assert_eq!(good["pid"], std::process::id());
    let args = serde_json::json!({
        "request": "read /a 100 @7", "path": "/a", "offset": 7, "count": 100, "bytes": 42
    });
    assert_eq!(good["args"], args);
    assert_eq!(bad["args"]["error"], "EIO");
    assert_eq!(bad["args"].get("bytes"), None);
}

#[test]
fn the_file_is_whole_at_every_moment() {
    let traced = TracedDir::new(Vec::new());
    assert_eq!(traced.events().len(), 0);
    traced.trace.begin_step("connect");
    traced.trace.begin_step("log in");
    // As if cpu was killed here.
    let phases = |traced: &TracedDir| -> String {
        let events = traced.events().into_iter();
        events
            .map(|event| event["ph"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(phases(&traced), "BEB");
    let mut most = 0;
    for n in 0..2000 {
        done(&traced.trace, "/file", Ok(None));
        most = most.max(traced.trace.lock().buffer.len());
        if n % 100 == 0 {
            traced.events();
        }
    }
    assert!(traced.events().len() > 1000, "nothing is written");
    assert!(most < BUFFER + 1000, "{most}");
    traced.trace.finish().unwrap();
    assert_eq!(traced.events().len(), 2004);
    assert!(phases(&traced).ends_with('E'));
    // What threads do afterwards is in no one's way.
    done(&traced.trace, "/file", Ok(None));
    traced.trace.begin_step("never");
    assert_eq!(traced.events().len(), 2004);
}

#[test]
fn a_file_is_replaced_at_once_or_left() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("t.json");
    let other = dir.path().join("other");
    fs::write(&other, "other").unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o644)).unwrap();
    symlink(&other, &file).unwrap();
    drop(EventTrace::create(&file, Vec::new()).unwrap());
    assert_eq!(fs::read(&other).unwrap(), b"other");
    let made = fs::symlink_metadata(&file).unwrap();
    assert!(made.is_file());
    assert_eq!(made.permissions().mode() & 0o7777, 0o600);

    let taken = dir.path().join("taken.json");
    fs::create_dir(&taken).unwrap();
    assert!(EventTrace::create(&taken, Vec::new()).is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
}

#[test]
fn a_full_disk_leaves_what_was_there() {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    let traced = TracedDir::new(Vec::new());
    done(&traced.trace, "/a", Ok(None));
    traced.trace.begin_step("connect");
    // A file that has no room for more, not even again for what it gives back.
    let full = File::from(memfd_create("full", MemfdFlags::ALLOW_SEALING).unwrap());
    let written = fs::read(traced.dir.path().join("t.json")).unwrap();
    full.write_all_at(&written, 0).unwrap();
    fcntl_add_seals(&full, SealFlags::GROW).unwrap();
    traced.trace.lock().file = full.try_clone().unwrap();
    done(&traced.trace, "/b", Ok(None));
    traced.trace.begin_step("never");
    assert!(traced.trace.finish().is_err());
    let mut left = vec![0; written.len()];
    full.read_exact_at(&mut left, 0).unwrap();
    assert_eq!(full.metadata().unwrap().len(), written.len() as u64);
    assert_eq!(left, written);
}

#[test]
fn requests_of_a_peer_are_on_the_rows_of_their_threads() {
    let traced = TracedDir::new(Vec::new());
    let root = traced.dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let hostile = &b"\xff\x1b[2J\"\\\n"[..];
    fs::write(root.join(std::ffi::OsStr::from_bytes(hostile)), "x").unwrap();
    fs::write(root.join("plain"), "x").unwrap();
    let TracedDir { dir, trace } = traced;
    let trace: &'static EventTrace = Box::leak(Box::new(trace));
    let config = Config {
        observer: Some(trace),
        ..Config::default()
    };
    let export = Arc::new(Export::new(&root).unwrap());
    let mut raw = RawClient::attached(export, config);
    raw.dialect(1 << 20, ninep::msg::WATCHED);
    raw.ask(&ninep_testing::attach(0)).unwrap();
    let name = ninep::wire::Name::new(hostile).unwrap();
    let lookup = |name, newfid| Request::Lookup {
        fid: 0,
        newfid,
        name,
    };
    raw.ask(&lookup(name, 1)).unwrap();
    raw.ask(&lookup(ninep_testing::name("none"), 2)).unwrap();
    raw.ask(&Request::List { fid: 0, open: 0 }).unwrap();
    raw.send(NO_TAG, &Request::Clunk { fid: 1 });
    raw.ask(&Request::Getattr { fid: 0, mask: 1 }).unwrap();
    fs::write(root.join("new"), "x").unwrap();
    // What has changed is told before or after a reply.
    raw.send(1, &Request::Getattr { fid: 0, mask: 1 });
    while raw.receive().tag != NO_TAG {}
    raw.hang_up();
    trace.finish().unwrap();
    let text = fs::read(dir.path().join("t.json")).unwrap();
    let all: Vec<Value> = serde_json::from_slice(&text).unwrap();
    let find = |name: &str| {
        let mut named = all.iter().filter(|event| event["name"] == name);
        named.next().unwrap_or_else(|| panic!("no {name}: {all:?}"))
    };
    let shown = "/\\xff\\u{1b}[2J\"\\\\\\n";
    let walk = find(&format!("walk {shown}"));
    assert_eq!(
        (&walk["ph"], &walk["cat"]),
        (&"X".into(), &"awaited".into())
    );
    assert_eq!(walk["args"]["path"], shown);
    assert_eq!(find(&format!("clunk {shown}"))["cat"], "answered");
    assert_eq!(find("list /")["cat"], "ahead");
    let forget = find("forget /new");
    assert_eq!(
        (&forget["ph"], &forget["cat"]),
        (&"i".into(), &"forget".into())
    );
    // Each row has a name, and on none of them do two requests overlap.
    let mut rows = std::collections::HashMap::<u64, Vec<(f64, f64)>>::new();
    for event in all.iter().filter(|event| event["ph"] == "X") {
        let (at, long) = (
            event["ts"].as_f64().unwrap(),
            event["dur"].as_f64().unwrap(),
        );
        let row = rows.entry(event["tid"].as_u64().unwrap()).or_default();
        row.push((at, at + long));
    }
    for (tid, mut row) in rows {
        row.sort_by(|a, b| a.partial_cmp(b).unwrap());
        assert!(row.windows(2).all(|two| two[0].1 <= two[1].0 + 0.001));
        let is_name = |event: &&Value| event["ph"] == "M" && event["tid"] == tid;
        let names: Vec<_> = all.iter().filter(is_name).collect();
        assert_eq!(names.len(), 1);
        assert!(
            names[0]["args"]["name"]
                .as_str()
                .unwrap()
                .starts_with("9p-")
        );
    }
}

/// With control characters, which a `String` of proptest lacks.
fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(any::<char>(), 0..40).prop_map(String::from_iter)
}

proptest! {
    #[test]
    fn any_text_is_read_back(text in text()) {
        let value: Value = serde_json::from_str(&quoted(&text)).unwrap();
        prop_assert_eq!(value, text);
    }

    #[test]
    fn any_names_are_json(names in prop::collection::vec(text(), 0..8)) {
        let traced = TracedDir::new(Vec::new());
        for name in &names {
            done(&traced.trace, name, Ok(None));
            traced.trace.begin_step(name);
        }
        traced.trace.finish().unwrap();
        prop_assert_eq!(traced.events().len(), 3 * names.len());
    }
}
