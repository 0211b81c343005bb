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

#[cfg(test)]
mod tests {
    use std::fs;

    use ssh_key::private::{Ed25519Keypair, PrivateKey};
    use tempfile::TempDir;

    use super::*;
    use crate::arch::Arch;
    use crate::archive::compress::Compression;
    use crate::archive::newc::{self, EntryBody};
    use crate::kernel;
    use crate::media::uki;

    fn key(seed: u8) -> PublicKey {
        let private = PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]));
        let mut key = private.public_key().clone();
        key.set_comment(format!("user{seed}"));
        key
    }

    fn list(seeds: &[u8]) -> String {
        let line = |seed: &u8| key(*seed).to_openssh().unwrap() + "\n";
        seeds.iter().map(line).collect()
    }

    fn initramfs(seeds: &[u8]) -> Vec<u8> {
        let file = (0o644, EntryBody::File(list(seeds).into_bytes()));
        let archive = newc::pack([("key.pub".to_owned(), file)].into(), 7).unwrap();
        Compression::Xz.apply(archive, Arch::X86_64).unwrap()
    }

    /// A directory with the public key of user 1.
    fn dir() -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cpu_rsa.pub"), list(&[1])).unwrap();
        dir
    }

    fn said(dir: &TempDir, kernel: &str) -> String {
        let file = |name: &str| dir.path().join(name);
        date_command(
            &file(kernel),
            &file("cpu_rsa.pub"),
            "cpu_rsa",
            "./cpu",
            "board",
        )
    }

    const OURS: &str = "./cpu -key cpu_rsa board date";

    #[test]
    fn a_key_that_logs_in_is_named_whatever_holds_the_list() {
        let dir = dir();
        let plain = kernel::image::tests::kernel(Arch::X86_64);
        let stub = Some(uki::tests::stub(3));
        for (seeds, logs_in) in [(&[2, 1][..], true), (&[2], false)] {
            let packed = initramfs(seeds);
            let unified = uki::build(Arch::X86_64, stub.clone(), &plain, &packed, "quiet").unwrap();
            for bytes in [packed, unified] {
                fs::write(dir.path().join("kernel"), bytes).unwrap();
                assert_eq!(said(&dir, "kernel") == OURS, logs_in, "{seeds:?}");
            }
        }
    }

    #[test]
    fn the_list_of_the_initramfs_beside_the_kernel_counts() {
        let dir = dir();
        fs::write(dir.path().join("kernel"), initramfs(&[1])).unwrap();
        fs::write(dir.path().join("cpuinitrd"), initramfs(&[2])).unwrap();
        let expected = format!(
            "./cpu -key KEY board date, where KEY is the private half of {} user2",
            cpu_proto::fingerprint(&key(2))
        );
        assert_eq!(said(&dir, "kernel"), expected);
    }

    #[test]
    fn few_of_many_other_keys_are_named() {
        let dir = dir();
        fs::write(dir.path().join("kernel"), initramfs(&[2, 3, 4])).unwrap();
        let text = said(&dir, "kernel");
        assert!(text.contains(" user2 or SHA256:"), "{text}");
        assert!(
            text.ends_with(" user3 or another that mkimage inspect lists"),
            "{text}"
        );
    }

    #[test]
    fn where_no_list_is_found_the_key_is_named() {
        let dir = dir();
        assert_eq!(said(&dir, "missing"), OURS);
        fs::write(
            dir.path().join("kernel"),
            kernel::image::tests::kernel(Arch::X86_64),
        )
        .unwrap();
        assert_eq!(said(&dir, "kernel"), OURS);
    }
}
