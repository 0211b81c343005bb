//! Verifies that the machine is the one it claims to be, by its host key.
//!
//! The accepted keys come from the file of `-hk`; else from the pin file beside the private key (`KEY.hostkey`, which
//! mkimage writes); else from OpenSSH's known_hosts files. Whether the key of a host that known_hosts lacks is right, the
//! person at the terminal is asked, as by ssh; without a terminal, or with another `StrictHostKeyChecking`, it is refused or
//! added. A key that differs from the known ones, even in its type, is refused unless
//! StrictHostKeyChecking is `no`. A key that they revoke is refused in any case. Besides the keys of a pin file, those of known_hosts
//! are accepted if the private key beside it is a default one, which nobody named. A certificate is accepted if known_hosts files
//! trust its CA with the host; if not, the key in it is treated as if it had been sent alone.

mod authority;
mod known_hosts;
mod pin;
mod policy;
mod store;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use russh::keys::{Algorithm, PublicKey};

use super::config::Checking;
use known_hosts::Known;
use store::SYSTEM;

/// The accepted host keys of one connection.
#[derive(Debug, Clone)]
pub(crate) struct HostKeys {
    name: HostId,
    source: Source,
    /// Whoever answered has chosen the port, so the host's keys at other ports count, too.
    pub(crate) found: bool,
    /// Whether a person was asked, who may take any time to answer.
    asked: Arc<AtomicBool>,
}

/// The host whose key is verified.
#[derive(Debug, Clone)]
pub(crate) struct HostId {
    /// The host that the connection is made to.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// `HostKeyAlias`: the name in known_hosts, instead of host and port.
    pub(crate) alias: Option<String>,
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {}", self.host, self.port)?;
        match &self.alias {
            Some(alias) => write!(f, " ({alias})"),
            None => Ok(()),
        }
    }
}

#[derive(Debug, Clone)]
enum Source {
    Pinned {
        file: PathBuf,
        keys: Vec<PublicKey>,
        /// known_hosts files whose keys are accepted too.
        others: Vec<PathBuf>,
    },
    /// New keys are added to the user's first file. The system's files are only read.
    KnownHosts {
        user: Vec<PathBuf>,
        system: Vec<PathBuf>,
        checking: Checking,
        /// `HashKnownHosts`
        hashed: bool,
    },
}

impl HostKeys {
    /// The keys of a pin file, and those that the known_hosts files `others` have for this host. `others` is for a pin
    /// file that the user did not name: it is about some machines, not about all.
    pub(crate) fn pinned(name: HostId, file: &Path, others: Option<Vec<PathBuf>>) -> Result<Self> {
        let system = SYSTEM.map(PathBuf::from);
        let others = others.map(|user| user.into_iter().chain(system).collect());
        let source = Source::Pinned {
            keys: pin::read(file)?,
            file: file.to_owned(),
            others: others.unwrap_or_default(),
        };
        Ok(Self {
            name,
            source,
            found: false,
            asked: Arc::default(),
        })
    }

    /// The keys in the user's and the system's known_hosts files.
    pub(crate) fn known(
        name: HostId,
        user: Vec<PathBuf>,
        checking: Checking,
        hashed: bool,
    ) -> Self {
        Self {
            name,
            source: Source::KnownHosts {
                user,
                system: SYSTEM.map(PathBuf::from).to_vec(),
                checking,
                hashed,
            },
            found: false,
            asked: Arc::default(),
        }
    }

    /// Whether a person was asked since the last call.
    pub(super) fn has_asked(&self) -> bool {
        self.asked.swap(false, Ordering::Relaxed)
    }

