//! StrictModes of sshd_config(5): a daemon does not use key files that others may read or change.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Result, bail};

/// Who may own a file that decides who logs in: root, who runs cpud, and who has called sudo to run it.
fn owners() -> Vec<u32> {
    let sudo = std::env::var("SUDO_UID").ok();
    let sudo = sudo.and_then(|uid| uid.parse().ok());
    let own = nix::unistd::geteuid().as_raw();
    [0, own].into_iter().chain(sudo).collect()
}

/// Checks an open private key: nobody but its owner may read it.
pub(super) fn check_private(path: &Path, file: &File) -> Result<()> {
    let mode = file.metadata()?.mode() & 0o777;
    if mode & 0o077 != 0 {
        let path = path.display();
        bail!(
            "{path} is a private key that others may read or write (mode {mode:04o}): chmod 600 {path}, or give \
             -strictmodes=false"
        );
    }
    Ok(())
}

/// Checks an open file of public keys, and the directories that lead to it: nobody else may change them.
pub(super) fn check_public(path: &Path, file: &File) -> Result<()> {
    let owners = owners();
    check_unwritable(path, &file.metadata()?, &owners)?;
    for directory in path.canonicalize()?.ancestors().skip(1) {
        check_unwritable(directory, &directory.metadata()?, &owners)?;
    }
    Ok(())
}

fn check_unwritable(path: &Path, metadata: &Metadata, owners: &[u32]) -> Result<()> {
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    let path = path.display();
    // In a sticky directory, as /tmp is one, others cannot replace what is not theirs.
    let is_safe = metadata.is_dir() && mode & 0o1000 != 0;
    if mode & 0o022 != 0 && !is_safe {
        bail!(
            "others may write to {path} (mode {mode:04o}), and so let themselves log in: chmod go-w {path}, or give \
             -strictmodes=false"
        );
    }
    if !owners.contains(&owner) {
        bail!(
            "{path} belongs to the user {owner}, who could so log in: chown root {path}, or give -strictmodes=false"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn fault(result: Result<()>) -> String {
        result.map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn only_its_owner_may_read_a_private_key() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let check = |mode| {
            set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
            fault(check_private(file.path(), file.as_file()))
        };
        assert_eq!([0o600, 0o400].map(check), ["", ""]);
        for mode in [0o640, 0o604, 0o620, 0o644] {
            let fault = check(mode);
            assert!(fault.contains("chmod 600 /"), "{mode:o} {fault}");
        }
    }

    #[test]
    fn only_the_right_users_may_change_public_keys() {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().metadata().unwrap().uid();
        let check = |mode, owners: &[u32]| {
            set_permissions(directory.path(), Permissions::from_mode(mode)).unwrap();
            let metadata = directory.path().metadata().unwrap();
            fault(check_unwritable(directory.path(), &metadata, owners))
        };
        for mode in [0o755, 0o700, 0o1777] {
            assert_eq!(check(mode, &[own]), "", "{mode:o}");
        }
        for mode in [0o775, 0o757] {
            assert!(check(mode, &[own]).contains("chmod go-w /"), "{mode:o}");
        }
        assert!(check(0o755, &[own + 1]).contains("chown root /"));
        let file = tempfile::NamedTempFile::new_in(directory.path()).unwrap();
        set_permissions(file.path(), Permissions::from_mode(0o1666)).unwrap();
        let fault = fault(check_public(file.path(), file.as_file()));
        assert!(fault.contains("(mode 1666)"), "{fault}");
        // The directory of a file that is all right.
        set_permissions(file.path(), Permissions::from_mode(0o644)).unwrap();
        set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        let fault = self::fault(check_public(file.path(), file.as_file()));
        assert!(fault.contains("(mode 0777)"), "{fault}");
    }
}
