//! Rights: the peer may do what the server's user may do, and no more.

use super::*;

fn mknod(
    raw: &mut RawClient,
    file: &str,
    mode: u32,
    (major, minor): (u32, u32),
) -> Result<(), Errno> {
    let request = Request::Mknod {
        dfid: 0,
        name: name(file),
        mode,
        major,
        minor,
        gid: 0,
    };
    raw.ask(&request).map(drop)
}

/// The peer has the rights of the server's user.
#[test]
fn permissions_are_the_users() {
    let served = ServedTree::new();
    served.write("theirs", "x");
    served.mkdir("open");
    let closed = if rustix::process::geteuid().is_root() {
        0o600
    } else {
        0
    };
    chmod(
        &served,
        &[
            ("theirs", closed),
            ("open", 0o777),
            ("", 0o755),
            ("..", 0o755),
        ],
    );
    as_nobody(|| {
        let mut raw = served.session();
        assert_eq!(errno(raw.open(1, "theirs", RDONLY)), Some(Errno::EACCES));
        create(&mut raw, 1, "open", "mine", RDWR, 0o4600).unwrap();
        let attr = getattr(&mut raw, 1);
        assert_eq!(attr.uid, rustix::process::geteuid().as_raw());
        // As with a local chown: not to others, not to a group without the user, but to the user himself.
        assert_eq!(
            set_owner(&mut raw, 1, SetAttr::UID, 0, 0),
            Err(Errno::EPERM)
        );
        assert_eq!(
            set_owner(&mut raw, 1, SetAttr::GID, 0, 54321),
            Err(Errno::EPERM)
        );
        set_owner(&mut raw, 1, SetAttr::UID, attr.uid, 0).unwrap();
        set_owner(&mut raw, 1, SetAttr::GID, 0, attr.gid).unwrap();
        assert_eq!(
            set_owner(&mut raw, 1, SetAttr::UID, !0, 0),
            Err(Errno::EINVAL)
        );
        // Files of others are not changed.
        raw.walk(0, 2, "theirs").unwrap();
        if rustix::process::geteuid() != rustix::fs::Uid::from_raw(served_owner(&served)) {
            for valid in [
                SetAttr::MODE,
                SetAttr::MTIME | SetAttr::MTIME_SET,
                SetAttr::UID,
            ] {
                assert_eq!(
                    set_owner(&mut raw, 2, valid, attr.uid, 0),
                    Err(Errno::EPERM),
                    "{valid}"
                );
            }
            assert_eq!(
                set_owner(&mut raw, 2, SetAttr::SIZE, 0, 0),
                Err(Errno::EACCES)
            );
        }
        assert!(matches!(
            mknod(&mut raw, "d", 0o020_666, (1, 3)),
            Err(Errno::EPERM | Errno::EACCES)
        ));
    });
}

fn served_owner(served: &ServedTree) -> u32 {
    served.path("").metadata().unwrap().uid()
}

/// A privileged user creates a device with its numbers. Opening it is up to the peer's kernel.
#[test]
fn devices_are_made_as_the_system_lets_the_user() {
    let (served, mut raw) = served();
    let here = rustix::fs::mknodat(
        rustix::fs::CWD,
        served.path("here"),
        rustix::fs::FileType::CharacterDevice,
        0o600.into(),
        rustix::fs::makedev(240, 0x12c),
    );
    let there = mknod(&mut raw, "there", 0o020_600, (240, 0x12c));
    let here = here.map_err(|errno| Errno::from_raw(errno.raw_os_error()));
    assert_eq!(there, here);
    if here.is_err() {
        return;
    }
    let rdev = |file: &str| served.path(file).symlink_metadata().unwrap().rdev();
    assert_eq!(rdev("there"), rdev("here"));
    raw.walk(0, 1, "there").unwrap();
    let attr = getattr(&mut raw, 1);
    assert_eq!(attr.mode, 0o020_600);
    // The encoding of new_encode_dev in linux/kdev_t.h.
    assert_eq!(attr.rdev, 0x10_f02c);
    let open = Request::Lopen { fid: 1, flags: 0 };
    assert_eq!(errno(raw.ask(&open)), Some(Errno::ENXIO));
}

