//! Decides whether a host key is accepted.

use std::sync::atomic::Ordering;

use anyhow::{Result, bail};
use cpu_proto::fingerprint;
use russh::keys::PublicKey;

use super::store::KeyStatus;
use super::{HostId, HostKeys, Source, pin};
use crate::ssh::config::NewHost;
use crate::terminal;

impl HostKeys {
    /// An error unless `key` is accepted. The key of a new host is added to known_hosts.
    pub(crate) fn check(&self, key: &PublicKey) -> Result<()> {
        let got = fingerprint(key);
        let name = &self.name;
        match &self.source {
            Source::Pinned { file, keys, others } => pin::check(name, key, file, keys, others),
            Source::KnownHosts {
                user,
                system,
                checking,
                hashed,
            } => {
                let KeyStatus {
                    is_known,
                    contradiction,
                } = name.search(user.iter().chain(system), key)?;
                if is_known {
                    return Ok(());
                }
                let unported = || name.is_known_without_port(user.iter().chain(system), key);
                if contradiction.is_none() && unported()? {
                    return Ok(());
                }
                if let Some((file, line, known)) = contradiction {
                    let what = format!(
                        "{name} has the host key {got}, but {} line {line} has {known}",
                        file.display()
                    );
                    if checking.changed_is_accepted {
                        say!("{what}; accepted, because StrictHostKeyChecking is no");
                        return Ok(());
                    }
                    bail!(
                        "{what}: this is another machine, or its host key was replaced; if that is \
                         expected, remove that line"
                    );
                }
                if self.found && name.alias.is_none() {
                    let files = user.iter().chain(system);
                    if let Some((file, line, known)) = name.contradiction_at_any_port(files, key)? {
                        bail!(
                            "{name} was found and has the host key {got}, but {} line {line} has {known} for this \
                             host at another port: if it is no impostor, log in to it once by its name: cpu -sp {} {}",
                            file.display(),
                            name.port,
                            name.host
                        );
                    }
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
                    name.remember(file, key, *hashed)?;
                }
                Ok(())
            }
        }
    }
}

/// Asks the person at the terminal whether the key of a new host is right.
fn confirm(name: &HostId, fingerprint: &str) -> Result<bool> {
    // The spinner may be on this line.
    let mut question = format!(
        "\r\x1b[KThe host {name} is new: known_hosts has no key for it.\n\
         Its host key is {fingerprint}\n\
         Continue and add it to known_hosts (yes/no/[fingerprint])? "
    );
    loop {
        // Why there is none would look as if it were about the file that the message names.
        let Ok(answer) = terminal::ask_line(&question) else {
            bail!(
                "{name} is new, with the host key {fingerprint}, and there is no terminal to ask on; compare \
                 that with the fingerprint on its console, then pin it with -hk, or let known_hosts learn new \
                 keys of hosts that you name: StrictHostKeyChecking accept-new in ~/.ssh/config"
            );
        };
        match answer.trim() {
            answer if answer.eq_ignore_ascii_case("yes") || answer == fingerprint => {
                return Ok(true);
            }
            // An empty answer may be the end of the terminal.
            answer if answer.eq_ignore_ascii_case("no") || answer.is_empty() => return Ok(false),
            answer if answer.starts_with("SHA256:") => {
                "That is another fingerprint than this host's. Write yes, no or the fingerprint: "
                    .clone_into(&mut question);
            }
            _ => "Write yes, no or the fingerprint: ".clone_into(&mut question),
        }
    }
}
