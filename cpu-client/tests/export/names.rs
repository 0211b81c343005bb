//! Names: links, renames, removals.

use super::*;

#[test]
fn names_are_linked_renamed_and_removed() {
    let (served, mut raw) = served();
    served.mkdir("a");
    served.mkdir("b");
    served.write("a/f", "f");
    raw.walk(0, 1, "a").unwrap();
    raw.walk(0, 2, "b").unwrap();
    raw.walk(1, 3, "f").unwrap();
    raw.ask(&Request::Link {
        dfid: 2,
        fid: 3,
        name: name("hard"),
    })
    .unwrap();
    assert_eq!(getattr(&mut raw, 3).nlink, 2);
    let twice = Request::Link {
        dfid: 2,
        fid: 3,
        name: name("hard"),
    };
    assert_eq!(errno(raw.ask(&twice)), Some(Errno::EEXIST));
    assert_eq!(
        errno(raw.ask(&Request::Link {
            dfid: 2,
            fid: 1,
            name: name("d")
        })),
        Some(Errno::EPERM)
    );

    let symlink = Request::Symlink {
        dfid: 2,
        name: name("soft"),
        target: text("../a/f"),
        gid: 0,
    };
    let Reply::Symlink { qid } = raw.ask(&symlink).unwrap().reply() else {
        panic!()
    };
    assert_eq!(qid.kind, Qid::SYMLINK);
    raw.walk(2, 4, "soft").unwrap();
    let link = raw.ask(&Request::Readlink { fid: 4 }).unwrap();
    assert_eq!(
        link.reply(),
        Reply::Readlink {
            target: text("../a/f")
        }
    );
    assert_eq!(
        errno(raw.ask(&Request::Readlink { fid: 3 })),
        Some(Errno::EINVAL)
    );
    raw.ask(&Request::Link {
        dfid: 1,
        fid: 4,
        name: name("soft2"),
    })
    .unwrap();
    assert_eq!(
        fs::read_link(served.path("a/soft2")).unwrap(),
        PathBuf::from("../a/f")
    );

    let rename = |olddirfid, old, newdirfid, new| Request::Renameat {
        olddirfid,
        oldname: name(old),
        newdirfid,
        newname: name(new),
    };
    raw.ask(&rename(1, "f", 2, "hard2")).unwrap();
    raw.ask(&rename(2, "hard2", 2, "soft")).unwrap();
    assert_eq!(fs::read(served.path("b/soft")).unwrap(), b"f");
    assert_eq!(errno(raw.ask(&rename(1, "f", 2, "x"))), Some(Errno::ENOENT));
    assert_eq!(errno(raw.ask(&rename(0, "a", 1, "x"))), Some(Errno::EINVAL));
    // When the directory is moved, its fid stays with it.
    raw.ask(&rename(0, "b", 1, "moved")).unwrap();
    raw.walk(2, 5, "soft").unwrap();
    assert_eq!(getattr(&mut raw, 5).size, 1);

    let unlink = |dfid, old, flags| Request::Unlinkat {
        dfid,
        name: name(old),
        flags,
    };
    assert_eq!(errno(raw.ask(&unlink(1, "moved", 0))), Some(Errno::EISDIR));
    assert_eq!(
        errno(raw.ask(&unlink(1, "moved", 0x200))),
        Some(Errno::ENOTEMPTY)
    );
    assert_eq!(
        errno(raw.ask(&unlink(2, "soft", 0x200))),
        Some(Errno::ENOTDIR)
    );
    assert_eq!(errno(raw.ask(&unlink(2, "soft", 1))), Some(Errno::EINVAL));
    raw.ask(&unlink(2, "soft", 0)).unwrap();
    raw.ask(&unlink(2, "hard", 0)).unwrap();
    raw.ask(&unlink(1, "moved", 0x200)).unwrap();
    assert!(!served.path("a/moved").exists());
}

