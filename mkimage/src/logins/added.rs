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
    lines: Vec<u8>,
}

impl NewKeys {
    /// Read the file. With `isolate` each key gets that option.
    pub(crate) fn read(path: &Path, isolate: bool, progress: Progress) -> Result<Self, Error> {
        let mut lines = told_key(path, progress)?;
        if isolate {
            lines = AuthorizedKeys::isolated(&lines).into_bytes();
        }
        let path = path.to_owned();
        Ok(Self { path, lines })
    }

    /// The lines that are used.
    pub(crate) fn used_lines(&self) -> Vec<u8> {
        let all = AuthorizedKeys::parse(&self.lines);
        let keys = all.keys.iter().map(|key| key.line);
        self.chosen(&keys.chain(all.revoked.iter().map(|key| key.line)).collect())
    }

    fn chosen(&self, numbers: &BTreeSet<usize>) -> Vec<u8> {
        let lines = self.lines.split(|byte| *byte == b'\n').zip(1..);
        lines
            .filter(|(_, number)| numbers.contains(number))
            .flat_map(|(line, _)| [line.trim_ascii(), b"\n"].concat())
            .collect()
    }

    /// What a list of keys becomes with them; `None` if it has them all. If it has none of them, it is the list that would have
    /// been made with this file: with its comments too.
    pub(crate) fn added_to(&self, list: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let path = || self.path.clone();
        let old = AuthorizedKeys::parse(list);
        let new = AuthorizedKeys::parse(&self.lines);
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
        let before = all.split(|byte| *byte == b'\n').count() - 1;
        let is_whole = missing.len() == new.keys.len() + new.revoked.len();
        // Those of them were told when the file was read.
        let mut told = BTreeSet::new();
        if is_whole {
            append(&mut all, &self.lines);
            told.extend(new.left_out.iter().map(|it| it.line + before));
        } else {
            append(&mut all, &self.chosen(&missing));
        }
        read::within(all.len() as u64, MAX_KEYS).map_err(|source| Error::Read {
            path: path(),
            source,
        })?;
        let AuthorizedKeys { keys, left_out, .. } = AuthorizedKeys::parse(&all);
        let mut left_out = left_out.into_iter();
        if let Some(LeftOut { line, fault }) =
            left_out.find(|it| it.line > before && !told.contains(&it.line))
        {
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
        assert_eq!(more.used_lines(), format!("{good}{ECDSA}").into_bytes());
        assert_eq!(more.added_to(good.as_bytes()).unwrap(), Some(both));
        let isolated = new(ECDSA, true).added_to(good.as_bytes()).unwrap().unwrap();
        let expected = format!("{good}isolate {ECDSA}");
        assert_eq!(String::from_utf8_lossy(&isolated), expected);
    }

    #[test]
    fn a_file_of_which_nothing_is_there_comes_as_it_is() {
        let (dir, good) = with_key();
        let path = dir.path().join("more");
        let comment = b"# Bj\xf6rn's\n\n  ".to_vec();
        let with = |end: &str| [&comment[..], ECDSA.as_bytes(), end.as_bytes()].concat();
        for lines in [
            with(""),
            with("nonsense\r\n\n"),
            with(&format!("@revoked {ECDSA}{ECDSA}")),
        ] {
            fs::write(&path, &lines).unwrap();
            let paths = ["cpu_rsa.pub", "more"].map(|name| dir.path().join(name));
            let made = super::super::public_keys(&paths, false, Progress::silent());
            let add = NewKeys::read(&path, false, Progress::silent()).unwrap();
            let added = add.added_to(good.as_bytes()).unwrap();
            assert_eq!(added, Some(made.unwrap()));
        }
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
