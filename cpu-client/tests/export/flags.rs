//! The flags of open(2), and files that are not regular.

use super::*;

const TRUNC: u32 = OpenFlags::TRUNC;
/// `O_TMPFILE` of Linux on x86, which includes `O_DIRECTORY`.
const TMPFILE: u32 = 0o20_000_000 | OpenFlags::DIRECTORY;

#[test]
fn every_flag_does_what_it_does_here() {
    let (served, mut raw) = served();
    served.mkdir("d");
    served.write("f", "content");
    symlink("f", served.path("l")).unwrap();
    symlink("d", served.path("ld")).unwrap();
    for (path, flags, wanted) in [
        ("f", RDONLY, Ok(())),
        ("f", RDWR | OpenFlags::NOFOLLOW, Ok(())),
        ("f", RDONLY | OpenFlags::DIRECTORY, Err(Errno::ENOTDIR)),
        ("d", RDONLY | OpenFlags::DIRECTORY, Ok(())),
        ("d", WRONLY | OpenFlags::DIRECTORY, Err(Errno::EISDIR)),
        ("d", RDONLY | TRUNC, Err(Errno::EISDIR)),
        ("l", RDONLY, Err(Errno::ELOOP)),
        ("l", RDWR | OpenFlags::NOFOLLOW, Err(Errno::ELOOP)),
        ("l", WRONLY | TRUNC, Err(Errno::ELOOP)),
        ("ld", RDONLY | OpenFlags::NOFOLLOW, Err(Errno::ELOOP)),
        // Linux's client never sends it; it returns EOPNOTSUPP itself.
        ("d", RDWR | TMPFILE, Err(Errno::EISDIR)),
        ("f", OpenFlags::ACCESS, Err(Errno::EINVAL)),
    ] {
        let opened = raw
            .open(1, path, flags)
            .map(|_| drop(raw.clunk(1).unwrap()));
        assert_eq!(opened, wanted, "{path} {flags:o}");
    }
    assert_eq!(fs::read(served.path("f")).unwrap(), b"content");
}

/// With any access mode: Linux truncates even with `O_RDONLY`, if the file may be written.
#[test]
fn truncation_is_at_the_open_and_only_where_it_is_allowed() {
    let (served, mut raw) = served();
    for access in [RDONLY, WRONLY, RDWR] {
        served.write("f", "content");
        raw.open(1, "f", access | TRUNC).unwrap();
        assert_eq!(getattr(&mut raw, 1).size, 0, "{access}");
        // Linux's client truncates a second time, through the open file.
        let size = SetAttr {
            valid: SetAttr::SIZE,
            size: 3,
            ..SetAttr::default()
        };
        setattr(&mut raw, 1, size).unwrap();
        assert_eq!(fs::read(served.path("f")).unwrap(), [0; 3]);
        raw.clunk(1).unwrap();
        served.write("f", "content");
        create(&mut raw, 1, "", "f", access | TRUNC, 0o600).unwrap();
        assert_eq!(
            getattr(&mut raw, 1).size,
            0,
            "created where one is, {access}"
        );
        raw.clunk(1).unwrap();
    }
    served.write("theirs", "content");
    for (path, mode) in [("theirs", 0o444), ("", 0o755), ("..", 0o755)] {
        fs::set_permissions(served.path(path), PermissionsExt::from_mode(mode)).unwrap();
    }
    as_nobody(|| {
        let mut raw = served.session();
        for access in [RDONLY, WRONLY, RDWR] {
            let opened = raw.open(1, "theirs", access | TRUNC);
            assert_eq!(errno(opened), Some(Errno::EACCES));
        }
        raw.open(1, "theirs", RDONLY).unwrap();
        assert_eq!(raw.read(1, 0, 100).unwrap(), b"content");
        let size = SetAttr {
            valid: SetAttr::SIZE,
            ..SetAttr::default()
        };
        assert_eq!(setattr(&mut raw, 1, size), Err(Errno::EACCES));
    });
}

