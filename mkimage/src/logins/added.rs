//! The keys of a file that are added to a list which is there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cpu_proto::AuthorizedKeys;
use cpu_proto::authorized_keys::{AuthorizedKey, LeftOut};

use super::{Error, append, told_key};
use crate::progress::Progress;
use crate::read::{self, MAX_KEYS};

/// The keys of a file, to be added to an image.
pub(crate) struct NewKeys {
    path: PathBuf,
    lines: String,
}

impl NewKeys {
    /// Read the file. With `isolate` each key gets that option.
    pub(crate) fn read(path: &Path, isolate: bool, progress: Progress) -> Result<Self, Error> {
        let bytes = told_key(path, progress)?;
        let lines = if isolate {
            AuthorizedKeys::isolated(&bytes)
        } else {
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let path = path.to_owned();
        Ok(Self { path, lines })
    }

    /// The lines that are used.
    pub(crate) fn used_lines(&self) -> String {
        let all = AuthorizedKeys::parse(self.lines.as_bytes());
        let keys = all.keys.iter().map(|key| key.line);
        self.chosen(&keys.chain(all.revoked.iter().map(|key| key.line)).collect())
    }

    fn chosen(&self, numbers: &BTreeSet<usize>) -> String {
        let lines = self.lines.lines().zip(1..);
        lines
            .filter(|(_, number)| numbers.contains(number))
            .flat_map(|(line, _)| [line.trim(), "\n"])
            .collect()
    }

    /// What a list of keys becomes with them; `None` if it has them all.
    pub(crate) fn added_to(&self, list: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let path = || self.path.clone();
        let old = AuthorizedKeys::parse(list);
        let new = AuthorizedKeys::parse(self.lines.as_bytes());
        let mut missing = BTreeSet::new();
        for key in &new.keys {
            let is_same = |it: &&AuthorizedKey| {
                it.key.key_data() == key.key.key_data()
                    && it.options.cert_authority == key.options.cert_authority
            };
            match old.keys.iter().find(is_same) {
                Some(same) if same.options == key.options => {}
                Some(_) => {
                    let key = cpu_proto::fingerprint(&key.key);
                    return Err(Error::OtherOptions { path: path(), key });
                }
                None => drop(missing.insert(key.line)),
            }
        }
        for revoked in &new.revoked {
            let data = revoked.key.key_data();
            if !old.revoked.iter().any(|it| it.key.key_data() == data) {
                missing.insert(revoked.line);
            }
        }
        if missing.is_empty() {
            return Ok(None);
        }
        let mut all = Vec::new();
        if !list.trim_ascii().is_empty() {
            append(&mut all, list);
        }
        let before = String::from_utf8_lossy(&all).lines().count();
        append(&mut all, self.chosen(&missing).as_bytes());
        read::within(all.len() as u64, MAX_KEYS).map_err(|source| Error::Read {
            path: path(),
            source,
        })?;
        let AuthorizedKeys { keys, left_out, .. } = AuthorizedKeys::parse(&all);
        if let Some(LeftOut { line, fault }) = left_out.into_iter().find(|it| it.line > before) {
            let path = path();
            return Err(Error::NotUsed { path, line, fault });
        }
        if keys.is_empty() {
            return Err(Error::Nobody(path()));
        }
        Ok(Some(all))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::{ECDSA, with_key};
    use super::*;

    fn new(lines: &str, isolate: bool) -> NewKeys {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), lines).unwrap();
        NewKeys::read(file.path(), isolate, Progress::silent()).unwrap()
    }

    #[test]
    fn what_is_added_once_is_the_list_of_both_files_and_nothing_the_second_time() {
        let (_dir, good) = with_key();
        let add = new(ECDSA, false);
        let both = add.added_to(good.as_bytes()).unwrap().unwrap();
        assert_eq!(String::from_utf8_lossy(&both), format!("{good}{ECDSA}"));
        assert!(add.added_to(&both).unwrap().is_none());
        // Of a file with several keys, those that are missing.
        let more = new(&format!("# both\n{good}\n{ECDSA}"), false);
        assert_eq!(more.used_lines(), format!("{good}{ECDSA}"));
        assert_eq!(more.added_to(good.as_bytes()).unwrap(), Some(both));
        let isolated = new(ECDSA, true).added_to(good.as_bytes()).unwrap().unwrap();
        let expected = format!("{good}isolate {ECDSA}");
        assert_eq!(String::from_utf8_lossy(&isolated), expected);
    }

    #[test]
    fn what_would_let_nobody_in_is_not_added() {
        let (_dir, good) = with_key();
        let refused = |lines: &str, list: &str| {
            let error = new(lines, false).added_to(list.as_bytes()).unwrap_err();
            error.to_string()
        };
        let revoked = refused(ECDSA, &format!("{good}@revoked {ECDSA}"));
        let expected = "line 3 of /key.pub has a key that line 2 revokes";
        assert!(revoked.ends_with(expected), "{revoked}");
        let all = refused(&format!("@revoked {good}"), &good);
        assert!(all.starts_with("nobody could log in any more"), "{all}");
        let other = refused(&format!("isolate {good}"), &good);
        assert!(
            other.contains("is in the image with other options"),
            "{other}"
        );
        let bars = new(&format!("@revoked {ECDSA}"), false);
        let both = format!("{good}{ECDSA}");
        let barred = bars.added_to(both.as_bytes()).unwrap().unwrap();
        assert_eq!(AuthorizedKeys::parse(&barred).keys.len(), 1);
        assert!(bars.added_to(&barred).unwrap().is_none());
    }
}
