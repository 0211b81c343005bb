//! What a peer cannot do: leave the root, gain rights, or exhaust resources.

use super::*;

#[test]
fn nothing_outside_the_root_can_be_named() {
    let (served, mut raw) = served();
    served.mkdir("d");
    for (link, target) in [
        ("up", ".."),
        ("secret", "../secret"),
        ("abs", "/etc"),
        ("d/up", "../.."),
    ] {
        symlink(target, served.path(link)).unwrap();
    }
    let root = getattr(&mut raw, 0).qid;
    // `..` at the root is the root.
    raw.walk(0, 1, "d/../../../../../..").unwrap();
    assert_eq!(getattr(&mut raw, 1).qid.path, root.path);
    assert_eq!(
        raw.walk(1, 2, "secret/x").unwrap(),
        1,
        "the link itself, and no further"
    );
    assert_eq!(errno(raw.clunk(2)), Some(Errno::EBADF));
    for path in [
        "up/secret",
        "up/root",
        "abs/passwd",
        "d/up/secret",
        "secret/..",
    ] {
        assert_eq!(
            raw.walk(0, 2, path).unwrap_or(0),
            path.matches('/').count(),
            "{path}"
        );
        assert_eq!(errno(raw.clunk(2)), Some(Errno::EBADF));
    }
    // Symbolic links are never followed, by any request.
    for link in ["up", "secret", "abs"] {
        assert_eq!(errno(raw.open(2, link, RDONLY)), Some(Errno::ELOOP));
        raw.walk(0, 2, link).unwrap();
        assert_eq!(raw.walk(2, 3, "x").err(), Some(Errno::ENOTDIR));
        let dfid = 2;
        let mkdir = Request::Mkdir {
            dfid,
            name: name("m"),
            mode: 0o700,
            gid: 0,
        };
        assert_eq!(errno(raw.ask(&mkdir)), Some(Errno::ENOTDIR));
        let unlink = Request::Unlinkat {
            dfid,
            name: name("secret"),
            flags: 0,
        };
        assert_eq!(errno(raw.ask(&unlink)), Some(Errno::ENOTDIR));
        let create = Request::Lcreate {
            fid: 2,
            name: name("c"),
            flags: RDWR,
            mode: 0o600,
            gid: 0,
        };
        assert_eq!(errno(raw.ask(&create)), Some(Errno::ENOTDIR));
        let size = SetAttr {
            valid: SetAttr::SIZE,
            ..SetAttr::default()
        };
        assert_eq!(setattr(&mut raw, 2, size), Err(Errno::EINVAL));
        let mode = SetAttr {
            valid: SetAttr::MODE,
            ..SetAttr::default()
        };
        assert!(setattr(&mut raw, 2, mode).is_err());
        // Times are set on the link itself.
        let times = SetAttr {
            valid: SetAttr::MTIME | SetAttr::MTIME_SET,
            ..SetAttr::default()
        };
        setattr(&mut raw, 2, times).unwrap();
        assert_eq!(served.path(link).symlink_metadata().unwrap().mtime(), 0);
        raw.ask(&Request::Xattrwalk {
            fid: 2,
            newfid: 3,
            name: Str::default(),
        })
        .unwrap();
        raw.clunk(3).unwrap();
        raw.clunk(2).unwrap();
    }
    let secret = served.dir.path().join("secret");
    assert_eq!(fs::read(&secret).unwrap(), b"secret");
    assert_ne!(secret.metadata().unwrap().mtime(), 0);
    // The same after attaching to a directory further down.
    for aname in ["../..", "/d/..", "/up", "nothing", "/d/../.."] {
        let attach = Request::Attach {
            fid: 5,
            afid: !0,
            uname: Str::default(),
            aname: text(aname),
            n_uname: !0,
        };
        match raw.ask(&attach) {
            Err(errno) => assert_eq!(errno, Errno::ENOENT),
            Ok(_) => {
                assert_eq!(
                    (aname, raw.walk(5, 6, "x").err()),
                    ("/up", Some(Errno::ENOTDIR))
                );
                raw.clunk(5).unwrap();
            }
        }
    }
}

