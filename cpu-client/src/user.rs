//! Who the command is there: root, which works for the user who runs cpu and sees his files as its own ([`IdMap`]).

use cpu_client::export::IdMap;

/// Who runs cpu, and who the command is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    /// Root, here and there.
    Root,
    /// An ordinary user, for whom the command is root there.
    Served { uid: u32, gid: u32 },
}

impl User {
    /// Of this process, by whose rights files are served.
    pub(crate) fn of_process() -> Self {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        if uid.is_root() {
            return Self::Root;
        }
        Self::Served {
            uid: uid.as_raw(),
            gid: gid.as_raw(),
        }
    }

    /// How the owners of files are shown there.
    pub(crate) fn ids(self) -> IdMap {
        match self {
            Self::Root => IdMap::default(),
            Self::Served { uid, gid } => IdMap::root_is(uid, gid),
        }
    }
}
