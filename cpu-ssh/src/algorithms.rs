//! Which algorithms are offered, in which order, and when keys are renewed.
//! The client's order decides (RFC 4253, section 7.1).

use std::borrow::Cow;

use russh::keys::{Algorithm, EcdsaCurve, HashAlg};
use russh::{Preferred, cipher, compression, kex, mac};

/// Largest SSH packet payload we ask for: what every implementation must accept (RFC 4253, 6.1).
pub const MAX_PACKET: u32 = 32_768;

const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::EXTENSION_SUPPORT_AS_CLIENT,
    kex::EXTENSION_SUPPORT_AS_SERVER,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
];

const KEY: &[Algorithm] = &[
    Algorithm::Ed25519,
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP256,
    },
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP384,
    },
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP521,
    },
    Algorithm::Rsa {
        hash: Some(HashAlg::Sha512),
    },
    Algorithm::Rsa {
        hash: Some(HashAlg::Sha256),
    },
];

const AES_FIRST: &[cipher::Name] = &[
    cipher::AES_128_GCM,
    cipher::AES_256_GCM,
    cipher::CHACHA20_POLY1305,
    cipher::AES_128_CTR,
    cipher::AES_256_CTR,
];

/// Without AES instructions GCM is slow; a server that leaves it out makes a client that would
/// choose it fall to ChaCha20.
const CHACHA_FIRST: &[cipher::Name] = &[
    cipher::CHACHA20_POLY1305,
    cipher::AES_128_CTR,
    cipher::AES_256_CTR,
];

/// Only those over what was encrypted; everybody has had them since 2013.
const MAC: &[mac::Name] = &[mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM];

/// In the order of a client whose CPU has, or has not, AES; those that such a server knows.
fn ciphers(has_aes: bool) -> &'static [cipher::Name] {
    if has_aes { AES_FIRST } else { CHACHA_FIRST }
}

/// Whether this CPU encrypts AES in hardware.
fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[allow(unreachable_code)] // other architectures
    false
}

/// The exchanges of `preferred` that no quantum computer will break: what OpenSSH has had since 9.9,
/// but u-root's Go programs and older clients have not.
pub fn only_post_quantum(preferred: &mut Preferred) {
    let kex = preferred.kex.to_mut();
    kex.retain(|name| *name != kex::CURVE25519 && *name != kex::CURVE25519_PRE_RFC_8731);
}

/// The lists for either end. Compression is off: it costs more than a LAN, and it has been an
/// attack surface.
pub fn preferred() -> Preferred {
    Preferred {
        kex: Cow::Borrowed(KEX),
        key: Cow::Borrowed(KEY),
        cipher: Cow::Borrowed(ciphers(has_aes())),
        mac: Cow::Borrowed(MAC),
        compression: Cow::Borrowed(&[compression::NONE]),
        host_key_certificates: Cow::Borrowed(&[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first of the client's that the server knows is taken (RFC 4253, 7.1).
    #[test]
    fn gcm_is_taken_where_both_have_aes_and_chacha_otherwise() {
        for (client, server, taken) in [
            (true, true, cipher::AES_128_GCM),
            (true, false, cipher::CHACHA20_POLY1305),
            (false, true, cipher::CHACHA20_POLY1305),
            (false, false, cipher::CHACHA20_POLY1305),
        ] {
            let known = ciphers(server);
            let mut wanted = ciphers(client).iter();
            assert_eq!(wanted.find(|name| known.contains(name)), Some(&taken));
        }
    }
}
