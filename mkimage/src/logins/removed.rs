//! Keys that are taken out of a list which is there.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use cpu_proto::{AuthorizedKey, AuthorizedKeys};
use ssh_key::public::KeyData;

use super::{Error, public_key};

/// Which keys are meant.
pub(crate) enum OldKeys {
    /// Those of a file.
    File(Vec<KeyData>),
    /// By a fingerprint or a comment, as `mkimage inspect` shows them.
    Named(String),
}

impl OldKeys {
    /// The keys of the file, if it is one with keys, else those of this fingerprint or comment.
    pub(crate) fn find(word: &str) -> Result<Self, Error> {
        let bytes = match public_key(Path::new(word)) {
            Err(Error::Read { path, source }) if source.kind() == ErrorKind::PermissionDenied => {
                return Err(Error::Read { path, source });
            }
            // A name such as `cpu` is also that of a program.
            Err(Error::NoKey { .. } | Error::Read { .. }) => Vec::new(),
            read => read?.0,
        };
        let keys = AuthorizedKeys::parse(&bytes).keys;
        if keys.is_empty() {
            return Ok(Self::Named(word.to_owned()));
        }
        let data = keys.iter().map(|key| key.key.key_data().clone());
        Ok(Self::File(data.collect()))
    }

    /// What a list becomes without them; `None` if it has none of them. Somebody must be left who can log in.
    pub(crate) fn removed_from(&self, list: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let keys = AuthorizedKeys::parse(list).keys;
        let mut found = keys.iter().filter(|key| self.has(key));
        if let (Self::Named(name), Some(first)) = (self, found.next())
            && found.any(|key| key.key.key_data() != first.key.key_data())
        {
            return Err(Error::Several(name.clone()));
        }
        let left = self.lines_without(list);
        match &left {
            Some(left) if AuthorizedKeys::parse(left).keys.is_empty() => Err(Error::Last),
            _ => Ok(left),
        }
    }

    /// The other lines, as they are; `None` if these are all.
    pub(crate) fn lines_without(&self, list: &[u8]) -> Option<Vec<u8>> {
        let keys = AuthorizedKeys::parse(list).keys;
        let found = keys.iter().filter(|key| self.has(key));
        let found: BTreeSet<usize> = found.map(|key| key.line).collect();
        if found.is_empty() {
            return None;
        }
        let lines = list.split_inclusive(|byte| *byte == b'\n').zip(1..);
        let kept = lines.filter(|(_, number)| !found.contains(number));
        Some(kept.flat_map(|(line, _)| line).copied().collect())
    }

    fn has(&self, key: &AuthorizedKey) -> bool {
        match self {
            Self::File(all) => all.contains(key.key.key_data()),
            Self::Named(name) => {
                cpu_proto::fingerprint(&key.key) == *name
                    || String::from_utf8_lossy(key.key.comment().as_bytes()) == name.as_str()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::{ECDSA, with_key};
    use super::*;

    fn without(word: &str, list: &str) -> Result<Option<String>, Error> {
        let list = OldKeys::find(word)?.removed_from(list.as_bytes())?;
        Ok(list.map(|list| String::from_utf8(list).unwrap()))
    }

    #[test]
    fn a_key_is_known_by_its_file_its_fingerprint_and_its_comment() {
        let (dir, good) = with_key();
        let file = dir.path().join("ecdsa.pub");
        fs::write(&file, format!("# mine\n{ECDSA}")).unwrap();
        let key = &AuthorizedKeys::parse(ECDSA.as_bytes()).keys[0].key;
        let list =
            format!("# all\n{good}restrict {ECDSA}@revoked {ECDSA}").replace("@revoked", "#");
        for word in [
            file.to_str().unwrap(),
            &cpu_proto::fingerprint(key),
            "you@desk",
        ] {
            let left = without(word, &list).unwrap().unwrap();
            assert_eq!(left, list.replace(&format!("restrict {ECDSA}"), ""));
            assert_eq!(without(word, &left).unwrap(), None);
        }
        for word in ["you", "SHA256:", ""] {
            assert_eq!(without(word, &list).unwrap(), None);
        }
    }

    #[test]
    fn the_last_key_stays_and_so_do_those_that_share_a_comment() {
        let (dir, good) = with_key();
        let file = dir.path().join("cpu_rsa.pub");
        let word = file.to_str().unwrap();
        for list in [
            good.clone(),
            good.repeat(2),
            format!("{good}{ECDSA}@revoked {ECDSA}"),
        ] {
            assert!(matches!(without(word, &list), Err(Error::Last)), "{list}");
        }
        let (_other, same) = with_key();
        let list = format!("{good}{same}{ECDSA}");
        assert!(matches!(without("cpu", &list), Err(Error::Several(_))));
        // Twice the same key.
        let list = format!("{good}{ECDSA}{good}");
        assert_eq!(without("cpu", &list).unwrap(), Some(ECDSA.to_owned()));
        let private = dir.path().join("cpu_rsa");
        let refused = without(private.to_str().unwrap(), &list);
        assert!(matches!(refused, Err(Error::PrivateKey(_))));
        // A file without a key that could log in names none.
        fs::write(&file, format!("@revoked {ECDSA}")).unwrap();
        assert_eq!(without(word, &list).unwrap(), None);
    }
}
