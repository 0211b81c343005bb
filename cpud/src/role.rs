//! The roles of the program. Each is a process of its own, started by another one with the role's name as
//! the first argument.

use std::ffi::OsStr;

/// What a process of cpud does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Writes what the others say to every console.
    Console,
    /// Brings up links and gives them addresses.
    Network,
    /// Loads kernel modules for devices.
    Modules,
    /// Makes the machine known on its links.
    Dnssd,
    /// Accepts connections, and announces the machine's addresses. Without a role the program is a server
    /// that announces nothing.
    Server,
    /// Serves one SSH connection.
    Connection,
    /// Runs one command.
    Session,
    /// Holds the namespaces that the sessions of one key share.
    Isolation,
}

impl Role {
    const ALL: [Self; 8] = [
        Self::Console,
        Self::Network,
        Self::Modules,
        Self::Dnssd,
        Self::Server,
        Self::Connection,
        Self::Session,
        Self::Isolation,
    ];

    /// The argument that chooses the role, which is also its name in the log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Network => "network",
            Self::Modules => "modules",
            Self::Dnssd => "dnssd",
            Self::Server => "server",
            Self::Connection => "connection",
            Self::Session => "session",
            Self::Isolation => "isolation",
        }
    }

    /// The role that an argument chooses.
    pub(crate) fn from_name(name: &OsStr) -> Option<Self> {
        Self::ALL.into_iter().find(|role| name == role.name())
    }
}
