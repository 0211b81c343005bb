//! Files: contents, attributes, and what remains when a name is removed.

use super::*;
use ninep::fs::{Attach, FileSystem};
use ninep::msg::NO_ID;

#[test]
fn files_are_created_written_read_and_truncated() {
    let (served, mut raw) = served();
    create(&mut raw, 1, "", "new", RDWR, 0o640).unwrap();
    assert_eq!(raw.write(1, 0, b"hello world").unwrap(), 11);
    assert_eq!(raw.read(1, 6, 100).unwrap(), b"world");
    assert_eq!(raw.read(1, 11, 100).unwrap(), b"");
    assert_eq!(raw.write(1, 5 << 30, b"far").unwrap(), 3);
    assert_eq!(raw.read(1, (5 << 30) - 2, 100).unwrap(), b"\0\0far");
    // Between them is a hole, which reads as zeros and takes no space.
    assert_eq!(raw.read(1, 3 << 30, 4096).unwrap(), [0; 4096]);
    let attr = getattr(&mut raw, 1);
    assert_eq!(attr.size, (5 << 30) + 3);
    assert!(attr.blocks * 512 < 1 << 20, "{} blocks", attr.blocks);
    let attr = SetAttr {
        valid: SetAttr::SIZE,
        size: 5,
        ..SetAttr::default()
    };
    setattr(&mut raw, 1, attr).unwrap();
    raw.ask(&Request::Fsync {
        fid: 1,
        datasync: 0,
    })
    .unwrap();
    raw.ask(&Request::Fsync {
        fid: 1,
        datasync: 1,
    })
    .unwrap();
    raw.clunk(1).unwrap();
    assert_eq!(fs::read(served.path("new")).unwrap(), b"hello");
    assert_eq!(served.path("new").metadata().unwrap().mode(), 0o100_640);

    // With O_EXCL, without it, with O_TRUNC, with O_APPEND.
    assert_eq!(
        create(&mut raw, 1, "", "new", RDWR | OpenFlags::EXCL, 0),
        Err(Errno::EEXIST)
    );
    create(&mut raw, 1, "", "new", WRONLY, 0).unwrap();
    assert_eq!(raw.read(1, 0, 1).err(), Some(Errno::EBADF));
    raw.clunk(1).unwrap();
    raw.open(1, "new", RDWR | OpenFlags::TRUNC).unwrap();
    raw.clunk(1).unwrap();
    assert_eq!(fs::read(served.path("new")).unwrap(), b"");
}

/// A peer that maps files writes whole pages back, even through a fid that is open to read and append.
#[test]
fn appending_is_the_end_of_the_file_unless_it_may_be_mapped() {
    let served = ServedTree::new();
    for (caching, access, expected) in [
        (Caching::Mapped, RDWR, "!ello"),
        (Caching::Mapped, WRONLY, "hello!"),
        (Caching::Never, RDWR, "hello!"),
        (Caching::Never, WRONLY, "hello!"),
    ] {
        served.write("f", "hello");
        let root = served.path("");
        let export = Export::new(&root).unwrap().with_caching(caching);
        let mut raw = RawClient::attached(Arc::new(export), Config::default());
        let Reply::Lopen { qid, .. } = raw
            .open(1, "f", access | OpenFlags::APPEND)
            .unwrap()
            .reply()
        else {
            panic!()
        };
        assert_eq!(qid.version, 0);
        raw.write(1, 0, b"!").unwrap();
        assert_eq!(fs::read_to_string(served.path("f")).unwrap(), expected);
    }
}

#[test]
fn modes_are_what_was_asked_for() {
    let (served, mut raw) = served();
    for mode in [0o4777, 0o2666, 0o1777, 0o000, 0o444, 0o666] {
        let file = format!("m{mode:o}");
        create(&mut raw, 1, "", &file, RDWR, mode).unwrap();
        assert_eq!(getattr(&mut raw, 1).mode, 0o100_000 | mode);
        // It is open for writing whatever its mode is, and is truncated through the open file.
        raw.write(1, 0, b"x").unwrap();
        let attr = SetAttr {
            valid: SetAttr::SIZE,
            ..SetAttr::default()
        };
        setattr(&mut raw, 1, attr).unwrap();
        raw.clunk(1).unwrap();
        assert_eq!(served.path(&file).metadata().unwrap().size(), 0);
    }
    raw.ask(&Request::Mkdir {
        dfid: 0,
        name: name("d"),
        mode: 0o1777,
        gid: 0,
    })
    .unwrap();
    assert_eq!(served.path("d").metadata().unwrap().mode(), 0o041_777);
}

