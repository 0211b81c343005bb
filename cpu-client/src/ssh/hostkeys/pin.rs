//! Pin files: public keys, one of which the machine must have.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cpu_proto::authorized_keys::{LeftOut, RevokedKey};
use cpu_proto::{AuthorizedKey, AuthorizedKeys, KeyOptions, fingerprint};
use russh::keys::PublicKey;

use super::HostId;

/// Reads a pin file: one or more lines as in a `.pub` file.
pub(super) fn read(file: &Path) -> Result<Vec<PublicKey>> {
    let bytes = fs::read(file)
        .with_context(|| format!("cannot read the host key file {}", file.display()))?;
    let AuthorizedKeys {
        keys,
        revoked,
        left_out,
    } = AuthorizedKeys::parse(&bytes);
    if let Some(RevokedKey { line, .. }) = revoked.first() {
        bail!(
            "the host key file {}: line {line} revokes a key, which is for known_hosts files",
            file.display()
        );
    }
    if let Some(LeftOut { line, fault }) = left_out.first() {
        bail!("the host key file {}: line {line} {fault}", file.display());
    }
    if keys.is_empty() {
        bail!("the host key file {} holds no key", file.display());
    }
    let restricted = keys.iter().find(|key| key.options != KeyOptions::default());
    if let Some(AuthorizedKey { line, .. }) = restricted {
        bail!(
            "the host key file {}: line {line} has options, which are for keys of users",
            file.display()
        );
    }
    Ok(keys.into_iter().map(|key| key.key).collect())
}

/// An error unless `key` is one of `keys`, which are those of `file`, or is in the known_hosts files `others`.
pub(super) fn check(
    name: &HostId,
    key: &PublicKey,
    file: &Path,
    keys: &[PublicKey],
    others: &[PathBuf],
) -> Result<()> {
    let got = fingerprint(key);
    // First, since a revoked key is refused even if it is pinned.
    let is_known = name.search(others, key)?.is_known;
    if is_known || keys.iter().any(|pin| pin.key_data() == key.key_data()) {
        return Ok(());
    }
    let pinned: Vec<_> = keys.iter().map(fingerprint).collect();
    bail!(
        "{name} has the host key {got}, but {} pins {}: this is another \
         machine, or its host key was replaced; if that is expected, replace that file, or name a file \
         with this machine's key by -hk{}",
        file.display(),
        pinned.join(", "),
        if others.is_empty() {
            ""
        } else {
            ", or add the key to known_hosts"
        },
    )
}
