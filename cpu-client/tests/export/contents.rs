//! Contents of files that a relay keeps: read once, and again when they change.

use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use cpu_client::export::{Rule, RuleKind};
use ninep::msg::{MAX_FIRST, WATCHED};

use super::there::There;
use super::*;

mod fetches;
mod replaced;

/// A file `d/f` here, and a machine that looks at it.
struct Shared {
    dir: TempDir,
    export: Arc<Export>,
    there: There,
}

impl Shared {
    fn new(at: &Path) -> Self {
        Self::of(at, |export| export)
    }

    fn of(at: &Path, with: impl FnOnce(Export) -> Export) -> Self {
        let dir = TempDir::new_in(at).unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        fs::write(dir.path().join("d/f"), "contents").unwrap();
        let export = Arc::new(with(Export::new(dir.path()).unwrap()));
        let there = There::new(export.clone(), Arc::default());
        let mut shared = Self { dir, export, there };
        // Its directories are listed.
        let _ = shared.there.stat("d/f");
        shared.there.deliver_all();
        shared
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What has happened here is seen there from now on.
    fn settle(&mut self) {
        self.export.settle();
        self.there.deliver_all();
    }

    /// What `work` returns, and how often it waits.
    fn waits<T>(&mut self, work: impl FnOnce(&mut There) -> T) -> (T, usize) {
        let before = self.there.waits;
        let done = work(&mut self.there);
        (done, self.there.waits - before)
    }

    fn cat(&mut self) -> (String, usize) {
        let (all, waits) = self.waits(|there| there.cat("d/f").unwrap());
        (String::from_utf8(all).unwrap(), waits)
    }
}

/// `OVERLAYFS_SUPER_MAGIC`: what is changed in its layers makes no event, so it is not watched.
const OVERLAYFS: i64 = 0x794c_7630;

/// A disk, unless it is an overlayfs as in a container, and memory.
fn places() -> impl Iterator<Item = &'static Path> {
    let is_watched = |place: &&Path| {
        #[expect(clippy::useless_conversion, reason = "narrower on some architectures")]
        let kind = rustix::fs::statfs(*place).map(|stat| i64::from(stat.f_type));
        kind.is_ok_and(|kind| kind != OVERLAYFS)
    };
    let places = ["/var/tmp", "/dev/shm"].map(Path::new);
    places.into_iter().filter(is_watched)
}

#[test]
fn a_file_is_waited_for_once() {
    for place in places() {
        let mut shared = Shared::new(place);
        assert_eq!(shared.cat(), ("contents".into(), 1));
        for _ in 0..3 {
            assert_eq!(shared.cat(), ("contents".into(), 0));
        }
        // A large file comes in pieces, as it is read.
        let large: Vec<_> = (0..MAX_FIRST * 2 + 7).map(|n| (n / 3) as u8).collect();
        fs::write(shared.at("d/large"), &large).unwrap();
        shared.settle();
        // Its directory and its name, its beginning, and the rest.
        for waits in [4, 0] {
            let (got, waited) = shared.waits(|there| {
                let (fid, _) = there.open("d/large").unwrap();
                let got = there.read_all(fid, MAX_FIRST);
                there.clunk(fid);
                got
            });
            assert_eq!(got, large);
            assert_eq!(waited, waits);
        }
    }
}

type ChangeHere = fn(&Path);

#[test]
fn what_changes_here_is_seen_there_also_by_who_has_the_file_open() {
    let changes: [(&str, ChangeHere, &str, &str); 9] = [
        ("written", |f| fs::write(f, "news").unwrap(), "news", "news"),
        (
            "appended",
            |f| {
                let mut file = fs::OpenOptions::new().append(true).open(f).unwrap();
                file.write_all(b", more").unwrap();
            },
            "contents, more",
            "contents, more",
        ),
        (
            "written in its middle, and not closed",
            |f| {
                let mut file = fs::OpenOptions::new().write(true).open(f).unwrap();
                file.seek(std::io::SeekFrom::Start(3)).unwrap();
                file.write_all(b"T").unwrap();
                std::mem::forget(file);
            },
            "conTents",
            "conTents",
        ),
        (
            "truncated",
            |f| {
                let file = fs::OpenOptions::new().write(true).open(f).unwrap();
                file.set_len(3).unwrap();
            },
            "con",
            "con",
        ),
        (
            "replaced",
            |f| {
                fs::write(f.with_file_name("new"), "another").unwrap();
                fs::rename(f.with_file_name("new"), f).unwrap();
            },
            "another",
            "contents",
        ),
        (
            "removed and made again",
            |f| {
                fs::remove_file(f).unwrap();
                fs::write(f, "another").unwrap();
            },
            "another",
            "contents",
        ),
        (
            "renamed, and written by its new name",
            |f| {
                let other = f.with_file_name("other");
                fs::rename(f, &other).unwrap();
                fs::write(other, "as other").unwrap();
                fs::write(f, "another").unwrap();
            },
            "another",
            "as other",
        ),
        (
            "written through a mapping",
            |f| {
                let file = fs::OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(f)
                    .unwrap();
                // Its size and its name are as before.
                let script = "import mmap, sys; f = open(sys.argv[1], 'r+b'); \
                              m = mmap.mmap(f.fileno(), 0); m[0:3] = b'CON'; m.close(); f.close()";
                let done = std::process::Command::new("python3")
                    .args(["-c", script])
                    .arg(f)
                    .status();
                if !done.is_ok_and(|status| status.success()) {
                    rustix::io::pwrite(&file, b"CON", 0).unwrap();
                }
            },
            "CONtents",
            "CONtents",
        ),
        (
            "copied onto",
            |f| {
                fs::write(f.with_file_name("source"), "a copy").unwrap();
                fs::copy(f.with_file_name("source"), f).unwrap();
            },
            "a copy",
            "a copy",
        ),
    ];
    for place in places() {
        for (what, change, by_name, by_fid) in changes {
            let mut shared = Shared::new(place);
            assert_eq!(shared.cat().0, "contents");
            let (held, _) = shared.there.open("d/f").unwrap();
            // The server has opened it, too.
            shared.there.ask(&Request::Statfs { fid: 0 }).unwrap();
            let (got, waits) = shared.waits(|there| there.read_all(held, 100));
            assert_eq!((&got[..], waits), (&b"contents"[..], 0));
            change(&shared.at("d/f"));
            shared.settle();
            assert_eq!(
                shared.there.read_all(held, 100),
                by_fid.as_bytes(),
                "{what}"
            );
            assert_eq!(shared.cat().0, by_name, "{what}");
            assert_eq!(
                shared.cat(),
                (by_name.into(), 0),
                "{what}: it is known again"
            );
        }
    }
}

