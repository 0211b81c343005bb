//! Owners of files, here and as the peer sees them.

use super::*;

const BOTH: u32 = SetAttr::UID | SetAttr::GID;

const ACL: &str = "system.posix_acl_access";

/// New files belong to the user who attached if the server runs as root, else to the server's user.
#[test]
fn new_files_belong_to_who_attached() {
    let served = ServedTree::new();
    chmod(&served, &[("", 0o700)]);
    let mut raw = RawClient::start(served.export.clone(), Config::default()).0;
    raw.version(1 << 20);
    for (fid, n_uname) in [(0, 0), (100, 54321)] {
        let Request::Attach {
            afid, uname, aname, ..
        } = attach(fid)
        else {
            unreachable!();
        };
        let attach = Request::Attach {
            fid,
            afid,
            uname,
            aname,
            n_uname,
        };
        raw.ask(&attach).unwrap();
    }
    let gid = 54322;
    let text = |text: &'static str| Str::new(text.as_bytes()).unwrap();
    let make = |name, dfid| {
        [
            Request::Mkdir {
                dfid,
                name,
                mode: 0o755,
                gid,
            },
            Request::Mknod {
                dfid,
                name,
                mode: 0o010_644,
                major: 0,
                minor: 0,
                gid,
            },
            Request::Symlink {
                dfid,
                name,
                target: text("nowhere"),
                gid,
            },
        ]
    };
    for (index, request) in make(name("x"), 100).into_iter().enumerate() {
        raw.ask(&request).unwrap();
        fs::rename(served.path("x"), served.path(&index.to_string())).unwrap();
    }
    raw.walk(100, 101, "").unwrap();
    let create = Request::Lcreate {
        fid: 101,
        name: name("file"),
        flags: RDWR,
        mode: 0o6755,
        gid,
    };
    raw.ask(&create).unwrap();
    // The same in a directory that was walked to, after a rename, and through its `..`.
    raw.walk(100, 102, "0").unwrap();
    raw.ask(&make(name("deep"), 102)[0]).unwrap();

    let root = rustix::process::geteuid().is_root();
    for (file, mode) in [
        ("0", 0o040_755),
        ("0/deep", 0o040_755),
        ("1", 0o010_644),
        ("2", 0o120_777),
        ("file", 0o106_755),
    ] {
        let found = served.path(file).symlink_metadata().unwrap();
        let want = if root {
            (54321, gid)
        } else {
            (rustix::process::geteuid().as_raw(), found.gid())
        };
        assert_eq!((found.uid(), found.gid()), want, "{file}");
        // Without privilege, set-group-ID stays only if the user is in the group (open(2)).
        assert_eq!(found.mode() | 0o2000, mode | 0o2000, "{file}");
        assert!(!root || found.mode() == mode, "{file}: {:o}", found.mode());
    }
    // The same threads still create root's files, and still have root's rights.
    served.mkdir("closed");
    chmod(&served, &[("closed", 0)]);
    if root {
        raw.walk(0, 1, "closed").unwrap();
        raw.ask(&make(name("mine"), 1)[1]).unwrap();
        let found = served.path("closed/mine").metadata().unwrap();
        assert_eq!((found.uid(), found.gid()), (0, gid));
        // For the other user too: the peer's kernel has allowed it.
        raw.walk(100, 2, "closed").unwrap();
        raw.ask(&make(name("his"), 2)[1]).unwrap();
        let found = served.path("closed/his").metadata().unwrap();
        assert_eq!((found.uid(), found.gid()), (54321, gid));
    }
}

