//! Who may log in to a machine: files of public keys, as they go into an initramfs, and the keys that are added to one
//! which is there already.

pub(crate) mod image;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use cpu_proto::AuthorizedKeys;
use cpu_proto::authorized_keys::{AuthorizedKey, Fault, LeftOut};

use crate::progress::Progress;
use crate::read::{self, MAX_KEYS};

/// Why a file of keys is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read the public key (mkimage keys) {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{0} holds a private key: only its public half goes into an image; give FILE.pub")]
    PrivateKey(PathBuf),
    #[error("{path} has no key in it that could log in{}", about(left_out))]
    NoKey {
        path: PathBuf,
        left_out: Vec<LeftOut>,
    },
    #[error("{path} has a key that could not log in: line {line} of /key.pub {fault}")]
    NotUsed {
        path: PathBuf,
        line: usize,
        fault: Fault,
    },
    #[error(
        "{path} has the key {key}, which is in the image with other options: make the initramfs with the new ones \
         (mkimage initramfs --key)"
    )]
    OtherOptions { path: PathBuf, key: String },
    #[error("nobody could log in any more: {0} revokes all keys of the image")]
    Nobody(PathBuf),
}

/// Why, or nothing. The first lines are enough to see that a file is another than was meant.
fn about(left_out: &[LeftOut]) -> String {
    const MOST: usize = 3;
    let mut all = String::new();
    for line in left_out.iter().take(MOST) {
        let _ = write!(all, ": {line}");
    }
    if let Some(more @ 1..) = left_out.len().checked_sub(MOST) {
        let _ = write!(all, ": and {more} more");
    }
    all
}

/// The files one after the other. Each must let somebody in, or revoke a key; of lines that do neither, cpud leaves out what
/// is told here.
pub(crate) fn public_keys(
    paths: &[PathBuf],
    isolate: bool,
    progress: Progress,
) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    for path in paths {
        append(&mut all, &told_key(path, progress)?);
    }
    // One file may revoke all that another has.
    let AuthorizedKeys { keys, left_out, .. } = AuthorizedKeys::parse(&all);
    if let ([], Some(path)) = (&keys[..], paths.first()) {
        let path = path.to_owned();
        return Err(Error::NoKey { path, left_out });
    }
    if isolate {
        return Ok(AuthorizedKeys::isolated(&all).into_bytes());
    }
    warn_of_company(&keys, progress);
    Ok(all)
}

fn append(all: &mut Vec<u8>, lines: &[u8]) {
    all.extend_from_slice(lines.trim_ascii_end());
    all.push(b'\n');
}

/// Say so if several keys may log in and not all of them are isolated.
fn warn_of_company(keys: &[AuthorizedKey], progress: Progress) {
    if keys.len() > 1 && keys.iter().any(|key| !key.options.isolate) {
        progress.say(format_args!(
            "{} keys may log in, and who has one that is not isolated reaches the sessions and files of all; --isolate keeps them apart",
            keys.len(),
        ));
    }
}

/// A file of public keys; its lines that let nobody in are told.
fn told_key(path: &Path, progress: Progress) -> Result<Vec<u8>, Error> {
    let (bytes, left_out) = public_key(path)?;
    for line in left_out {
        progress.say(format_args!("{}: {line}", path.display()));
    }
    Ok(bytes)
}

/// A file of public keys as it is, and the lines that let nobody in; some line must let somebody in, or revoke a key.
pub(crate) fn public_key(path: &Path) -> Result<(Vec<u8>, Vec<LeftOut>), Error> {
    let bytes = read::whole(path, MAX_KEYS).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    let has = |words: &[u8]| bytes.windows(words.len()).any(|part| part == words);
    if has(b"PRIVATE KEY-----") || has(b"PuTTY-User-Key-File") {
        return Err(Error::PrivateKey(path.to_owned()));
    }
    let AuthorizedKeys {
        keys,
        revoked,
        left_out,
    } = AuthorizedKeys::parse(&bytes);
    if keys.is_empty() && revoked.is_empty() {
        let path = path.to_owned();
        return Err(Error::NoKey { path, left_out });
    }
    Ok((bytes, left_out))
}

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

