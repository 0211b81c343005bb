//! Key files: their permissions and formats, and the passphrase when it is needed.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use cpu_proto::AuthorizedKeys;
use cpu_proto::authorized_keys::Fault;
use russh::keys::agent::AgentIdentity;
use russh::keys::{Certificate, PrivateKey, PublicKey};

use crate::terminal;

/// How often a passphrase is asked for, as ssh's NumberOfPasswordPrompts.
const PASSPHRASE_PROMPTS: usize = 3;

/// Larger than any key.
pub(super) const MAX_KEY_SIZE: u64 = 1 << 20;

/// A key that may be offered to a server.
pub(super) struct Identity {
    /// For messages: the file's name, or the agent's comment.
    pub(super) name: String,
    pub(super) public: PublicKey,
    /// What is offered instead of the public key.
    pub(super) certificate: Option<Certificate>,
    pub(super) secret: Secret,
}

/// How a key signs.
#[derive(Clone)]
pub(super) enum Secret {
    Plain(Arc<PrivateKey>),
    /// An encrypted file and its text. The passphrase is asked for when the server accepts the public key.
    Locked(PathBuf, String),
    /// The agent has it, by this name.
    Agent(Box<AgentIdentity>),
}

// The private key must not get into a log.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Reads a file with a private key. `None`, after a warning, if others may read it; ssh does not use such a file either.
pub(super) fn read(path: &Path) -> Result<Option<Identity>> {
    let name = path.display();
    let what = || {
        format!(
            "cannot read the private key {name} (give one with -key, or make one with mkimage keys)"
        )
    };
    let meta = std::fs::metadata(path).with_context(what)?;
    if !meta.is_file() || meta.len() > MAX_KEY_SIZE {
        bail!("{name} is not a private key");
    }
    let mode = meta.mode() & 0o777;
    if meta.uid() == nix::unistd::getuid().as_raw() && mode & 0o077 != 0 {
        say!(
            "the private key {name} is not used: its mode {mode:04o} lets others read or change it; chmod 600 it"
        );
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).with_context(what)?;
    let name = name.to_string();
    let unlocked = russh::keys::decode_secret_key(&text, None);
    let (public, secret) = match unlocked {
        Ok(key) => (key.public_key().clone(), Secret::Plain(Arc::new(key))),
        Err(_) if is_locked(&text) => {
            let locked = Secret::Locked(path.to_owned(), text.clone());
            match public_key_of(path, &text) {
                Some(public) => (public, locked),
                // Without the public key the file must be unlocked now.
                None => {
                    let key = unlock(path, &text)?;
                    (key.public_key().clone(), Secret::Plain(key))
                }
            }
        }
        Err(error) => bail!("{name} is not a private key that can be read: {error}"),
    };
    Ok(Some(Identity {
        name,
        public,
        certificate: None,
        secret,
    }))
}

/// The public key in the file `path`, or in `path.pub` if only that exists: then the agent, or a token, has the private
/// key. `None` if there is no public key. An error if the file can be no key at all.
pub(super) fn read_public(path: &Path) -> Result<Option<Identity>> {
    let beside = PathBuf::from(format!("{}.pub", path.display()));
    let file = if path.exists() { path } else { &beside };
    let meta = std::fs::metadata(file).ok();
    let is_key_sized = meta.is_some_and(|meta| meta.is_file() && meta.len() <= MAX_KEY_SIZE);
    let Some(bytes) = std::fs::read(file).ok().filter(|_| is_key_sized) else {
        return Ok(None);
    };
    let name = file.display().to_string();
    for line in AuthorizedKeys::parse(&bytes).left_out {
        match line.fault {
            Fault::Certificate => bail!(
                "{name} is a certificate: name its key, and the -cert.pub file beside that is used with it"
            ),
            Fault::ByteOrderMark | Fault::Utf16 => bail!("{name} {}", line.fault),
            _ => {}
        }
    }
    let text = str::from_utf8(&bytes).unwrap_or_default();
    let public = PublicKey::from_openssh(text.trim()).ok();
    Ok(public.map(|public| Identity {
        secret: Secret::Agent(Box::new(public.clone().into())),
        name,
        public,
        certificate: None,
    }))
}

/// Asks for the passphrase on the terminal.
pub(super) fn unlock(path: &Path, text: &str) -> Result<Arc<PrivateKey>> {
    let name = path.display();
    if !is_supported(text) {
        bail!(
            "the key {name} is encrypted in an old format that cpu cannot read; \
             ssh-keygen -p -f {name} converts it"
        );
    }
    for _ in 0..PASSPHRASE_PROMPTS {
        let passphrase = terminal::ask_hidden(&format!("Enter passphrase for key '{name}': "))
            .with_context(|| {
                format!("there is no terminal to ask for the passphrase of {name}; ssh-agent can hold the key")
            })?;
        if passphrase.is_empty() {
            break;
        }
        if let Ok(key) = russh::keys::decode_secret_key(text, Some(&passphrase)) {
            return Ok(Arc::new(key));
        }
    }
    bail!("the key {name} stays locked: that was not its passphrase")
}

