//! The algorithms that are offered, in order of preference. The client's order decides (RFC 4253, section 7.1).

use std::borrow::Cow;

use russh::keys::{Algorithm, EcdsaCurve, HashAlg};
use russh::{Preferred, cipher, compression, kex, mac};

/// Largest payload of an SSH packet that we ask for: what every implementation must support (RFC 4253, section 6.1).
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

/// For a CPU without AES instructions, where GCM is slow. A server without GCM also makes a client that prefers it
/// use ChaCha20.
const CHACHA_FIRST: &[cipher::Name] = &[
    cipher::CHACHA20_POLY1305,
    cipher::AES_128_CTR,
    cipher::AES_256_CTR,
];

/// Encrypt-then-MAC only, which OpenSSH has had since 2013.
const MAC: &[mac::Name] = &[mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM];

/// The ciphers of a client or server whose CPU has AES instructions, or of one without.
fn ciphers(has_aes: bool) -> &'static [cipher::Name] {
    if has_aes { AES_FIRST } else { CHACHA_FIRST }
}

/// Whether this CPU has AES instructions.
fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[allow(unreachable_code)] // other architectures
    false
}

/// Leaves only the post-quantum key exchange in `preferred`. OpenSSH has it since 9.9; u-root's Go programs and older
/// clients do not.
pub fn only_post_quantum(preferred: &mut Preferred) {
    let kex = preferred.kex.to_mut();
    kex.retain(|name| *name != kex::CURVE25519 && *name != kex::CURVE25519_PRE_RFC_8731);
}

/// The algorithms for both ends. There is no compression: it is slower than a LAN, and has been an attack surface.
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

    /// The first cipher of the client that the server knows is chosen (RFC 4253, section 7.1).
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
