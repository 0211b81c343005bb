//! The two key files: the public keys that may log in, and the machine's host key.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use cpu_proto::{AuthorizedKey, AuthorizedKeys};
use russh::keys::PrivateKey;

use super::strict_modes;
use crate::console::say;

/// The public keys of a file in `authorized_keys` format (sshd(8)). A line that cannot be read is
/// left out, and with `is_said` reported; a file without any key is an error, since nobody could log in. With `strict`, so is one that
/// others may change.
pub(super) fn read_public_keys(
    path: &Path,
    strict: bool,
    is_said: bool,
) -> Result<Vec<AuthorizedKey>> {
    let read = || -> std::io::Result<(File, Vec<u8>)> {
        let (mut file, mut bytes) = (File::open(path)?, Vec::new());
        file.read_to_end(&mut bytes)?;
        Ok((file, bytes))
    };
    let (file, bytes) =
        read().with_context(|| format!("cannot read the public keys in {}", path.display()))?;
    if strict {
        strict_modes::check_public(path, &file)?;
    }
    let AuthorizedKeys { keys, left_out } = AuthorizedKeys::parse(&bytes);
    for line in left_out.iter().filter(|_| is_said) {
        say(format_args!("{}: {line}", path.display()));
    }
    if keys.is_empty() {
        bail!(
            "{} holds no public key, so nobody could log in; put the .pub file of your key there",
            path.display()
        );
    }
    Ok(keys)
}

/// The machine's private host key. Only OpenSSH's format is read, in which ssh-keygen has written all keys since
/// 2019: the older formats and their ciphers would be a twentieth of the program. With `strict`, a file that others may
/// read is an error.
pub(crate) fn read_host_key(path: &Path, strict: bool) -> Result<PrivateKey> {
    let read = || -> std::io::Result<(File, String)> {
        let (mut file, mut text) = (File::open(path)?, String::new());
        file.read_to_string(&mut text)?;
        Ok((file, text))
    };
    let (file, text) = read().with_context(|| {
        format!(
            "cannot read the host key {} (make one: ssh-keygen -t ed25519 -N '' -f FILE, and give -hk FILE)",
            path.display()
        )
    })?;
    if strict {
        strict_modes::check_private(path, &file)?;
    }
    let key = PrivateKey::from_openssh(&text).with_context(|| {
        format!(
            "{} is not a private key in OpenSSH's format (ssh-keygen -p -N '' -f FILE converts an older format)",
            path.display()
        )
    })?;
    if key.is_encrypted() {
        bail!(
            "{} has a passphrase, which nobody is there to type (ssh-keygen -p -N '' -f FILE removes it)",
            path.display()
        );
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use russh::keys::Algorithm;

    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti user@host";

    #[test]
    fn a_host_key_is_in_openssh_s_format_and_open() {
        use russh::keys::ssh_key::LineEnding;

        let file = std::env::temp_dir().join(format!("cpud-host-key-{}", std::process::id()));
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            read_host_key(&file, false).map_err(|error| format!("{error:#}"))
        };
        let random = &mut russh::keys::key::safe_rng();
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
    fn no_key_at_all_is_an_error_that_says_so() {
        let file = std::env::temp_dir().join(format!("cpud-keys-{}", std::process::id()));
        std::fs::write(&file, "# none\n").unwrap();
        let error = read_public_keys(&file, false, true)
            .unwrap_err()
            .to_string();
        std::fs::write(&file, [ED25519.as_bytes(), b" caf\xe9\n"].concat()).unwrap();
        assert_eq!(read_public_keys(&file, false, true).unwrap().len(), 1);
        std::fs::remove_file(&file).unwrap();
        assert!(error.contains("nobody could log in"), "{error}");
    }
}
