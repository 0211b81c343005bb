//! The command's user: root, to whom the files of the user who runs cpu appear as his own ([`IdMap`]), or with
//! `-user me` the same user as here.

use std::str::FromStr;

use anyhow::{Context as _, Result};
use cpu_client::export::IdMap;
use cpu_proto::Credentials;

/// The value of `-user`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UserFlag {
    Root,
    Me,
}

impl FromStr for UserFlag {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "root" => Ok(Self::Root),
            "me" => Ok(Self::Me),
            _ => Err("write root or me"),
        }
    }
}

/// The user who runs cpu, and the command's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CommandUser {
    /// Root runs cpu, so the command is root's too.
    Root,
    /// An ordinary user runs cpu, and the command is root's.
    RootFor { uid: u32, gid: u32 },
    /// An ordinary user runs cpu, and the command is his.
    Same(Credentials),
}

impl CommandUser {
    /// From the user of this process, which is also the user by whose rights files are served.
    pub(crate) fn of_process(flag: UserFlag) -> Result<Self> {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let (is_root, uid, gid) = (uid.is_root(), uid.as_raw(), gid.as_raw());
        Ok(match flag {
            _ if is_root => Self::Root,
            UserFlag::Root => Self::RootFor { uid, gid },
            UserFlag::Me => {
                let groups = rustix::process::getgroups().context("cannot read your groups")?;
                let groups = groups
                    .into_iter()
                    .map(rustix::process::Gid::as_raw)
                    .collect();
                Self::Same(Credentials { uid, gid, groups })
            }
        })
    }

    /// How the owners of files appear on the machine.
    pub(crate) fn ids(&self) -> IdMap {
        match *self {
            Self::Root | Self::Same(_) => IdMap::default(),
            Self::RootFor { uid, gid } => IdMap::root_is(uid, gid),
        }
    }
}
