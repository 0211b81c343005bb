//! `Include` in ssh_config(5), and the checks before a file is read.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::unistd::{Gid, Group, User, getuid};

use super::file::ConfigReader;
use super::tilde;

/// Larger than any real configuration, so that a device or a log does not fill the memory.
const MAX_CONFIG_SIZE: u64 = 1 << 20;

impl ConfigReader<'_> {
    pub(super) fn include(&mut self, path: &Path, is_users: bool, active: bool) -> Result<()> {
        let what = || format!("cannot read {}", path.display());
        let meta = match std::fs::metadata(path) {
            // A home may be /dev/null.
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Ok(());
            }
            meta => meta.with_context(what)?,
        };
        // Directories and devices such as /dev/null count as empty.
        if !meta.is_file() {
            return Ok(());
        }
        if meta.len() > MAX_CONFIG_SIZE {
            bail!("{} is too large for an ssh configuration", path.display());
        }
        if is_users && may_be_written_by_others(&meta) {
            bail!(
                "{} may be written by others, and it can name commands to run: chmod 600 it",
                path.display()
            );
        }
        // Comments may be in any encoding.
        let bytes = std::fs::read(path).with_context(what)?;
        self.text(&String::from_utf8_lossy(&bytes), path, is_users, active)
    }

    /// The files that a pattern of `Include` matches, in the order of their names.
    pub(super) fn included(
        &self,
        pattern: &str,
        from: &Path,
        is_users: bool,
    ) -> Result<Vec<PathBuf>> {
        let mut path = tilde(pattern, self.query.home);
        if !path.is_absolute() {
            let base = match (is_users, from.parent()) {
                (true, _) | (_, None) => self.query.home.join(".ssh"),
                (false, Some(_)) => PathBuf::from("/etc/ssh"),
            };
            path = base.join(path);
        }
        let path = path.to_string_lossy();
        let as_shells_do = glob::MatchOptions {
            require_literal_leading_dot: true,
            ..glob::MatchOptions::default()
        };
        let found = glob::glob_with(&path, as_shells_do);
        let found = found.with_context(|| format!("Include {pattern}"))?;
        // Directories that cannot be read count as empty.
        Ok(found.filter_map(Result::ok).collect())
    }
}

/// Whether a user other than this one and root may write to the file. A group with the user's name and no other member
/// counts as the user.
fn may_be_written_by_others(meta: &Metadata) -> bool {
    let me = getuid();
    let mine = [0, me.as_raw()].contains(&meta.uid());
    let is_mine_alone = || {
        let group = Group::from_gid(Gid::from_raw(meta.gid())).ok().flatten();
        let user = User::from_uid(me).ok().flatten();
        matches!((group, user), (Some(group), Some(user))
            if group.name == user.name && group.mem.iter().all(|member| *member == user.name))
    };
    !mine || meta.mode() & 0o002 != 0 || meta.mode() & 0o020 != 0 && !is_mine_alone()
}
