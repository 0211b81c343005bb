//! Tests of what is watched, and of what is reported, on the file system of the temporary directory and in memory.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use ninep::fs::{Change, Told, Watcher as _};
use ninep::msg::{FORGET_ALL, FORGET_ATTR, FORGET_DIR, FORGET_NAME, FORGET_REMOVED};
use tempfile::TempDir;

use super::super::{Rule, RuleKind};
use super::*;

mod lost;

/// A directory `d` that is watched, with a file `f` and a subdirectory `s`.
struct Tree {
    dir: TempDir,
    export: Arc<Export>,
    watching: Watching,
}

impl Tree {
    fn new(at: &Path, max_watches: usize) -> Self {
        let dir = TempDir::new_in(at).unwrap();
        fs::create_dir_all(dir.path().join("d/s")).unwrap();
        fs::write(dir.path().join("d/f"), "f").unwrap();
        let export = Export::new(dir.path()).unwrap();
        let watching = Watching::new(export.with_caching(Caching::Mapped), max_watches).unwrap();
        Self {
            dir,
            export: export.into(),
            watching,
        }
    }

    fn node(&self, path: &str) -> Node {
        let names = path.split('/').filter(|name| !name.is_empty());
        names.fold(self.export.root.clone(), |dir, name| {
            self.export.step(&dir, name.as_bytes()).unwrap().0
        })
    }

    fn watch(&self, path: &str, told: Told<'_>) -> bool {
        self.watching.watch(&self.node(path), told)
    }

    /// The changes, each as what, directory and name.
    fn changes(&self) -> Vec<(u8, String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut all = Vec::new();
        let mut note = |changes: &[Change]| {
            let words = |it: &Change| (it.what, text(&it.place), text(&it.name));
            all.extend(changes.iter().map(words));
        };
        self.watching.changes(&mut note);
        all
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }
}

fn change(what: u8, name: &str) -> (u8, String, String) {
    (what, "/d".into(), name.into())
}

/// The temporary directory, unless it is on an overlayfs as in a container, and memory where there is some.
fn places() -> Vec<PathBuf> {
    let mut all = vec![std::env::temp_dir(), "/dev/shm".into()];
    all.retain(|place| {
        let export = Export::new(place);
        export.is_ok_and(|export| super::suitable::is_local(&export.root))
    });
    assert!(
        !all.is_empty(),
        "neither the temporary directory nor /dev/shm can be watched: set TMPDIR"
    );
    all
}

fn place() -> PathBuf {
    places().swap_remove(0)
}

type Deed = fn(&Tree);

#[test]
fn every_change_is_reported_before_its_call_returns() {
    let deeds: [(Deed, u8, &str); 14] = [
        (
            |t| fs::write(t.at("d/f"), "more").unwrap(),
            FORGET_ATTR,
            "f",
        ),
        (|t| drop(fs::File::create(t.at("d/f"))), FORGET_ATTR, "f"),
        (
            |t| fs::set_permissions(t.at("d/f"), Permissions::from_mode(0o700)).unwrap(),
            FORGET_ATTR,
            "f",
        ),
        (
            |t| {
                let file = fs::File::open(t.at("d/f")).unwrap();
                file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
            },
            FORGET_ATTR,
            "f",
        ),
        (
            |t| fs::write(t.at("d/new"), "").unwrap(),
            FORGET_NAME,
            "new",
        ),
        (
            |t| fs::create_dir(t.at("d/new")).unwrap(),
            FORGET_NAME,
            "new",
        ),
        (|t| symlink("f", t.at("d/new")).unwrap(), FORGET_NAME, "new"),
        (
            |t| fs::hard_link(t.at("d/f"), t.at("d/new")).unwrap(),
            FORGET_NAME,
            "new",
        ),
        (|t| fs::remove_file(t.at("d/f")).unwrap(), FORGET_NAME, "f"),
        (|t| fs::remove_dir(t.at("d/s")).unwrap(), FORGET_NAME, "s"),
        (
            |t| fs::rename(t.at("d/f"), t.at("f")).unwrap(),
            FORGET_NAME,
            "f",
        ),
        (
            |t| fs::rename(t.at("d"), t.at("e")).unwrap(),
            FORGET_ATTR,
            "",
        ),
        // What may be searched, may be.
        (
            |t| fs::set_permissions(t.at("d"), Permissions::from_mode(0o700)).unwrap(),
            FORGET_NAME,
            "",
        ),
        (
            |t| fs::remove_dir_all(t.at("d")).unwrap(),
            FORGET_REMOVED,
            "",
        ),
    ];
    for place in places() {
        for (deed, what, name) in deeds {
            let tree = Tree::new(&place, 100);
            assert!(tree.watch("d", Told::All) && tree.watch("d", Told::Itself));
            assert_eq!(tree.changes(), []);
            deed(&tree);
            let changes = tree.changes();
            assert!(
                changes.contains(&change(what, name)),
                "{what} {name}: {changes:?}"
            );
            assert_eq!(tree.changes(), []);
        }
    }
}

