//! Cache modes: what the machine's kernel caches of the client's files.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use crate::MOUNT_POINT;

/// Name of the SSH subsystem whose channel carries 9P2000.L.
const SUBSYSTEM: &str = "9p";

/// Environment variable that says which 9P channels a command takes: those on which the variable was set to the same
/// value before the subsystem was requested. The command does not get it.
pub const ENV_FILES: &str = "CPU_FILES";

/// The kernel's mount option `cache=` (`Documentation/filesystems/9p.rst`). In every mode a read(2) asks the client,
/// and a write(2) has reached the client when it returns, because our server gives qid version 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheMode {
    /// Nothing is cached, not even pages, so there are no shared writable mappings.
    None,
    /// Pages are cached while they are mapped. Names and attributes are requested each time.
    #[default]
    Mmap,
    /// Names, attributes and mapped pages are cached and not requested again: for trees that only this session changes.
    Loose,
}

impl CacheMode {
    const ALL: [Self; 3] = [Self::None, Self::Mmap, Self::Loose];

    /// The value of the mount option.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Mmap => "mmap",
            Self::Loose => "loose",
        }
    }

    /// Name of the SSH subsystem that carries 9P2000.L for a mount in this mode.
    pub fn subsystem(self) -> String {
        match self {
            Self::Mmap => SUBSYSTEM.into(),
            other => format!("{SUBSYSTEM},cache={other}"),
        }
    }

    /// The mode that belongs to the name of a subsystem; `None` for other subsystems.
    pub fn from_subsystem(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.subsystem() == name)
    }

    /// Where a session mounts the client's files in this mode. The `first` of its modes is mounted on [`MOUNT_POINT`].
    pub fn mount_point(self, first: Self) -> String {
        if self == first {
            MOUNT_POINT.into()
        } else {
            format!("{MOUNT_POINT}-{self}")
        }
    }
}

impl Display for CacheMode {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CacheMode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.into_iter();
        all.find(|mode| mode.name() == text)
            .ok_or("write none, mmap or loose")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_subsystems_read_back() {
        for mode in CacheMode::ALL {
            assert_eq!(mode.name().parse(), Ok(mode));
            assert_eq!(CacheMode::from_subsystem(&mode.subsystem()), Some(mode));
            assert_eq!(mode.mount_point(mode), "/tmp/cpu");
        }
        assert_eq!(CacheMode::Mmap.subsystem(), "9p");
        assert_eq!(
            CacheMode::Loose.mount_point(CacheMode::Mmap),
            "/tmp/cpu-loose"
        );
        for name in ["", "9P", "9p,cache=", "9p,cache=mmap", "sftp"] {
            assert_eq!(CacheMode::from_subsystem(name), None);
        }
        assert!("Loose".parse::<CacheMode>().is_err());
    }
}
