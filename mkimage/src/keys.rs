//! The two keys of an appliance: the user's, which logs in, and the machine's own, by which the
//! client knows it. All in OpenSSH's formats.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use getrandom::SysRng;
use ssh_key::private::{Ed25519Keypair, KeypairData, RsaKeypair};
use ssh_key::rand_core::UnwrapErr;
use ssh_key::{LineEnding, PrivateKey};

use crate::progress::Progress;
use crate::publish::{self, PRIVATE, PUBLIC};

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot make the directory {path}")]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot ask for a passphrase; --no-passphrase makes a key without one")]
    Passphrase(#[source] io::Error),
    #[error("cannot make a key")]
    Generate(#[from] ssh_key::Error),
    #[error(transparent)]
    File(#[from] publish::Error),
}

/// The user's key, whatever its type. The client looks for `~/.ssh/cpu_rsa` when it is told nothing.
const FILE_NAME: &str = "cpu_rsa";

/// What the user's key is.
#[derive(Clone, Copy)]
pub(crate) enum KeyType {
    Rsa { bits: u16 },
    Ed25519,
}

impl KeyType {
    fn generate(self, comment: &str) -> Result<PrivateKey, ssh_key::Error> {
        // Without random numbers from the kernel no key can be made.
        let mut random = UnwrapErr(SysRng);
        let pair = match self {
            Self::Rsa { bits } => {
                KeypairData::from(RsaKeypair::random(&mut random, usize::from(bits))?)
            }
            Self::Ed25519 => KeypairData::from(Ed25519Keypair::random(&mut random)),
        };
        PrivateKey::new(pair, comment)
    }
}

/// A key that was written.
pub(crate) struct Key {
    /// The private half; the public one is beside it, in `.pub`.
    pub(crate) path: PathBuf,
    /// `SHA256:...`, as OpenSSH prints it.
    pub(crate) fingerprint: String,
}

/// Both keys.
pub(crate) struct KeyPairs {
    pub(crate) user: Key,
    pub(crate) host: Key,
}

/// Make both keys in `directory`, and the file by which the client pins the machine's. Nothing that
/// exists is overwritten, nor anything written when one of the files exists. `passphrase` is called once that is certain.
pub(crate) fn make(
    directory: &Path,
    kind: KeyType,
    passphrase: impl FnOnce() -> io::Result<Option<String>>,
    progress: Progress,
) -> Result<KeyPairs, Error> {
    fs::create_dir_all(directory).map_err(|source| Error::Directory {
        path: directory.to_owned(),
        source,
    })?;
    let user_path = directory.join(FILE_NAME);
    let host_path = directory.join("ssh_host_ed25519_key");
    let pin_path = beside(&user_path, ".hostkey");
    let all = [
        user_path.clone(),
        beside(&user_path, ".pub"),
        pin_path.clone(),
        host_path.clone(),
        beside(&host_path, ".pub"),
    ];
    if let Some(path) = all.into_iter().find(|path| path.symlink_metadata().is_ok()) {
        return Err(publish::Error::Exists(path).into());
    }
    let passphrase = passphrase().map_err(Error::Passphrase)?;
    let task = progress.task("making keys", None);
    let mut user = kind.generate("cpu")?;
    if let Some(passphrase) = passphrase {
        user = user.encrypt(&mut UnwrapErr(SysRng), passphrase)?;
    }
    let host = KeyType::Ed25519.generate("cpu appliance")?;
    drop(task);
    let pin = format!("{}\n", host.public_key().to_openssh()?);
    publish::create(&pin_path, PUBLIC, pin.as_bytes())?;
    Ok(KeyPairs {
        host: write(&host, host_path)?,
        user: write(&user, user_path)?,
    })
}

fn write(key: &PrivateKey, path: PathBuf) -> Result<Key, Error> {
    let private = key.to_openssh(LineEnding::LF)?;
    let public = format!("{}\n", key.public_key().to_openssh()?);
    publish::create(&path, PRIVATE, private.as_bytes())?;
    publish::create(&beside(&path, ".pub"), PUBLIC, public.as_bytes())?;
    Ok(Key {
        path,
        fingerprint: cpu_proto::fingerprint(key.public_key()),
    })
}

/// `cpu_rsa` and `.pub` give `cpu_rsa.pub`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use ssh_key::PublicKey;

    use super::*;

    fn make_in(dir: &Path) -> Result<KeyPairs, Error> {
        make(dir, KeyType::Ed25519, || Ok(None), Progress::silent())
    }

    #[test]
    fn a_passphrase_opens_the_key_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let passphrase = || Ok(Some("sesame".to_owned()));
        let made = make(dir.path(), KeyType::Ed25519, passphrase, Progress::silent()).unwrap();
        let private = PrivateKey::read_openssh_file(&made.user.path).unwrap();
        assert!(private.is_encrypted() && private.decrypt("open").is_err());
        let public = PublicKey::read_openssh_file(beside(&made.user.path, ".pub")).unwrap();
        let opened = private.decrypt("sesame").unwrap();
        assert_eq!(opened.public_key().key_data(), public.key_data());
        // Nobody could type a passphrase when the machine boots.
        let host = PrivateKey::read_openssh_file(&made.host.path).unwrap();
        assert!(!host.is_encrypted());
    }

    #[test]
    fn keys_are_private_and_belong_together() {
        let dir = tempfile::tempdir().unwrap();
        let made = make_in(dir.path()).unwrap();
        for key in [&made.user, &made.host] {
            let mode = fs::metadata(&key.path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let private = PrivateKey::read_openssh_file(&key.path).unwrap();
            let public = PublicKey::read_openssh_file(beside(&key.path, ".pub")).unwrap();
            assert_eq!(private.public_key().key_data(), public.key_data());
            assert_eq!(cpu_proto::fingerprint(&public), key.fingerprint);
        }
        assert_eq!(
            fs::read(beside(&made.user.path, ".hostkey")).unwrap(),
            fs::read(beside(&made.host.path, ".pub")).unwrap(),
        );
    }

    #[test]
    fn rsa_keys_have_the_size_that_was_asked() {
        let key = KeyType::Rsa { bits: 2048 }.generate("").unwrap();
        let rsa = key.key_data().rsa().unwrap();
        assert_eq!(rsa.key_size(), 2048);
    }

    #[test]
    fn one_file_in_the_way_leaves_all_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ssh_host_ed25519_key.pub"), "mine").unwrap();
        let asked = || panic!("there is no use for an answer");
        assert!(matches!(
            make(dir.path(), KeyType::Ed25519, asked, Progress::silent()),
            Err(Error::File(publish::Error::Exists(_)))
        ));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