#[test]
fn attributes_are_those_of_stat_and_can_be_set() {
    let (served, mut raw) = served();
    served.write("f", "12345");
    fs::hard_link(served.path("f"), served.path("g")).unwrap();
    raw.walk(0, 1, "f").unwrap();
    let attr = getattr(&mut raw, 1);
    let meta = served.path("f").metadata().unwrap();
    assert_eq!(attr.valid & Attr::BASIC, Attr::BASIC);
    assert_eq!(
        (
            attr.mode,
            attr.uid,
            attr.gid,
            attr.nlink,
            attr.size,
            attr.blocks,
            attr.blksize
        ),
        (
            meta.mode(),
            meta.uid(),
            meta.gid(),
            2,
            5,
            meta.blocks(),
            meta.blksize()
        )
    );
    assert_eq!(attr.mtime.sec.cast_signed(), meta.mtime());
    assert_eq!(attr.mtime.nsec, meta.mtime_nsec().cast_unsigned());
    // Linux's client adds 2.
    assert_eq!(attr.qid.path + 2, meta.ino());
    assert_ne!(attr.qid.version, 0);

    let given = Time {
        sec: (-7_i64).cast_unsigned(),
        nsec: 123_456_789,
    };
    let early = Time {
        sec: 9,
        nsec: 999_999_999,
    };
    let times = SetAttr::ATIME | SetAttr::ATIME_SET | SetAttr::MTIME | SetAttr::MTIME_SET;
    let set = SetAttr {
        valid: SetAttr::MODE | times,
        mode: 0o100_751,
        atime: early,
        mtime: given,
        ..SetAttr::default()
    };
    setattr(&mut raw, 1, set).unwrap();
    let changed = getattr(&mut raw, 1);
    assert_eq!(changed.mode, 0o100_751);
    assert_eq!((changed.atime, changed.mtime), (early, given));
    let meta = served.path("f").metadata().unwrap();
    assert_eq!((meta.atime_nsec(), meta.mtime()), (999_999_999, -7));
    assert_ne!(changed.qid.version, attr.qid.version);
    // Each of the times to now, without the other.
    setattr(
        &mut raw,
        1,
        SetAttr {
            valid: SetAttr::ATIME,
            ..SetAttr::default()
        },
    )
    .unwrap();
    let now = UNIX_EPOCH.elapsed().unwrap().as_secs();
    let touched = getattr(&mut raw, 1);
    assert!(touched.atime.sec.abs_diff(now) < 100 && touched.mtime == given);
    // Changes only ctime. Waits first, since two changes within a tick have the same.
    std::thread::sleep(Duration::from_millis(20));
    setattr(
        &mut raw,
        1,
        SetAttr {
            valid: SetAttr::CTIME,
            ..SetAttr::default()
        },
    )
    .unwrap();
    let ctime = getattr(&mut raw, 1).ctime;
    assert!((ctime.sec, ctime.nsec) > (touched.ctime.sec, touched.ctime.nsec));
    // Sizes through a fid that is not open, and invalid requests.
    let size = |size| SetAttr {
        valid: SetAttr::SIZE,
        size,
        ..SetAttr::default()
    };
    setattr(&mut raw, 1, size(3)).unwrap();
    assert_eq!(fs::read(served.path("g")).unwrap(), b"123");
    assert_eq!(setattr(&mut raw, 0, size(3)), Err(Errno::EISDIR));
    assert_eq!(setattr(&mut raw, 1, size(u64::MAX)), Err(Errno::EINVAL));
    let mad = Time {
        sec: 0,
        nsec: 1 << 30,
    };
    assert_eq!(
        setattr(&mut raw, 1, SetAttr { mtime: mad, ..set }),
        Err(Errno::EINVAL)
    );
}

#[test]
fn a_changed_file_has_another_version_and_the_same_path() {
    let (served, mut raw) = served();
    served.write("f", "1");
    raw.walk(0, 1, "f").unwrap();
    let mut seen = HashSet::new();
    let path = getattr(&mut raw, 1).qid.path;
    for n in 0..20 {
        assert!(seen.insert(getattr(&mut raw, 1).qid.version));
        // Longer than the tick of some kernels' time stamps.
        std::thread::sleep(Duration::from_millis(12));
        fs::write(served.path("f"), if n % 2 == 0 { "1" } else { "22" }).unwrap();
        assert_eq!(getattr(&mut raw, 1).qid.path, path);
    }
}

