//! The machine's root file system: cpud, the keys, and the directories on which sessions mount.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use cpu_proto::AuthorizedKeys;
use cpu_proto::authorized_keys::LeftOut;
use ssh_key::PrivateKey;

use crate::arch::Arch;
use crate::archive::newc::{EntryBody, FileTree};
use crate::program;
use crate::progress::Progress;
use crate::read::{self, MAX_FILE, MAX_KEYS};

/// What the machine's directories are: mount points for a session's binds, and the usual rest of a
/// root.
const DIRECTORIES: [&str; 21] = [
    "bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "media", "mnt", "opt", "proc",
    "root", "run", "sbin", "srv", "sys", "tmp", "usr", "var", "var/tmp",
];

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
    #[error("/{0} is there already: choose another name in --file")]
    Taken(String),
    #[error("{path} cannot be the only program of a machine: {reason}")]
    Program {
        path: PathBuf,
        reason: program::NotRunnable,
    },
    #[error("{0} holds a private key: only its public half goes into an image; give FILE.pub")]
    PrivateKey(PathBuf),
    #[error("{path} has no key in it that could log in{}", about(left_out))]
    NoKey {
        path: PathBuf,
        left_out: Vec<LeftOut>,
    },
    #[error("{path} is no private key that OpenSSH's format describes: {reason}")]
    HostKey {
        path: PathBuf,
        reason: ssh_key::Error,
    },
    #[error("the host key {0} has a passphrase, which nobody can type at the machine's boot")]
    HostKeyEncrypted(PathBuf),
}

/// The appliance: cpud as `/init`, who may log in as `/key.pub`, each isolated from the others if that is wanted, the machine's key as
/// `/host_key`.
pub(crate) fn appliance(
    arch: Arch,
    cpud: &Path,
    keys: &[PathBuf],
    isolate: bool,
    host_key: &Path,
    progress: Progress,
) -> Result<FileTree, Error> {
    let mut tree: FileTree = DIRECTORIES
        .iter()
        .map(|name| {
            (
                (*name).to_owned(),
                (directory_mode(name), EntryBody::Directory),
            )
        })
        .collect();
    // The kernel opens /dev/console for PID 1 before anyone could mount devtmpfs.
    for (name, mode, major, minor) in [("dev/console", 0o600, 5, 1), ("dev/null", 0o666, 1, 3)] {
        tree.insert(
            name.to_owned(),
            (mode, EntryBody::CharDevice { major, minor }),
        );
    }
    let mut add = |name: &str, mode, bytes| {
        tree.insert(name.to_owned(), (mode, EntryBody::File(bytes)));
    };
    let program = read("cpud (make programs)", cpud, MAX_FILE)?;
    program::check(&program, arch).map_err(|reason| Error::Program {
        path: cpud.to_owned(),
        reason,
    })?;
    add("init", 0o755, program);
    add("key.pub", 0o644, public_keys(keys, isolate, progress)?);
    add("host_key", 0o600, private_host_key(host_key)?);
    Ok(tree)
}

/// A file that somebody wants in the machine's root besides: `SRC:DST[:MODE]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExtraFile {
    source: PathBuf,
    /// Without a leading `/`.
    destination: String,
    mode: Option<u32>,
}

impl std::str::FromStr for ExtraFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let octal = |mode: &str| {
            u32::from_str_radix(mode, 8)
                .ok()
                .filter(|bits| mode.len() >= 3 && *bits <= 0o7777)
        };
        let (rest, mode) = match text.rsplit_once(':') {
            Some((rest, mode)) if octal(mode).is_some() => (rest, octal(mode)),
            _ => (text, None),
        };
        let Some((source, destination)) = rest.rsplit_once(':') else {
            return Err("it is SRC:DST or SRC:DST:MODE, as in ./tool:/usr/bin/tool:755".to_owned());
        };
        let destination = destination.trim_matches('/');
        let plain = |part: &str| !matches!(part, "" | "." | "..");
        if source.is_empty() || !destination.split('/').all(plain) {
            return Err(format!(
                "{destination:?} is no name of a file in the archive"
            ));
        }
        Ok(Self {
            source: source.into(),
            destination: destination.to_owned(),
            mode,
        })
    }
}

