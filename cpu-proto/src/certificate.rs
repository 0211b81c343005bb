//! OpenSSH certificates (PROTOCOL.certkeys): whether one is good, apart from the trust in its CA.

pub use ssh_key::certificate::CertType;
use ssh_key::{Algorithm, Certificate, HashAlg};

use crate::key_type::{self, KeyTypeFault};
use crate::printable;

/// Why a certificate is not accepted. The message continues "its certificate".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// A host's, where a user's is needed, or a user's where a host's is.
    #[error("is not one for {}", if .0.is_user() { "users" } else { "hosts" })]
    Type(CertType),
    /// The holder's key.
    #[error("has {0}")]
    Key(#[from] KeyTypeFault),
    /// The CA has signed with SHA-1.
    #[error(
        "is signed with SHA-1, which can be forged: sign it anew, with ssh-keygen -t rsa-sha2-512"
    )]
    Sha1,
    /// The signature is not one of the CA.
    #[error("has a signature that its CA has not made")]
    Signature,
    /// It begins later.
    #[error("is not valid yet, by the clock")]
    NotYet,
    /// It has ended.
    #[error("has expired, by the clock")]
    Expired,
    /// It is valid for others.
    #[error("names {0}, and not whom it should (its principals)")]
    Principals(String),
    /// It limits in a way that is not known, or has a value that cannot be read, or contradicts the CA's line.
    #[error("has the critical option {0}, which cannot be kept to")]
    Option(String),
    /// The peer's address is not one of `source-address`.
    #[error("does not allow this address (its source-address)")]
    SourceAddress,
}

/// Whether a certificate is one of this kind, of the CA that it names, and valid at this time in seconds since 1970.
/// Whether that CA is to be trusted, and with whom, is left to the caller.
pub fn check(certificate: &Certificate, kind: CertType, now: u64) -> Result<(), CertificateFault> {
    if certificate.cert_type() != kind {
        return Err(CertificateFault::Type(kind));
    }
    key_type::check(certificate.public_key())?;
    if matches!(
        certificate.signature().algorithm(),
        Algorithm::Rsa { hash: None }
    ) {
        return Err(CertificateFault::Sha1);
    }
    if now < certificate.valid_after() {
        return Err(CertificateFault::NotYet);
    }
    if now >= certificate.valid_before() {
        return Err(CertificateFault::Expired);
    }
    let ca = certificate.signature_key().fingerprint(HashAlg::Sha256);
    let result = certificate.validate_at(now, [&ca]);
    result.map_err(|_| CertificateFault::Signature)
}

/// An error unless one of the certificate's principals is accepted. One that names none is for nobody, as for sshd since
/// OpenSSH 10.3: before, it was for everybody.
pub fn check_principals(
    certificate: &Certificate,
    accepts: impl Fn(&str) -> bool,
) -> Result<(), CertificateFault> {
    let principals = certificate.valid_principals();
    if principals.iter().any(|name| accepts(name)) {
        return Ok(());
    }
    let names = match principals {
        [] => "nobody".to_owned(),
        some => printable(&some.join(", ")),
    };
    Err(CertificateFault::Principals(names))
}
