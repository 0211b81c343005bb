//! A tree that is changed here and there, what could be seen of it at each time, and the machine that looks at it.

use std::collections::HashMap;
use std::io::Write as _;

use ninep::learned::{Demand, LearnedTrace};
use ninep::server::Learning;
use ninep::wire::HEADER;
use proptest::prelude::*;

use super::super::there::{Answer, FileKey, There, here, walk_one};
use super::super::*;

pub(super) const DIRS: [&str; 3] = ["", "a", "a/b"];
pub(super) const NAMES: [&str; 4] = ["x", "y", "z", "sub"];

/// A name in one of the directories.
#[derive(Debug, Clone, Copy)]
pub(super) struct TreeSpot(pub(super) usize, pub(super) usize);

impl TreeSpot {
    fn path(self) -> String {
        format!("{}/{}", DIRS[self.0], NAMES[self.1])
    }
}

#[derive(Debug, Clone)]
pub(super) enum WorldStep {
    // Here.
    Write(TreeSpot, usize),
    Append(TreeSpot),
    Truncate(TreeSpot),
    Chmod(TreeSpot, u32),
    Remove(TreeSpot),
    Rename(TreeSpot, TreeSpot),
    Mkdir(TreeSpot),
    Link(TreeSpot),
    // There.
    Create(TreeSpot),
    WriteThere(TreeSpot, usize),
    SizeThere(TreeSpot, u64),
    RemoveThere(TreeSpot),
    RenameThere(TreeSpot, TreeSpot),
    MkdirThere(TreeSpot),
    LockThere(TreeSpot),
    // Both.
    Settle,
    Deliver(usize),
    Stat(TreeSpot),
    StatDir(usize),
    List(usize),
    Cat(TreeSpot),
    /// Opens a file, also at the server, and keeps it open.
    Hold(TreeSpot),
    /// The same, before the server is asked to open it.
    HoldAtOnce(TreeSpot),
    /// Reads all that is held open.
    ReadHeld,
    /// Another session begins, of a program that asked for everything before.
    Replay,
    /// A look-up, and how many steps later the reply is looked at.
    Begin(TreeSpot),
}

pub(super) fn step() -> impl Strategy<Value = WorldStep> {
    let spot = || (0..DIRS.len(), 0..NAMES.len()).prop_map(|(dir, name)| TreeSpot(dir, name));
    prop_oneof![
        3 => (spot(), 0..50_usize).prop_map(|(at, n)| WorldStep::Write(at, n)),
        2 => spot().prop_map(WorldStep::Append),
        1 => spot().prop_map(WorldStep::Truncate),
        2 => (spot(), 0..8_u32).prop_map(|(at, mode)| WorldStep::Chmod(at, 0o600 | mode)),
        3 => spot().prop_map(WorldStep::Remove),
        3 => (spot(), spot()).prop_map(|(from, to)| WorldStep::Rename(from, to)),
        2 => spot().prop_map(WorldStep::Mkdir),
        1 => spot().prop_map(WorldStep::Link),
        1 => spot().prop_map(WorldStep::Create),
        2 => (spot(), 1..50_usize).prop_map(|(at, n)| WorldStep::WriteThere(at, n)),
        1 => (spot(), 0..50_u64).prop_map(|(at, size)| WorldStep::SizeThere(at, size)),
        1 => spot().prop_map(WorldStep::RemoveThere),
        1 => (spot(), spot()).prop_map(|(from, to)| WorldStep::RenameThere(from, to)),
        1 => spot().prop_map(WorldStep::MkdirThere),
        1 => spot().prop_map(WorldStep::LockThere),
        14 => spot().prop_map(WorldStep::Cat),
        2 => spot().prop_map(WorldStep::Hold),
        2 => spot().prop_map(WorldStep::HoldAtOnce),
        2 => Just(WorldStep::ReadHeld),
        6 => Just(WorldStep::Settle),
        4 => (0..300_usize).prop_map(WorldStep::Deliver),
        14 => spot().prop_map(WorldStep::Stat),
        4 => (0..DIRS.len()).prop_map(WorldStep::StatDir),
        4 => (0..DIRS.len()).prop_map(WorldStep::List),
        4 => spot().prop_map(WorldStep::Begin),
        2 => Just(WorldStep::Replay),
    ]
}

