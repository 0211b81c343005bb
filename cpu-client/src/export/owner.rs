//! Owners of files, here and as the peer sees them.
//!
//! The user of a session is root there, and acts for the user who serves here. For programs that compare the owner of a
//! file with their own number, an [`IdMap`] shows that user's files as root's, like root's own; and when the peer names
//! root, it means that user.
//!
//! A server that runs as root creates new files as the user who attached, as a local process of that user would. Any other
//! server can only create files of its own user. This is only about the owner. The rights are the server's, as in every
//! other request: the peer's kernel has checked those of its user, and only it knows that user's groups.

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::fs::AtFlags;
use rustix::thread::{CapabilitySets, capabilities, set_capabilities};

use ninep::errno::Errno;
use ninep::fs::Result;
use ninep::msg::{Attr, NO_ID, SetAttr};

use super::node::Node;
use super::{Export, os, stat};

/// The user and group that the peer sees as root, besides root itself: those of the user who serves, or none.
///
/// All other numbers are unchanged. Both that user and root become root on the way to the peer; on the way back, root means
/// that user. So no file becomes root's that was not root's before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IdMap {
    uid: Ids,
    gid: Ids,
}

/// The mapping of user numbers, or of group numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Ids {
    own: Option<u32>,
}

impl IdMap {
    /// Root there is the user `uid` with the primary group `gid` here. If that is root too, nothing is mapped.
    pub fn root_is(uid: u32, gid: u32) -> Self {
        let ids = |id| Ids {
            own: (uid != 0).then_some(id),
        };
        Self {
            uid: ids(uid),
            gid: ids(gid),
        }
    }

    /// Maps attributes for the peer.
    pub(super) fn attr_to_peer(self, attr: &mut Attr) {
        attr.uid = self.uid.peer_id(attr.uid);
        attr.gid = self.gid.peer_id(attr.gid);
    }

    /// Maps the value of an extended attribute for the peer, if it contains users and groups.
    pub(super) fn xattr_to_peer(self, name: &[u8], value: &mut [u8]) {
        on_acl(name, value, |tag, id| match tag {
            Tag::User => self.uid.peer_id(id),
            Tag::Group => self.gid.peer_id(id),
        });
    }

    /// Maps the value of an extended attribute from the peer.
    pub(super) fn xattr_from_peer(self, name: &[u8], value: &mut [u8]) {
        on_acl(name, value, |tag, id| match tag {
            Tag::User => self.uid.local_id(id),
            Tag::Group => self.gid.local_id(id),
        });
    }
}

impl Ids {
    fn peer_id(self, id: u32) -> u32 {
        if Some(id) == self.own { 0 } else { id }
    }

    fn local_id(self, id: u32) -> u32 {
        match self.own {
            Some(own) if id == 0 => own,
            _ => id,
        }
    }

    /// The new number of a file with number `has` if the peer requests `wanted`. None if the peer sees that already.
    fn change(self, wanted: u32, has: u32) -> Option<u32> {
        let is_so = self.own.is_some() && self.peer_id(has) == wanted;
        (!is_so).then_some(self.local_id(wanted))
    }
}

/// What the number in an entry of an access control list stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tag {
    User,
    Group,
}

/// Changes the numbers in a POSIX access control list (linux/posix_acl_xattr.h: a version, and for each entry a tag, rights
/// and a number). Other values are unchanged.
///
/// `security.capability` contains a number too, but not an owner: it is the root of the user namespace in which the file
/// has its capabilities.
fn on_acl(name: &[u8], value: &mut [u8], change: impl Fn(Tag, u32) -> u32) {
    const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];
    const VERSION: [u8; 4] = 2_u32.to_le_bytes();
    let Some((&mut VERSION, entries)) = value.split_first_chunk_mut() else {
        return;
    };
    if !ACLS.contains(&name) {
        return;
    }
    for [tag, tag_high, _, _, id @ ..] in entries.as_chunks_mut::<8>().0 {
        let tag = match u16::from_le_bytes([*tag, *tag_high]) {
            0x02 => Tag::User,
            0x08 => Tag::Group,
            _ => continue,
        };
        *id = change(tag, u32::from_le_bytes(*id)).to_le_bytes();
    }
}

/// chown(2).
pub(super) fn change_owner(node: &Node, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    let uid = uid.map(rustix::fs::Uid::from_raw);
    let gid = gid.map(rustix::fs::Gid::from_raw);
    rustix::fs::chownat(node.fd(), c"", uid, gid, AtFlags::EMPTY_PATH).map_err(os)
}

/// While this exists, files that this thread creates have another owner.
struct FsIds {
    uid: Uid,
    gid: Gid,
    rights: CapabilitySets,
}

impl FsIds {
    fn new(uid: u32, gid: u32) -> Option<Self> {
        // setfsuid(2) drops some of root's capabilities, which are then restored.
        let rights = capabilities(None).ok()?;
        let gid = setfsgid(Gid::from_raw(gid));
        let uid = setfsuid(Uid::from_raw(uid));
        let made = Self { uid, gid, rights };
        set_capabilities(None, rights).ok()?;
        Some(made)
    }
}

impl Drop for FsIds {
    fn drop(&mut self) {
        setfsuid(self.uid);
        setfsgid(self.gid);
        let _ = set_capabilities(None, self.rights);
    }
}