/// A directory is replaced by a link to the outside and back as fast as possible while a peer walks through it, and the
/// directory of a fid is moved around.
#[test]
fn races_do_not_open_a_way_out() {
    let (served, mut raw) = served();
    served.mkdir("real");
    served.write("real/secret", "inside");
    served.mkdir("deep");
    served.mkdir("deep/er");
    symlink("..", served.path("link")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = fs::rename(served.path("real"), served.path("x"));
                let _ = fs::rename(served.path("link"), served.path("x2"));
                let _ = fs::rename(served.path("x2"), served.path("x3"));
                let _ = fs::rename(served.path("x"), served.path("real"));
                let _ = fs::rename(served.path("x3"), served.path("link"));
                // The two names, swapped.
                let _ = rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    served.path("real"),
                    rustix::fs::CWD,
                    served.path("link"),
                    rustix::fs::RenameFlags::EXCHANGE,
                );
                let _ = fs::rename(served.path("deep/er"), served.dir.path().join("out"));
                let _ = fs::rename(served.dir.path().join("out"), served.path("deep/er"));
            }
        });
        let mut inside = 0;
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(2) {
            for path in ["real/secret", "link/secret"] {
                if raw.open(1, path, RDONLY).is_ok() {
                    assert_eq!(raw.read(1, 0, 100).unwrap(), b"inside");
                    inside += 1;
                    raw.clunk(1).unwrap();
                }
            }
            // `..` of a directory that has been moved outside is still the directory that it was walked from.
            if raw.walk(0, 1, "deep/er") == Ok(2) {
                raw.walk(1, 2, "..").unwrap();
                assert_eq!(raw.walk(2, 3, "secret").err(), Some(Errno::ENOENT));
                raw.clunk(2).unwrap();
                raw.clunk(1).unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(inside > 0, "no walk was fast enough");
    });
}

#[test]
fn hostile_numbers_do_no_harm() {
    let (served, mut raw) = served();
    served.write("f", "x");
    raw.open(1, "f", RDWR).unwrap();
    for offset in [1 << 63, u64::MAX, i64::MAX as u64] {
        assert!(raw.read(1, offset, u32::MAX).is_err() || offset == i64::MAX as u64);
        assert!(raw.write(1, offset, b"xx").is_err());
    }
    raw.open(2, "", RDONLY).unwrap();
    for offset in [1, 77, 1 << 40, u64::MAX] {
        let _ = readdir(&mut raw, 2, offset, u32::MAX);
    }
    assert!(list(&mut raw, 2, 8192).contains(&"f".to_owned()));
    assert_eq!(errno(raw.open(3, "f", 3)), Some(Errno::EINVAL));
    assert_eq!(
        errno(raw.open(3, "f", RDONLY | OpenFlags::DIRECTORY)),
        Some(Errno::ENOTDIR)
    );
    assert_eq!(errno(raw.open(3, "", RDWR)), Some(Errno::EISDIR));
    // Every flag.
    for bit in 2..32 {
        if raw.open(3, "f", 1 << bit).is_ok() {
            raw.clunk(3).unwrap();
        }
    }
    let auth = Request::Auth {
        afid: 9,
        uname: Str::default(),
        aname: Str::default(),
        n_uname: 0,
    };
    assert_eq!(errno(raw.ask(&auth)), Some(Errno::EOPNOTSUPP));
}

#[test]
fn descriptors_run_out_with_an_error_and_come_back() {
    // In a process of its own, since descriptors are per process.
    let (served, _) = served();
    served.mkdir("d");
    served.write("d/f", "x");
    child("confined::child_with_few_descriptors", &served, &[]);
}

/// Runs an ignored test in a process of its own, with the root of `served` in `EXPORT`. `through` is the beginning of the
/// command that runs it.
pub(super) fn child(test: &str, served: &ServedTree, through: &[&str]) {
    let exe = std::env::current_exe().unwrap();
    let words = through.iter().map(std::ffi::OsString::from);
    let mut words = words.chain([exe.into()]);
    let output = std::process::Command::new(words.next().unwrap())
        .args(words)
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("EXPORT", served.path(""))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    // cargo test also succeeds if no test has that name.
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{output:?}"
    );
}

fn exported() -> Arc<Export> {
    Arc::new(Export::new(std::env::var_os("EXPORT").unwrap().as_ref()).unwrap())
}

