//! Who may log in: the file of public keys.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use cpu_proto::AuthorizedKeys;

use super::strict_modes;
use crate::console::say;

/// The public keys of a file in `authorized_keys` format (sshd(8)). A line that cannot be read is
/// left out, and with `is_said` reported; a file without any key is an error, since nobody could log in. With `strict`, so is one that
/// others may change.
pub(super) fn read_public_keys(path: &Path, strict: bool, is_said: bool) -> Result<AuthorizedKeys> {
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
    let keys = AuthorizedKeys::parse(&bytes);
    for line in keys.left_out.iter().filter(|_| is_said) {
        say(format_args!("{}: {line}", path.display()));
    }
    if keys.keys.is_empty() {
        bail!(
            "{} holds no public key, so nobody could log in; put the .pub file of your key there",
            path.display()
        );
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti user@host";

    #[test]
    fn no_key_at_all_is_an_error_that_says_so() {
        let file = std::env::temp_dir().join(format!("cpud-keys-{}", std::process::id()));
        std::fs::write(&file, "# none\n").unwrap();
        let error = read_public_keys(&file, false, true)
            .unwrap_err()
            .to_string();
        std::fs::write(&file, [ED25519.as_bytes(), b" caf\xe9\n"].concat()).unwrap();
        assert_eq!(read_public_keys(&file, false, true).unwrap().keys.len(), 1);
        std::fs::remove_file(&file).unwrap();
        assert!(error.contains("nobody could log in"), "{error}");
    }
}