/// Files of the user who serves appear as root's there, and root there means that user.
#[test]
fn the_users_files_are_roots_there() {
    let is_root = rustix::process::geteuid().is_root();
    let served = ServedTree::new();
    for file in ["roots", "stranger's"] {
        served.write(file, "");
    }
    served.mkdir("d");
    chmod(&served, &[("d", 0o777), ("", 0o755), ("..", 0o755)]);
    if is_root {
        std::os::unix::fs::chown(served.path("stranger's"), Some(4321), Some(4321)).unwrap();
    }
    let owner = |file: &str| {
        let found = served.path(file).symlink_metadata().unwrap();
        (found.uid(), found.gid())
    };
    as_nobody(|| {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let (uid, gid) = (uid.as_raw(), gid.as_raw());
        let export = Export::new(&served.path("")).unwrap();
        let export = Arc::new(export.with_ids(IdMap::root_is(uid, gid)));
        let mut raw = RawClient::attached(export, Config::default());

        create(&mut raw, 1, "d", "file", RDWR, 0o4755).unwrap();
        raw.walk(0, 2, "d").unwrap();
        let made = name("dir");
        let (dfid, gid_there) = (2, 0);
        raw.ask(&Request::Mkdir {
            dfid,
            name: made,
            mode: 0o755,
            gid: gid_there,
        })
        .unwrap();
        let (made, target) = (name("link"), text("nowhere"));
        raw.ask(&Request::Symlink {
            dfid,
            name: made,
            target,
            gid: gid_there,
        })
        .unwrap();
        let fifo = Request::Mknod {
            dfid,
            name: name("fifo"),
            mode: 0o010_644,
            major: 0,
            minor: 0,
            gid: gid_there,
        };
        raw.ask(&fifo).unwrap();
        for file in ["d/file", "d/dir", "d/link", "d/fifo"] {
            assert_eq!(owner(file), (uid, gid), "{file}");
            raw.walk(0, 3, file).unwrap();
            let attr = getattr(&mut raw, 3);
            assert_eq!((attr.uid, attr.gid), (0, 0), "{file}");
            // To root, or to himself by his own number: both change nothing.
            for (valid, to_uid, to_gid) in [(BOTH, 0, 0), (SetAttr::UID, 0, 9), (BOTH, uid, gid)] {
                set_owner(&mut raw, 3, valid, to_uid, to_gid).unwrap();
                assert_eq!(owner(file), (uid, gid), "{file}");
            }
            // What he may not do here he may not do there.
            for (valid, to_uid, to_gid) in [
                (SetAttr::UID, 4321, 0),
                (SetAttr::GID, 0, 4321),
                (BOTH, 0, 4321),
                (BOTH, 4321, 0),
            ] {
                assert_eq!(
                    set_owner(&mut raw, 3, valid, to_uid, to_gid),
                    Err(Errno::EPERM)
                );
                assert_eq!(owner(file), (uid, gid), "{file}");
            }
            raw.clunk(3).unwrap();
        }
        assert_eq!(
            served.path("d/file").metadata().unwrap().mode() & 0o7777,
            0o755,
            "as chown(2), it takes the set-user-id bit away"
        );

        if !is_root {
            return eprintln!("not tried: files of others, which takes root");
        }
        // Root's files stay exactly as they are, and so do those of others.
        let before = served.path("roots").metadata().unwrap();
        raw.walk(0, 3, "roots").unwrap();
        let attr = getattr(&mut raw, 3);
        assert_eq!((attr.uid, attr.gid), (0, 0));
        set_owner(&mut raw, 3, BOTH, 0, 0).unwrap();
        for (to_uid, to_gid) in [(uid, 0), (0, 4321), (4321, 4321)] {
            assert_eq!(
                set_owner(&mut raw, 3, BOTH, to_uid, to_gid),
                Err(Errno::EPERM)
            );
        }
        let after = served.path("roots").metadata().unwrap();
        assert_eq!((after.uid(), after.gid()), (0, 0));
        assert_eq!(
            (after.ctime(), after.ctime_nsec()),
            (before.ctime(), before.ctime_nsec())
        );
        raw.walk(0, 4, "stranger's").unwrap();
        let attr = getattr(&mut raw, 4);
        assert_eq!((attr.uid, attr.gid), (4321, 4321));
        for (to_uid, to_gid) in [(0, 0), (uid, gid), (4321, 0)] {
            assert_eq!(
                set_owner(&mut raw, 4, BOTH, to_uid, to_gid),
                Err(Errno::EPERM)
            );
        }
        set_owner(&mut raw, 4, BOTH, 4321, 4321).unwrap();
        assert_eq!(owner("stranger's"), (4321, 4321));
    });
}

/// The same for attributes in the reply to a walk, and for access control lists.
#[test]
fn the_users_files_are_roots_wherever_numbers_travel() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("not tried: it takes a file of another user, so root");
    }
    let served = ServedTree::new();
    served.write("f", "");
    let (uid, gid) = (54321, 54322);
    std::os::unix::fs::chown(served.path("f"), Some(uid), Some(gid)).unwrap();
    let export = Export::new(&served.path("")).unwrap();
    let export = Arc::new(export.with_ids(IdMap::root_is(uid, gid)));
    let (mut raw, _) = RawClient::start(export, Config::default());
    raw.dialect(1 << 20, EXTENDED);
    raw.ask(&attach(0)).unwrap();
    let walk = Request::Walkgetattr {
        fid: 0,
        newfid: 1,
        name: name("f"),
    };
    match raw.ask(&walk).unwrap().reply() {
        Reply::Walkgetattr { attr } => assert_eq!((attr.uid, attr.gid), (0, 0)),
        other => panic!("{other:?}"),
    }

    // u::rw-,u:UID:rw-,g::r--,m::rw-,o::---
    let acl = |uid: u32| {
        let entries = [
            (1, 6, !0),
            (2, 6, uid),
            (4, 4, !0),
            (16, 6, !0),
            (32, 0, !0),
        ];
        let mut value = 2_u32.to_le_bytes().to_vec();
        for (tag, rights, id) in entries {
            value.extend([tag, 0, rights, 0]);
            value.extend(u32::to_le_bytes(id));
        }
        value
    };
    raw.walk(1, 2, "").unwrap();
    let create = Request::Xattrcreate {
        fid: 2,
        name: text(ACL),
        size: acl(0).len() as u64,
        flags: 0,
    };
    raw.ask(&create).unwrap();
    raw.write(2, 0, &acl(0)).unwrap();
    raw.clunk(2).unwrap();
    let mut seen = [0; 256];
    let n = rustix::fs::getxattr(served.path("f"), ACL, &mut seen).unwrap();
    assert_eq!(&seen[..n], acl(uid));
    let walk = Request::Xattrwalk {
        fid: 1,
        newfid: 2,
        name: text(ACL),
    };
    raw.ask(&walk).unwrap();
    assert_eq!(raw.read(2, 0, 256).unwrap(), acl(0));
}