#[test]
fn an_open_file_outlives_its_names() {
    let (served, mut raw) = served();
    served.mkdir("d");
    served.write("d/f", "content");
    raw.open(1, "d/f", RDWR).unwrap();
    raw.walk(0, 2, "d/f").unwrap();
    fs::rename(served.path("d"), served.path("e")).unwrap();
    assert_eq!(raw.read(1, 0, 100).unwrap(), b"content");
    fs::remove_dir_all(served.path("e")).unwrap();
    assert_eq!(raw.read(1, 0, 100).unwrap(), b"content");
    raw.write(1, 0, b"C").unwrap();
    assert_eq!(getattr(&mut raw, 1).nlink, 0);
    let chmod = SetAttr {
        valid: SetAttr::MODE | SetAttr::SIZE,
        mode: 0o600,
        size: 3,
        ..SetAttr::default()
    };
    setattr(&mut raw, 2, chmod).unwrap();
    // A fid that was never opened can still be opened.
    raw.ask(&Request::Lopen {
        fid: 2,
        flags: RDONLY,
    })
    .unwrap();
    assert_eq!(raw.read(2, 0, 100).unwrap(), b"Con");
}

/// As a program does that needs a temporary file without a name. (Linux's client refuses `O_TMPFILE` itself.)
#[test]
fn a_temporary_file_lives_without_its_name() {
    let (served, mut raw) = served();
    served.mkdir("a");
    served.mkdir("a/b");
    raw.walk(0, 2, "a/b").unwrap();
    create(&mut raw, 1, "a/b", "tmp", RDWR | OpenFlags::EXCL, 0o600).unwrap();
    let unlink = Request::Unlinkat {
        dfid: 2,
        name: name("tmp"),
        flags: 0,
    };
    raw.ask(&unlink).unwrap();
    raw.write(1, 0, b"0123456789").unwrap();
    let size = SetAttr {
        valid: SetAttr::SIZE | SetAttr::MODE,
        size: 4,
        mode: 0o640,
        ..SetAttr::default()
    };
    setattr(&mut raw, 1, size).unwrap();
    assert_eq!(raw.read(1, 1, 100).unwrap(), b"123");
    let attr = getattr(&mut raw, 1);
    assert_eq!((attr.nlink, attr.size, attr.mode), (0, 4, 0o100_640));
    // A directory can still be used after it is moved.
    fs::rename(served.path("a"), served.path("z")).unwrap();
    fs::rename(served.path("z/b"), served.path("b")).unwrap();
    fs::remove_dir(served.path("z")).unwrap();
    raw.ask(&Request::Mkdir {
        dfid: 2,
        name: name("made"),
        mode: 0o700,
        gid: 0,
    })
    .unwrap();
    assert!(served.path("b/made").is_dir());
}

#[test]
fn extended_attributes_come_and_go() {
    let (served, mut raw) = served();
    served.write("f", "");
    raw.walk(0, 1, "f").unwrap();
    let get = |raw: &mut RawClient, attribute: &str| -> Result<Vec<u8>, Errno> {
        raw.ask(&Request::Xattrwalk {
            fid: 1,
            newfid: 9,
            name: text(attribute),
        })?;
        let value = raw.read(9, 0, 1 << 17);
        raw.clunk(9).unwrap();
        value
    };
    let set = |raw: &mut RawClient, attribute: &str, value: &[u8], flags| {
        raw.walk(1, 8, "").unwrap();
        let size = value.len() as u64;
        raw.ask(&Request::Xattrcreate {
            fid: 8,
            name: text(attribute),
            size,
            flags,
        })
        .unwrap();
        raw.write(8, 0, value).unwrap();
        raw.clunk(8).map(drop)
    };
    assert_eq!(get(&mut raw, "user.a"), Err(Errno::ENODATA));
    let flags = rustix::fs::XattrFlags::empty();
    let here = rustix::fs::setxattr(served.path("f"), c"user.here", b"1", flags);
    if here == Err(rustix::io::Errno::OPNOTSUPP) {
        // The file system of the temporary directory has no extended attributes.
        assert_eq!(set(&mut raw, "user.a", b"value", 0), Err(Errno::EOPNOTSUPP));
        return;
    }
    assert_eq!(get(&mut raw, "user.here").unwrap(), b"1");
    set(&mut raw, "user.a", b"value", 0).unwrap();
    assert_eq!(get(&mut raw, "user.a").unwrap(), b"value");
    set(&mut raw, "user.long", &[7; 1000], 0).unwrap();
    assert_eq!(get(&mut raw, "user.long").unwrap(), [7; 1000]);
    // The largest size depends on the file system.
    let big = vec![8; 20_000];
    let here = rustix::fs::setxattr(served.path("f"), c"user.big", &big, flags);
    match set(&mut raw, "user.big.too", &big, 0) {
        Ok(()) => assert_eq!(get(&mut raw, "user.big.too").unwrap(), big),
        Err(errno) => assert_eq!(
            here.map_err(rustix::io::Errno::raw_os_error),
            Err(errno.raw().cast_signed())
        ),
    }
    let names = get(&mut raw, "").unwrap();
    assert!(names.split(|b| *b == 0).any(|name| name == b"user.long"));
    assert_eq!(set(&mut raw, "user.a", b"again", 1), Err(Errno::EEXIST));
    assert_eq!(set(&mut raw, "user.none", b"x", 2), Err(Errno::ENODATA));
    set(&mut raw, "user.empty", b"", 0).unwrap();
    assert_eq!(get(&mut raw, "user.empty").unwrap(), b"");
    set(&mut raw, "user.a", b"", 2).unwrap();
    assert_eq!(get(&mut raw, "user.a"), Err(Errno::ENODATA));
}