/// Say so if a list lets in several who are not isolated from each other.
pub(crate) fn warn_of(list: &[u8], progress: Progress) {
    warn_of_company(&AuthorizedKeys::parse(list).keys, progress);
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::keys;

    // ssh-keygen -t ecdsa -b 256
    const ECDSA: &str = concat!(
        "ecdsa-sha2-nistp256 ",
        "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBCbeFBTOWvYmYMMoeQeeKGmozfR4",
        "pvHa4XdEyf1oB21VhSMJuR17p+JAQJ+fqTMQNxR0efYKc7k+ULq4Jh7kFsM= you@desk\n",
    );

    /// A directory with a user's key.
    fn with_key() -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let kind = keys::KeyType::Ed25519;
        keys::make(dir.path(), kind, || Ok(None), Progress::silent()).unwrap();
        let public = fs::read_to_string(dir.path().join("cpu_rsa.pub")).unwrap();
        (dir, public)
    }

    fn all_of(paths: &[PathBuf]) -> Result<Vec<u8>, Error> {
        public_keys(paths, false, Progress::silent())
    }

    #[test]
    fn no_private_key_is_taken_for_a_public_one() {
        let (dir, public) = with_key();
        let result = all_of(&[dir.path().join("cpu_rsa")]);
        assert!(matches!(result, Err(Error::PrivateKey(_))));
        let both = dir.path().join("both");
        fs::write(
            &both,
            format!("{public}PuTTY-User-Key-File-3: ssh-ed25519\n"),
        )
        .unwrap();
        assert!(matches!(all_of(&[both]), Err(Error::PrivateKey(_))));
    }

    #[test]
    fn somebody_can_log_in_with_each_file_of_keys() {
        let (dir, good) = with_key();
        let path = dir.path().join("keys");
        let with = |text: &str| {
            fs::write(&path, text).unwrap();
            let left_out = public_key(&path).map(|(_, left_out)| left_out.len());
            assert_eq!(
                all_of(std::slice::from_ref(&path)).is_ok(),
                left_out.is_ok()
            );
            left_out.map_err(|error| error.to_string())
        };
        assert_eq!(with(&format!("# two kinds\n\n{good}{ECDSA}")), Ok(0));
        assert_eq!(
            with(&format!("{good}ssh-rsa AAAA me\nno-touch-required {good}")),
            Ok(2)
        );
        let refused = |text: &str| with(text).unwrap_err();
        assert_eq!(
            with(&format!("cert-authority,principals=\"ops\" {good}")),
            Ok(0)
        );
        assert_eq!(with(&format!("{good}@revoked {ECDSA}")), Ok(0));
        assert_eq!(with(&format!("{good}{ECDSA}@revoked {ECDSA}")), Ok(1));
        assert!(refused("# none\n").ends_with("keys has no key in it that could log in"));
        let options = refused(&format!("permitopen=\"a:1\" {good}"));
        assert!(
            options.contains("could log in: line 1 has options"),
            "{options}"
        );
        assert!(refused(&format!("\u{feff}{good}")).contains("byte order mark"));
        let certificate = good.replacen(' ', "-cert-v01@openssh.com ", 1);
        assert!(refused(&certificate).contains("is a certificate"));
    }

    #[test]
    fn a_file_may_revoke_keys_of_another_but_not_all_of_them() {
        let (dir, good) = with_key();
        let revoked = |key: &str| {
            fs::write(dir.path().join("revoked"), format!("@revoked {key}")).unwrap();
            all_of(&["cpu_rsa.pub", "revoked"].map(|name| dir.path().join(name)))
        };
        let all = String::from_utf8(revoked(ECDSA).unwrap()).unwrap();
        assert!(all.starts_with(&good) && all.contains("\n@revoked ecdsa"));
        let error = revoked(&good).unwrap_err().to_string();
        assert!(
            error.contains("line 1 has a key that line 2 revokes"),
            "{error}"
        );
    }

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