/// What could be seen at one time.
#[derive(Clone)]
struct Snapshot {
    stats: HashMap<String, Answer>,
    /// What is in the regular files.
    contents: HashMap<String, Vec<u8>>,
    /// The same by file, also of those that have no name any more, as it was last.
    by_file: HashMap<FileKey, Vec<u8>>,
    lists: Vec<Vec<String>>,
}

/// A tree, the machine that looks at it, and all that could be seen of it so far.
pub(super) struct World {
    pub(super) root: PathBuf,
    export: Arc<Export>,
    pub(super) there: There,
    history: Vec<Snapshot>,
    /// The first snapshot that may still be seen.
    oldest: usize,
    /// Look-ups under way: the tag, the new fid, the path, and the first snapshot that may be seen.
    begun: Vec<(u16, u32, String, usize)>,
    /// Files that are held open; which they are; and the first snapshot that may be read.
    held: Vec<(u32, FileKey, Option<usize>)>,
    /// So that each write is another.
    writes: u8,
}

impl World {
    pub(super) fn new(at: &std::path::Path) -> (TempDir, Self) {
        let dir = TempDir::new_in(at).unwrap();
        let root = dir.path().to_owned();
        fs::create_dir_all(root.join("a/b")).unwrap();
        let export = Arc::new(Export::new(&root).unwrap());
        let there = There::new(export.clone(), Arc::default());
        let mut world = Self {
            root,
            export,
            there,
            history: Vec::new(),
            oldest: 0,
            begun: Vec::new(),
            held: Vec::new(),
            writes: 0,
        };
        world.snapshot();
        (dir, world)
    }

    fn at(&self, spot: TreeSpot) -> PathBuf {
        self.root.join(spot.path().trim_start_matches('/'))
    }

    fn snapshot(&mut self) {
        let mut stats = HashMap::new();
        let mut contents = HashMap::new();
        let last = self.history.last();
        let mut by_file = last.map_or_else(HashMap::new, |last| last.by_file.clone());
        for dir in DIRS {
            stats.insert(dir.to_owned(), here(&self.root.join(dir)));
            for name in NAMES {
                let path = format!("{dir}/{name}");
                let at = self.root.join(path.trim_start_matches('/'));
                let seen = here(&at);
                if let Some(seen) = seen
                    .as_ref()
                    .filter(|seen| seen.mode & 0o170_000 == 0o100_000)
                {
                    let all = fs::read(&at).unwrap();
                    by_file.insert(seen.file(), all.clone());
                    contents.insert(path.clone(), all);
                }
                stats.insert(path, seen);
            }
        }
        let lists = DIRS.map(|dir| {
            let entries = fs::read_dir(self.root.join(dir)).unwrap();
            let mut names: Vec<_> = entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        });
        self.history.push(Snapshot {
            stats,
            contents,
            by_file,
            lists: lists.into(),
        });
    }

    /// All that has happened must be seen from now on.
    pub(super) fn settle(&mut self) {
        self.export.settle();
        self.there.deliver_all();
        self.oldest = self.history.len() - 1;
    }

    fn check(&self, path: &str, got: &Answer, since: usize) {
        let allowed = &self.history[since..];
        let is_right = allowed.iter().any(|then| then.stats[path] == *got);
        let wanted: Vec<_> = allowed.iter().map(|then| &then.stats[path]).collect();
        assert!(is_right, "{path} is {got:?}, not one of {wanted:?}");
    }

    /// What is written next.
    fn new_bytes(&mut self, n: usize) -> Vec<u8> {
        self.writes = self.writes.wrapping_add(1);
        vec![self.writes; n]
    }

