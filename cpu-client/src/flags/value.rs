//! Values of flags whose types are not defined elsewhere.

use crate::ssh::SocketKind;

/// A boolean, as Go's flag package parses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GoBool(pub(crate) bool);

impl std::str::FromStr for GoBool {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Self(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Self(false)),
            _ => Err("write true or false"),
        }
    }
}

pub(super) fn socket_kind(text: &str) -> Result<SocketKind, &'static str> {
    match text {
        "tcp" => Ok(SocketKind::Tcp),
        "unix" => Ok(SocketKind::Unix),
        "vsock" => Ok(SocketKind::Vsock),
        _ => Err("write tcp, unix or vsock"),
    }
}