#[test]
fn statfs_is_real() {
    let (served, mut raw) = served();
    let Reply::Statfs { stat } = raw.ask(&Request::Statfs { fid: 0 }).unwrap().reply() else {
        panic!()
    };
    let here = rustix::fs::statvfs(served.path("")).unwrap();
    assert_eq!(
        (stat.blocks, u64::from(stat.bsize), stat.files, stat.fsid),
        (here.f_blocks, here.f_frsize, here.f_files, here.f_fsid)
    );
    assert_eq!(u64::from(stat.namelen), here.f_namemax);
    // Only approximately, since other processes write meanwhile.
    for (told, is, all) in [
        (stat.bfree, here.f_bfree, here.f_blocks),
        (stat.bavail, here.f_bavail, here.f_blocks),
        (stat.ffree, here.f_ffree, here.f_files),
    ] {
        assert!(told.abs_diff(is) <= all / 10, "{told} {is}");
    }
    // With the type of the local file system, programs would wait for inotify.
    assert_eq!(stat.magic, 0x00c3_6400);
}

/// Files in sysfs report a size of one page, and are then read to the end. A sparse file of one page keeps its size.
#[test]
fn what_has_no_size_of_its_own_says_none() {
    let size = |root: &str, file: &str| {
        let export = Arc::new(Export::new(root.as_ref()).unwrap());
        let mut raw = RawClient::attached(export, Config::default());
        assert_eq!(raw.walk(0, 1, file), Ok(file.split('/').count()));
        let size = getattr(&mut raw, 1).size;
        raw.open(2, file, RDONLY).unwrap();
        (size, raw.read(2, 0, 8192).unwrap())
    };
    let (none, text) = size("/sys", "devices/system/cpu/online");
    assert_eq!(none, 0);
    assert_eq!(text, fs::read("/sys/devices/system/cpu/online").unwrap());
    let busses = fs::read_dir("/sys/bus/pci/devices").into_iter().flatten();
    for device in busses {
        let device = fs::canonicalize(device.unwrap().path()).unwrap();
        let config = device.strip_prefix("/sys").unwrap().join("config");
        let (none, bytes) = size("/sys", config.to_str().unwrap());
        assert_eq!(none, 0, "{config:?}");
        assert!(bytes.len() >= 64, "{config:?}");
    }
    let hole = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    hole.as_file().set_len(4096).unwrap();
    let name = hole.path().file_name().unwrap().to_str().unwrap();
    assert_eq!(size("/dev/shm", name), (4096, vec![0; 4096]));
}

#[test]
fn many_tags_on_one_fid() {
    let (served, mut raw) = served();
    let content: Vec<u8> = (0..200_000_u32).map(|n| (n / 7) as u8).collect();
    fs::write(served.path("f"), &content).unwrap();
    raw.open(1, "f", RDONLY).unwrap();
    for tag in 0..500_u16 {
        let offset = u64::from(tag) * 397;
        raw.send(
            tag,
            &Request::Read {
                fid: 1,
                offset,
                count: 1000,
            },
        );
    }
    for _ in 0..500 {
        let message = raw.receive();
        let at = usize::from(message.tag) * 397;
        assert_eq!(message.data(), &content[at..content.len().min(at + 1000)]);
    }
}

/// The number of read system calls of this thread (proc_pid_io(5)).
fn reads() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/io").unwrap();
    let count = text.lines().find_map(|line| line.strip_prefix("syscr: "));
    count.unwrap().parse().unwrap()
}

#[test]
fn a_read_is_one_system_call_however_large() {
    let (served, _) = served();
    fs::write(served.path("f"), vec![7; 2 << 20]).unwrap();
    let export = &*served.export;
    let who = Attach {
        uname: b"",
        aname: b"",
        n_uname: NO_ID,
    };
    let (root, _) = export.attach(&who).unwrap();
    let (node, _) = export.walk(&root, b"f").unwrap();
    let (file, _) = export.open(&node, OpenFlags(0)).unwrap();
    let mut buf = vec![0; (1 << 20) - 11];
    let asking = {
        let before = reads();
        reads() - before
    };
    let before = reads();
    assert_eq!(export.read(&file, 0, &mut buf).unwrap(), buf.len());
    assert_eq!(reads() - before, asking + 1);
    assert!(buf.iter().all(|byte| *byte == 7));
}