/// Files that are created in a set-group-ID directory get its group.
#[test]
fn setgid_directories_give_their_group() {
    let (served, mut raw) = served();
    served.mkdir("d");
    let group = if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(served.path("d"), None, Some(4321)).unwrap();
        4321
    } else {
        served.path("d").metadata().unwrap().gid()
    };
    chmod(&served, &[("d", 0o2775)]);
    create(&mut raw, 1, "d", "f", RDWR, 0o640).unwrap();
    let attr = getattr(&mut raw, 1);
    assert_eq!((attr.gid, attr.mode), (group, 0o100_640));
    raw.walk(0, 2, "d").unwrap();
    let mkdir = Request::Mkdir {
        dfid: 2,
        name: name("sub"),
        mode: 0o755,
        gid: 0,
    };
    raw.ask(&mkdir).unwrap();
    raw.walk(2, 3, "sub").unwrap();
    let attr = getattr(&mut raw, 3);
    assert_eq!(
        (attr.gid, attr.mode),
        (group, 0o042_755),
        "and so does a directory in it"
    );
}

/// In a sticky directory only the owner of a file removes or renames it.
#[test]
fn sticky_directories_protect_what_is_others() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("not tried: it takes files of two users, so root");
    }
    let served = ServedTree::new();
    served.mkdir("tmp");
    served.write("tmp/roots", "x");
    chmod(&served, &[("tmp", 0o1777), ("", 0o755), ("..", 0o755)]);
    as_nobody(|| {
        let mut raw = served.session();
        create(&mut raw, 1, "tmp", "mine", RDWR, 0o600).unwrap();
        raw.walk(0, 2, "tmp").unwrap();
        let unlink = |file| Request::Unlinkat {
            dfid: 2,
            name: name(file),
            flags: 0,
        };
        let rename = |old, new| Request::Renameat {
            olddirfid: 2,
            oldname: name(old),
            newdirfid: 2,
            newname: name(new),
        };
        assert_eq!(errno(raw.ask(&unlink("roots"))), Some(Errno::EPERM));
        assert_eq!(errno(raw.ask(&rename("roots", "x"))), Some(Errno::EPERM));
        assert_eq!(errno(raw.ask(&rename("mine", "roots"))), Some(Errno::EPERM));
        raw.ask(&rename("mine", "still-mine")).unwrap();
        raw.ask(&unlink("still-mine")).unwrap();
    });
}

/// Privileged attributes are set, read and refused exactly as for a local process.
#[test]
fn security_attributes_are_the_users_business() {
    let served = ServedTree::new();
    chmod(&served, &[("", 0o777), ("..", 0o755)]);
    let try_all = || {
        let mut raw = served.session();
        // A file for each user of the test.
        let user = rustix::process::geteuid().as_raw();
        let (here, there) = (format!("here-{user}"), format!("there-{user}"));
        served.write(&here, "");
        served.write(&there, "");
        // cap_net_raw=ep in the format of linux/capability.h, version 2; and an unknown attribute.
        let capability = [
            1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        let values = [
            ("security.capability", &capability[..]),
            ("security.unheard-of", b"x"),
            ("trusted.x", b"x"),
            ("system.nothing", b"x"),
            ("user.x", b"x"),
        ];
        for (attribute, value) in values {
            let none = rustix::fs::XattrFlags::empty();
            let wanted = rustix::fs::setxattr(served.path(&here), attribute, value, none)
                .map_err(|errno| Errno::from_raw(errno.raw_os_error()));
            raw.walk(0, 1, &there).unwrap();
            let create = Request::Xattrcreate {
                fid: 1,
                name: text(attribute),
                size: value.len() as u64,
                flags: 0,
            };
            raw.ask(&create).unwrap();
            raw.write(1, 0, value).unwrap();
            assert_eq!(raw.clunk(1).map(drop), wanted, "{attribute} by {user}");
            let mut seen = [0; 64];
            if wanted.is_ok() {
                let n = rustix::fs::getxattr(served.path(&there), attribute, &mut seen).unwrap();
                assert_eq!(&seen[..n], value);
                raw.walk(0, 1, &there).unwrap();
                let walk = Request::Xattrwalk {
                    fid: 1,
                    newfid: 2,
                    name: text(attribute),
                };
                raw.ask(&walk).unwrap();
                assert_eq!(raw.read(2, 0, 100).unwrap(), value);
                raw.clunk(2).unwrap();
                raw.clunk(1).unwrap();
            }
        }
    };
    try_all();
    if rustix::process::geteuid().is_root() {
        as_nobody(try_all);
    }
}
