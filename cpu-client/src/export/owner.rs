//! Who owns what is made here. A server that is root can make files as whoever attached, as a local
//! process of that user would; any other makes them as its own user, as it must.
//!
//! Only the owner is somebody else's: the rights are the server's, as for every other request.
//! The peer's kernel has checked those of its user, and only it knows the groups.

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::thread::{CapabilitySets, capabilities, set_capabilities};

use ninep::msg::NO_ID;

use super::{Export, Node};

/// The owner that new files have on this thread, until dropped.
struct As {
    uid: Uid,
    gid: Gid,
    rights: CapabilitySets,
}

impl As {
    fn new(uid: u32, gid: u32) -> Option<Self> {
        // setfsuid(2) takes the rights of root away, which are then given back.
        let rights = capabilities(None).ok()?;
        let gid = setfsgid(Gid::from_raw(gid));
        let uid = setfsuid(Uid::from_raw(uid));
        let made = Self { uid, gid, rights };
        set_capabilities(None, rights).ok()?;
        Some(made)
    }
}

impl Drop for As {
    fn drop(&mut self) {
        setfsuid(self.uid);
        setfsgid(self.gid);
        let _ = set_capabilities(None, self.rights);
    }
}

impl Export {
    /// Make something in `dir` that belongs to the user who attached and to the group `gid`.
    pub(super) fn make<T>(dir: &Node, gid: u32, make: impl FnOnce() -> T) -> T {
        let or_own = |id| if id == NO_ID { 0 } else { id };
        let (uid, gid) = (or_own(dir.user()), or_own(gid));
        let others = (uid, gid) != (0, 0) && rustix::process::geteuid().is_root();
        let _as = others.then(|| As::new(uid, gid));
        make()
    }
}
