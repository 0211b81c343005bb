//! Certificates of hosts: accepted if a `@cert-authority` line of a known_hosts file has their CA.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use cpu_proto::certificate::{CertType, check, check_principals};
use cpu_proto::{CertificateFault, fingerprint, printable};
use russh::keys::{Certificate, PublicKey};

use super::known_hosts::Known;
use super::{HostId, HostKeys, Source};
use crate::ssh::pattern::matches_list;

impl HostKeys {
    /// Whether a CA is trusted with this host. Then the server is asked for a certificate.
    pub(crate) fn has_authority(&self) -> bool {
        // If a file cannot be read, the check reports it.
        let known = self.known_authorities().unwrap_or_default();
        known
            .iter()
            .any(|(_, known)| matches!(known, Known::Authority { .. }))
    }

    /// An error unless a certificate is accepted, or the key in it is, as if it had been sent alone.
    pub(crate) fn check_certificate(&self, certificate: &Certificate) -> Result<()> {
        let (name, ca) = (&self.name, certificate.signature_key());
        let known = self.known_authorities()?;
        for (file, known) in &known {
            if let Known::Revoked { key, line } = known
                && [certificate.public_key(), ca].contains(&key.key_data())
            {
                bail!(
                    "{name} has a certificate with the key {}, which {} line {line} revokes",
                    fingerprint(key),
                    file.display()
                );
            }
        }
        let is_authority =
            |known: &Known| matches!(known, Known::Authority { key } if key.key_data() == ca);
        let why = if known.iter().any(|(_, known)| is_authority(known)) {
            match vouches(certificate, name) {
                Ok(()) => return Ok(()),
                Err(fault) => fault.to_string(),
            }
        } else {
            let ca = fingerprint(&PublicKey::new(ca.clone(), ""));
            format!("is one of the CA {ca}, which no @cert-authority line has")
        };
        let id = printable(certificate.key_id());
        warn!("{name} has a certificate ({id}) that {why}; its key counts alone");
        let key = PublicKey::new(certificate.public_key().clone(), "");
        self.check(&key)
            .with_context(|| format!("its certificate ({id}) {why}"))
    }

    /// What known_hosts files say about the host, also without its port, as ssh reads them.
    fn known_authorities(&self) -> Result<Vec<(&PathBuf, Known)>> {
        let files: Vec<&PathBuf> = match &self.source {
            Source::Pinned { others, .. } => others.iter().collect(),
            Source::KnownHosts { user, system, .. } => user.iter().chain(system).collect(),
        };
        let mut plain = self.name.clone();
        plain.port = 22;
        let mut all = Vec::new();
        for file in files {
            for name in [&self.name, &plain] {
                all.extend(name.lookup(file)?.into_iter().map(|known| (file, known)));
            }
        }
        Ok(all)
    }
}

