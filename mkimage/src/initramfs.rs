//! The root file system of the machine as a newc archive (Documentation/driver-api/early-userspace/
//! buffer-format.rst of the kernel): what is in it, and its bytes. Same inputs, same bytes: every
//! owner is root, every time the one given, entries are in the order of their names.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use cpio::newc;
use ssh_key::{AuthorizedKeys, PrivateKey};
use xz2::stream::{Check, Filters, LzmaOptions, Stream};

/// What the machine's directories are: mount points for a session's binds, and the usual rest of a
/// root.
const DIRECTORIES: [&str; 21] = [
    "bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "media", "mnt", "opt", "proc",
    "run", "sbin", "srv", "sys", "tmp", "root", "usr", "var", "var/tmp",
];

/// No initramfs of ours comes near; a small file that unpacks to more is a bomb.
const MAX_ARCHIVE: u64 = 1 << 30;

/// Why there is no initramfs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read {what} {path}")]
    Read {
        /// What the file is for, and where it comes from.
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{0} holds a private key: only its public half goes into an image; give FILE.pub")]
    PrivateKey(PathBuf),
    #[error("line {line} of {path} is no public key (authorized_keys format): {reason}")]
    PublicKey {
        path: PathBuf,
        line: usize,
        reason: ssh_key::Error,
    },
    #[error("{0} has no key in it, so nobody could log in")]
    NoKey(PathBuf),
    #[error("{path} is no private key that OpenSSH's format describes: {reason}")]
    HostKey {
        path: PathBuf,
        reason: ssh_key::Error,
    },
    #[error("the host key {0} has a passphrase, which nobody can type at the machine's boot")]
    HostKeyEncrypted(PathBuf),
    #[error("{0} is too big for a newc archive, which counts to 4 GiB")]
    TooBig(String),
    #[error("cannot pack the archive")]
    Pack(#[source] io::Error),
    #[error("cannot compress the archive")]
    Compress(#[source] io::Error),
    #[error("cannot unpack it: {0}")]
    Unpack(io::Error),
    #[error("it is neither a newc archive nor one compressed by xz")]
    Format,
    #[error("it unpacks to more than {MAX_ARCHIVE} bytes")]
    Bomb,
}

/// One file of the archive.
#[derive(Debug)]
pub(crate) enum Node {
    Directory,
    File(Vec<u8>),
    CharDevice { major: u32, minor: u32 },
}

/// Names without a leading `/`, with permission bits.
pub(crate) type Tree = BTreeMap<String, (u32, Node)>;

/// The appliance: cpud as `/init`, who may log in as `/key.pub`, the machine's key as `/host_key`.
pub(crate) fn appliance(cpud: &Path, keys: &[PathBuf], host_key: &Path) -> Result<Tree, Error> {
    let mut tree: Tree = DIRECTORIES
        .iter()
        .map(|name| ((*name).to_owned(), (directory_mode(name), Node::Directory)))
        .collect();
    // The kernel opens /dev/console for PID 1 before anyone could mount devtmpfs.
    for (name, mode, major, minor) in [("dev/console", 0o600, 5, 1), ("dev/null", 0o666, 1, 3)] {
        tree.insert(name.to_owned(), (mode, Node::CharDevice { major, minor }));
    }
    let mut add = |name: &str, mode, bytes| {
        tree.insert(name.to_owned(), (mode, Node::File(bytes)));
    };
    add(
        "init",
        0o755,
        read("cpud (cargo build --release -p cpud)", cpud)?,
    );
    add("key.pub", 0o644, public_keys(keys)?);
    add("host_key", 0o600, private_host_key(host_key)?);
    Ok(tree)
}

fn directory_mode(name: &str) -> u32 {
    match name {
        "tmp" | "var/tmp" => 0o1777,
        "root" => 0o700,
        _ => 0o755,
    }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Read {
        what,
        path: path.to_owned(),
        source,
    })
}

/// The files one after the other, each line of them a comment, empty, or a key.
fn public_keys(paths: &[PathBuf]) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    for path in paths {
        let bytes = read("the public key (mkimage keys)", path)?;
        let text = String::from_utf8_lossy(&bytes);
        if text.contains("PRIVATE KEY-----") {
            return Err(Error::PrivateKey(path.clone()));
        }
        let mut found = false;
        for (index, line) in text.lines().enumerate() {
            for entry in AuthorizedKeys::new(line) {
                entry.map_err(|reason| Error::PublicKey {
                    path: path.clone(),
                    line: index + 1,
                    reason,
                })?;
                found = true;
            }
        }
        if !found {
            return Err(Error::NoKey(path.clone()));
        }
        all.extend_from_slice(text.trim_end().as_bytes());
        all.push(b'\n');
    }
    Ok(all)
}