/// As after `ulimit -f`.
#[test]
fn a_limit_of_the_size_of_files_is_an_error() {
    let (served, _) = served();
    served.write("f", "x");
    child("confined::child_with_small_files", &served, &[]);
}

#[test]
#[ignore = "run by a_limit_of_the_size_of_files_is_an_error, in a process of its own"]
fn child_with_small_files() {
    let limit = rustix::process::Rlimit {
        current: Some(4096),
        maximum: Some(4096),
    };
    rustix::process::setrlimit(rustix::process::Resource::Fsize, limit).unwrap();
    prepare_process();
    let mut raw = RawClient::attached(exported(), Config::default());
    raw.open(1, "f", RDWR).unwrap();
    assert_eq!(raw.write(1, 4096, b"beyond"), Err(Errno::EFBIG));
    assert_eq!(raw.write(1, 0, b"within"), Ok(6));
    raw.walk(0, 2, "f").unwrap();
    let grown = SetAttr {
        valid: SetAttr::SIZE,
        size: 5000,
        ..SetAttr::default()
    };
    assert_eq!(setattr(&mut raw, 2, grown), Err(Errno::EFBIG));
}

/// debugfs mounts tracefs when it is used, as autofs mounts a home directory.
#[test]
fn what_is_mounted_when_it_is_used_is_mounted() {
    if !rustix::process::geteuid().is_root() {
        // No namespace makes a user root enough for debugfs.
        eprintln!("not tested: only root can mount debugfs; run this test as root");
        return;
    }
    let (served, _) = served();
    served.mkdir("d");
    let script = "mount -t debugfs none \"$EXPORT/d\" && exec \"$@\"";
    let through = ["unshare", "--mount", "sh", "-c", script, "sh"];
    child("confined::child_with_an_automount", &served, &through);
}

#[test]
#[ignore = "run by what_is_mounted_when_it_is_used_is_mounted, in a process of its own"]
fn child_with_an_automount() {
    // Of the kernel's file systems only one that is itself served is shown.
    let directory = PathBuf::from(std::env::var_os("EXPORT").unwrap()).join("d");
    let export = Arc::new(Export::new(&directory).unwrap());
    let mut raw = RawClient::attached(export, Config::default());
    raw.open(1, "tracing", RDONLY).unwrap();
    let names: Vec<_> = readdir(&mut raw, 1, 0, 65536).unwrap();
    assert!(names.iter().any(|entry| entry.name == b"trace"));
    assert_eq!(raw.walk(0, 2, "tracing/trace"), Ok(2));
}