/// An error unless a certificate, whose CA is trusted, is one of this host, and valid now.
fn vouches(certificate: &Certificate, name: &HostId) -> Result<(), CertificateFault> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    check(
        certificate,
        CertType::Host,
        now.unwrap_or_default().as_secs(),
    )?;
    // OpenSSH defines none for hosts.
    if let Some((option, _)) = certificate.critical_options().first_key_value() {
        return Err(CertificateFault::Option(printable(option)));
    }
    let host = name.alias.as_ref().unwrap_or(&name.host);
    check_principals(certificate, |pattern| matches_list([pattern], host))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::ssh::config::{Checking, NewHost};

    /// A CA, and a host's key with certificates that ssh-keygen makes.
    struct Authority {
        directory: tempfile::TempDir,
    }

    impl Authority {
        fn new() -> Self {
            let it = Self {
                directory: tempfile::tempdir().unwrap(),
            };
            for name in ["ca", "other", "host"] {
                it.keygen(&["-q", "-t", "ed25519", "-N", "", "-f", name]);
            }
            it
        }

        fn keygen(&self, words: &[&str]) {
            let run = Command::new("ssh-keygen")
                .args(words)
                .current_dir(&self.directory)
                .status();
            assert!(run.expect("ssh-keygen (package openssh-client)").success());
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.path(name)).unwrap()
        }

        fn sign(&self, words: &[&str]) -> Certificate {
            self.keygen(&[&["-q", "-s", "ca", "-I", "board"][..], words, &["host.pub"]].concat());
            Certificate::from_openssh(&self.read("host-cert.pub")).unwrap()
        }

        /// With these lines in known_hosts, in which `%name` stands for a key.
        fn check(&self, certificate: &Certificate, lines: &str) -> Result<()> {
            let file = self.path("known_hosts");
            let mut text = lines.to_owned();
            for name in ["ca", "other", "host"] {
                text = text.replace(
                    &format!("%{name}"),
                    self.read(&format!("{name}.pub")).trim(),
                );
            }
            fs::write(&file, text).unwrap();
            host_keys(&file).check_certificate(certificate)
        }
    }

    fn host_keys(file: &Path) -> HostKeys {
        let name = HostId {
            host: "board.lab".into(),
            port: 17010,
            alias: None,
        };
        let checking = Checking {
            new: NewHost::Refuse,
            changed_is_accepted: false,
        };
        HostKeys::known(name, vec![file.to_owned()], checking, false)
    }

    #[test]
    fn a_certificate_of_a_trusted_ca_for_this_host_is_accepted() {
        let authority = Authority::new();
        let good = authority.sign(&["-h", "-n", "board.lab,10.0.0.1"]);
        for lines in [
            "@cert-authority *.lab %ca\n",
            "@cert-authority [board.lab]:17010 %ca\n",
            "@cert-authority * %ca\n",
            "@cert-authority *.lab %other\n@cert-authority *.lab %ca\n",
            "# its key is known\nboard.lab %host\n",
        ] {
            authority
                .check(&good, lines)
                .unwrap_or_else(|error| panic!("{lines}: {error:#}"));
        }
        let pattern = authority.sign(&["-h", "-n", "*.lab"]);
        authority
            .check(&pattern, "@cert-authority * %ca\n")
            .unwrap();
        for (lines, why) in [
            ("", "no @cert-authority line has"),
            ("@cert-authority *.org %ca\n", "no @cert-authority line has"),
            ("@cert-authority * %other\n", "no @cert-authority line has"),
            // A host with the key of the CA is not the CA.
            ("board.lab %ca\n", "no @cert-authority line has"),
            ("@cert-authority * %ca\n@revoked * %ca\n", "line 2 revokes"),
            (
                "@cert-authority * %ca\n@revoked * %host\n",
                "line 2 revokes",
            ),
        ] {
            let error = format!("{:#}", authority.check(&good, lines).unwrap_err());
            assert!(error.contains(why), "{lines}: {error}");
        }
    }

    #[test]
    fn a_certificate_of_a_trusted_ca_that_is_not_good_is_refused() {
        let authority = Authority::new();
        let trusted = "@cert-authority * %ca\n";
        for (words, why) in [
            (
                &["-h", "-n", "other.lab"][..],
                "names other.lab, and not whom",
            ),
            (&["-h"], "names nobody"),
            (&["-n", "board.lab"], "is not one for hosts"),
            (
                &["-h", "-n", "board.lab", "-V", "20200101:20210101"],
                "has expired",
            ),
            (
                &["-h", "-n", "board.lab", "-V", "20990101:20990201"],
                "is not valid yet",
            ),
        ] {
            let error = authority
                .check(&authority.sign(words), trusted)
                .unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(why) && error.contains("is new"), "{error}");
        }
    }

    #[test]
    fn certificates_are_asked_for_only_if_a_ca_is_trusted_with_the_host() {
        let authority = Authority::new();
        let has = |lines: &str| {
            let file = authority.path("known_hosts");
            fs::write(&file, lines.replace("%ca", authority.read("ca.pub").trim())).unwrap();
            host_keys(&file).has_authority()
        };
        assert!(has("@cert-authority *.lab %ca\n"));
        assert!(!has("@cert-authority *.org %ca\n") && !has("*.lab %ca\n") && !has(""));
    }
}
