//! Logs in with the keys of files and of the agent, in ssh's order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use cpu_ssh::Peer;
use russh::client;
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{HashAlg, PublicKey};
use tokio::net::UnixStream;
use tracing::debug;

use super::certificate::{self, UserCertificate};
use super::endpoint::Endpoint;
use super::handler::Handler;
use super::identity::{self, Identity, Secret};
use super::signer::{KeySigner, SignError, offer};
use crate::spinner::Spinner;

/// The longest time from offering a key to the answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The same with an agent, which may ask a person, or wait for a touch.
const AGENT_TIMEOUT: Duration = Duration::from_mins(2);

/// Where keys come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Identities {
    /// Files that the command line names. Each must be readable.
    pub(crate) named: Vec<PathBuf>,
    /// Files that are used if they exist: those of the configuration, or else the default ones.
    pub(crate) optional: Vec<PathBuf>,
    /// Files with certificates of keys (`CertificateFile`), besides those that lie beside the keys.
    pub(crate) certificates: Vec<PathBuf>,
    /// The agent's socket.
    pub(crate) agent: Option<PathBuf>,
    /// Whether only those keys of the agent are used that also are in files.
    pub(crate) only: bool,
}

impl Identities {
    /// The files of private keys that may be read.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.named.iter().chain(&self.optional).cloned().collect()
    }
}

/// The number of keys that every server lets a client try: one less than sshd's MaxAuthTries.
const MAX_AUTH_TRIES: usize = 5;

/// All keys, in the order in which they are offered: those of named files in their order; those of the other files that
/// the agent has too; the rest of the agent's; the rest of the files'. The agent signs with a locked key that it has too.
/// A file that is a public key, or has only its `.pub` file, is used if the agent has the private key. Certificates come before
/// their keys.
pub(super) async fn collect(from: &Identities) -> Result<Keys> {
    let (mut agent, mut held, mut certificates) = (None, Vec::new(), Vec::new());
    if let Some(path) = &from.agent {
        match open_agent(path).await {
            Ok((client, keys, certified)) => {
                (agent, held, certificates) = (Some(client), keys, certified);
            }
            Err(error) => debug!("no agent at {}: {error}", path.display()),
        }
    }
    let in_agent = certificates.len();
    let named = from.certificates.iter();
    certificates.extend(named.filter_map(|path| UserCertificate::read(path)));
    let mut all: Vec<Identity> = Vec::new();
    let mut last = Vec::new();
    let files = from.named.iter().map(|path| (path, true));
    for (path, is_named) in files.chain(from.optional.iter().map(|path| (path, false))) {
        let key = match identity::read_public(path) {
            Ok(None) if !is_named && !path.exists() => continue,
            Ok(None) => identity::read(path),
            public_or_fault => public_or_fault,
        };
        let mut key = match key {
            Ok(Some(key)) => key,
            Ok(None) => continue,
            Err(error) if is_named => return Err(error),
            // As in ssh, a fault of a file that was not named must not prevent the login.
            Err(error) => {
                debug!("{error:#}");
                continue;
            }
        };
        certificates.extend(UserCertificate::beside(path));
        let is_same = |public: &PublicKey| public.key_data() == key.public.key_data();
        let position = held.iter().position(|(_, public)| is_same(public));
        let is_held = position.is_some();
        if let Some(at) = position {
            held.remove(at);
            if !matches!(key.secret, Secret::Plain(_)) {
                key.secret = Secret::Agent(Box::new(key.public.clone().into()));
            }
        } else if matches!(key.secret, Secret::Agent(_)) {
            let mut certified = certificates.iter().take(in_agent);
            if let Some(certificate) = certified.find(|it| it.is_of(&key)) {
                all.extend(certificate.clone().alone());
                continue;
            }
            if is_named {
                bail!(
                    "{} is a public key, and no agent has its private key",
                    key.name
                );
            }
            debug!("{}: no agent has the private key", key.name);
            continue;
        }
        if all.iter().chain(&last).any(|other| is_same(&other.public)) {
            continue;
        }
        if is_named || is_held {
            all.push(key);
        } else {
            last.push(key);
        }
    }
    if !from.only {
        all.extend(held.into_iter().map(|(name, public)| Identity {
            secret: Secret::Agent(Box::new(public.clone().into())),
            name,
            public,
            certificate: None,
        }));
        for certificate in certificates.iter().take(in_agent) {
            if !all.iter().chain(&last).any(|key| certificate.is_of(key)) {
                all.extend(certificate.clone().alone());
            }
        }
    }
    all.extend(last);
    let all = certificate::before_keys(all, &certificates);
    if all.is_empty() {
        let default_files: Vec<_> = from
            .optional
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        bail!(
            "there is no key to log in with{}; give one with -key, or make one with mkimage keys",
            if default_files.is_empty() {
                String::new()
            } else {
                let agent = match agent {
                    None => "no agent has one",
                    Some(_) if from.only => "the agent has none that may be used (IdentitiesOnly)",
                    Some(_) => "the agent has none",
                };
                format!(": {agent}, nor is one in {}", default_files.join(", "))
            }
        );
    }
    Ok(Keys { all, agent })
}

/// An agent, with the keys and the certificates that it has.
async fn open_agent(
    path: &Path,
) -> Result<(
    AgentClient<UnixStream>,
    Vec<(String, PublicKey)>,
    Vec<UserCertificate>,
)> {
    let mut client = AgentClient::connect(UnixStream::connect(path).await?);
    let answer = tokio::time::timeout(TIMEOUT, client.request_identities());
    let (mut keys, mut certificates) = (Vec::new(), Vec::new());
    for held in answer.await.context("it does not answer")?? {
        match &held {
            AgentIdentity::PublicKey { key, comment } => {
                keys.push((format!("{comment} (agent)"), key.clone()));
            }
            AgentIdentity::Certificate {
                certificate,
                comment,
            } => certificates.extend(UserCertificate::of_agent(certificate, comment, &held)),
        }
    }
    Ok((client, keys, certificates))
}

