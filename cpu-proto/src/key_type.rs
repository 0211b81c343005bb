//! The types and sizes of keys that can log in.

use ssh_key::Algorithm;
use ssh_key::public::{KeyData, RsaPublicKey};

/// The sizes in bits of RSA keys whose signatures can be verified: those of the `rsa` crate.
const RSA_BITS: std::ops::RangeInclusive<u32> = 1024..=8192;

/// Why a key cannot log in. The message continues "it has".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyTypeFault {
    /// Signatures of this type cannot be verified.
    #[error("a key of a type that cannot log in ({0})")]
    Type(String),
    /// An RSA key that is too small or too large.
    #[error("an RSA key of {0} bits; only keys of 1024 to 8192 bits can log in")]
    RsaBits(u32),
}

/// An error if signatures of the key cannot be verified, or can be forged.
pub(crate) fn check(key: &KeyData) -> Result<(), KeyTypeFault> {
    match key.algorithm() {
        Algorithm::Rsa { .. } => match key.rsa().map(RsaPublicKey::key_size) {
            Some(bits) if !RSA_BITS.contains(&bits) => Err(KeyTypeFault::RsaBits(bits)),
            _ => Ok(()),
        },
        Algorithm::Ed25519
        | Algorithm::Ecdsa { .. }
        | Algorithm::SkEd25519
        | Algorithm::SkEcdsaSha2NistP256 => Ok(()),
        other => Err(KeyTypeFault::Type(other.to_string())),
    }
}
