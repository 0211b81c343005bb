//! Is this the machine it claims to be? Three sources are asked in turn: the file given with
//! `-hk`, the pin file beside the private key (`KEY.hostkey`, which mkimage writes), and
//! OpenSSH's known_hosts files. A host that none of them knows is accepted once and remembered,
//! as ssh's `StrictHostKeyChecking=accept-new` does; a key that contradicts them, of whatever type, is
//! accepted only if the configuration says `no` to that, as in ssh. A revocation has no exception, and a
//! pin only this one: beside a key that nobody named, known_hosts may know the host already.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use cpu_proto::authorized_keys::LeftOut;
use cpu_proto::{AuthorizedKeys, fingerprint};
use russh::keys::{Algorithm, PublicKey};

use super::config::{Checking, NewHost};
use super::known_hosts::{self, Known};
use crate::terminal;

/// The system's known_hosts files.
const SYSTEM: [&str; 2] = ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"];

/// Where host keys are looked up for one connection.
#[derive(Debug, Clone)]
pub(crate) struct HostKeys {
    name: Name,
    source: Source,
    /// Whether a person was asked, which takes the time that it takes.
    asked: Arc<AtomicBool>,
}

/// Whose keys they are.
#[derive(Debug, Clone)]
pub(crate) struct Name {
    /// Where the connection goes.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// `HostKeyAlias`: the name in known_hosts, whatever the host and the port.
    pub(crate) alias: Option<String>,
}

impl Name {
    fn in_known_hosts(&self) -> String {
        match &self.alias {
            Some(alias) => alias.clone(),
            None => known_hosts::name(&self.host, self.port),
        }
    }
}

/// For people.
impl fmt::Display for Name {
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
        /// known_hosts files, for a host that is not the pin's.
        others: Vec<PathBuf>,
    },
    /// The first is added to; what is of the system is only read.
    KnownHosts {
        user: Vec<PathBuf>,
        system: Vec<PathBuf>,
        checking: Checking,
        /// `HashKnownHosts`, of what is added.
        hashed: bool,
    },
}

/// What known_hosts files say of a key.
struct Found<'f> {
    is_known: bool,
    /// File, line and fingerprint of another key of the host.
    contradiction: Option<(&'f PathBuf, usize, String)>,
}

impl HostKeys {
    /// Exactly these keys, or those that `others` know for this host: pins that lie beside a key that was
    /// not named are of some machines, but not of all.
    pub(crate) fn pinned(name: Name, file: &Path, others: Option<Vec<PathBuf>>) -> Result<Self> {
        let system = SYSTEM.map(PathBuf::from);
        let others = others.map(|user| user.into_iter().chain(system).collect());
        let source = Source::Pinned {
            keys: read_pins(file)?,
            file: file.to_owned(),
            others: others.unwrap_or_default(),
        };
        Ok(Self {
            name,
            source,
            asked: Arc::default(),
        })
    }

    /// Those of the user's known_hosts files and the system's.
    pub(crate) fn known(name: Name, user: Vec<PathBuf>, checking: Checking, hashed: bool) -> Self {
        Self {
            name,
            source: Source::KnownHosts {
                user,
                system: SYSTEM.map(PathBuf::from).to_vec(),
                checking,
                hashed,
            },
            asked: Arc::default(),
        }
    }

    /// Whether a person was asked since this was last called.
    pub(super) fn has_asked(&self) -> bool {
        self.asked.swap(false, Ordering::Relaxed)
    }

    /// The types of the keys that are known for this host: a server with several keys must be
    /// asked for one of these, or a good host looks like a changed one.
    pub(crate) fn known_types(&self) -> Vec<Algorithm> {
        let (pins, files): (&[PublicKey], Vec<&PathBuf>) = match &self.source {
            Source::Pinned { keys, others, .. } => (keys, others.iter().collect()),
            Source::KnownHosts { user, system, .. } => (&[], user.iter().chain(system).collect()),
        };
        // Why one cannot be read is said when the key is checked.
        let files = files.into_iter();
        let known = files.flat_map(|file| self.lookup(file).unwrap_or_default());
        let known = known.filter_map(|known| match known {
            Known::Key { key, .. } => Some(key),
            Known::Revoked { .. } => None,
        });
        let keys: Vec<_> = pins.iter().cloned().chain(known).collect();
        keys.iter().map(PublicKey::algorithm).collect()
    }

    /// An error unless `key` is the host's, or the host is new: then it is remembered.
    pub(crate) fn check(&self, key: &PublicKey) -> Result<()> {
        let got = fingerprint(key);
        let name = &self.name;
        match &self.source {
            Source::Pinned { file, keys, others } => {
                // A pin is no exception to a revocation.
                let is_known = self.look_among(others, key)?.is_known;
                if is_known || keys.iter().any(|pin| pin.key_data() == key.key_data()) {
                    return Ok(());
                }
                let pinned: Vec<_> = keys.iter().map(fingerprint).collect();
                bail!(
                    "{name} has the host key {got}, but {} pins {}: this is another \
                     machine, or it was made anew; if that is right, replace that file, or name a file \
                     with this machine's key by -hk{}",
                    file.display(),
                    pinned.join(", "),
                    if others.is_empty() {
                        ""
                    } else {
                        ", or add the key to known_hosts"
                    },
                );
            }
            Source::KnownHosts {
                user,
                system,
                checking,
                hashed,
            } => {
                let Found {
                    is_known,
                    contradiction,
                } = self.look_among(user.iter().chain(system), key)?;
                if is_known {
                    return Ok(());
                }
                let unported = || self.look_among_names(user.iter().chain(system), key);
                if contradiction.is_none() && unported()? {
                    return Ok(());
                }
                if let Some((file, line, known)) = contradiction {
                    let what = format!(
                        "{name} has the host key {got}, but {} line {line} says {known}",
                        file.display()
                    );
                    if checking.changed_is_accepted {
                        say!("{what}; accepted, as StrictHostKeyChecking says");
                        return Ok(());
                    }
                    bail!(
                        "{what}: this is another machine, or it was made anew; if that is \
                         right, remove that line"
                    );
                }
                if checking.new == NewHost::Ask {
                    self.asked.store(true, Ordering::Relaxed);
                }
                match checking.new {
                    NewHost::Accept => {}
                    NewHost::Ask if confirm(name, &got)? => {}
                    NewHost::Ask => bail!("the host key of {name} was not accepted"),
                    NewHost::Refuse => bail!(
                        "{name} is new, with the host key {got}, and \
                         StrictHostKeyChecking is yes; add the key to known_hosts, or pin it with -hk"
                    ),
                }
                if let Some(file) = user.first() {
                    self.remember(file, key, *hashed)?;
                }
                Ok(())
            }
        }
    }