/// Keys, read before connecting, so that a fault in one is reported at once.
pub(super) struct Keys {
    all: Vec<Identity>,
    agent: Option<AgentClient<UnixStream>>,
}

impl Keys {
    /// Offers one key after the other until one is accepted.
    pub(super) async fn log_in(
        mut self,
        handle: &mut client::Handle<Handler>,
        peer: Peer,
        user: &str,
        endpoint: &Endpoint,
        spinner: &Spinner,
    ) -> Result<()> {
        let mut locked = None;
        // A key and its certificates are unlocked once.
        let mut unlocked = BTreeMap::new();
        let all = self.all.len();
        for (refused, key) in self.all.iter().enumerate() {
            let hash = rsa_hash(handle, peer, &key.public).await;
            let lost = || anyhow!(ended(endpoint, refused, all));
            let late = || anyhow!("{endpoint} does not answer the login");
            debug!("offering {}", key.name);
            let (signer, limit) = match &key.secret {
                Secret::Plain(secret) => (KeySigner::File(secret.clone()), TIMEOUT),
                Secret::Agent(identity) => match &mut self.agent {
                    Some(agent) => (KeySigner::Agent(agent, identity), AGENT_TIMEOUT),
                    None => continue,
                },
                Secret::Locked(path, text) => {
                    let probe = Box::pin(offer(handle, user, key, hash, KeySigner::Probe));
                    match tokio::time::timeout(TIMEOUT, probe).await {
                        Err(_) => return Err(late()),
                        Ok(Err(SignError::Probed)) => {}
                        Ok(Err(SignError::Lost)) => return Err(lost()),
                        Ok(_) => continue,
                    }
                    spinner.hide();
                    let secret = unlocked.entry(path.clone()).or_insert_with(|| {
                        let result = identity::unlock(path, text);
                        result.map_err(|error| locked.get_or_insert(error)).ok()
                    });
                    match secret {
                        Some(secret) => (KeySigner::File(secret.clone()), TIMEOUT),
                        None => continue,
                    }
                }
            };
            // It has room for a certificate.
            let login = Box::pin(offer(handle, user, key, hash, signer));
            match tokio::time::timeout(limit, login).await {
                Err(_) => return Err(late()),
                Ok(Ok(answer)) if answer.success() => {
                    debug!("logged in with {}", key.name);
                    return Ok(());
                }
                Ok(Ok(_)) => {}
                Ok(Err(SignError::Lost)) => return Err(lost()),
                // An agent may refuse to sign; the next key may do.
                Ok(Err(error @ SignError::Agent(_))) => say!("{}: {error}", key.name),
                Ok(Err(error)) => bail!("cannot log in with {}: {error}", key.name),
            }
        }
        if handle.is_closed() {
            bail!(ended(endpoint, all, all));
        }
        if let Some(error) = locked {
            return Err(error);
        }
        let names = self
            .all
            .iter()
            .take(MAX_AUTH_TRIES)
            .map(|key| key.name.as_str());
        let names = names.collect::<Vec<_>>().join(", ");
        let what = match all {
            1 => format!("the key {names}; its public half"),
            ..=MAX_AUTH_TRIES => format!("the keys {names}; the public half of one"),
            _ => {
                format!("all {all} keys that it was offered ({names}, ...); the public half of one")
            }
        };
        bail!(
            "{endpoint} refuses {what} must be among the keys that may log in (give another with -key)"
        )
    }
}

/// The message that the server ended the connection after `offered` of `all` keys.
fn ended(endpoint: &Endpoint, offered: usize, all: usize) -> String {
    if offered < MAX_AUTH_TRIES {
        return format!("{endpoint} ended the connection during the login");
    }
    format!(
        "{endpoint} ended the connection after {offered} of {all} keys had been offered, and accepts no more; \
         name the right one with -key, or with IdentityFile in ~/.ssh/config: it is offered first"
    )
}

/// The hash for an RSA signature. Never SHA-1.
async fn rsa_hash(
    handle: &client::Handle<Handler>,
    peer: Peer,
    key: &PublicKey,
) -> Option<HashAlg> {
    if !key.algorithm().is_rsa() {
        return None;
    }
    match peer {
        Peer::Ours => Some(HashAlg::Sha512),
        Peer::Foreign => {
            let best = handle.best_supported_rsa_hash().await;
            best.ok().flatten().flatten().or(Some(HashAlg::Sha512))
        }
    }
}

/// The default files: cpu's own, then those of ssh.
pub(super) fn default_files(home: &Path) -> Vec<PathBuf> {
    ["cpu_rsa", "id_rsa", "id_ecdsa", "id_ed25519"]
        .iter()
        .map(|name| home.join(".ssh").join(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_key_at_all_says_where_it_looked() {
        let from = Identities {
            optional: default_files(Path::new("/nosuch")),
            ..Identities::default()
        };
        let error = collect(&from).await.err().unwrap().to_string();
        assert!(
            error.contains("/nosuch/.ssh/cpu_rsa") && error.contains("-key"),
            "{error}"
        );
        let named = vec![PathBuf::from("/nosuch/key")];
        let error = collect(&Identities { named, ..from }).await;
        let error = error.err().unwrap();
        assert!(error.to_string().contains("/nosuch/key"), "{error}");
    }
}