#[test]
fn an_exclusive_create_makes_a_file_or_none() {
    let (served, mut raw) = served();
    served.mkdir("d");
    served.write("f", "content");
    symlink("nowhere", served.path("l")).unwrap();
    for there in ["d", "f", "l"] {
        let created = create(
            &mut raw,
            1,
            "",
            there,
            RDWR | OpenFlags::EXCL | TRUNC,
            0o600,
        );
        assert_eq!(created, Err(Errno::EEXIST), "{there}");
    }
    assert_eq!(
        create(&mut raw, 1, "", "d", RDWR, 0o600),
        Err(Errno::EISDIR)
    );
    assert_eq!(create(&mut raw, 1, "", "l", RDWR, 0o600), Err(Errno::ELOOP));
    assert_eq!(fs::read(served.path("f")).unwrap(), b"content");
    assert!(!served.path("nowhere").exists());
    create(&mut raw, 1, "", "new", RDWR | OpenFlags::EXCL, 0o600).unwrap();
    assert!(served.path("new").exists());
}

/// Two writers that append never overwrite each other's data, whatever their offsets.
#[test]
fn appenders_do_not_overwrite_each_other() {
    let served = ServedTree::new();
    served.write("f", "");
    let root = served.path("");
    let export = Arc::new(Export::new(&root).unwrap());
    std::thread::scope(|scope| {
        for who in [b'a', b'b'] {
            let mut raw = RawClient::attached(export.clone(), Config::default());
            scope.spawn(move || {
                raw.open(1, "f", WRONLY | OpenFlags::APPEND).unwrap();
                for _ in 0..500 {
                    raw.write(1, 0, &[who; 100]).unwrap();
                }
            });
        }
    });
    let content = fs::read(served.path("f")).unwrap();
    assert_eq!(content.len(), 100_000);
    assert!(
        content
            .chunks(100)
            .all(|part| part.iter().all(|byte| *byte == part[0]))
    );
}

/// fsync(2) is really called: on a file in /proc it fails.
#[test]
fn synchronising_is_done_by_the_system() {
    let mut raw = RawClient::attached(
        Arc::new(Export::new("/proc".as_ref()).unwrap()),
        Config::default(),
    );
    raw.open(1, "version", RDONLY).unwrap();
    for datasync in [0, 1] {
        let fsync = Request::Fsync { fid: 1, datasync };
        assert_eq!(errno(raw.ask(&fsync)), Some(Errno::EINVAL));
    }

    // On a directory too, without which a new name is not on disk.
    let (served, mut raw) = served();
    raw.open(1, "", RDONLY).unwrap();
    for datasync in [0, 1] {
        raw.ask(&Request::Fsync { fid: 1, datasync }).unwrap();
    }
    // Files with O_SYNC or O_DSYNC are opened with that flag here.
    for (fid, flag, here) in [
        (2, OpenFlags::SYNC, libc::O_SYNC),
        (3, OpenFlags::DSYNC, libc::O_DSYNC),
        (4, 0, 0),
    ] {
        let name = format!("f{fid}");
        served.write(&name, "");
        raw.open(fid, &name, WRONLY | flag).unwrap();
        assert_eq!(open_flags(&served.path(&name)) & libc::O_SYNC, here);
    }
}

/// The flags of this process's descriptor that is open for writing to a file (proc_pid_fdinfo(5)).
fn open_flags(path: &std::path::Path) -> i32 {
    let fds = fs::read_dir("/proc/self/fd").unwrap();
    let names = fds.map(|fd| fd.unwrap()).filter(|fd| {
        let to = fs::read_link(fd.path());
        to.is_ok_and(|to| to == path)
    });
    let mut flags = names.filter_map(|fd| {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.file_name().display()));
        let info = info.unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = i32::from_str_radix(flags.unwrap().trim(), 8).unwrap();
        (flags & libc::O_ACCMODE == libc::O_WRONLY).then_some(flags)
    });
    flags.next().unwrap()
}
