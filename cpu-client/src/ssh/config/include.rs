//! `Include` of ssh_config(5): which files it means, and which of them may be read.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::unistd::{Gid, Group, User, getuid};

use super::file::ConfigReader;
use super::tilde;

/// More than any real file; a device or a log must not fill the memory.
const MAX_CONFIG_SIZE: u64 = 1 << 20;

impl ConfigReader<'_> {
    pub(super) fn include(&mut self, path: &Path, of_user: bool, active: bool) -> Result<()> {
        let what = || format!("cannot read {}", path.display());
        let meta = match std::fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            meta => meta.with_context(what)?,
        };
        // A directory says nothing, nor does /dev/null.
        if !meta.is_file() {
            return Ok(());
        }
        if meta.len() > MAX_CONFIG_SIZE {
            bail!("{}: not a configuration of ssh", path.display());
        }
        if of_user && may_be_written_by_others(&meta) {
            bail!(
                "{} may be written by others, and it can name commands to run: chmod 600 it",
                path.display()
            );
        }
        // Comments are in any encoding.
        let bytes = std::fs::read(path).with_context(what)?;
        self.text(&String::from_utf8_lossy(&bytes), path, of_user, active)
    }

    /// The files that an `Include` means, in the order of their names.
    pub(super) fn included(
        &self,
        pattern: &str,
        from: &Path,
        of_user: bool,
    ) -> Result<Vec<PathBuf>> {
        let mut path = tilde(pattern, self.query.home);
        if !path.is_absolute() {
            let base = match (of_user, from.parent()) {
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
        // What cannot be looked into says nothing.
        Ok(found.filter_map(Result::ok).collect())
    }
}

/// Others than the user and root; a group that bears the user's name and has no other member is the user.
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
