//! What a listing and a look-up tell of files besides their attributes: what links lead to, and which files have no extended
//! attributes. The peer is a kernel behind a relay.

use cpu_client::export::{Rule, RuleKind};
use ninep::wire::HEADER;
use rustix::fs::{XattrFlags, setxattr};

use super::there::There;
use super::*;

struct ListedTree {
    served: ServedTree,
    export: Arc<Export>,
    there: There,
}

impl ListedTree {
    /// A directory with each kind of file, whose names are known there if it is listed.
    fn new(is_listed: bool) -> Self {
        let served = ServedTree::at(Path::new("/dev/shm"));
        served.mkdir("d");
        served.mkdir("d/dir");
        for file in ["plain", "tagged"] {
            served.write(&format!("d/{file}"), "x");
        }
        symlink("plain", served.path("d/link")).unwrap();
        symlink("x".repeat(600), served.path("d/far")).unwrap();
        tag(&served, "d/tagged");
        let export = Arc::new(Export::new(&served.path("")).unwrap());
        let mut there = There::new(export.clone(), Arc::default());
        if is_listed {
            assert_eq!(there.list("d").unwrap().len(), 5);
        } else {
            for name in ["dir", "plain", "tagged", "link", "far"] {
                let fid = there.walk(&format!("d/{name}")).unwrap();
                there.clunk(fid);
            }
        }
        there.deliver_all();
        Self {
            served,
            export,
            there,
        }
    }

    fn settle(&mut self) {
        self.export.settle();
        self.there.deliver_all();
    }

    /// How often the peer waits for what ls -l asks of a file, and what that is: the size of its list of extended attributes, or
    /// what it leads to.
    fn ls(&mut self, name: &str) -> (usize, String) {
        let before = self.there.waits;
        let fid = self.there.walk(&format!("d/{name}")).unwrap();
        let list = self.there.new_fid();
        let reply = self.there.ask(&Request::Xattrwalk {
            fid,
            newfid: list,
            name: text(""),
        });
        let reply = reply.unwrap();
        let Reply::Xattrwalk { size } = Reply::decode(reply[4], &reply[HEADER..]).unwrap() else {
            panic!("{reply:?}");
        };
        self.there.clunk(list);
        let mut says = size.to_string();
        if let Ok(reply) = self.there.ask(&Request::Readlink { fid })
            && let Reply::Readlink { target } = Reply::decode(reply[4], &reply[HEADER..]).unwrap()
        {
            says = String::from_utf8(target.bytes().to_vec()).unwrap();
        }
        self.there.clunk(fid);
        (self.there.waits - before, says)
    }
}

/// The name of a POSIX ACL, as it is in the list of a file's extended attributes.
const ACL: &[u8] = b"system.posix_acl_access\0";

/// Gives a file an ACL with a second user, which has no room in its mode.
fn tag(served: &ServedTree, file: &str) {
    // linux/posix_acl_xattr.h: a version, and each entry with tag, permissions and uid.
    let entries = [
        (1, 6, u32::MAX),
        (2, 4, 12345),
        (4, 4, u32::MAX),
        (0x10, 4, u32::MAX),
        (0x20, 4, u32::MAX),
    ];
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        acl.extend(u16::to_le_bytes(tag));
        acl.extend(u16::to_le_bytes(permissions));
        acl.extend(u32::to_le_bytes(id));
    }
    let name = ACL.strip_suffix(b"\0").unwrap();
    setxattr(served.path(file), name, &acl, XattrFlags::empty()).unwrap();
}

#[test]
fn ls_l_waits_only_for_what_cannot_be_told() {
    let mut told = ListedTree::new(true);
    assert_eq!(told.ls("link"), (0, "plain".into()));
    // Readlink of a file that is no link is an error, for which Linux does not ask.
    assert_eq!(told.ls("plain"), (1, "0".into()));
    assert_eq!(told.ls("dir"), (1, "0".into()));
    assert_eq!(told.ls("tagged"), (2, ACL.len().to_string()));
    assert_eq!(told.ls("far"), (1, "x".repeat(600)));
    assert_eq!(told.ls("far").0, 1, "it is too long to be kept");
}

#[test]
fn who_does_not_list_a_directory_is_told_the_same() {
    let mut told = ListedTree::new(false);
    for (name, says) in [
        ("link", "plain"),
        ("plain", "0"),
        ("dir", "0"),
        ("far", &"x".repeat(600)),
    ] {
        assert_eq!(told.ls(name).1, says);
    }
    assert_eq!(told.ls("tagged").1, ACL.len().to_string());
}

#[test]
fn what_was_told_is_taken_back_when_it_changes() {
    let mut told = ListedTree::new(true);
    tag(&told.served, "d/plain");
    tag(&told.served, "d/dir");
    fs::remove_file(told.served.path("d/link")).unwrap();
    symlink("tagged", told.served.path("d/link")).unwrap();
    told.settle();
    let size = ACL.len().to_string();
    for (file, says) in [("plain", &*size), ("dir", &size), ("link", "tagged")] {
        assert_eq!(told.ls(file).1, says, "{file}");
    }
}

#[test]
fn nothing_is_told_of_a_link_that_the_peer_may_not_read() {
    for (path, says) in [("/d/link/x", "0"), ("/d/link", "secret")] {
        let mut told = ListedTree::new(false);
        fs::remove_file(told.served.path("d/link")).unwrap();
        symlink("secret", told.served.path("d/link")).unwrap();
        let rule = Rule {
            path: path.into(),
            kind: RuleKind::Only,
        };
        let export = Export::new(&told.served.path("")).unwrap();
        told.there = There::new(Arc::new(export.with_rules(&[rule])), Arc::default());
        for _ in 0..2 {
            assert_eq!(told.ls("link").1, says);
            told.there.deliver_all();
        }
    }
}