    /// The types of the keys that are known for this host. A server with several keys must be asked for one of these
    /// types, or its key would look changed.
    pub(crate) fn known_types(&self) -> Vec<Algorithm> {
        let (pins, files): (&[PublicKey], Vec<&PathBuf>) = match &self.source {
            Source::Pinned { keys, others, .. } => (keys, others.iter().collect()),
            Source::KnownHosts { user, system, .. } => (&[], user.iter().chain(system).collect()),
        };
        // If a file cannot be read, `check` reports it.
        let files = files.into_iter();
        let known = files.flat_map(|file| self.name.lookup(file).unwrap_or_default());
        let known = known.filter_map(|known| match known {
            Known::Key { key, .. } => Some(key),
            Known::Revoked { .. } | Known::Authority { .. } => None,
        });
        let keys: Vec<_> = pins.iter().cloned().chain(known).collect();
        keys.iter().map(PublicKey::algorithm).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::ssh::config::NewHost;

    const OLD: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
    const NEW: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJiCNH1TSeLmQi8AzqNcTSsrNwlxz1zzOwVCeC4I6jLM";

    fn board(alias: Option<&str>) -> HostId {
        HostId {
            host: "board".into(),
            port: 22,
            alias: alias.map(str::to_owned),
        }
    }

    fn check(file: &Path, key: &str) -> Result<()> {
        let checking = Checking {
            new: NewHost::Accept,
            changed_is_accepted: false,
        };
        let keys = HostKeys::known(board(None), vec![file.to_owned()], checking, false);
        keys.check(&PublicKey::from_openssh(key).unwrap())
    }

    #[test]
    fn lines_that_are_not_utf8_hide_no_other_line() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("known_hosts");
        let mut text = b"# caf\xe9\n".to_vec();
        text.extend(format!("board {OLD} \n@revoked * {NEW}\n").as_bytes());
        fs::write(&file, &text).unwrap();
        check(&file, OLD).unwrap();
        let error = check(&file, NEW).unwrap_err().to_string();
        assert!(error.contains("line 3 revokes"), "{error}");
        fs::write(&file, &text[..text.len() - NEW.len() - 12]).unwrap();
        let error = check(&file, NEW).unwrap_err().to_string();
        assert!(error.contains("line 2 has"), "{error}");
        assert!(!fs::read(&file).unwrap().ends_with(b"jLM\n"));
    }

    #[test]
    fn a_machine_that_was_found_is_no_other_one_at_another_port() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("known_hosts");
        let check = |key: &str| {
            let checking = Checking {
                new: NewHost::Refuse,
                changed_is_accepted: false,
            };
            let mut keys = HostKeys::known(board(None), vec![file.clone()], checking, false);
            keys.found = true;
            let checked = keys.check(&PublicKey::from_openssh(key).unwrap());
            checked.map_or_else(|error| error.to_string(), |()| String::new())
        };
        fs::write(&file, format!("[other]:17010 {OLD}\n")).unwrap();
        assert!(check(NEW).starts_with("board port 22 is new"));
        fs::write(&file, format!("[board]:2222 {OLD}\n")).unwrap();
        let error = check(NEW);
        assert!(
            error.contains("at another port") && error.contains("line 1"),
            "{error}"
        );
        assert!(check(OLD).starts_with("board port 22 is new"));
        // One that has been logged in to by its name.
        fs::write(&file, format!("[board]:2222 {OLD}\nboard {NEW}\n")).unwrap();
        assert_eq!(check(NEW), "");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let error = check(directory.path(), NEW).unwrap_err();
        let place = directory.path().display().to_string();
        assert!(format!("{error:#}").contains(&place), "{error:#}");
        let missing = directory.path().join("new/known_hosts");
        check(&missing, NEW).unwrap();
        check(&missing, NEW).unwrap();
        assert!(check(&missing, OLD).is_err());
    }

    #[test]
    fn a_pin_is_no_exception_to_a_revocation() {
        let directory = tempfile::tempdir().unwrap();
        let [pin, file] = ["pin", "known_hosts"].map(|name| directory.path().join(name));
        fs::write(&pin, OLD).unwrap();
        let check = || {
            let keys = HostKeys::pinned(board(None), &pin, Some(vec![file.clone()])).unwrap();
            keys.check(&PublicKey::from_openssh(OLD).unwrap())
        };
        check().unwrap();
        fs::write(&file, format!("@revoked * {OLD}\n")).unwrap();
        let error = check().unwrap_err().to_string();
        assert!(error.contains("line 1 revokes"), "{error}");
    }

    #[test]
    fn an_alias_replaces_host_and_port_and_may_be_hashed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("known_hosts");
        let checking = Checking {
            new: NewHost::Accept,
            changed_is_accepted: false,
        };
        let check = |name: HostId, key: &str| {
            let keys = HostKeys::known(name, vec![file.clone()], checking, true);
            keys.check(&PublicKey::from_openssh(key).unwrap())
        };
        let elsewhere = HostId {
            host: "127.0.0.1".into(),
            port: 2222,
            alias: Some("Lab".into()),
        };
        check(board(Some("lab")), OLD).unwrap();
        check(elsewhere.clone(), OLD).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert!(
            text.starts_with("|1|") && text.lines().count() == 1,
            "{text}"
        );
        let error = check(elsewhere, NEW).unwrap_err().to_string();
        assert!(
            error.starts_with("127.0.0.1 port 2222 (Lab) has"),
            "{error}"
        );
        // Another name has another key.
        check(board(None), NEW).unwrap();
    }
}