    pub(super) fn step(&mut self, step: &WorldStep) {
        match step {
            WorldStep::Write(at, n) => {
                let bytes = self.new_bytes(*n);
                drop(fs::write(self.at(*at), bytes));
            }
            WorldStep::Append(at) => {
                let file = fs::OpenOptions::new().append(true).open(self.at(*at));
                let bytes = self.new_bytes(4);
                drop(file.and_then(|mut file| file.write_all(&bytes)));
            }
            WorldStep::Truncate(at) => {
                let file = fs::OpenOptions::new().write(true).open(self.at(*at));
                drop(file.and_then(|file| file.set_len(1)));
            }
            WorldStep::Chmod(at, mode) if self.at(*at).exists() => {
                // A directory must stay searchable, since root is not what serves in general.
                let mode = PermissionsExt::from_mode(*mode | 0o100);
                drop(fs::set_permissions(self.at(*at), mode));
            }
            WorldStep::Chmod(..) => {}
            WorldStep::Remove(at) => {
                drop(fs::remove_file(self.at(*at)));
                drop(fs::remove_dir(self.at(*at)));
            }
            WorldStep::Rename(from, to) => drop(fs::rename(self.at(*from), self.at(*to))),
            WorldStep::Mkdir(at) => drop(fs::create_dir(self.at(*at))),
            WorldStep::Link(at) => drop(symlink("x", self.at(*at))),
            WorldStep::Create(at) => {
                self.there.on(DIRS[at.0], |there, fid| {
                    let create = Request::Lcreate {
                        fid,
                        name: name(NAMES[at.1]),
                        flags: RDWR,
                        mode: 0o644,
                        gid: 0,
                    };
                    drop(there.ask(&create));
                });
            }
            WorldStep::WriteThere(at, n) => {
                let bytes = self.new_bytes(*n);
                self.there.on(&at.path(), |there, fid| {
                    if there.ask(&Request::Lopen { fid, flags: WRONLY }).is_ok() {
                        let data = Data(&bytes);
                        let offset = 3;
                        there.ask(&Request::Write { fid, offset, data }).unwrap();
                    }
                });
            }
            WorldStep::SizeThere(at, size) => {
                let attr = SetAttr {
                    valid: SetAttr::SIZE,
                    size: *size,
                    ..SetAttr::default()
                };
                self.there.on(&at.path(), |there, fid| {
                    drop(there.ask(&Request::Setattr { fid, attr }));
                });
            }
            WorldStep::RemoveThere(at) => {
                self.there.on(DIRS[at.0], |there, fid| {
                    for flags in [0, 0x200] {
                        let name = name(NAMES[at.1]);
                        let dfid = fid;
                        drop(there.ask(&Request::Unlinkat { dfid, name, flags }));
                    }
                });
            }
            WorldStep::RenameThere(from, to) => {
                self.there.on(DIRS[from.0], |there, olddirfid| {
                    there.on(DIRS[to.0], |there, newdirfid| {
                        drop(there.ask(&Request::Renameat {
                            olddirfid,
                            oldname: name(NAMES[from.1]),
                            newdirfid,
                            newname: name(NAMES[to.1]),
                        }));
                    });
                });
            }
            WorldStep::MkdirThere(at) => {
                self.there.on(DIRS[at.0], |there, dfid| {
                    drop(there.ask(&Request::Mkdir {
                        dfid,
                        name: name(NAMES[at.1]),
                        mode: 0o755,
                        gid: 0,
                    }));
                });
            }
            WorldStep::LockThere(at) => {
                if let Some((fid, _)) = self.there.open(&at.path()) {
                    let lock = Request::Lock {
                        fid,
                        kind: Flock::READ,
                        flags: 0,
                        start: 0,
                        length: 0,
                        proc_id: 1,
                        client_id: text("there"),
                    };
                    // It may be another file's by now.
                    let locked = self.there.ask(&lock);
                    if locked.is_ok() {
                        let seen = self.there.getattr(fid).unwrap();
                        let got = self.there.read_all(fid, 30);
                        let now = self.history.last().unwrap();
                        if let Some(wanted) = now.by_file.get(&seen.file()) {
                            assert_eq!(&got, wanted, "{at:?} is locked");
                        }
                    }
                    self.there.clunk(fid);
                }
            }
            WorldStep::Replay => {
                let mut all = LearnedTrace::default();
                for dir in DIRS {
                    let (open, length) = (self.writes.is_multiple_of(2), 60);
                    all.add(dir.as_bytes(), Demand::List { open });
                    for name in NAMES {
                        let path = format!("{dir}/{name}");
                        let path = path.trim_start_matches('/');
                        all.add(path.as_bytes(), Demand::Range { offset: 0, length });
                    }
                }
                let learning = Arc::new(Learning::new(all, None));
                self.there = There::learning(self.export.clone(), Arc::default(), Some(learning));
                self.begun.clear();
                self.held.clear();
                self.oldest = self.history.len() - 1;
            }
            WorldStep::Cat(at) => {
                let got = self.there.cat(&at.path());
                let allowed = &self.history[self.oldest..];
                let mut contents = allowed.iter().map(|then| then.contents.get(&at.path()));
                assert!(
                    contents.any(|wanted| wanted == got.as_ref()),
                    "{at:?}: {got:?}"
                );
            }
            WorldStep::Hold(at) if self.held.len() < 8 => {
                if let Some((fid, seen)) = self.there.open(&at.path()) {
                    // The server has opened it, too, if it is still there.
                    self.there.ask(&Request::Statfs { fid: 0 }).unwrap();
                    if here(&self.at(*at)).is_some_and(|here| here.file() == seen.file()) {
                        self.held.push((fid, seen.file(), None));
                    } else {
                        self.there.clunk(fid);
                    }
                }
            }
            WorldStep::HoldAtOnce(at) if self.held.len() < 8 => {
                if let Some((fid, seen)) = self.there.open(&at.path()) {
                    // If it has gone when the server is to open it, it is read as it was.
                    self.held.push((fid, seen.file(), Some(self.oldest)));
                }
            }
            WorldStep::Hold(_) | WorldStep::HoldAtOnce(_) => {
                for (fid, ..) in std::mem::take(&mut self.held) {
                    self.there.clunk(fid);
                }
            }
            WorldStep::ReadHeld => {
                for (fid, file, since) in self.held.clone() {
                    let got = self.there.read_all(fid, 30);
                    let allowed = &self.history[since.unwrap_or(self.oldest)..];
                    let mut contents = allowed.iter().map(|then| then.by_file.get(&file));
                    assert!(
                        contents.any(|wanted| wanted == Some(&got)),
                        "{file:?}: {got:?}"
                    );
                }
            }
            WorldStep::Settle => return self.settle(),
            WorldStep::Deliver(n) => {
                self.there.receive();
                self.there.deliver(*n);
            }
            WorldStep::Stat(at) => {
                let got = self.there.stat(&at.path());
                self.check(&at.path(), &got, self.oldest);
            }
            WorldStep::StatDir(dir) => {
                let got = self.there.stat(DIRS[*dir]);
                self.check(DIRS[*dir], &got, self.oldest);
            }
            WorldStep::List(dir) => {
                let got = self.there.list(DIRS[*dir]).unwrap();
                let allowed = &self.history[self.oldest..];
                let is_right = allowed.iter().any(|then| then.lists[*dir] == got);
                assert!(is_right, "{dir}: {got:?}");
            }
            WorldStep::Begin(at) => self.begin(*at),
        }
        self.snapshot();
    }