impl Export {
    /// Applies the owner in a setattr. If the file is the user's or root's, and is to become root's there, its owner is not
    /// changed. Other changes are left to the system, as for any process of the user.
    pub(super) fn chown(&self, node: &Node, asked: &SetAttr) -> Result<()> {
        let id = |bit: u32, id: u32| match asked.valid & bit != 0 {
            true if id == NO_ID => Err(Errno::EINVAL),
            true => Ok(Some(id)),
            false => Ok(None),
        };
        let uid = id(SetAttr::UID, asked.uid)?;
        let gid = id(SetAttr::GID, asked.gid)?;
        if self.ids == IdMap::default() {
            return change_owner(node, uid, gid);
        }
        let has = stat::stat(node.fd()).map_err(os)?;
        let uid = uid.and_then(|uid| self.ids.uid.change(uid, has.stx_uid));
        let gid = gid.and_then(|gid| self.ids.gid.change(gid, has.stx_gid));
        // A change to the same owner succeeds even on a file of another user, and leaves its ctime alone.
        let is_his = self.ids.uid.own == Some(has.stx_uid);
        if !is_his && (uid, gid) == (None, None) {
            return Ok(());
        }
        change_owner(node, uid, gid)
    }

    /// Runs `make`, which creates a file in `dir`, so that it belongs to the user who attached and to the group `gid`.
    pub(super) fn make<T>(dir: &Node, gid: u32, make: impl FnOnce() -> T) -> T {
        let or_own = |id| if id == NO_ID { 0 } else { id };
        let (uid, gid) = (or_own(dir.user()), or_own(gid));
        let others = (uid, gid) != (0, 0) && rustix::process::geteuid().is_root();
        let _as = others.then(|| FsIds::new(uid, gid));
        make()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ACCESS: &[u8] = b"system.posix_acl_access";

    /// Numbers, many of which are the same.
    fn id() -> impl Strategy<Value = u32> {
        prop_oneof![0..4_u32, any::<u32>()]
    }

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut value = 2_u32.to_le_bytes().to_vec();
        for (tag, rights, id) in entries {
            value.extend(tag.to_le_bytes());
            value.extend(rights.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    }

    proptest! {
        #[test]
        fn root_there_is_the_user_and_root_and_nobody_else(own in 1_u32..4, id in id()) {
            let ids = Ids { own: Some(own) };
            prop_assert_eq!(ids.peer_id(id) == 0, id == 0 || id == own);
            if id != 0 && id != own {
                prop_assert_eq!(ids.peer_id(id), id);
            }
            // There and back gives the same number, except that root becomes the user.
            prop_assert_eq!(ids.local_id(ids.peer_id(id)), if id == 0 { own } else { id });
        }

        #[test]
        fn a_change_leads_to_what_was_asked_for_and_never_to_root(own in 1_u32..4, wanted in id(), has in id()) {
            let ids = Ids { own: Some(own) };
            let change = ids.change(wanted, has);
            prop_assert_eq!(ids.peer_id(change.unwrap_or(has)), ids.peer_id(wanted));
            prop_assert_ne!(change, Some(0));
            prop_assert_eq!(change.is_none(), ids.peer_id(has) == wanted);
        }

        #[test]
        fn where_root_serves_nothing_is_mapped(gid in id(), wanted in id(), has in id()) {
            let map = IdMap::root_is(0, gid);
            prop_assert_eq!(map, IdMap::default());
            for ids in [map.uid, map.gid] {
                prop_assert_eq!((ids.peer_id(has), ids.local_id(wanted)), (has, wanted));
                prop_assert_eq!(ids.change(wanted, has), Some(wanted));
            }
        }

        #[test]
        fn any_value_stays_as_long_as_it_is(mut value in prop::collection::vec(any::<u8>(), 0..80), acl: bool) {
            if acl && let Some(version) = value.first_chunk_mut() {
                *version = 2_u32.to_le_bytes();
            }
            let (before, map) = (value.clone(), IdMap::root_is(1, 2));
            map.xattr_to_peer(b"user.acl", &mut value);
            prop_assert_eq!(&value, &before);
            map.xattr_to_peer(ACCESS, &mut value);
            prop_assert_eq!(value.len(), before.len());
            // Tags and rights are unchanged.
            for (now, old) in value.chunks(4).zip(before.chunks(4)).skip(1).step_by(2) {
                prop_assert_eq!(now, old);
            }
        }
    }

    #[test]
    fn access_control_lists_name_the_same_people() {
        // ACL_USER_OBJ, ACL_USER, ACL_GROUP_OBJ, ACL_GROUP, ACL_MASK, ACL_OTHER.
        let list = |user, other, group, others| {
            acl(&[
                (0x01, 7, u32::MAX),
                (0x02, 6, user),
                (0x02, 5, other),
                (0x04, 4, u32::MAX),
                (0x08, 6, group),
                (0x08, 5, others),
                (0x10, 7, u32::MAX),
                (0x20, 0, u32::MAX),
            ])
        };
        let map = IdMap::root_is(1002, 100);
        // A group with the user's number is not mapped as the user is.
        let (here, there) = (list(1002, 100, 100, 1002), list(0, 100, 0, 1002));
        for name in [ACCESS, b"system.posix_acl_default"] {
            let mut value = here.clone();
            map.xattr_to_peer(name, &mut value);
            assert_eq!(value, there);
            map.xattr_from_peer(name, &mut value);
            assert_eq!(value, here);
        }
    }
}
