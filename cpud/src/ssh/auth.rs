//! Who may log in, and who this machine is: the two key files.

use std::path::Path;

use anyhow::{Context, Result, bail};
use russh::keys::ssh_key::AuthorizedKeys;
use russh::keys::{HashAlg, PrivateKey, PublicKey};

/// The public keys of a file in `authorized_keys` format (sshd(8)). A line that cannot be read is
/// reported and left out; a file without any key is an error, since nobody could log in.
///
/// Options before a key would restrict it in sshd; here every key may do everything, so a line
/// with options is refused rather than given more than it says.
pub(super) fn read_public_keys(path: &Path) -> Result<Vec<PublicKey>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the public keys in {}", path.display()))?;
    let (keys, complaints) = parse_public_keys(&text);
    for complaint in complaints {
        eprintln!("cpud: {}: {complaint}", path.display());
    }
    if keys.is_empty() {
        bail!(
            "{} holds no public key, so nobody could log in; put the .pub file of your key there",
            path.display()
        );
    }
    Ok(keys)
}

fn parse_public_keys(text: &str) -> (Vec<PublicKey>, Vec<String>) {
    let mut keys = Vec::new();
    let mut complaints = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for entry in AuthorizedKeys::new(line) {
            match entry {
                Ok(entry) if !entry.config_opts().is_empty() => complaints.push(format!(
                    "line {} has options, which are not supported; the key is left out",
                    number + 1
                )),
                Ok(entry) => keys.push(entry.public_key().clone()),
                Err(error) => {
                    complaints.push(format!(
                        "line {} is not a public key ({error}); it is left out",
                        number + 1
                    ));
                }
            }
        }
    }
    (keys, complaints)
}

/// The machine's private host key.
pub(crate) fn read_host_key(path: &Path) -> Result<PrivateKey> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!(
            "cannot read the host key {} (make one: ssh-keygen -t ed25519 -N '' -f FILE, and give -hk FILE)",
            path.display()
        )
    })?;
    russh::keys::decode_secret_key(&text, None)
        .with_context(|| format!("{} is not a private key without passphrase", path.display()))
}

/// As `ssh-keygen -l` prints it: `SHA256:...`.
pub(crate) fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti user@host";
    const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBHwf2HMM5TRXvo2SQJjsNkiDD5KqiiNjrGVv3UUh+mMT5RHxiRtOnlqvjhQtBq0VpmpCV/PwUdhOig4vkbqAcEc= user@host";

    #[test]
    fn reads_every_line_and_every_type() {
        let text = format!("# comment\n\n{ED25519}\n{ECDSA}\n");
        let (keys, complaints) = parse_public_keys(&text);
        assert_eq!(complaints, Vec::<String>::new());
        assert_eq!(keys.len(), 2);
        assert!(keys[0].algorithm().to_string().contains("ed25519"));
    }

    #[test]
    fn a_bad_line_costs_only_itself() {
        let text = format!("nonsense\n{ED25519}\ncommand=\"/bin/true\" {ECDSA}\n");
        let (keys, complaints) = parse_public_keys(&text);
        assert_eq!(keys.len(), 1);
        assert_eq!(complaints.len(), 2);
        assert!(complaints[0].starts_with("line 1"), "{complaints:?}");
        assert!(complaints[1].contains("options"), "{complaints:?}");
    }

    #[test]
    fn no_key_at_all_is_an_error_that_says_so() {
        let file = std::env::temp_dir().join(format!("cpud-keys-{}", std::process::id()));
        std::fs::write(&file, "# none\n").unwrap();
        let error = read_public_keys(&file).unwrap_err().to_string();
        std::fs::remove_file(&file).unwrap();
        assert!(error.contains("nobody could log in"), "{error}");
    }
}