#[test]
#[ignore = "run by descriptors_run_out_with_an_error_and_come_back, in a process of its own"]
fn child_with_few_descriptors() {
    let mut raw = RawClient::attached(exported(), Config::default());
    let limit = rustix::process::Rlimit {
        current: Some(32),
        maximum: Some(64),
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    // Raised to the hard limit.
    assert_eq!(prepare_process().descriptors, 64);
    let raised = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    assert_eq!(raised.current, Some(64));
    let mut last = 0;
    let out = (1..200).find_map(|fid| {
        last = fid;
        raw.walk(0, fid, "d").err()
    });
    assert_eq!(out, Some(Errno::EMFILE));
    // Clones need no descriptor, and open files still work.
    raw.walk(1, 500, "").unwrap();
    assert_eq!(getattr(&mut raw, 1).nlink, 2);
    assert_eq!(
        errno(raw.ask(&Request::Lopen { fid: 1, flags: 0 })),
        Some(Errno::EMFILE)
    );
    for fid in 2..last {
        raw.clunk(fid).unwrap();
    }
    raw.open(600, "d/f", RDONLY).unwrap();
    assert_eq!(raw.read(600, 0, 9).unwrap(), b"x");
}

#[test]
fn a_root_that_is_none_is_named() {
    let error = Export::new("/nonexistent/root".as_ref()).err().unwrap();
    assert!(error.to_string().contains("/nonexistent/root"));
}

/// All requests in any order, with names that could lead outside wherever there are names.
#[test]
fn no_sequence_of_requests_reaches_the_outside() {
    for dialect in [VERSION, EXTENDED] {
        in_any_sequence(dialect);
    }
}

fn in_any_sequence(dialect: &[u8]) {
    const NAMES: [&str; 8] = ["a", "b", "c", "d", "out", "abs", "..", "file"];
    let served = ServedTree::new();
    let outside = || {
        let mut names: Vec<_> = fs::read_dir(served.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        let secret = served.dir.path().join("secret");
        let meta = secret.metadata().unwrap();
        (
            names,
            fs::read(&secret).unwrap(),
            meta.mode(),
            meta.mtime(),
            meta.nlink(),
        )
    };
    let before = outside();
    let mut raw = served.session();
    raw.dialect(1 << 20, dialect);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut roll = move |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % n
    };
    let (mut done, mut bytes) = (0, Vec::new());
    for round in 0..30_000 {
        if round % 500 == 0 {
            let _ = symlink("../secret", served.path("out"));
            let _ = symlink(served.dir.path(), served.path("abs"));
        }
        if round % 4 == 0 {
            let _ = raw.ask(&attach(0));
        }
        let (fid, other, tail) = (roll(6) as u32, roll(6) as u32, roll(6) as u32);
        let (one, two) = (name(NAMES[roll(8)]), name(NAMES[roll(8)]));
        let mode = [0o644, 0o4755, 0o100_644, 0o010_600, 0o140_700][roll(5)];
        let attr = SetAttr {
            valid: roll(512) as u32 & !(SetAttr::UID | SetAttr::GID),
            mode: 0o755,
            size: roll(9000) as u64,
            ..SetAttr::default()
        };
        let mut names = WalkVec::default();
        for _ in 0..roll(4) {
            names.push(name(NAMES[roll(8)]));
        }
        let request = match roll(23) {
            0..=4 => Request::Walk {
                fid,
                newfid: other,
                names,
            },
            5 => Request::Lopen {
                fid,
                flags: roll(1 << 11) as u32,
            },
            6 => Request::Lcreate {
                fid,
                name: one,
                flags: roll(1 << 11) as u32,
                mode,
                gid: 0,
            },
            7 => Request::Mkdir {
                dfid: fid,
                name: one,
                mode: 0o755,
                gid: 0,
            },
            8 => Request::Symlink {
                dfid: fid,
                name: one,
                target: text("../../secret"),
                gid: 0,
            },
            9 => Request::Mknod {
                dfid: fid,
                name: one,
                mode,
                major: 0,
                minor: 0,
                gid: 0,
            },
            10 => Request::Link {
                dfid: fid,
                fid: other,
                name: one,
            },
            11 => Request::Renameat {
                olddirfid: fid,
                oldname: one,
                newdirfid: other,
                newname: two,
            },
            12 => Request::Rename {
                fid,
                dfid: other,
                name: one,
            },
            13 => Request::Unlinkat {
                dfid: fid,
                name: one,
                flags: 0x200 * tail % 0x400,
            },
            14 => Request::Setattr { fid, attr },
            15 => Request::Write {
                fid,
                offset: 0,
                data: Data(b"overwritten"),
            },
            16 => Request::Read {
                fid,
                offset: 0,
                count: 4096,
            },
            17 => Request::Readdir {
                fid,
                offset: roll(2) as u64,
                count: 4096,
            },
            18 => Request::Readlink { fid },
            19 => Request::Xattrwalk {
                fid,
                newfid: other,
                name: Str::default(),
            },
            20 if tail == 0 => Request::Remove { fid },
            21 | 22 => Request::Walkgetattr {
                fid,
                newfid: other,
                name: one,
            },
            _ => Request::Clunk { fid },
        };
        let moves = matches!(&request, Request::Walk { names, .. } if names.is_empty())
            || matches!(request, Request::Clunk { .. });
        if moves && dialect == EXTENDED && round % 2 == 0 {
            raw.send(NO_TAG, &request);
        } else if let Ok(message) = raw.ask(&request) {
            done += 1;
            if let Reply::Read { data } = message.reply() {
                bytes.extend_from_slice(data.0);
            }
        }
    }
    assert_eq!(outside(), before);
    assert!(!bytes.windows(6).any(|window| window == b"secret"));
    assert!(done > 3000, "only {done} of the requests did anything");
}