    /// What known_hosts files say of a key of this host; an error if one revokes it.
    fn look_among<'f>(
        &self,
        files: impl IntoIterator<Item = &'f PathBuf>,
        key: &PublicKey,
    ) -> Result<Found<'f>> {
        let name = &self.name;
        let (mut is_known, mut contradiction) = (false, None);
        for file in files {
            for known in self.lookup(file)? {
                match known {
                    Known::Revoked { key: revoked, line }
                        if revoked.key_data() == key.key_data() =>
                    {
                        bail!(
                            "{name} has the host key {}, which {} line {line} revokes",
                            fingerprint(key),
                            file.display()
                        );
                    }
                    Known::Key { key: known, .. } if known.key_data() == key.key_data() => {
                        is_known = true;
                    }
                    // Of another type too: whoever is in the middle may choose his.
                    Known::Key { key: known, line } => {
                        contradiction.get_or_insert((file, line, fingerprint(&known)));
                    }
                    Known::Revoked { .. } => {}
                }
            }
        }
        Ok(Found {
            is_known,
            contradiction,
        })
    }

    /// Whether known_hosts files have this key for the host's name without a port, which ssh takes too.
    fn look_among_names<'f>(
        &self,
        files: impl IntoIterator<Item = &'f PathBuf>,
        key: &PublicKey,
    ) -> Result<bool> {
        let mut plain = self.clone();
        plain.name.port = 22;
        Ok(plain.look_among(files, key)?.is_known)
    }

    /// What one file says; nothing if there is none. One that cannot be read may say that a key is wrong.
    fn lookup(&self, file: &Path) -> Result<Vec<Known>> {
        match fs::read(file) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                Ok(known_hosts::lookup(&text, &self.name.in_known_hosts()))
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                Ok(Vec::new())
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

    fn remember(&self, file: &Path, key: &PublicKey, hashed: bool) -> Result<()> {
        if file == Path::new("/dev/null") {
            return Ok(());
        }
        let mut name = self.name.in_known_hosts();
        if hashed {
            let mut salt = [0; 20];
            getrandom::fill(&mut salt).context("the system has no random bytes")?;
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
                self.name,
                fingerprint(key),
                file.display()
            ),
            // Without a place to remember it the host stays new; that must not stop the work.
            Err(error) => say!(
                "{} is new with host key {}, and {} cannot be written: {error}",
                self.name,
                fingerprint(key),
                file.display()
            ),
        }
        Ok(())
    }
}

/// Asks the person at the terminal.
fn confirm(name: &Name, fingerprint: &str) -> Result<bool> {
    // What is waited for may be shown on this line.
    let question =
        format!("\r\x1b[K{name} is new; its host key is {fingerprint}\nIs that right (yes/no)? ");
    let answer = terminal::ask_line(&question).with_context(|| {
        format!(
            "{name} is new, with the host key {fingerprint}, and there is no terminal to ask on"
        )
    })?;
    Ok(answer.trim() == "yes")
}

/// The public keys of a pin file: one or more lines as in a `.pub` file.
fn read_pins(file: &Path) -> Result<Vec<PublicKey>> {
    let bytes = fs::read(file)
        .with_context(|| format!("cannot read the host key file {}", file.display()))?;
    let AuthorizedKeys { keys, left_out } = AuthorizedKeys::parse(&bytes);
    if let Some(LeftOut { line, fault }) = left_out.first() {
        bail!("the host key file {}: line {line} {fault}", file.display());
    }
    if keys.is_empty() {
        bail!("the host key file {} holds no key", file.display());
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
    const NEW: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJiCNH1TSeLmQi8AzqNcTSsrNwlxz1zzOwVCeC4I6jLM";

    fn board(alias: Option<&str>) -> Name {
        Name {
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
    fn bytes_that_are_no_text_hide_no_line() {
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
        assert!(error.contains("line 2 says"), "{error}");
        assert!(!fs::read(&file).unwrap().ends_with(b"jLM\n"));
    }

    #[test]
    fn a_file_that_cannot_be_read_makes_no_host_new() {
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
    fn an_alias_is_the_name_whatever_the_port_and_may_be_hashed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("known_hosts");
        let checking = Checking {
            new: NewHost::Accept,
            changed_is_accepted: false,
        };
        let check = |name: Name, key: &str| {
            let keys = HostKeys::known(name, vec![file.clone()], checking, true);
            keys.check(&PublicKey::from_openssh(key).unwrap())
        };
        let elsewhere = Name {
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
