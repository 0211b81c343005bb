//! The working directory: the client's, by the name it has there if the session has it under that name.
//!
//! A directory of that name may exist on the machine by accident. So `$PWD` counts as the session's
//! when one of its mounts put it there, when it is one that belongs to the machine by nature
//! (`/`, and what is beneath /proc, /sys, /dev and the private /tmp), or when there is no 9P.
//! Otherwise the client's is taken through /tmp/cpu; only if that is missing too, the machine's.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use cpu_proto::MOUNT_POINT;

use super::client_tree::ClientTree;
use crate::console::say;

/// Directories that are the machine's whatever the client has mounted.
const MACHINES: [&str; 4] = ["/proc", "/sys", "/dev", "/tmp"];

/// The client's working directory, and what had that name before the session mounted anything.
pub(super) struct WorkingDirectory {
    path: Option<PathBuf>,
    before: Option<(u64, u64)>,
}

impl WorkingDirectory {
    /// Remembers what `pwd` is on the machine itself. A relative one is taken as none.
    pub(super) fn before_mounts(pwd: Option<OsString>) -> Self {
        let path = pwd.map(PathBuf::from).filter(|path| path.is_absolute());
        let before = path.as_deref().and_then(identity);
        Self { path, before }
    }

    /// The path, for [`ClientTree::look_up`].
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Goes there, or to the next best place with a notice; the result is the new `$PWD`.
    pub(super) fn enter(self, client: Option<&ClientTree>) -> Result<PathBuf> {
        let root = PathBuf::from("/");
        let Some(path) = self.path else {
            // Clients that are no cpu, such as ssh, don't say where they are.
            env::set_current_dir(&root).context("cannot change to /")?;
            return Ok(root);
        };
        let there = identity(&path);
        let is_ours = client.is_none()
            || there != self.before
            || path == root
            || MACHINES.iter().any(|machines| path.starts_with(machines));
        if is_ours && env::set_current_dir(&path).is_ok() {
            return Ok(path);
        }
        if let Some(real) = client.and_then(|client| through_client(client, &path)) {
            say(format_args!(
                "{} is not in this session's namespace; starting in {}, which is the same directory",
                path.display(),
                real.display()
            ));
            return Ok(real);
        }
        if env::set_current_dir(&path).is_ok() {
            return Ok(path);
        }
        env::set_current_dir(&root).context("cannot change to /")?;
        say(format_args!(
            "there is no directory {} in this session; starting in /",
            path.display()
        ));
        Ok(root)
    }
}

/// Which directory it is; none if there is none.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path)
        .ok()
        .filter(fs::Metadata::is_dir)
        .map(|meta| (meta.dev(), meta.ino()))
}

/// Enters the client's `path` beneath [`MOUNT_POINT`], symlinks resolved on its side.
fn through_client(client: &ClientTree, path: &Path) -> Option<PathBuf> {
    let found = client.resolve(path).ok()?;
    nix::unistd::fchdir(&found.fd).ok()?;
    // The kernel's word, since the name may have led through symlinks.
    Some(
        env::current_dir().unwrap_or_else(|_| {
            Path::new(MOUNT_POINT).join(path.strip_prefix("/").unwrap_or(path))
        }),
    )
}
