//! The machine's root file system: cpud, the keys, and the directories on which sessions mount.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use cpu_proto::HOST_KEY_AT_BOOT;
use ssh_key::PrivateKey;

use crate::arch::Arch;
use crate::archive::newc::{EntryBody, FileTree};
use crate::progress::Progress;
use crate::read::{self, MAX_FILE, MAX_KEYS};
use crate::{logins, program};

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
    #[error(transparent)]
    Logins(#[from] logins::Error),
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
    add(
        "key.pub",
        0o644,
        logins::public_keys(keys, isolate, progress)?,
    );
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

/// In place of the file of a host key: the machine makes one when it boots.
const FIRST_BOOT: &str = "first-boot";

/// Whether the machine is to make its host key.
pub(crate) fn makes_its_host_key(path: &Path) -> bool {
    path == Path::new(FIRST_BOOT)
}

fn private_host_key(path: &Path) -> Result<Vec<u8>, Error> {
    if makes_its_host_key(path) {
        return Ok(HOST_KEY_AT_BOOT.into());
    }
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
    fn a_machine_that_makes_its_host_key_is_asked_to() {
        let inputs = ApplianceInputs::new();
        let given = |host_key: &str| {
            let cpud = inputs.path("cpud");
            let keys = [inputs.path("cpu_rsa.pub")];
            let silent = Progress::silent();
            appliance(Arch::HERE, &cpud, &keys, false, Path::new(host_key), silent)
        };
        let tree = given("first-boot").unwrap();
        assert!(matches!(&tree["host_key"].1, EntryBody::File(text) if text == b"first-boot\n"));
        assert!(given("./first-boot").is_err());
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
