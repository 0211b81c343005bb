//! Who may log in: what the lines of a file say about a peer that has a key, or a certificate, and what a certificate takes away
//! from what the line of its CA allows.

use std::net::IpAddr;

use ssh_key::{Certificate, PublicKey};

use crate::authorized_keys::{AuthorizedKey, AuthorizedKeys};
use crate::certificate::{self, CertType, CertificateFault};
use crate::key_options::{Denial, KeyOptions};
use crate::peer_patterns::PeerPatterns;
use crate::{printable, quote};

impl AuthorizedKeys {
    /// Whether a certificate of some CA could let somebody in.
    pub fn has_authority(&self) -> bool {
        self.keys.iter().any(|line| line.options.cert_authority)
    }

    /// The line that lets the holder of a key log in from this address at this time, in seconds since 1970. The error is
    /// why the last line with that key does not, if there is one.
    pub fn allow_key(
        &self,
        key: &PublicKey,
        address: Option<IpAddr>,
        now: u64,
    ) -> Result<&AuthorizedKey, Option<Denial>> {
        let key = key.key_data();
        if self.revocation(key).is_some() {
            return Err(Some(Denial::Revoked));
        }
        let lines = self.keys.iter();
        let lines = lines.filter(|line| !line.options.cert_authority && line.key.key_data() == key);
        first(lines, |line| {
            line.options.allow(address, now).map(|()| line)
        })
    }

    /// The line of the CA that lets the holder of a certificate log in, and what he may do. `user` is the name of the login.
    pub fn allow_certificate(
        &self,
        certificate: &Certificate,
        user: &str,
        address: Option<IpAddr>,
        now: u64,
    ) -> Result<(&AuthorizedKey, KeyOptions), Option<Denial>> {
        // A CA is a plain key, so that a certificate is never one.
        let ca = certificate.signature_key();
        if self.revocation(certificate.public_key()).is_some() || self.revocation(ca).is_some() {
            return Err(Some(Denial::Revoked));
        }
        let lines = self.keys.iter();
        let lines = lines.filter(|line| line.options.cert_authority && line.key.key_data() == ca);
        first(lines, |line| {
            let options = &line.options;
            options.allow(address, now)?;
            certificate::check(certificate, CertType::User, now)?;
            certificate::check_principals(certificate, |name| match &options.principals[..] {
                [] => name == user,
                listed => listed.iter().any(|it| it == name),
            })?;
            Ok((line, options.limited_by(certificate, address)?))
        })
    }
}

impl KeyOptions {
    /// What the holder of a certificate may do whose CA has a line with these options: what both allow.
    fn limited_by(
        &self,
        certificate: &Certificate,
        address: Option<IpAddr>,
    ) -> Result<Self, CertificateFault> {
        let mut options = self.clone();
        for (name, value) in certificate.critical_options().iter() {
            let fault = || CertificateFault::Option(printable(&format!("{name}={value:?}")));
            match name.as_str() {
                "force-command" => {
                    let words = quote::split(value.as_bytes()).map_err(|_| fault())?;
                    let is_same = self.command.as_ref().is_none_or(|command| command == value);
                    if words.is_empty() || value.contains('\0') || !is_same {
                        return Err(fault());
                    }
                    options.command = Some(value.clone());
                }
                "source-address" => {
                    let networks = PeerPatterns::parse_networks(value).map_err(|_| fault())?;
                    if !networks.allow(address) {
                        return Err(CertificateFault::SourceAddress);
                    }
                }
                _ => return Err(fault()),
            }
        }
        let permits = |what: &str| certificate.extensions().contains_key(what);
        options.pty &= permits("permit-pty");
        options.port_forwarding &= permits("permit-port-forwarding");
        options.agent_forwarding &= permits("permit-agent-forwarding");
        Ok(options)
    }
}

