//! Requests that are out of order, repeated, too large, or about what does not exist.

use super::*;
use ninep::msg::{Kind, NO_TAG};
use ninep::server::Error;

/// One request of each kind, on `fid` if it has a fid.
fn requests(fid: u32) -> Vec<Request<'static>> {
    let mut names = WalkVec::default();
    names.push(name("d"));
    let (x, target) = (name("x"), text("../secret"));
    let lock = Flock {
        kind: Flock::WRITE,
        start: 0,
        length: 0,
        proc_id: 1,
    };
    let attr = |valid| SetAttr {
        valid,
        mode: 0o755,
        size: 1,
        ..SetAttr::default()
    };
    vec![
        Request::Statfs { fid },
        Request::Getattr { fid, mask: !0 },
        Request::Setattr {
            fid,
            attr: attr(SetAttr::MODE | SetAttr::SIZE | SetAttr::MTIME),
        },
        Request::Readlink { fid },
        Request::Read {
            fid,
            offset: 0,
            count: u32::MAX,
        },
        Request::Readdir {
            fid,
            offset: 0,
            count: u32::MAX,
        },
        Request::Write {
            fid,
            offset: 0,
            data: Data(b"x"),
        },
        Request::Fsync { fid, datasync: 0 },
        Request::Lock {
            fid,
            kind: Flock::WRITE,
            flags: 0,
            start: 0,
            length: 0,
            proc_id: 1,
            client_id: text("c"),
        },
        Request::Getlock {
            fid,
            lock,
            client_id: text("c"),
        },
        Request::Xattrwalk {
            fid,
            newfid: 90,
            name: Str::default(),
        },
        Request::Walk {
            fid,
            newfid: 91,
            names,
        },
        Request::Link {
            dfid: 0,
            fid,
            name: x,
        },
        Request::Link {
            dfid: fid,
            fid: 0,
            name: x,
        },
        Request::Symlink {
            dfid: fid,
            name: name("sym"),
            target,
            gid: 0,
        },
        Request::Mkdir {
            dfid: fid,
            name: name("dir"),
            mode: 0o755,
            gid: 0,
        },
        Request::Mknod {
            dfid: fid,
            name: name("node"),
            mode: 0o010_600,
            major: 0,
            minor: 0,
            gid: 0,
        },
        Request::Renameat {
            olddirfid: fid,
            oldname: name("sym"),
            newdirfid: fid,
            newname: name("sym2"),
        },
        Request::Unlinkat {
            dfid: fid,
            name: name("sym2"),
            flags: 0,
        },
        Request::Rename {
            fid,
            dfid: 0,
            name: name("renamed"),
        },
        Request::Lopen { fid, flags: RDWR },
        Request::Xattrcreate {
            fid,
            name: text("user.x"),
            size: 1,
            flags: 0,
        },
        Request::Lcreate {
            fid,
            name: name("created"),
            flags: RDWR,
            mode: 0o600,
            gid: 0,
        },
        Request::Remove { fid },
        Request::Clunk { fid },
    ]
}

/// Every request on every kind of fid is carried out or refused, and the session continues.
#[test]
fn every_request_on_every_kind_of_fid_is_answered() {
    const KINDS: usize = 8;
    let mut answers = [[0; 2]; KINDS];
    for nth in 0..requests(1).len() {
        let (served, mut raw) = served();
        for (kind, counts) in answers.iter_mut().enumerate() {
            let fid = 1 + kind as u32;
            let _ = fs::create_dir_all(served.path("d"));
            served.write("f", "content");
            let _ = symlink("../secret", served.path("l"));
            match kind {
                0 => {} // unknown
                1 => drop(raw.walk(0, fid, "f").unwrap()),
                2 => drop(raw.walk(0, fid, "d").unwrap()),
                3 => drop(raw.open(fid, "f", RDWR).unwrap()),
                4 => drop(raw.open(fid, "d", RDONLY).unwrap()),
                5 => drop(raw.walk(0, fid, "l").unwrap()),
                6 => {
                    let (newfid, name) = (fid, Str::default());
                    let walk = Request::Xattrwalk {
                        fid: 0,
                        newfid,
                        name,
                    };
                    drop(raw.ask(&walk).unwrap());
                }
                _ => {
                    raw.walk(0, fid, "f").unwrap();
                    let name = text("user.y");
                    let create = Request::Xattrcreate {
                        fid,
                        name,
                        size: 9,
                        flags: 0,
                    };
                    drop(raw.ask(&create).unwrap());
                }
            }
            let answer = raw.ask(&requests(fid)[nth]);
            if kind == 0 {
                assert_eq!(errno(answer), Some(Errno::EBADF));
                counts[1] += 1;
            } else {
                counts[usize::from(answer.is_err())] += 1;
            }
            assert_eq!(getattr(&mut raw, 0).qid.kind, Qid::DIR);
            for fid in [fid, 90, 91] {
                let _ = raw.clunk(fid);
            }
        }
        let secret = served.dir.path().join("secret");
        let meta = secret.metadata().unwrap();
        assert_eq!(
            (meta.nlink(), meta.mode() & 0o777),
            (1, 0o666),
            "umask is 0"
        );
        assert_eq!(fs::read(secret).unwrap(), b"secret");
    }
    for (kind, [done, refused]) in answers.into_iter().enumerate() {
        assert!(
            refused > 3 && (done > 3 || kind == 0),
            "kind {kind}: {done} {refused}"
        );
    }
}

