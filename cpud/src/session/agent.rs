//! The socket of a forwarded agent, in the session's private /tmp. The session makes it and hands it to the connection, which
//! opens a channel to the client's agent for each program that connects.

use std::fs::{DirBuilder, Permissions, set_permissions};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::{Context as _, Result};
use cpu_proto::Credentials;

use crate::sys;

/// Variable with the path of the agent's socket (ssh-agent(1)).
pub(super) const ENV_SOCKET: &str = "SSH_AUTH_SOCK";

/// The socket's path.
pub(super) const SOCKET: &str = "/tmp/.ssh-agent/socket";

/// Makes the socket, which only `user` may use, and sends it through `connection`.
pub(super) fn listen(connection: &OwnedFd, user: Option<&Credentials>) -> Result<()> {
    let socket = Path::new(SOCKET);
    let directory = socket.parent().unwrap_or(socket);
    let make = || {
        DirBuilder::new().mode(0o700).create(directory)?;
        let listener = UnixListener::bind(socket)?;
        set_permissions(socket, Permissions::from_mode(0o600))?;
        if let Some(user) = user {
            for path in [directory, socket] {
                chown(path, Some(user.uid), Some(user.gid))?;
            }
        }
        sys::send_descriptors(connection.as_fd(), 0, &[listener.as_fd()])
    };
    make().with_context(|| format!("cannot make the socket of the agent, {SOCKET}"))
}
