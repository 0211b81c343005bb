//! Who the command is there: root, which works for the user who runs cpu and sees his files as its own ([`IdMap`]), or
//! with `-user me` that user himself.

use std::str::FromStr;

use anyhow::{Context as _, Result};
use cpu_client::export::IdMap;
use cpu_proto::Credentials;

/// What `-user` says.
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

/// Who runs cpu, and who the command is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CommandUser {
    /// Root, here and there.
    Root,
    /// Root, for an ordinary user.
    RootFor { uid: u32, gid: u32 },
    /// The ordinary user himself.
    Same(Credentials),
}

impl CommandUser {
    /// For this process, by whose rights files are served.
    pub(crate) fn of_process(flag: UserFlag) -> Result<Self> {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let (is_root, uid, gid) = (uid.is_root(), uid.as_raw(), gid.as_raw());
        Ok(match flag {
            _ if is_root => Self::Root,
            UserFlag::Root => Self::RootFor { uid, gid },
            UserFlag::Me => {
                let groups = rustix::process::getgroups().context("cannot tell your groups")?;
                let groups = groups
                    .into_iter()
                    .map(rustix::process::Gid::as_raw)
                    .collect();
                Self::Same(Credentials { uid, gid, groups })
            }
        })
    }

    /// How the owners of files are shown there.
    pub(crate) fn ids(&self) -> IdMap {
        match *self {
            Self::Root | Self::Same(_) => IdMap::default(),
            Self::RootFor { uid, gid } => IdMap::root_is(uid, gid),
        }
    }
}