/// A message with an unknown number gets an errno or ends the session.
#[test]
fn every_number_of_a_message_is_answered() {
    let (_served, mut raw) = served();
    for number in 0..=u8::MAX {
        if number == Kind::Version.number() {
            continue;
        }
        for body in [&b""[..], &[0; 3], &[0xff; 40]] {
            let size = (7 + body.len() as u32).to_le_bytes();
            raw.send_bytes(&[&size[..], &[number, 7, 0], body].concat());
            let message = raw.receive();
            assert_eq!(message.tag, 7);
            assert!(message.errno().is_some(), "{number}");
        }
    }
    assert_eq!(getattr(&mut raw, 0).qid.kind, Qid::DIR);
}

#[test]
fn a_failed_version_leaves_nothing_to_use() {
    let (served, mut raw) = served();
    served.write("f", "content");
    raw.open(1, "f", RDWR).unwrap();
    for (msize, dialect, refused) in [(100, "9P2000.L", true), (8192, "9P1999", false)] {
        let answer = raw.ask(&ninep_testing::version(msize, dialect.as_bytes()));
        assert_eq!(answer.is_err(), refused);
        for request in [attach(0), attach(5)].into_iter().chain(requests(1)) {
            assert_eq!(errno(raw.ask(&request)), Some(Errno::EPROTO), "{request:?}");
        }
        assert_eq!(fs::read(served.path("f")).unwrap(), b"content");
    }
    raw.version(8192);
    assert_eq!(
        errno(raw.ask(&Request::Clunk { fid: 1 })),
        Some(Errno::EBADF)
    );
    raw.ask(&attach(0)).unwrap();
    raw.open(1, "f", RDWR).unwrap();
}

#[test]
fn a_version_in_the_middle_gives_back_files_and_locks() {
    let (served, mut raw) = served();
    served.write("f", "content");
    let lock = |pid| Request::Lock {
        fid: 1,
        kind: Flock::WRITE,
        flags: 0,
        start: 0,
        length: 0,
        proc_id: pid,
        client_id: text("c"),
    };
    raw.open(1, "f", RDWR).unwrap();
    assert_eq!(
        raw.ask(&lock(1)).unwrap().reply(),
        Reply::Lock { status: 0 }
    );
    raw.version(8192);
    let mut other = served.session();
    other.open(1, "f", RDWR).unwrap();
    assert_eq!(
        other.ask(&lock(2)).unwrap().reply(),
        Reply::Lock { status: 0 }
    );
    assert_eq!(errno(raw.ask(&lock(1))), Some(Errno::EBADF));
    // A message that is larger than the new msize ends the session.
    let (mut raw, server) = RawClient::start(served.export.clone(), Config::default());
    raw.version(1 << 20);
    raw.version(4096);
    raw.send_bytes(&[&4097_u32.to_le_bytes()[..], &[118, 1, 0]].concat());
    assert!(matches!(
        server.join().unwrap(),
        Err(Error::Size {
            size: 4097,
            limit: 4096
        })
    ));
}

/// Two concurrent requests with one tag end the session. The first may have been carried out by then.
#[test]
fn a_tag_used_twice_does_no_harm() {
    let (served, _) = served();
    served.write("f", "content");
    for _ in 0..20 {
        let (mut raw, server) = RawClient::start(served.export.clone(), Config::default());
        raw.send(NO_TAG, &ninep_testing::version(8192, b"9P2000.L"));
        for tag in [1, 1, 1, 2, 2] {
            raw.send(tag, &attach(u32::from(tag)));
        }
        raw.hang_up();
        while raw.try_receive().is_some() {}
        match server.join().unwrap() {
            Ok(()) | Err(Error::DuplicateTag(1 | 2) | Error::Write(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn memory_is_not_the_peers_to_spend() {
    let (served, _) = served();
    served.write("f", "x");
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "hostile::child_with_little_memory",
            "--ignored",
            "--nocapture",
        ])
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

/// With 24 MiB of memory left, enough for a message each way for each thread and for the queues, a peer sends large numbers
/// wherever it can. If one of them were allocated, the process would end.
#[test]
#[ignore = "run by memory_is_not_the_peers_to_spend, in a process of its own"]
fn child_with_little_memory() {
    let export = Export::new(std::env::var_os("EXPORT").unwrap().as_ref()).unwrap();
    let mut raw = RawClient::attached(Arc::new(export), Config::default());
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmData:"))
        .unwrap();
    let used: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    let limit = rustix::process::Rlimit {
        current: Some((used << 10) + (24 << 20)),
        maximum: Some((used << 10) + (24 << 20)),
    };
    rustix::process::setrlimit(rustix::process::Resource::Data, limit).unwrap();
    raw.open(1, "f", RDWR).unwrap();
    raw.open(2, "", RDONLY).unwrap();
    for round in 0..200 {
        let offset = u64::MAX >> (round % 64);
        for request in [
            Request::Read {
                fid: 1,
                offset,
                count: u32::MAX - round,
            },
            Request::Readdir {
                fid: 2,
                offset: 0,
                count: u32::MAX - round,
            },
            Request::Xattrcreate {
                fid: 1,
                name: text("user.x"),
                size: offset,
                flags: 0,
            },
        ] {
            let _ = raw.ask(&request);
        }
        // Values that are announced and then never written.
        let fid = 100 + round;
        raw.walk(0, fid, "f").unwrap();
        let name = text("user.x");
        let _ = raw.ask(&Request::Xattrcreate {
            fid,
            name,
            size: 65_536,
            flags: 0,
        });
        let _ = raw.write(fid, 0, &vec![0; 65_536]);
    }
    // A message that announces the largest length.
    raw.write(1, 0, &vec![0; (1 << 20) - 23]).unwrap();
    assert_eq!(raw.read(1, 0, u32::MAX).unwrap().len(), (1 << 20) - 23);
}
