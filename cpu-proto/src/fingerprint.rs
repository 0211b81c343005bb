//! How the programs show a public key.

use ssh_key::{HashAlg, PublicKey};

/// As `ssh-keygen -l` prints it: `SHA256:...`.
pub fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}