fn private_host_key(path: &Path) -> Result<Vec<u8>, Error> {
    let bytes = read("the machine's host key (mkimage keys)", path)?;
    let key = PrivateKey::from_openssh(&bytes).map_err(|reason| Error::HostKey {
        path: path.to_owned(),
        reason,
    })?;
    if key.is_encrypted() {
        return Err(Error::HostKeyEncrypted(path.to_owned()));
    }
    Ok(bytes)
}

/// The archive's bytes. `epoch` is the time of every entry, in seconds since 1970.
pub(crate) fn pack(tree: &Tree, epoch: u32) -> Result<Vec<u8>, Error> {
    let mut archive = Vec::new();
    // The kernel takes two entries of one inode number for links to one file; a directory is never.
    for (inode, (name, (mode, node))) in (1..).zip(tree) {
        let entry = newc::Builder::new(name).ino(inode).mtime(epoch).mode(*mode);
        let (entry, contents): (_, &[u8]) = match node {
            Node::Directory => (
                entry
                    .nlink(2)
                    .set_mode_file_type(newc::ModeFileType::Directory),
                &[],
            ),
            Node::File(bytes) => (entry.set_mode_file_type(newc::ModeFileType::Regular), bytes),
            Node::CharDevice { major, minor } => (
                entry
                    .rdev_major(*major)
                    .rdev_minor(*minor)
                    .set_mode_file_type(newc::ModeFileType::Char),
                &[],
            ),
        };
        let size = u32::try_from(contents.len()).map_err(|_| Error::TooBig(name.clone()))?;
        let mut writer = entry.write(&mut archive, size);
        writer.write_all(contents).map_err(Error::Pack)?;
        writer.finish().map_err(Error::Pack)?;
    }
    newc::trailer(&mut archive).map_err(Error::Pack)?;
    Ok(archive)
}

/// How an archive is compressed.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Compression {
    Xz,
    None,
}

impl Compression {
    /// The name under which `mkimage` keeps it.
    pub(crate) fn file_name(self) -> &'static str {
        match self {
            Self::Xz => "initramfs.cpio.xz",
            Self::None => "initramfs.cpio",
        }
    }

    /// What the kernel's decompressor can read (Documentation/staging/xz.rst): a CRC32 and the x86
    /// filter. Its dictionary is memory of the booting machine: not more than the archive needs.
    pub(crate) fn apply(self, archive: &[u8]) -> Result<Vec<u8>, Error> {
        if matches!(self, Self::None) {
            return Ok(archive.to_vec());
        }
        let compress = || -> io::Result<Vec<u8>> {
            let mut options = LzmaOptions::new_preset(9 | EXTREME)?;
            let dictionary = archive.len().next_power_of_two().clamp(1 << 16, 1 << 26);
            options.dict_size(u32::try_from(dictionary).unwrap_or(1 << 26));
            let mut filters = Filters::new();
            filters.x86().lzma2(&options);
            let stream = Stream::new_stream_encoder(&filters, Check::Crc32)?;
            let mut encoder = xz2::write::XzEncoder::new_stream(Vec::new(), stream);
            encoder.write_all(archive)?;
            encoder.finish()
        };
        compress().map_err(Error::Compress)
    }
}

/// LZMA_PRESET_EXTREME of lzma/container.h: smaller for more time, here tenths of a second.
const EXTREME: u32 = 1 << 31;