/// Put more files into the tree, with the directories that they need.
pub(crate) fn add(tree: &mut FileTree, extras: &[ExtraFile]) -> Result<(), Error> {
    for extra in extras {
        let name = &extra.destination;
        let bytes = read("the file of --file", &extra.source, MAX_FILE)?;
        // Only some of the permission bits: the others depend on the umask of whoever made the file.
        let mode = extra.mode.unwrap_or_else(|| {
            let executable = fs::metadata(&extra.source)
                .is_ok_and(|file| file.permissions().mode() & 0o111 != 0);
            if executable { 0o755 } else { 0o644 }
        });
        for (end, _) in name.match_indices('/') {
            let directory = &name[..end];
            let entry = tree
                .entry(directory.to_owned())
                .or_insert((directory_mode(directory), EntryBody::Directory));
            if !matches!(entry.1, EntryBody::Directory) {
                return Err(Error::Taken(directory.to_owned()));
            }
        }
        if tree.contains_key(name) {
            return Err(Error::Taken(name.clone()));
        }
        tree.insert(name.clone(), (mode, EntryBody::File(bytes)));
    }
    Ok(())
}

fn directory_mode(name: &str) -> u32 {
    match name {
        "tmp" | "var/tmp" => 0o1777,
        "root" => 0o700,
        _ => 0o755,
    }
}

fn read(what: &'static str, path: &Path, max: u64) -> Result<Vec<u8>, Error> {
    read::whole(path, max).map_err(|source| Error::Read {
        what,
        path: path.to_owned(),
        source,
    })
}

/// Why, or nothing. The first lines are enough to see that a file is another than was meant.
fn about(left_out: &[LeftOut]) -> String {
    const MOST: usize = 3;
    let mut all = String::new();
    for line in left_out.iter().take(MOST) {
        let _ = write!(all, ": {line}");
    }
    if let Some(more @ 1..) = left_out.len().checked_sub(MOST) {
        let _ = write!(all, ": and {more} more");
    }
    all
}

/// The files one after the other. Each must let somebody in, or revoke a key; of lines that do neither, cpud leaves out what
/// is told here.
fn public_keys(paths: &[PathBuf], isolate: bool, progress: Progress) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    for path in paths {
        let (bytes, left_out) = public_key(path)?;
        for line in left_out {
            progress.say(format_args!("{}: {line}", path.display()));
        }
        all.extend_from_slice(bytes.trim_ascii_end());
        all.push(b'\n');
    }
    // One file may revoke all that another has.
    let AuthorizedKeys { keys, left_out, .. } = AuthorizedKeys::parse(&all);
    if let ([], Some(path)) = (&keys[..], paths.first()) {
        let path = path.to_owned();
        return Err(Error::NoKey { path, left_out });
    }
    if isolate {
        return Ok(AuthorizedKeys::isolated(&all).into_bytes());
    }
    if keys.len() > 1 && keys.iter().any(|key| !key.options.isolate) {
        progress.say(format_args!(
            "{} keys may log in, and who has one that is not isolated reaches the sessions and files of all; --isolate keeps them apart",
            keys.len(),
        ));
    }
    Ok(all)
}

/// A file of public keys as it is, and the lines that let nobody in; some line must let somebody in, or revoke a key.
pub(crate) fn public_key(path: &Path) -> Result<(Vec<u8>, Vec<LeftOut>), Error> {
    let bytes = read("the public key (mkimage keys)", path, MAX_KEYS)?;
    let has = |words: &[u8]| bytes.windows(words.len()).any(|part| part == words);
    if has(b"PRIVATE KEY-----") || has(b"PuTTY-User-Key-File") {
        return Err(Error::PrivateKey(path.to_owned()));
    }
    let AuthorizedKeys {
        keys,
        revoked,
        left_out,
    } = AuthorizedKeys::parse(&bytes);
    if keys.is_empty() && revoked.is_empty() {
        let path = path.to_owned();
        return Err(Error::NoKey { path, left_out });
    }
    Ok((bytes, left_out))
}

