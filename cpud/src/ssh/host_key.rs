//! The machine's private host key. It is read from its file once, when cpud starts; the processes that need it get it
//! through a pipe. So on a machine it need not lie in any file ([`take`]), and it is in no argument and no variable.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use cpu_proto::HOST_KEY_AT_BOOT;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use russh::keys::key::safe_rng;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{PrivateKey, PublicKey};

use super::strict_modes;
use crate::console::say;
use crate::{rootfs, sys};

/// The most bytes of a key, which fit into a pipe. One of RSA with 16384 bits has a fifth of that.
const MAX_KEY: u64 = 60 * 1024;

/// A key.
pub(crate) struct PrivateHostKey {
    /// As it is in its file; of one that was made here the seed, since what writes OpenSSH's format would take 4 KB of the initramfs.
    bytes: Vec<u8>,
    key: PrivateKey,
}

/// The private part of an Ed25519 key (RFC 8032, 5.1.5).
type Seed = [u8; 32];

impl PrivateHostKey {
    /// Reads a key from a file, or from the inherited descriptor N if the name is `fd:N`. Only OpenSSH's format is read, in
    /// which ssh-keygen has written all keys since 2019: the older formats and their ciphers would be a twentieth of the
    /// program. With `strict`, a file that others may read is an error.
    pub(crate) fn read(path: &Path, strict: bool) -> Result<Self> {
        let name = path.display();
        let descriptor = path.to_str().and_then(|path| path.strip_prefix("fd:"));
        let descriptor = descriptor.and_then(|number| number.parse().ok());
        let read = || -> std::io::Result<(File, Vec<u8>)> {
            let file = match descriptor {
                Some(number) => File::from(sys::inherit(number)?),
                None => File::open(path)?,
            };
            let mut bytes = Vec::new();
            (&file).take(MAX_KEY).read_to_end(&mut bytes)?;
            Ok((file, bytes))
        };
        let (file, bytes) = read().with_context(|| {
            format!(
                "cannot read the host key {name} (make one: ssh-keygen -t ed25519 -N '' -f FILE, and give -hk FILE)"
            )
        })?;
        if strict {
            strict_modes::check_private(path, &file)?;
        }
        if descriptor.is_some()
            && let Ok(seed) = Seed::try_from(&bytes[..])
        {
            return Ok(Self::from_seed(&seed));
        }
        let key = PrivateKey::from_openssh(&bytes).with_context(|| {
            format!(
                "{name} is not a private key in OpenSSH's format (ssh-keygen -p -N '' -f FILE converts an older format)"
            )
        })?;
        if key.is_encrypted() {
            bail!(
                "{name} has a passphrase, which nobody is there to type (ssh-keygen -p -N '' -f FILE removes it)"
            );
        }
        Ok(Self { bytes, key })
    }

    /// Makes a key. (`PrivateKey::random` has the making of RSA keys with it, 40 KB.)
    fn make() -> Self {
        Self::from_seed(&Ed25519Keypair::random(&mut safe_rng()).private.to_bytes())
    }

    fn from_seed(seed: &Seed) -> Self {
        Self {
            bytes: seed.to_vec(),
            key: Ed25519Keypair::from_seed(seed).into(),
        }
    }

    pub(crate) fn public_key(&self) -> &PublicKey {
        self.key.public_key()
    }

    pub(super) fn into_private_key(self) -> PrivateKey {
        self.key
    }

    /// A pipe that holds the key, for a process that is about to be started, and the value of its `-hk`.
    pub(crate) fn pipe(&self) -> Result<(OwnedFd, String)> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
        File::from(write).write_all(&self.bytes)?;
        fcntl(&read, FcntlArg::F_SETFD(FdFlag::empty()))?;
        let name = format!("fd:{}", read.as_raw_fd());
        Ok((read, name))
    }
}

/// Reads the key of a machine and removes its file, if that came with the initramfs: else every session could copy it. If the file
/// asks for it, makes the key. The public key stays, as `FILE.pub`. None if the file is elsewhere, or cannot be read, which the server reports.
pub(crate) fn take(path: &Path) -> Option<PrivateHostKey> {
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    if !rootfs::is_in_memory() || device(path)? != device(Path::new("/"))? {
        return None;
    }
    let key = match std::fs::read(path) {
        Ok(text) if text == HOST_KEY_AT_BOOT.as_bytes() => PrivateHostKey::make(),
        _ => PrivateHostKey::read(path, false).ok()?,
    };
    let remove = || -> Result<()> {
        let public = key.public_key().to_openssh()? + "\n";
        std::fs::write(path.with_added_extension("pub"), public)?;
        Ok(std::fs::remove_file(path)?)
    };
    if let Err(error) = remove() {
        say(format_args!(
            "cannot remove the host key {}: {error:#}",
            path.display()
        ));
    }
    Some(key)
}

/// The public key, as long as the private key's file is there, or afterwards.
pub(crate) fn read_public(path: &Path) -> Result<PublicKey> {
    if let Ok(key) = PrivateHostKey::read(path, false) {
        return Ok(key.public_key().clone());
    }
    let file = File::open(path.with_added_extension("pub"))?;
    let mut text = String::new();
    let length = file.take(MAX_KEY).read_to_string(&mut text)?;
    ensure!(length > 0, "empty");
    Ok(PublicKey::from_openssh(&text)?)
}

#[cfg(test)]
mod tests {
    use russh::keys::Algorithm;
    use russh::keys::ssh_key::LineEnding;

    use super::*;

    #[test]
    fn a_host_key_is_in_openssh_s_format_and_open() {
        let file = std::env::temp_dir().join(format!("cpud-host-key-{}", std::process::id()));
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            let key = PrivateHostKey::read(&file, false).map(PrivateHostKey::into_private_key);
            key.map_err(|error| format!("{error:#}"))
        };
        let random = &mut safe_rng();
        let key = PrivateKey::random(random, Algorithm::Ed25519).unwrap();
        let open = read(&key.to_openssh(LineEnding::LF).unwrap()).unwrap();
        assert_eq!(open.public_key().key_data(), key.public_key().key_data());
        let locked = key.encrypt(random, "secret").unwrap();
        let error = read(&locked.to_openssh(LineEnding::LF).unwrap()).unwrap_err();
        assert!(error.contains("has a passphrase"), "{error}");
        let error = read("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
        assert!(error.unwrap_err().contains("ssh-keygen -p"));
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn a_key_that_did_not_come_with_the_initramfs_stays() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("host_key");
        let key = PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519);
        let text = key.unwrap().to_openssh(LineEnding::LF).unwrap();
        std::fs::write(&file, &text).unwrap();
        assert!(take(&file).is_none());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), *text);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        // What a pipe holds is what was in the file.
        let (pipe, _) = PrivateHostKey::read(&file, false)
            .unwrap_or_else(|error| panic!("{error}"))
            .pipe()
            .unwrap();
        let mut piped = String::new();
        File::from(pipe).read_to_string(&mut piped).unwrap();
        assert_eq!(piped, *text);
    }
}