/// The first result that is no denial, or else the last denial.
fn first<'a, T>(
    lines: impl Iterator<Item = &'a AuthorizedKey>,
    allow: impl Fn(&'a AuthorizedKey) -> Result<T, Denial>,
) -> Result<T, Option<Denial>> {
    let mut denied = None;
    for line in lines {
        match allow(line) {
            Ok(allowed) => return Ok(allowed),
            Err(denial) => denied = Some(denial),
        }
    }
    Err(denied)
}

#[cfg(test)]
mod tests {
    use ssh_key::PrivateKey;
    use ssh_key::certificate::Builder;
    use ssh_key::private::{Ed25519Keypair, KeypairData};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn key(seed: u8) -> PrivateKey {
        let pair = Ed25519Keypair::from_seed(&[seed; 32]);
        PrivateKey::new(KeypairData::Ed25519(pair), format!("key {seed}")).unwrap()
    }

    fn public(seed: u8) -> String {
        key(seed).public_key().to_openssh().unwrap()
    }

    /// A certificate for key 1 by key 9, for ann, valid for an hour.
    fn builder() -> Builder {
        let holder = key(1).public_key().key_data().clone();
        let mut builder = Builder::new([0; 16], holder, NOW, NOW + 3600).unwrap();
        builder.key_id("ann's").unwrap();
        builder
    }

    fn for_ann(change: impl FnOnce(&mut Builder)) -> Certificate {
        let mut builder = builder();
        builder.valid_principal("ann").unwrap();
        change(&mut builder);
        builder.sign(&key(9)).unwrap()
    }

    /// The options of the login with a file of these lines, or why there is none.
    fn allow(lines: &str, certificate: &Certificate) -> Result<KeyOptions, Option<Denial>> {
        allow_at(lines, certificate, NOW)
    }

    fn allow_at(
        lines: &str,
        certificate: &Certificate,
        now: u64,
    ) -> Result<KeyOptions, Option<Denial>> {
        let keys = AuthorizedKeys::parse(lines.as_bytes());
        assert_eq!(keys.has_authority(), lines.contains("cert-authority"));
        let address = "192.0.2.7".parse().ok();
        let allowed = keys.allow_certificate(certificate, "ann", address, now);
        allowed.map(|(_, options)| options)
    }