/// The bare archive of an initramfs that may be compressed by xz. What is in it is not looked at.
pub(crate) fn unpack(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    if bytes.starts_with(b"070701") {
        return Ok(bytes.to_vec());
    }
    if !bytes.starts_with(b"\xfd7zXZ\0") {
        return Err(Error::Format);
    }
    let mut archive = Vec::new();
    xz2::read::XzDecoder::new(bytes)
        .take(MAX_ARCHIVE + 1)
        .read_to_end(&mut archive)
        .map_err(Error::Unpack)?;
    match archive {
        archive if archive.len() as u64 > MAX_ARCHIVE => Err(Error::Bomb),
        archive if archive.starts_with(b"070701") => Ok(archive),
        _ => Err(Error::Format),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{keys, progress::Progress};

    struct Inputs {
        dir: tempfile::TempDir,
    }

    impl Inputs {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            keys::make(dir.path(), keys::Kind::Ed25519, Progress::new(true)).unwrap();
            fs::write(dir.path().join("cpud"), b"\x7fELF and more").unwrap();
            Self { dir }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn appliance(&self, key: &str, host_key: &str) -> Result<Tree, Error> {
            appliance(&self.path("cpud"), &[self.path(key)], &self.path(host_key))
        }

        fn whole(&self) -> Tree {
            self.appliance("cpu_ed25519.pub", "ssh_host_ed25519_key")
                .unwrap()
        }
    }

    /// Name, mode with type, device and size of every entry, as another reader sees them.
    fn list(mut archive: &[u8]) -> Vec<(String, u32, (u32, u32), u32)> {
        let mut entries = Vec::new();
        loop {
            let reader = newc::Reader::new(archive).unwrap();
            let entry = reader.entry();
            if entry.is_trailer() {
                return entries;
            }
            assert_eq!((entry.uid(), entry.gid(), entry.mtime()), (0, 0, 7));
            let device = (entry.rdev_major(), entry.rdev_minor());
            entries.push((
                entry.name().to_owned(),
                entry.mode(),
                device,
                entry.file_size(),
            ));
            archive = reader.finish().unwrap();
        }
    }

    #[test]
    fn the_archive_has_what_the_kernel_and_cpud_need() {
        let inputs = Inputs::new();
        let entries = list(&pack(&inputs.whole(), 7).unwrap());
        let find = |name| entries.iter().find(|entry| entry.0 == name).unwrap();
        assert_eq!(find("init").1, 0o100_755);
        assert_eq!(find("init").3, 13);
        assert_eq!(find("host_key").1, 0o100_600);
        assert_eq!(find("key.pub").1, 0o100_644);
        assert_eq!(find("tmp").1, 0o041_777);
        assert_eq!(find("lib64").1, 0o040_755);
        assert_eq!(
            (find("dev/console").1, find("dev/console").2),
            (0o020_600, (5, 1))
        );
        assert_eq!(
            (find("dev/null").1, find("dev/null").2),
            (0o020_666, (1, 3))
        );
        // A directory must come before what is in it.
        assert!(entries.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn same_inputs_give_the_same_bytes() {
        let inputs = Inputs::new();
        let make = || {
            Compression::Xz
                .apply(&pack(&inputs.whole(), 7).unwrap())
                .unwrap()
        };
        assert_eq!(make(), make());
    }

    #[test]
    fn both_forms_unpack_to_the_archive() {
        let archive = pack(&Inputs::new().whole(), 7).unwrap();
        for compression in [Compression::Xz, Compression::None] {
            assert_eq!(
                unpack(&compression.apply(&archive).unwrap()).unwrap(),
                archive
            );
        }
    }

    #[test]
    fn a_truncated_or_foreign_initramfs_is_an_error() {
        let packed = Compression::Xz
            .apply(&pack(&Inputs::new().whole(), 7).unwrap())
            .unwrap();
        for length in [0, 5, 6, 12, packed.len() / 2, packed.len() - 1] {
            assert!(
                unpack(&packed[..length]).is_err(),
                "{length} bytes were taken"
            );
        }
        assert!(matches!(unpack(b"\x1f\x8b\x08\0"), Err(Error::Format)));
    }

    #[test]
    fn no_private_key_is_taken_for_a_public_one() {
        let inputs = Inputs::new();
        let result = inputs.appliance("cpu_ed25519", "ssh_host_ed25519_key");
        assert!(matches!(result, Err(Error::PrivateKey(_))));
    }

    #[test]
    fn every_line_of_a_key_file_must_be_a_key() {
        let inputs = Inputs::new();
        let good = fs::read_to_string(inputs.path("cpu_ed25519.pub")).unwrap();
        let with = |text: &str| {
            fs::write(inputs.path("keys"), text).unwrap();
            inputs.appliance("keys", "ssh_host_ed25519_key")
        };
        assert!(with(&format!("# two of them\n\n{good}{good}")).is_ok());
        assert!(matches!(with("# none\n"), Err(Error::NoKey(_))));
        let broken = with(&format!("{good}ssh-rsa AAAA me\n"));
        assert!(matches!(broken, Err(Error::PublicKey { line: 2, .. })));
    }

    #[test]
    fn a_public_host_key_is_refused() {
        let result = Inputs::new().appliance("cpu_ed25519.pub", "ssh_host_ed25519_key.pub");
        assert!(matches!(result, Err(Error::HostKey { .. })));
    }
}