#[test]
fn what_the_peer_has_forgotten_is_not_reported_again() {
    let tree = Tree::new(&place(), 100);
    assert!(tree.watch("d", Told::All));
    let write = || fs::write(tree.at("d/f"), "more").unwrap();
    write();
    assert_eq!(tree.changes(), [change(FORGET_ATTR, "f")]);
    write();
    assert_eq!(tree.changes(), []);
    // Its name is another matter.
    fs::remove_file(tree.at("d/f")).unwrap();
    assert_eq!(tree.changes(), [change(FORGET_NAME, "f")]);
    write();
    assert_eq!(tree.changes(), []);
    assert!(tree.watch("d", Told::Name(b"f")));
    write();
    assert_eq!(tree.changes(), [change(FORGET_ATTR, "f")]);
    // The directory changes with each new name.
    for name in ["1", "2"] {
        assert!(tree.watch("d", Told::Itself));
        fs::write(tree.at("d/new"), "").unwrap();
        let changes = tree.changes();
        assert_eq!(changes, [change(FORGET_NAME, "new")], "{name}");
        fs::remove_file(tree.at("d/new")).unwrap();
        assert_eq!(tree.changes(), []);
    }
    // After very many names, it is all of them.
    assert!(tree.watch("d", Told::All));
    for n in 0..2000 {
        fs::write(tree.at(&format!("d/{n}")), "").unwrap();
    }
    let changes = tree.changes();
    assert_eq!(changes.len(), 1025);
    assert_eq!(changes.last(), Some(&change(FORGET_NAME, "")));
}

#[test]
fn the_oldest_watch_goes_when_there_are_too_many() {
    let tree = Tree::new(&place(), 2);
    for path in ["d", "d/s", ""] {
        assert!(tree.watch(path, Told::All));
    }
    assert_eq!(tree.changes(), [change(FORGET_DIR, "")]);
    fs::write(tree.at("d/x"), "").unwrap();
    assert_eq!(tree.changes(), []);
    for n in 0..500 {
        fs::create_dir(tree.at(&format!("{n}"))).unwrap();
        assert!(tree.watch(&format!("{n}"), Told::Itself));
    }
    assert!(lock(&tree.watching.table).len() <= 2);
    let none = Tree::new(&place(), 0);
    assert!(!none.watch("d", Told::All));
}

#[test]
fn what_cannot_be_watched_is_not() {
    let export = Export::new("/".as_ref()).unwrap();
    let watching = Watching::new(export.with_caching(Caching::Mapped), 100).unwrap();
    for name in ["proc", "sys", "dev"] {
        let (node, _) = export.step(&export.root, name.as_bytes()).unwrap();
        assert!(!watching.watch(&node, Told::All), "{name}");
    }
    let tree = Tree::new(&place(), 100);
    assert!(!tree.watch("d/f", Told::All));
    // A directory that has been removed.
    let gone = tree.node("d/s");
    fs::remove_dir(tree.at("d/s")).unwrap();
    assert!(!tree.watching.watch(&gone, Told::All));
}

#[test]
fn what_rules_keep_from_the_peer_is_not_watched() {
    for (kind, d, s) in [
        (RuleKind::Hide, true, false),
        (RuleKind::ReadOnly, true, true),
        (RuleKind::Only, false, true),
    ] {
        let mut tree = Tree::new(&place(), 100);
        let path = "/d/s".into();
        let rules = [Rule { path, kind }];
        let export = Export::new(tree.dir.path()).unwrap().with_rules(&rules);
        tree.watching = Watching::new(export.with_caching(Caching::Mapped), 100).unwrap();
        tree.export = export.into();
        assert_eq!(tree.watch("d", Told::All), d, "{kind:?}");
        assert_eq!(tree.watch("d/s", Told::All), s, "{kind:?}");
    }
}

#[test]
fn a_mount_makes_everything_forgotten() {
    // A mount of this test's own is not possible for everybody, so the file that reports them is replaced by one that is
    // always ready.
    let mut tree = Tree::new(&place(), 100);
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    drop(theirs);
    let ready = File::from(OwnedFd::from(ours));
    assert_eq!(tree.changes(), []);
    tree.watching.mounts[0] = ready;
    assert_eq!(tree.changes()[0].0, FORGET_ALL);
}

#[test]
fn settling_waits_until_what_has_happened_is_sent() {
    let tree = Tree::new(&place(), 100);
    assert!(tree.watch("d", Told::All));
    // Nothing has happened.
    tree.watching.settle();
    let (sent, seen) = mpsc::channel();
    std::thread::scope(|scope| {
        let watching = &tree.watching;
        scope.spawn(move || {
            while watching.wait() {
                watching.changes(&mut |changes| {
                    std::thread::sleep(Duration::from_millis(20));
                    sent.send(changes.len()).unwrap();
                });
            }
        });
        for n in 0..20 {
            fs::write(tree.at(&format!("d/{n}")), "").unwrap();
            watching.settle();
            assert!(seen.try_iter().count() > 0, "{n}");
        }
        watching.close();
        // Nobody reads any more.
        fs::write(tree.at("d/last"), "").unwrap();
        watching.settle();
    });
}
