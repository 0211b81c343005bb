//! Hard links, and changes that race with a lookup: neither leads out of the root.

use super::*;

/// A hard link is made to the file of a fid, never to the target of a symbolic link.
#[test]
fn hard_links_lead_nowhere_else() {
    let (served, mut raw) = served();
    served.mkdir("d");
    served.write("f", "content");
    for (link, target) in [("rel", "../secret"), ("abs", "/etc/passwd"), ("dir", "..")] {
        symlink(target, served.path(link)).unwrap();
        raw.walk(0, 1, link).unwrap();
        let hard = format!("hard-{link}");
        let made = Request::Link {
            dfid: 0,
            fid: 1,
            name: name(&hard),
        };
        raw.ask(&made).unwrap();
        assert!(served.path(&hard).is_symlink(), "the link has another name");
        raw.clunk(1).unwrap();
        assert_eq!(errno(raw.open(1, &hard, RDONLY)), Some(Errno::ELOOP));
        let onto = Request::Link {
            dfid: 0,
            fid: 0,
            name: name(link),
        };
        assert!(raw.ask(&onto).is_err(), "a directory has one name");
    }
    assert_eq!(
        served.dir.path().join("secret").metadata().unwrap().nlink(),
        1
    );
    // A file that has lost its last name cannot be linked again.
    raw.open(1, "f", RDWR).unwrap();
    fs::remove_file(served.path("f")).unwrap();
    let back = Request::Link {
        dfid: 0,
        fid: 1,
        name: name("back"),
    };
    assert_eq!(errno(raw.ask(&back)), Some(Errno::ENOENT));
    // If the name has become that of a symbolic link, the fid still stands for the file.
    served.write("g", "g");
    raw.walk(0, 2, "g").unwrap();
    fs::remove_file(served.path("g")).unwrap();
    symlink("../secret", served.path("g")).unwrap();
    let size = SetAttr {
        valid: SetAttr::SIZE,
        ..SetAttr::default()
    };
    setattr(&mut raw, 2, size).unwrap();
    raw.ask(&Request::Lopen {
        fid: 2,
        flags: RDWR,
    })
    .unwrap();
    raw.write(2, 0, b"mine").unwrap();
    assert_eq!(
        fs::read(served.dir.path().join("secret")).unwrap(),
        b"secret"
    );
}

/// Files are created, removed and renamed in a directory that is replaced by a link to the outside again and again. All
/// changes happen inside.
#[test]
fn changes_that_race_a_link_stay_inside() {
    let (served, mut raw) = served();
    served.mkdir("real");
    symlink("..", served.path("link")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let (real, link) = (served.path("real"), served.path("link"));
                let _ = rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    real,
                    rustix::fs::CWD,
                    link,
                    rustix::fs::RenameFlags::EXCHANGE,
                );
            }
        });
        let started = Instant::now();
        let (mut made, mut refused) = (0, 0);
        while started.elapsed() < Duration::from_secs(2) {
            for dir in ["real", "link"] {
                raw.walk(0, 1, dir).unwrap();
                let mkdir = Request::Mkdir {
                    dfid: 1,
                    name: name("made"),
                    mode: 0o700,
                    gid: 0,
                };
                match raw.ask(&mkdir) {
                    Ok(_) => made += 1,
                    Err(errno) => {
                        assert!(matches!(errno, Errno::ENOTDIR | Errno::EEXIST), "{errno:?}");
                        refused += 1;
                    }
                }
                for (old, flags) in [("made", 0x200), ("secret", 0)] {
                    let _ = raw.ask(&Request::Unlinkat {
                        dfid: 1,
                        name: name(old),
                        flags,
                    });
                }
                let _ = raw.ask(&Request::Renameat {
                    olddirfid: 1,
                    oldname: name("secret"),
                    newdirfid: 0,
                    newname: name("stolen"),
                });
                raw.clunk(1).unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(
            made > 10 && refused > 10,
            "{made} {refused}: the race must be run"
        );
    });
    assert_eq!(
        fs::read(served.dir.path().join("secret")).unwrap(),
        b"secret"
    );
    assert_eq!(fs::read_dir(served.dir.path()).unwrap().count(), 2);
    assert!(!served.path("stolen").exists());
}