#[test]
fn a_file_that_is_removed_is_gone_and_stays_for_who_has_it_open() {
    for place in places() {
        for is_opened_there in [true, false] {
            let mut shared = Shared::new(place);
            assert_eq!(shared.cat().0, "contents");
            let (held, _) = shared.there.open("d/f").unwrap();
            if is_opened_there {
                shared.there.ask(&Request::Statfs { fid: 0 }).unwrap();
            }
            fs::remove_file(shared.at("d/f")).unwrap();
            shared.settle();
            assert_eq!(
                shared.there.read_all(held, 3),
                b"contents",
                "{is_opened_there}"
            );
            assert_eq!(shared.there.cat("d/f"), None);
        }
    }
}

#[test]
fn what_is_written_there_is_read_there() {
    let mut shared = Shared::new(Path::new("/dev/shm"));
    assert_eq!(shared.cat().0, "contents");
    let (held, _) = shared.there.open("d/f").unwrap();
    assert_eq!(shared.there.read_all(held, 100), b"contents");
    let fid = shared.there.walk("d/f").unwrap();
    shared
        .there
        .ask(&Request::Lopen { fid, flags: RDWR })
        .unwrap();
    for text in ["CON", "con", "Cont"] {
        let (offset, data) = (0, Data(text.as_bytes()));
        shared
            .there
            .ask(&Request::Write { fid, offset, data })
            .unwrap();
        let wanted = format!("{text}{}", &"contents"[text.len()..]);
        assert_eq!(shared.there.read_all(held, 100), wanted.as_bytes());
        assert_eq!(shared.there.read_all(fid, 100), wanted.as_bytes());
        assert_eq!(shared.cat().0, wanted);
        assert_eq!(shared.cat(), (wanted, 0));
    }
    let attr = SetAttr {
        valid: SetAttr::SIZE,
        size: 2,
        ..SetAttr::default()
    };
    shared.there.ask(&Request::Setattr { fid, attr }).unwrap();
    assert_eq!(shared.there.read_all(held, 100), b"Co");
    assert_eq!(shared.cat().0, "Co");
}

#[test]
fn what_may_not_be_read_any_more_is_denied() {
    let denied = as_nobody(|| {
        let mut shared = Shared::new(Path::new("/dev/shm"));
        assert_eq!(shared.cat().0, "contents");
        assert_eq!(shared.cat().1, 0);
        let open = |shared: &mut Shared| {
            let fid = shared.there.walk("d/f")?;
            let opened = shared.there.ask(&Request::Lopen { fid, flags: RDONLY });
            shared.there.clunk(fid);
            opened.map(drop)
        };
        let chmod = |shared: &Shared, name: &str, mode| {
            fs::set_permissions(shared.at(name), PermissionsExt::from_mode(mode)).unwrap();
        };
        chmod(&shared, "d/f", 0);
        shared.settle();
        let file = open(&mut shared);
        chmod(&shared, "d/f", 0o600);
        shared.settle();
        assert_eq!(shared.cat().0, "contents");
        chmod(&shared, "d", 0);
        shared.settle();
        let directory = open(&mut shared);
        chmod(&shared, "d", 0o700);
        [file, directory]
    });
    assert_eq!(denied, [Err(Errno::EACCES), Err(Errno::EACCES)]);
}