    fn fault(result: Result<KeyOptions, Option<Denial>>) -> CertificateFault {
        match result {
            Err(Some(Denial::Certificate(fault))) => fault,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_certificate_of_a_listed_ca_lets_its_holder_in_and_no_other_does() {
        let authority = format!("cert-authority {}", public(9));
        let good = for_ann(|_| {});
        let options = allow(&authority, &good).unwrap();
        assert!(!options.pty && !options.port_forwarding && !options.agent_forwarding);
        // Another CA; the CA's key as a plain one; the holder's.
        for lines in [
            format!("cert-authority {}", public(8)),
            public(9),
            public(1),
            String::new(),
        ] {
            assert_eq!(allow(&lines, &good), Err(None), "{lines}");
        }
        // The CA itself may not log in, nor the holder without the certificate.
        let keys = AuthorizedKeys::parse(authority.as_bytes());
        for seed in [1, 9] {
            let denied = keys.allow_key(key(seed).public_key(), None, NOW);
            assert_eq!(denied.map(|line| line.line), Err(None));
        }
        // What has been changed after it was signed.
        let mut bytes = good.to_bytes().unwrap();
        let place = bytes.windows(3).position(|part| part == b"ann").unwrap();
        bytes[place..place + 3].copy_from_slice(b"bob");
        let forged = Certificate::from_bytes(&bytes).unwrap();
        let result = allow(&authority, &forged);
        assert_eq!(fault(result), CertificateFault::Signature);
    }

    #[test]
    fn no_byte_of_a_certificate_can_be_changed() {
        let authority = format!("cert-authority {}", public(9));
        let whole = for_ann(|_| {}).to_bytes().unwrap();
        let is_good = |bytes: &[u8]| {
            let certificate = Certificate::from_bytes(bytes);
            certificate.is_ok_and(|certificate| allow(&authority, &certificate).is_ok())
        };
        assert!(is_good(&whole));
        for place in 0..whole.len() {
            for bit in 0..8 {
                let mut changed = whole.clone();
                changed[place] ^= 1 << bit;
                assert!(!is_good(&changed), "bit {bit} of byte {place}");
            }
            assert!(!is_good(&whole[..place]), "the first {place} bytes");
        }
        assert!(!is_good(&[&whole[..], b"x"].concat()));
    }

    #[test]
    fn a_host_s_certificate_is_no_users() {
        let authority = format!("cert-authority {}", public(9));
        let host = for_ann(|it| drop(it.cert_type(CertType::Host).map(drop)));
        let fault = fault(allow(&authority, &host));
        assert_eq!(fault, CertificateFault::Type(CertType::User));
        assert_eq!(fault.to_string(), "is not one for users");
    }

    #[test]
    fn a_certificate_is_good_from_its_beginning_until_before_its_end() {
        let authority = format!("cert-authority {}", public(9));
        let good = for_ann(|_| {});
        let at = |now| allow_at(&authority, &good, now);
        assert!(at(NOW).is_ok() && at(NOW + 3599).is_ok());
        assert_eq!(fault(at(NOW - 1)), CertificateFault::NotYet);
        assert_eq!(fault(at(0)), CertificateFault::NotYet);
        assert_eq!(fault(at(NOW + 3600)), CertificateFault::Expired);
        let holder = key(1).public_key().key_data().clone();
        let mut always = Builder::new([0; 16], holder, 0, u64::MAX).unwrap();
        always.valid_principal("ann").unwrap();
        let always = always.sign(&key(9)).unwrap();
        assert!(allow_at(&authority, &always, 0).is_ok());
    }

    #[test]
    fn the_login_name_or_a_listed_principal_must_be_in_it() {
        let authority = format!("cert-authority {}", public(9));
        let listed = format!("cert-authority,principals=\"ops,night\" {}", public(9));
        let of = |names: &[&str]| {
            let mut builder = builder();
            builder.all_principals_valid().unwrap();
            for name in names {
                builder.valid_principal(*name).unwrap();
            }
            builder.sign(&key(9)).unwrap()
        };
        assert!(allow(&authority, &of(&["bob", "ann"])).is_ok());
        assert!(allow(&listed, &of(&["bob", "night"])).is_ok());
        for (lines, names) in [
            (&authority, &["bob"][..]),
            (&authority, &["an*"]),
            (&authority, &[]),
            (&listed, &["ann"]),
            (&listed, &["ops,night"]),
            (&listed, &[]),
        ] {
            let fault = fault(allow(lines, &of(names)));
            assert!(
                matches!(fault, CertificateFault::Principals(_)),
                "{names:?}"
            );
        }
        // Another line may be the right one.
        let both = format!("{listed}\n{authority}");
        assert!(allow(&both, &of(&["ann"])).is_ok());
    }

    #[test]
    fn what_both_the_line_and_the_certificate_allow_is_allowed() {
        let authority = format!("cert-authority {}", public(9));
        let all = |it: &mut Builder| {
            for what in [
                "agent-forwarding",
                "port-forwarding",
                "pty",
                "x11-forwarding",
            ] {
                it.extension(format!("permit-{what}"), "").unwrap();
            }
            it.extension("something@example.org", "x").unwrap();
        };
        let options = allow(&authority, &for_ann(all)).unwrap();
        assert!(options.pty && options.port_forwarding && options.agent_forwarding);
        let line = format!("cert-authority,no-pty,environment=\"A=1\" {}", public(9));
        let options = allow(&line, &for_ann(all)).unwrap();
        assert!(!options.pty && options.port_forwarding && options.environment.len() == 1);
    }

    #[test]
    fn critical_options_are_kept_to_or_refuse() {
        let authority = format!("cert-authority {}", public(9));
        let with =
            |name: &str, value: &str| for_ann(|it| drop(it.critical_option(name, value).map(drop)));
        let options = allow(&authority, &with("force-command", "backup 'a b'")).unwrap();
        assert_eq!(options.command.as_deref(), Some("backup 'a b'"));
        assert!(allow(&authority, &with("source-address", "192.0.2.0/24")).is_ok());
        let elsewhere = allow(&authority, &with("source-address", "10.0.0.0/8"));
        assert_eq!(fault(elsewhere), CertificateFault::SourceAddress);
        for (name, value) in [
            ("verify-required", ""),
            ("something@example.org", "x"),
            ("force-command", "a 'b"),
            ("source-address", "*"),
        ] {
            let fault = fault(allow(&authority, &with(name, value)));
            assert!(
                matches!(&fault, CertificateFault::Option(option) if option.starts_with(name)),
                "{fault:?}"
            );
        }
        let forced = format!("cert-authority,command=\"date\" {}", public(9));
        assert!(allow(&forced, &with("force-command", "date")).is_ok());
        let other = fault(allow(&forced, &with("force-command", "id")));
        assert!(matches!(other, CertificateFault::Option(_)));
        let options = allow(&forced, &for_ann(|_| {})).unwrap();
        assert_eq!(options.command.as_deref(), Some("date"));
        let from = format!("cert-authority,from=\"10.*\" {}", public(9));
        assert_eq!(allow(&from, &for_ann(|_| {})), Err(Some(Denial::From)));
    }

    #[test]
    fn a_revoked_holder_or_ca_is_refused() {
        let authority = format!("cert-authority {}\n{}\n", public(9), public(2));
        let good = for_ann(|_| {});
        let revoked = Err(Some(Denial::Revoked));
        for line in [
            public(1),
            public(9),
            good.to_openssh().unwrap(),
            // A line that let them in, with the marker put in front of it.
            format!("cert-authority,principals=\"ann, bob\" {}", public(9)),
            format!("isolate,command=\"a \\\"b\\\"\" {}", public(1)),
            // Its holder's key counts, whatever else is in it.
            for_ann(|it| drop(it.serial(7).map(drop)))
                .to_openssh()
                .unwrap(),
        ] {
            let lines = format!("{authority}@revoked {line}\n");
            let keys = AuthorizedKeys::parse(lines.as_bytes());
            assert_eq!(keys.revoked.len(), 1, "{lines}");
            let allowed = keys.allow_certificate(&good, "ann", None, NOW);
            assert_eq!(allowed.map(|(_, options)| options), revoked, "{lines}");
        }
        let lines = format!("{authority}@revoked {}\n", public(2));
        let keys = AuthorizedKeys::parse(lines.as_bytes());
        let denied = keys.allow_key(key(2).public_key(), None, NOW);
        assert_eq!(denied.map(|line| line.line), Err(Some(Denial::Revoked)));
        assert!(keys.allow_certificate(&good, "ann", None, NOW).is_ok());
    }

    #[test]
    fn a_certificate_is_no_ca() {
        // Key 8 has a certificate of the listed CA, and signs with its key.
        let between = {
            let holder = key(8).public_key().key_data().clone();
            let mut builder = Builder::new([0; 16], holder, NOW, NOW + 3600).unwrap();
            builder.valid_principal("ann").unwrap();
            builder.sign(&key(9)).unwrap()
        };
        let lines = format!("cert-authority {}", public(9));
        let mut by_it = builder();
        by_it.valid_principal("ann").unwrap();
        let by_it = by_it.sign(&key(8)).unwrap();
        assert_eq!(allow(&lines, &by_it), Err(None));
        let line = format!("cert-authority {}", between.to_openssh().unwrap());
        let keys = AuthorizedKeys::parse(line.as_bytes());
        assert!(keys.keys.is_empty() && keys.left_out.len() == 1);
    }
}
