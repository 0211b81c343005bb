//! Who may log in to a machine: files of public keys, as they go into an initramfs, and the keys that are added to one
//! which is there already, or removed from it.

mod added;
pub(crate) mod image;
mod removed;

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use cpu_proto::AuthorizedKeys;
use cpu_proto::authorized_keys::{AuthorizedKey, Fault, LeftOut};

use crate::progress::Progress;
use crate::read::{self, MAX_KEYS};

pub(crate) use added::NewKeys;
pub(crate) use removed::OldKeys;

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
    #[error("nobody could log in any more: no other key may")]
    Last,
    #[error(
        "several keys have the comment {0}: give the fingerprint of one, as mkimage inspect shows it"
    )]
    Several(String),
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
    pub(super) const ECDSA: &str = concat!(
        "ecdsa-sha2-nistp256 ",
        "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBCbeFBTOWvYmYMMoeQeeKGmozfR4",
        "pvHa4XdEyf1oB21VhSMJuR17p+JAQJ+fqTMQNxR0efYKc7k+ULq4Jh7kFsM= you@desk\n",
    );

    /// A directory with a user's key.
    pub(super) fn with_key() -> (tempfile::TempDir, String) {
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
}
