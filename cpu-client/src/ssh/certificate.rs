//! Certificates of the user's keys: the files beside them, those that `CertificateFile` names, and the agent's.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use cpu_proto::CertificateFault;
use cpu_proto::certificate::{CertType, check};
use russh::keys::Certificate;
use russh::keys::agent::AgentIdentity;
use tracing::debug;

use super::identity::{Identity, MAX_KEY_SIZE, Secret};

/// A certificate that may be offered.
#[derive(Clone)]
pub(super) struct UserCertificate {
    /// For messages: the file's name, or the agent's comment.
    name: String,
    certificate: Certificate,
    /// As the agent has it, if it has the private key with it.
    in_agent: Option<AgentIdentity>,
}

impl UserCertificate {
    /// `None`, with a line for `-d`, if it can let nobody in.
    fn new(
        name: String,
        certificate: Certificate,
        in_agent: Option<AgentIdentity>,
    ) -> Option<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs();
        let name = match check(&certificate, CertType::User, now) {
            Ok(()) => name,
            // The clock that counts is the server's.
            Err(fault @ (CertificateFault::Expired | CertificateFault::NotYet)) => {
                format!("{name} (which {fault} here)")
            }
            Err(fault) => {
                debug!("{name} is not offered: the certificate {fault}");
                return None;
            }
        };
        Some(Self {
            name,
            certificate,
            in_agent,
        })
    }

    /// One that the agent has.
    pub(super) fn of_agent(
        certificate: &Certificate,
        comment: &str,
        it: &AgentIdentity,
    ) -> Option<Self> {
        let name = format!("{comment} (a certificate in the agent)");
        Self::new(name, certificate.clone(), Some(it.clone()))
    }

    /// One in a file. `None` if there is none.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        if !meta.is_file() || meta.len() > MAX_KEY_SIZE {
            return None;
        }
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).ok()?;
        match Certificate::from_openssh(text.trim()) {
            Ok(certificate) => Self::new(name, certificate, None),
            Err(error) => {
                debug!("{name} is no certificate that can be read: {error}");
                None
            }
        }
    }

    /// The one beside the file of a key, where ssh looks for it.
    pub(super) fn beside(key: &Path) -> Option<Self> {
        let name = key.display().to_string();
        let name = name.strip_suffix(".pub").unwrap_or(&name);
        Self::read(&PathBuf::from(format!("{name}-cert.pub")))
    }

    /// Whether it is about this key.
    pub(super) fn is_of(&self, key: &Identity) -> bool {
        self.certificate.public_key() == key.public.key_data()
    }

    /// What is offered, with the private key that is at hand.
    fn identity(self, public: &russh::keys::PublicKey, secret: &Secret) -> Identity {
        Identity {
            name: self.name,
            public: public.clone(),
            secret: match self.in_agent {
                Some(identity) => Secret::Agent(Box::new(identity)),
                None => secret.clone(),
            },
            certificate: Some(self.certificate),
        }
    }

    /// What is offered of a certificate that only the agent has. `None` if it is in a file.
    pub(super) fn alone(self) -> Option<Identity> {
        let secret = Secret::Agent(Box::new(self.in_agent.clone()?));
        let public = self.certificate.public_key().clone().into();
        Some(self.identity(&public, &secret))
    }
}

/// Puts certificates before their keys, as ssh does. The first of several copies of one counts.
pub(super) fn before_keys(keys: Vec<Identity>, certificates: &[UserCertificate]) -> Vec<Identity> {
    let mut all: Vec<Identity> = Vec::new();
    for key in keys {
        let mut of_key: Vec<Identity> = Vec::new();
        for it in certificates.iter().filter(|it| it.is_of(&key)) {
            let is_same = |other: &Identity| {
                let other = other.certificate.as_ref();
                other.is_some_and(|other| other.signature() == it.certificate.signature())
            };
            if key.certificate.is_none() && !of_key.iter().any(is_same) {
                of_key.push(it.clone().identity(&key.public, &key.secret));
            }
        }
        all.append(&mut of_key);
        all.push(key);
    }
    all
}
