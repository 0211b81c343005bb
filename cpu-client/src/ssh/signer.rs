//! How the offer of a key or a certificate is signed: by the agent, with a private key, or not at all.

use std::sync::Arc;

use russh::client::{AuthResult, Handle};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::signature::{self, Signer as _};
use russh::keys::ssh_encoding::Encode as _;
use russh::keys::ssh_key::private::KeypairData;
use russh::keys::{HashAlg, PrivateKey};
use russh::{AgentAuthError, SendError};
use tokio::net::UnixStream;

use super::handler::Handler;
use super::identity::Identity;

/// What signs.
pub(super) enum KeySigner<'a> {
    /// The agent, with a key or certificate that it knows by this name.
    Agent(&'a mut AgentClient<UnixStream>, &'a AgentIdentity),
    File(Arc<PrivateKey>),
    /// Nothing: whether the server would accept the key is found out.
    Probe,
}

/// Why there is no answer to an offer.
#[derive(Debug, thiserror::Error)]
pub(super) enum SignError {
    #[error("it would be accepted")]
    Probed,
    #[error("the connection has ended")]
    Lost,
    #[error("the agent: {0}")]
    Agent(AgentAuthError),
    #[error("{0}")]
    Key(russh::keys::ssh_key::Error),
}

impl From<SendError> for SignError {
    fn from(_: SendError) -> Self {
        Self::Lost
    }
}

/// Offers a key, or its certificate, and signs if the server accepts it.
pub(super) async fn offer(
    handle: &mut Handle<Handler>,
    user: &str,
    key: &Identity,
    hash: Option<HashAlg>,
    mut signer: KeySigner<'_>,
) -> Result<AuthResult, SignError> {
    let signer = &mut signer;
    match key.certificate.clone() {
        Some(certificate) => {
            let login = handle.authenticate_certificate_with(user, certificate, hash, signer);
            login.await
        }
        None => {
            let login = handle.authenticate_publickey_with(user, key.public.clone(), hash, signer);
            login.await
        }
    }
}

impl russh::Signer for KeySigner<'_> {
    type Error = SignError;

    /// The result is the data with the signature behind it.
    async fn auth_sign(
        &mut self,
        _: &AgentIdentity,
        hash: Option<HashAlg>,
        mut data: Vec<u8>,
    ) -> Result<Vec<u8>, SignError> {
        match self {
            Self::Probe => Err(SignError::Probed),
            Self::Agent(agent, identity) => match agent.auth_sign(identity, hash, data).await {
                Err(AgentAuthError::Send(_)) => Err(SignError::Lost),
                result => result.map_err(SignError::Agent),
            },
            Self::File(key) => {
                let signature = sign(key, hash, &data).map_err(russh::keys::ssh_key::Error::from);
                let signature = signature.map_err(SignError::Key)?;
                let written = signature.encode_prefixed(&mut data);
                written.map_err(|error| SignError::Key(error.into()))?;
                Ok(data)
            }
        }
    }
}

fn sign(
    key: &PrivateKey,
    hash: Option<HashAlg>,
    data: &[u8],
) -> signature::Result<russh::keys::ssh_key::Signature> {
    match key.key_data() {
        KeypairData::Rsa(key) => (key, hash).try_sign(data),
        key => key.try_sign(data),
    }
}