    /// Sends a look-up, and looks at the replies to earlier ones.
    fn begin(&mut self, at: TreeSpot) {
        for (tag, newfid, path, since) in std::mem::take(&mut self.begun) {
            let reply = self.there.wait(tag);
            if reply[4] == Reply::ERROR {
                self.there.fids.remove(&newfid);
                let errno = Reply::decode(reply[4], &reply[HEADER..]).unwrap();
                if errno == (Reply::Error { ecode: 2 }) {
                    self.check(&path, &None, since);
                }
            } else {
                // The kernel asks for the attributes now, and uses the file.
                match self.there.getattr(newfid) {
                    // It may have been changed and renamed by now.
                    Ok(seen) if seen.nlink > 0 => {
                        let allowed = &self.history[since..];
                        let numbers = allowed.iter().map(|then| &then.stats[&path]);
                        let mut numbers = numbers.flatten().map(|seen| seen.ino);
                        assert!(numbers.any(|ino| ino == seen.ino), "{path}: {seen:?}");
                    }
                    Ok(_) | Err(Errno::ESTALE) => {}
                    Err(errno) => panic!("{path}: {errno}"),
                }
                self.there.clunk(newfid);
            }
        }
        let Ok(fid) = self.there.walk(DIRS[at.0]) else {
            return;
        };
        let (tag, newfid) = (2000 + self.begun.len() as u16, self.there.new_fid());
        let since = self.oldest;
        self.there.send(tag, &walk_one(fid, newfid, NAMES[at.1]));
        self.begun.push((tag, newfid, at.path(), since));
        // The directory's fid stays until the reply has come: for good.
    }
}