#[test]
fn rename_and_remove_by_fid() {
    let (served, mut raw) = served();
    served.mkdir("d");
    served.write("f", "f");
    raw.walk(0, 1, "f").unwrap();
    raw.walk(0, 2, "d").unwrap();
    raw.ask(&Request::Rename {
        fid: 1,
        dfid: 2,
        name: name("g"),
    })
    .unwrap();
    raw.ask(&Request::Rename {
        fid: 1,
        dfid: 0,
        name: name("h"),
    })
    .unwrap();
    assert_eq!(fs::read(served.path("h")).unwrap(), b"f");
    raw.ask(&Request::Remove { fid: 1 }).unwrap();
    assert!(!served.path("h").exists());
    assert_eq!(errno(raw.clunk(1)), Some(Errno::EBADF));
    // The fid is gone, although the file is not.
    served.write("d/inside", "");
    raw.walk(0, 3, "d").unwrap();
    assert_eq!(
        errno(raw.ask(&Request::Remove { fid: 3 })),
        Some(Errno::ENOTEMPTY)
    );
    assert_eq!(errno(raw.clunk(3)), Some(Errno::EBADF));
    // Not if another file has the name by now, and never the root.
    served.write("old", "");
    raw.walk(0, 3, "old").unwrap();
    fs::rename(served.path("old"), served.path("older")).unwrap();
    served.write("old", "precious");
    assert_eq!(
        errno(raw.ask(&Request::Remove { fid: 3 })),
        Some(Errno::ESTALE)
    );
    assert!(served.path("old").exists());
    raw.walk(0, 4, "").unwrap();
    assert_eq!(
        errno(raw.ask(&Request::Remove { fid: 4 })),
        Some(Errno::EBUSY)
    );
}

#[test]
fn special_files_are_made_and_left_to_the_peer() {
    let (served, mut raw) = served();
    for (file, mode) in [("fifo", 0o010_600), ("sock", 0o140_600), ("reg", 0o100_644)] {
        let request = Request::Mknod {
            dfid: 0,
            name: name(file),
            mode,
            major: 0,
            minor: 0,
            gid: 0,
        };
        raw.ask(&request).unwrap();
    }
    assert!(
        served
            .path("fifo")
            .metadata()
            .unwrap()
            .file_type()
            .is_fifo()
    );
    assert!(
        served
            .path("sock")
            .metadata()
            .unwrap()
            .file_type()
            .is_socket()
    );
    assert!(served.path("reg").metadata().unwrap().is_file());
    symlink("reg", served.path("link")).unwrap();
    assert_eq!(errno(raw.open(1, "fifo", RDONLY)), Some(Errno::ENXIO));
    assert_eq!(errno(raw.open(1, "sock", RDWR)), Some(Errno::ENXIO));
    assert_eq!(errno(raw.open(1, "link", RDONLY)), Some(Errno::ELOOP));
    // A create without O_EXCL does not open them either: it would block for ever.
    assert_eq!(
        create(&mut raw, 1, "", "fifo", WRONLY, 0o600),
        Err(Errno::ENXIO)
    );
    assert_eq!(
        create(&mut raw, 1, "", "link", WRONLY, 0o600),
        Err(Errno::ELOOP)
    );
    let mad = Request::Mknod {
        dfid: 0,
        name: name("x"),
        mode: 0o170_000,
        major: 0,
        minor: 0,
        gid: 0,
    };
    assert_eq!(errno(raw.ask(&mad)), Some(Errno::EINVAL));
}