fn is_locked(text: &str) -> bool {
    text.contains("ENCRYPTED") || PrivateKey::from_openssh(text).is_ok_and(|key| key.is_encrypted())
}

/// Of the old PEM ciphers only AES-128-CBC is supported, and only for RSA.
fn is_supported(text: &str) -> bool {
    let Some(cipher) = text
        .lines()
        .find_map(|line| line.strip_prefix("DEK-Info: "))
    else {
        return true;
    };
    cipher.starts_with("AES-128-CBC,") && text.starts_with("-----BEGIN RSA")
}

/// The public key of an encrypted file: part of OpenSSH's format, else in the `.pub` file.
fn public_key_of(path: &Path, text: &str) -> Option<PublicKey> {
    if let Ok(key) = PrivateKey::from_openssh(text) {
        return Some(key.public_key().clone());
    }
    let beside = std::fs::read_to_string(format!("{}.pub", path.display())).ok()?;
    PublicKey::from_openssh(beside.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    fn keygen(directory: &Path, words: &[&str], passphrase: &str) -> PathBuf {
        let path = directory.join(words.join("").replace(' ', ""));
        let status = Command::new("ssh-keygen")
            .args(["-q", "-N", passphrase, "-f"])
            .arg(&path)
            .args(words)
            .status();
        assert!(
            status
                .expect("ssh-keygen (package openssh-client)")
                .success()
        );
        path
    }

    #[test]
    fn every_format_and_type_is_read() {
        let directory = tempfile::tempdir().unwrap();
        for words in [
            &["-t", "ed25519"][..],
            &["-t", "ecdsa"],
            &["-t", "ecdsa", "-b", "384"],
            &["-t", "ecdsa", "-b", "521"],
            &["-t", "rsa", "-b", "2048"],
            &["-t", "rsa", "-b", "2048", "-m", "PEM"],
            &["-t", "rsa", "-b", "2048", "-m", "PKCS8"],
            &["-t", "ecdsa", "-m", "PEM"],
            &["-t", "ecdsa", "-m", "PKCS8"],
        ] {
            let path = keygen(directory.path(), words, "");
            let key = read(&path).unwrap().unwrap();
            assert!(matches!(key.secret, Secret::Plain(_)), "{words:?}");
            let text = std::fs::read_to_string(path.with_added_extension("pub")).unwrap();
            let public = PublicKey::from_openssh(text.trim()).unwrap();
            assert_eq!(key.public.key_data(), public.key_data(), "{words:?}");
            assert!(
                read_public(&path).unwrap().is_none(),
                "it is the private one"
            );
            let beside = path.with_added_extension("pub");
            std::fs::remove_file(&path).unwrap();
            for path in [path, beside] {
                let key = read_public(&path).unwrap().unwrap();
                assert_eq!(key.public.key_data(), public.key_data(), "{words:?}");
            }
        }
    }

    #[test]
    fn a_file_whose_key_is_hidden_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let private = keygen(directory.path(), &["-t", "ed25519"], "");
        let public = private.with_added_extension("pub");
        let signed = Command::new("ssh-keygen")
            .args(["-q", "-I", "me", "-s"])
            .args([&private, &public])
            .status();
        assert!(signed.unwrap().success());
        let certificate = PathBuf::from(format!("{}-cert.pub", private.display()));
        let marked = directory.path().join("marked");
        let told = |path: &Path| read_public(path).unwrap_err().to_string();
        assert!(told(&certificate).contains("is a certificate"));
        for file in [&private, &public] {
            let text = std::fs::read_to_string(file).unwrap();
            std::fs::write(&marked, format!("\u{feff}{text}")).unwrap();
            assert!(told(&marked).contains("byte order mark"));
        }
    }

    #[test]
    fn a_passphrase_is_not_asked_for_before_it_is_needed() {
        let directory = tempfile::tempdir().unwrap();
        for (words, supported) in [
            (&["-t", "ed25519"][..], true),
            (&["-t", "rsa", "-m", "PEM"], true),
            (&["-t", "rsa", "-m", "PKCS8"], true),
            (&["-t", "ecdsa", "-m", "PKCS8"], true),
            (&["-t", "ecdsa", "-m", "PEM"], false),
        ] {
            let path = keygen(directory.path(), words, "secret");
            let key = read(&path).unwrap().unwrap();
            let Secret::Locked(_, text) = &key.secret else {
                panic!("{words:?} is not locked");
            };
            assert_eq!(is_supported(text), supported, "{words:?}");
            if supported {
                let open = russh::keys::decode_secret_key(text, Some("secret"));
                assert_eq!(open.unwrap().public_key().key_data(), key.public.key_data());
                assert!(russh::keys::decode_secret_key(text, Some("wrong")).is_err());
            } else {
                let error = unlock(&path, text).unwrap_err().to_string();
                assert!(error.contains("ssh-keygen -p"), "{error}");
            }
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = keygen(directory.path(), &["-t", "ed25519"], "");
        for (mode, used) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(read(&path).unwrap().is_some(), used, "{mode:o}");
        }
        assert!(read(Path::new("/dev/zero")).is_err());
        assert!(read(&directory.path().join("none")).is_err());
    }
}
