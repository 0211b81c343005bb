//! The working directory of the command: the client's, if possible by the same name.
//!
//! The machine may have an unrelated directory of that name. So `$PWD` is used as it is only when one of the
//! session's mounts put it there, when it always is the machine's own (`/`, and what is beneath /proc, /sys, /dev
//! and the private /tmp), or when no files of the client are mounted. Otherwise the client's directory is entered
//! through /tmp/cpu, and if it is not there either, the machine's is used. A command that is started in the client's
//! /tmp itself is no exception: what it leaves in the private one would be lost.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use cpu_proto::MOUNT_POINT;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use super::client_tree::ClientTree;
use crate::console::say;

/// Directories that are the machine's own in every session.
const MACHINES: [&str; 4] = ["/proc", "/sys", "/dev", "/tmp"];

/// The client's working directory, and the directory that had its name before the session mounted anything.
pub(super) struct WorkingDirectory {
    path: Option<PathBuf>,
    before: Option<(u64, u64)>,
}

impl WorkingDirectory {
    /// Records what `pwd` is on the machine itself. A relative path is ignored.
    pub(super) fn before_mounts(pwd: Option<OsString>) -> Self {
        let path = pwd.map(PathBuf::from).filter(|path| path.is_absolute());
        let before = path.as_deref().and_then(identity);
        Self { path, before }
    }

    /// The path, for [`ClientTree::look_up`].
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Changes to it, or to the next best directory and says so. The result is the new `$PWD`.
    pub(super) fn enter(self, client: Option<&ClientTree>) -> Result<PathBuf> {
        let root = PathBuf::from("/");
        let Some(path) = self.path else {
            // Other clients than cpu, such as ssh, do not send it.
            env::set_current_dir(&root).context("cannot change to /")?;
            return Ok(root);
        };
        let there = identity(&path);
        let is_ours = client.is_none()
            || !is_private_tmp(&path)
                && (there != self.before
                    || path == root
                    || MACHINES.iter().any(|machines| path.starts_with(machines)));
        if is_ours && change_to(&path) {
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
        if change_to(&path) {
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

/// Changes to a directory; whether that is possible. One that is reached through a descriptor of this process, such as
/// `/proc/self/fd/7`, may be outside the session's root. Then it has no path, and `..` of it must not be reached.
fn change_to(path: &Path) -> bool {
    env::set_current_dir(path).is_ok() && env::current_dir().is_ok()
}

/// Whether it is the session's own /tmp, and not one that the namespace has put there.
fn is_private_tmp(path: &Path) -> bool {
    path == Path::new("/tmp") && statfs(path).is_ok_and(|fs| fs.filesystem_type() == TMPFS_MAGIC)
}

/// Device and inode number of a directory, if there is one.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path)
        .ok()
        .filter(fs::Metadata::is_dir)
        .map(|meta| (meta.dev(), meta.ino()))
}

/// Changes to the client's `path` beneath [`MOUNT_POINT`], with symlinks resolved in the client's tree.
fn through_client(client: &ClientTree, path: &Path) -> Option<PathBuf> {
    let found = client.resolve(path).ok()?;
    nix::unistd::fchdir(&found.fd).ok()?;
    // As the kernel knows it, since the path may have led through symlinks.
    Some(
        env::current_dir().unwrap_or_else(|_| {
            Path::new(MOUNT_POINT).join(path.strip_prefix("/").unwrap_or(path))
        }),
    )
}