#[test]
fn names_of_any_bytes() {
    let (_served, mut raw) = served();
    let mut names: Vec<Vec<u8>> = (1..=255)
        .filter(|byte| !b"./".contains(byte))
        .map(|byte| vec![byte])
        .collect();
    for bytes in [
        &b"\xff\xfe\x01"[..],
        b"a b\nc",
        "ü€".as_bytes(),
        b"...",
        &[b'x'; 255],
    ] {
        names.push(bytes.to_vec());
    }
    for bytes in &names {
        raw.walk(0, 1, "").unwrap();
        let name = ninep::wire::Name::new(bytes).unwrap();
        let create = Request::Lcreate {
            fid: 1,
            name,
            flags: RDWR | OpenFlags::EXCL,
            mode: 0o600,
            gid: 0,
        };
        raw.ask(&create).unwrap();
        raw.write(1, 0, bytes).unwrap();
        raw.clunk(1).unwrap();
    }
    raw.open(1, "", RDONLY).unwrap();
    let mut listed: Vec<_> = readdir(&mut raw, 1, 0, 1 << 16)
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .filter(|name| name != b"." && name != b"..")
        .collect();
    listed.sort();
    names.sort();
    assert_eq!(listed, names);
    // Each is found by its name, and may be the target of a link.
    for bytes in &names {
        let name = ninep::wire::Name::new(bytes).unwrap();
        let mut path = WalkVec::default();
        path.push(name);
        raw.ask(&Request::Walk {
            fid: 0,
            newfid: 2,
            names: path,
        })
        .unwrap();
        raw.ask(&Request::Lopen { fid: 2, flags: 0 }).unwrap();
        assert_eq!(&raw.read(2, 0, 300).unwrap(), bytes);
        raw.clunk(2).unwrap();
        let unlink = Request::Unlinkat {
            dfid: 0,
            name,
            flags: 0,
        };
        raw.ask(&unlink).unwrap();
        let target = Str::new(bytes).unwrap();
        raw.ask(&Request::Symlink {
            dfid: 0,
            name,
            target,
            gid: 0,
        })
        .unwrap();
        raw.ask(&Request::Walk {
            fid: 0,
            newfid: 2,
            names: path,
        })
        .unwrap();
        let link = raw.ask(&Request::Readlink { fid: 2 }).unwrap();
        assert_eq!(link.reply(), Reply::Readlink { target });
        raw.clunk(2).unwrap();
    }
    let long = "x".repeat(256);
    let long = Request::Mkdir {
        dfid: 0,
        name: name(&long),
        mode: 0o700,
        gid: 0,
    };
    assert_eq!(errno(raw.ask(&long)), Some(Errno::ENAMETOOLONG));
}

#[test]
fn sixteen_at_once() {
    let served = ServedTree::new();
    std::thread::scope(|scope| {
        for who in 0..16_u32 {
            let mut raw = served.session();
            let served = &served;
            scope.spawn(move || {
                let dir = format!("dir{who}");
                raw.ask(&Request::Mkdir {
                    dfid: 0,
                    name: name(&dir),
                    mode: 0o700,
                    gid: 0,
                })
                .unwrap();
                for round in 0..60 {
                    let file = format!("file{round}");
                    create(&mut raw, 1, &dir, &file, RDWR, 0o600).unwrap();
                    let content = vec![who as u8; 1000 + round * 100];
                    raw.write(1, 0, &content).unwrap();
                    assert_eq!(raw.read(1, 0, 1 << 20).unwrap(), content);
                    raw.clunk(1).unwrap();
                    // All in the same directory.
                    raw.walk(0, 2, &dir).unwrap();
                    let rename = Request::Renameat {
                        olddirfid: 2,
                        oldname: name(&file),
                        newdirfid: 0,
                        newname: name("shared"),
                    };
                    raw.ask(&rename).unwrap();
                    raw.clunk(2).unwrap();
                    let _ = raw.open(3, "shared", RDONLY).map(|_| {
                        let seen = raw.read(3, 0, 1 << 20).unwrap();
                        assert!(seen.iter().all(|byte| *byte == seen[0]));
                        raw.clunk(3).unwrap();
                    });
                }
                assert_eq!(fs::read_dir(served.path(&dir)).unwrap().count(), 0);
            });
        }
    });
}

/// What rename(2) replaces, and what it does not.
#[test]
fn renames_replace_what_may_be_replaced() {
    let (served, mut raw) = served();
    for dir in ["from", "to", "from/dir", "to/empty", "to/full", "to/full/x"] {
        served.mkdir(dir);
    }
    for file in ["from/file", "to/file"] {
        served.write(file, file);
    }
    raw.walk(0, 1, "from").unwrap();
    raw.walk(0, 2, "to").unwrap();
    let rename = |old, new| Request::Renameat {
        olddirfid: 1,
        oldname: name(old),
        newdirfid: 2,
        newname: name(new),
    };
    for (old, new, wanted) in [
        ("dir", "file", Some(Errno::ENOTDIR)),
        ("dir", "full", Some(Errno::ENOTEMPTY)),
        ("file", "empty", Some(Errno::EISDIR)),
        ("dir", "empty", None),
        ("file", "file", None),
    ] {
        assert_eq!(errno(raw.ask(&rename(old, new))), wanted, "{old} to {new}");
    }
    assert_eq!(fs::read(served.path("to/file")).unwrap(), b"from/file");
    assert_eq!(fs::read_dir(served.path("from")).unwrap().count(), 0);
}
