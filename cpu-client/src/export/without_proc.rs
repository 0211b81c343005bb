//! Tests of an export where `/proc` is not mounted, as in a minimal chroot.

use std::fs;

use ninep::errno::Errno;
use ninep::fs::{Attach, FileSystem, OpenFlags};
use ninep::msg::{NO_ID, SetAttr, Time};
use rustix::fs::FileType;
use tempfile::TempDir;

use super::{Export, Node};

fn export() -> (TempDir, Export, Node) {
    let dir = TempDir::new().unwrap();
    let mut export = Export::new(dir.path()).unwrap();
    export.proc = None;
    let attach = Attach {
        uname: b"",
        aname: b"",
        n_uname: NO_ID,
    };
    let (root, _) = export.attach(&attach).unwrap();
    (dir, export, root)
}

const RDWR: OpenFlags = OpenFlags(OpenFlags::RDWR);

#[test]
fn files_are_opened_by_the_name_they_still_have() {
    let (dir, export, root) = export();
    let path = dir.path().join("f");
    fs::write(&path, "first").unwrap();
    let (node, _) = export.walk(&root, b"f").unwrap();
    let (file, _) = export.open(&node, RDWR).unwrap();
    assert_eq!(export.write(&file, 0, b"F"), Ok(1));

    fs::rename(&path, dir.path().join("g")).unwrap();
    assert_eq!(export.open(&node, RDWR).err(), Some(Errno::ENOENT));
    fs::write(&path, "second").unwrap();
    assert_eq!(export.open(&node, RDWR).err(), Some(Errno::ESTALE));
    let truncate = OpenFlags(OpenFlags::RDWR | OpenFlags::TRUNC);
    assert_eq!(export.open(&node, truncate).err(), Some(Errno::ESTALE));
    assert_eq!(fs::read(&path).unwrap(), b"second");
    let (other, _) = export.walk(&root, b"g").unwrap();
    assert_eq!(export.link(&root, b"h", &node), Err(Errno::ESTALE));
    export.link(&root, b"h", &other).unwrap();
    assert_eq!(fs::read(dir.path().join("h")).unwrap(), b"First");
}

#[test]
fn directories_and_attributes_work_and_the_rest_says_no() {
    let (dir, export, root) = export();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("d/f"), "12345").unwrap();
    let (d, _) = export.walk(&root, b"d").unwrap();
    assert_eq!(d.kind(), FileType::Directory);
    export.open(&d, OpenFlags(0)).unwrap();
    let (f, _) = export.walk(&d, b"f").unwrap();
    let change = SetAttr {
        valid: SetAttr::MODE | SetAttr::SIZE | SetAttr::MTIME | SetAttr::MTIME_SET,
        mode: 0o751,
        size: 3,
        mtime: Time { sec: 9, nsec: 0 },
        ..SetAttr::default()
    };
    export.setattr(&f, None, &change).unwrap();
    let attr = export.getattr(&f, 0).unwrap();
    assert_eq!((attr.mode, attr.size, attr.mtime.sec), (0o100_751, 3, 9));
    assert_eq!(export.xattr(&f, None), Err(Errno::EOPNOTSUPP));
    assert_eq!(
        export.set_xattr(&f, b"user.a", None, 0),
        Err(Errno::EOPNOTSUPP)
    );
}
