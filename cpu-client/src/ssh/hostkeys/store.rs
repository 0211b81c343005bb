//! Searches the known_hosts files for a host's keys, and adds new ones.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cpu_proto::{DEFAULT_PORT, fingerprint};
use russh::keys::PublicKey;

use super::HostId;
use super::known_hosts::{self, Known};

/// The system's known_hosts files.
pub(super) const SYSTEM: [&str; 2] = ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"];

/// The result of searching known_hosts files for a key.
pub(super) struct KeyStatus<'f> {
    pub(super) is_known: bool,
    /// File, line and fingerprint of another key of the host.
    pub(super) contradiction: Option<(&'f PathBuf, usize, String)>,
}

impl HostId {
    /// The name in known_hosts files.
    fn in_known_hosts(&self) -> String {
        match &self.alias {
            Some(alias) => alias.clone(),
            None => known_hosts::name(&self.host, self.port),
        }
    }

    /// Searches known_hosts files for a key of this host. An error if one of them revokes it.
    pub(super) fn search<'f>(
        &self,
        files: impl IntoIterator<Item = &'f PathBuf>,
        key: &PublicKey,
    ) -> Result<KeyStatus<'f>> {
        let (mut is_known, mut contradiction) = (false, None);
        for file in files {
            for known in self.lookup(file)? {
                match known {
                    Known::Revoked { key: revoked, line }
                        if revoked.key_data() == key.key_data() =>
                    {
                        bail!(
                            "{self} has the host key {}, which {} line {line} revokes",
                            fingerprint(key),
                            file.display()
                        );
                    }
                    Known::Key { key: known, .. } if known.key_data() == key.key_data() => {
                        is_known = true;
                    }
                    // Even one of another type: an attacker may choose the type.
                    Known::Key { key: known, line } => {
                        contradiction.get_or_insert((file, line, fingerprint(&known)));
                    }
                    Known::Revoked { .. } | Known::Authority { .. } => {}
                }
            }
        }
        Ok(KeyStatus {
            is_known,
            contradiction,
        })
    }

    /// Whether known_hosts files have this key for the host without a port. ssh accepts that too.
    pub(super) fn is_known_without_port<'f>(
        &self,
        files: impl IntoIterator<Item = &'f PathBuf>,
        key: &PublicKey,
    ) -> Result<bool> {
        let mut plain = self.clone();
        plain.port = 22;
        Ok(plain.search(files, key)?.is_known)
    }

    /// File, line and fingerprint of the first key that known_hosts files have for this host at any port. None if they also have
    /// `key`.
    pub(super) fn contradiction_at_any_port<'f>(
        &self,
        files: impl IntoIterator<Item = &'f PathBuf>,
        key: &PublicKey,
    ) -> Result<Option<(&'f PathBuf, usize, String)>> {
        let mut contradiction = None;
        for file in files {
            let text = Self::read(file)?;
            for known in known_hosts::lookup_any_port(&text, &self.host, &[22, DEFAULT_PORT]) {
                match known {
                    Known::Key { key: known, .. } if known.key_data() == key.key_data() => {
                        return Ok(None);
                    }
                    Known::Key { key: known, line } => {
                        contradiction.get_or_insert((file, line, fingerprint(&known)));
                    }
                    Known::Revoked { .. } | Known::Authority { .. } => {}
                }
            }
        }
        Ok(contradiction)
    }

    /// The keys that one file has for this host. None if it does not exist.
    pub(super) fn lookup(&self, file: &Path) -> Result<Vec<Known>> {
        let text = Self::read(file)?;
        Ok(known_hosts::lookup(&text, &self.in_known_hosts()))
    }

    /// The text of a file; none if it does not exist. One that cannot be read is an error, since it may have the right key, or
    /// revoke this one.
    fn read(file: &Path) -> Result<String> {
        match fs::read(file) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                Ok(String::new())
            }
            Err(error) => Err(error).with_context(|| {
                format!(
                    "cannot read the host keys in {}; make it readable, or name a file with the machine's \
                     key by -hk",
                    file.display()
                )
            }),
        }
    }

    pub(super) fn remember(&self, file: &Path, key: &PublicKey, hashed: bool) -> Result<()> {
        if file == Path::new("/dev/null") {
            return Ok(());
        }
        let mut name = self.in_known_hosts();
        if hashed {
            let mut salt = [0; 20];
            getrandom::fill(&mut salt).context("cannot get random bytes from the system")?;
            name = known_hosts::hashed(&name, &salt).context("cannot hash a host's name")?;
        }
        let line = format!(
            "{name} {}",
            key.to_openssh().context("cannot write a host key")?
        );
        let result = (|| {
            if let Some(directory) = file.parent() {
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(directory)?;
            }
            let ends_with_newline = fs::read(file).is_ok_and(|text| text.ends_with(b"\n"));
            let is_empty = fs::metadata(file).map_or(true, |meta| meta.len() == 0);
            let newline = if is_empty || ends_with_newline {
                ""
            } else {
                "\n"
            };
            OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(file)?
                .write_all(format!("{newline}{line}\n").as_bytes())
        })();
        match result {
            Ok(()) => warn!(
                "{} is new; its host key {} is now in {}",
                self,
                fingerprint(key),
                file.display()
            ),
            // The host then stays new, which is no reason to stop.
            Err(error) => say!(
                "{} is new; its host key {} cannot be added to {}: {error}",
                self,
                fingerprint(key),
                file.display()
            ),
        }
        Ok(())
    }
}
