//! What to type to log in to a machine that was just made.

use std::fmt::Write as _;
use std::path::Path;

use ssh_key::PublicKey;

use crate::{inspect, logins};

/// The command `{cpu} -key KEY {host} date` for the machine of this kernel. KEY is `private_key`, the other half of the file
/// `public_key`, unless the machine's list has only other keys: these are named then.
pub(super) fn date_command(
    kernel: &Path,
    public_key: &Path,
    private_key: &str,
    cpu: &str,
    host: &str,
) -> String {
    let other = other_keys(kernel, public_key);
    let key = if other.is_empty() { private_key } else { "KEY" };
    let mut text = format!("{cpu} -key {key} {host} date");
    for (index, key) in other.iter().take(MAX_NAMED).enumerate() {
        let or = if index == 0 {
            ", where KEY is the private half of"
        } else {
            " or"
        };
        let fingerprint = cpu_proto::fingerprint(key);
        let comment = cpu_proto::printable(key.comment().as_ref());
        let _ = write!(text, "{or} {fingerprint} {comment}");
    }
    if other.len() > MAX_NAMED {
        text.push_str(" or another that mkimage inspect lists");
    }
    text
}

/// How many keys one line has room for.
const MAX_NAMED: usize = 2;

/// The keys that may log in, if none of them is in the file. Nothing if one is, and where there is no list.
fn other_keys(kernel: &Path, public_key: &Path) -> Vec<PublicKey> {
    let beside = kernel.with_file_name("cpuinitrd");
    let image = if beside.exists() { &beside } else { kernel };
    let listed = inspect::logins(image)
        .map(|list| list.keys)
        .unwrap_or_default();
    let ours = logins::public_key(public_key).map_or_else(
        |_| Vec::new(),
        |(bytes, _)| cpu_proto::AuthorizedKeys::parse(&bytes).keys,
    );
    let is_ours = |key: &PublicKey| ours.iter().any(|our| our.key.key_data() == key.key_data());
    if listed.iter().any(|listed| is_ours(&listed.key)) {
        return Vec::new();
    }
    listed.into_iter().map(|listed| listed.key).collect()
}