fn private_host_key(path: &Path) -> Result<Vec<u8>, Error> {
    let bytes = read("the machine's host key (mkimage keys)", path, MAX_KEYS)?;
    let key = PrivateKey::from_openssh(&bytes).map_err(|reason| Error::HostKey {
        path: path.to_owned(),
        reason,
    })?;
    if key.is_encrypted() {
        return Err(Error::HostKeyEncrypted(path.to_owned()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys;

    // ssh-keygen -t ecdsa -b 256
    const ECDSA: &str = concat!(
        "ecdsa-sha2-nistp256 ",
        "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBCbeFBTOWvYmYMMoeQeeKGmozfR4",
        "pvHa4XdEyf1oB21VhSMJuR17p+JAQJ+fqTMQNxR0efYKc7k+ULq4Jh7kFsM= you@desk\n",
    );

    struct ApplianceInputs {
        dir: tempfile::TempDir,
    }

    impl ApplianceInputs {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let kind = keys::KeyType::Ed25519;
            keys::make(dir.path(), kind, || Ok(None), Progress::silent()).unwrap();
            fs::write(
                dir.path().join("cpud"),
                program::tests::elf(Arch::HERE, None),
            )
            .unwrap();
            Self { dir }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn appliance(&self, key: &str, host_key: &str) -> Result<FileTree, Error> {
            appliance(
                Arch::HERE,
                &self.path("cpud"),
                &[self.path(key)],
                false,
                &self.path(host_key),
                Progress::silent(),
            )
        }
    }

    #[test]
    fn the_kernel_and_cpud_find_what_they_need() {
        let inputs = ApplianceInputs::new();
        let tree = inputs
            .appliance("cpu_rsa.pub", "ssh_host_ed25519_key")
            .unwrap();
        let mode = |name: &str| tree[name].0;
        let content = |name: &str| match &tree[name].1 {
            EntryBody::File(bytes) => bytes.clone(),
            body => panic!("{name} is {body:?}"),
        };
        assert_eq!(mode("init"), 0o755);
        assert_eq!(content("init"), fs::read(inputs.path("cpud")).unwrap());
        assert_eq!(mode("host_key"), 0o600);
        assert_eq!(
            content("host_key"),
            fs::read(inputs.path("ssh_host_ed25519_key")).unwrap()
        );
        assert_eq!(
            content("key.pub"),
            fs::read(inputs.path("cpu_rsa.pub")).unwrap()
        );
        assert_eq!(mode("tmp"), 0o1777);
        assert!(matches!(
            tree["dev/console"].1,
            EntryBody::CharDevice { major: 5, minor: 1 }
        ));
        for name in [
            "proc", "sys", "dev", "lib", "lib64", "usr", "bin", "etc", "home",
        ] {
            assert!(matches!(tree[name].1, EntryBody::Directory), "{name}");
        }
    }

    #[test]
    fn no_private_key_is_taken_for_a_public_one() {
        let inputs = ApplianceInputs::new();
        let result = inputs.appliance("cpu_rsa", "ssh_host_ed25519_key");
        assert!(matches!(result, Err(Error::PrivateKey(_))));
        let public = fs::read_to_string(inputs.path("cpu_rsa.pub")).unwrap();
        let both = format!("{public}PuTTY-User-Key-File-3: ssh-ed25519\n");
        fs::write(inputs.path("both"), both).unwrap();
        let result = inputs.appliance("both", "ssh_host_ed25519_key");
        assert!(matches!(result, Err(Error::PrivateKey(_))));
    }

    #[test]
    fn somebody_can_log_in_with_each_file_of_keys() {
        let inputs = ApplianceInputs::new();
        let good = fs::read_to_string(inputs.path("cpu_rsa.pub")).unwrap();
        let with = |text: &str| {
            fs::write(inputs.path("keys"), text).unwrap();
            let left_out = public_key(&inputs.path("keys")).map(|(_, left_out)| left_out.len());
            let made = inputs.appliance("keys", "ssh_host_ed25519_key");
            assert_eq!(made.is_ok(), left_out.is_ok());
            left_out.map_err(|error| error.to_string())
        };
        assert_eq!(with(&format!("# two kinds\n\n{good}{ECDSA}")), Ok(0));
        assert_eq!(
            with(&format!("{good}ssh-rsa AAAA me\nno-touch-required {good}")),
            Ok(2)
        );
        let refused = |text: &str| with(text).unwrap_err();
        assert_eq!(
            with(&format!("cert-authority,principals=\"ops\" {good}")),
            Ok(0)
        );
        assert_eq!(with(&format!("{good}@revoked {ECDSA}")), Ok(0));
        assert_eq!(with(&format!("{good}{ECDSA}@revoked {ECDSA}")), Ok(1));
        assert!(refused("# none\n").ends_with("keys has no key in it that could log in"));
        let options = refused(&format!("permitopen=\"a:1\" {good}"));
        assert!(
            options.contains("could log in: line 1 has options"),
            "{options}"
        );
        assert!(refused(&format!("\u{feff}{good}")).contains("byte order mark"));
        let certificate = good.replacen(' ', "-cert-v01@openssh.com ", 1);
        assert!(refused(&certificate).contains("is a certificate"));
    }

    #[test]
    fn a_file_may_revoke_keys_of_another_but_not_all_of_them() {
        let inputs = ApplianceInputs::new();
        let revoked = |key: &str| {
            fs::write(inputs.path("revoked"), format!("@revoked {key}")).unwrap();
            let files = ["cpu_rsa.pub", "revoked"].map(|name| inputs.path(name));
            public_keys(&files, false, Progress::silent())
        };
        let good = fs::read_to_string(inputs.path("cpu_rsa.pub")).unwrap();
        let all = String::from_utf8(revoked(ECDSA).unwrap()).unwrap();
        assert!(all.starts_with(&good) && all.contains("\n@revoked ecdsa"));
        let error = revoked(&good).unwrap_err().to_string();
        assert!(
            error.contains("line 1 has a key that line 2 revokes"),
            "{error}"
        );
    }

    #[test]
    fn a_public_host_key_is_refused() {
        let result = ApplianceInputs::new().appliance("cpu_rsa.pub", "ssh_host_ed25519_key.pub");
        assert!(matches!(result, Err(Error::HostKey { .. })));
    }

    #[test]
    fn more_files_come_with_their_directories() {
        let inputs = ApplianceInputs::new();
        let mut tree = inputs
            .appliance("cpu_rsa.pub", "ssh_host_ed25519_key")
            .unwrap();
        let extra = |text: &str| -> ExtraFile {
            let source = inputs.path("cpud").display().to_string();
            text.replace("SRC", &source).parse().unwrap()
        };
        let extras = [extra("SRC:/usr/lib/some/tool:4711"), extra("SRC:etc/hosts")];
        add(&mut tree, &extras).unwrap();
        assert_eq!(tree["usr/lib/some/tool"].0, 0o4711);
        assert_eq!(tree["etc/hosts"].0, 0o644);
        assert!(matches!(
            tree["usr/lib/some"],
            (0o755, EntryBody::Directory)
        ));
        for taken in ["SRC:/init", "SRC:/init/x", "SRC:/tmp"] {
            let result = add(&mut tree, &[extra(taken)]);
            assert!(matches!(result, Err(Error::Taken(_))), "{taken}");
        }
        let missing = add(&mut tree, &["/no/such:/x".parse().unwrap()]);
        assert!(missing.unwrap_err().to_string().contains("/no/such"));
    }

    #[test]
    fn names_that_would_leave_the_root_are_refused() {
        for text in ["a", ":b", "a:", "a:/", "a:b/../c", "a:./b", "a:b//c"] {
            assert!(text.parse::<ExtraFile>().is_err(), "{text}");
        }
        let extra: ExtraFile = "C:/dir/x:/y:0644".parse().unwrap();
        assert_eq!(extra.source, Path::new("C:/dir/x"));
        assert_eq!((extra.destination.as_str(), extra.mode), ("y", Some(0o644)));
    }
}