#[test]
fn what_is_hidden_or_has_another_name_or_is_not_to_be_kept_is_asked_for_each_time() {
    let at = Path::new("/dev/shm");
    let hide = Rule {
        path: "/d/f".into(),
        kind: RuleKind::Hide,
    };
    let mut shared = Shared::of(at, |export| export.with_rules(&[hide]));
    for _ in 0..3 {
        let fid = shared.there.walk("d/f").unwrap();
        let flags = RDONLY;
        let (opened, waits) = shared.waits(|there| there.ask(&Request::Lopen { fid, flags }));
        assert_eq!((opened, waits), (Err(Errno::EACCES), 1));
        shared.there.clunk(fid);
    }
    let mut shared = Shared::new(at);
    fs::create_dir(shared.at("e")).unwrap();
    fs::hard_link(shared.at("d/f"), shared.at("e/other")).unwrap();
    shared.settle();
    let mut shared = Shared {
        there: There::new(shared.export.clone(), Arc::default()),
        ..shared
    };
    for text in ["one", "two", "three"] {
        // No event of the directory `d` reports this.
        fs::write(shared.at("e/other"), text).unwrap();
        shared.settle();
        assert_eq!(shared.cat().0, text);
        assert!(shared.cat().1 > 0);
    }
    let mut shared = Shared::of(at, |export| export.with_caching(Caching::Never));
    for _ in 0..3 {
        let (text, waits) = shared.cat();
        assert_eq!(text, "contents");
        assert!(waits > 2, "{waits}");
    }
}

#[test]
fn an_open_and_read_is_answered_within_what_was_agreed() {
    let served = ServedTree::new();
    served.write("small", "contents");
    fs::write(served.path("large"), vec![7; 300_000]).unwrap();
    served.mkdir("dir");
    let mut raw = RawClient::attached(served.export.clone(), Config::default());
    raw.dialect(1 << 20, WATCHED);
    raw.ask(&attach(0)).unwrap();
    let open = |raw: &mut RawClient, path: &str, flags, count| {
        raw.walk(0, 1, path).unwrap();
        let fid = 1;
        let opened = raw.ask(&Request::Lopenread { fid, flags, count });
        let opened = opened.map(|opened| match opened.reply() {
            Reply::Lopenread {
                version,
                size,
                data,
                ..
            } => (version != 0, size, data.0.len()),
            other => panic!("{other:?}"),
        });
        raw.clunk(1).unwrap();
        opened
    };
    for count in [0, 3, 8, 9, u32::MAX] {
        let n = 8.min(count as usize);
        assert_eq!(open(&mut raw, "small", RDONLY, count), Ok((true, 8, n)));
    }
    let first = MAX_FIRST as usize;
    assert_eq!(
        open(&mut raw, "large", RDONLY, u32::MAX),
        Ok((true, 300_000, first))
    );
    assert_eq!(open(&mut raw, "dir", RDONLY, 100), Ok((false, 0, 0)));
    for flags in [WRONLY, RDWR, OpenFlags::TRUNC] {
        assert_eq!(open(&mut raw, "small", flags, 100), Err(Errno::EINVAL));
    }
    assert_eq!(fs::read(served.path("small")).unwrap(), b"contents");
    // The fid is open.
    raw.walk(0, 1, "small").unwrap();
    let request = Request::Lopenread {
        fid: 1,
        flags: RDONLY,
        count: 3,
    };
    raw.ask(&request).unwrap();
    assert_eq!(raw.read(1, 3, 100).unwrap(), b"tents");
    assert_eq!(errno(raw.ask(&request)), Some(Errno::EBADF));
    // A message of the smallest size.
    raw.dialect(4096, WATCHED);
    raw.ask(&attach(0)).unwrap();
    assert_eq!(
        open(&mut raw, "large", RDONLY, u32::MAX),
        Ok((true, 300_000, 4096 - 7 - 13 - 4 - 4 - 8 - 4))
    );
    // Others do not know it.
    for dialect in [EXTENDED, VERSION] {
        raw.dialect(8192, dialect);
        raw.ask(&attach(0)).unwrap();
        assert_eq!(open(&mut raw, "small", RDONLY, 100), Err(Errno::EOPNOTSUPP));
    }
}

#[test]
fn an_open_without_a_reply_that_fails_leaves_a_stale_fid() {
    let served = ServedTree::new();
    served.write("f", "contents");
    let mut raw = RawClient::attached(served.export.clone(), Config::default());
    raw.dialect(8192, WATCHED);
    raw.ask(&attach(0)).unwrap();
    let mut file = fs::File::open(served.path("f")).unwrap();
    for (flags, is_open) in [(RDONLY, true), (OpenFlags::DIRECTORY, false)] {
        raw.walk(0, 1, "f").unwrap();
        raw.send(NO_TAG, &Request::Lopen { fid: 1, flags });
        let read = raw.read(1, 0, 100);
        assert_eq!(read.is_ok(), is_open);
        assert!(is_open || read == Err(Errno::ESTALE));
        raw.clunk(1).unwrap();
    }
    let mut all = String::new();
    file.read_to_string(&mut all).unwrap();
    assert_eq!(all, "contents");
}
