//! Paths of this machine as the served tree has them: with patterns, and with everything else in them quoted.

use std::ffi::OsString;
use std::io::ErrorKind::{NotADirectory, NotFound};
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use cpu_proto::glob::{self, NamePattern};

use super::FileLimits;

/// The paths of private keys and of their pin files in the served tree, with patterns. Of one whose public half is named, it
/// is the private one too.
pub(super) fn keys(limits: &FileLimits<'_>) -> Vec<String> {
    let own = limits.keys.iter();
    let own = own.map(|key| glob::quote(&key.to_string_lossy()));
    let mut paths = Vec::new();
    let others = limits.other_keys.iter().flat_map(|path| key_files(path));
    for key in own.chain(others) {
        let private = key.strip_suffix(".pub").map(str::to_owned);
        for path in [Some(key.clone()), Some(key + ".hostkey"), private]
            .into_iter()
            .flatten()
        {
            // Rules have no `..`; the real path is there anyway.
            if path.split('/').all(|name| name != "..") {
                paths.extend(served(limits.root, &beneath_here(&path)));
            }
            let name = NamePattern::new(path.as_bytes()).name();
            let real = name.map(|name| PathBuf::from(OsString::from_vec(name)));
            let real = real.and_then(|path| path.canonicalize().ok());
            paths.extend(real.and_then(|real| inside(limits.root, &real)));
        }
    }
    paths
}

/// The path itself; but if its last name could be any, so that the pattern would hide a whole directory, the private keys that
/// are there now.
fn key_files(path: &str) -> Vec<String> {
    let (directory, name) = path.rsplit_once('/').unwrap_or((".", path));
    if name.is_empty() || name.contains(|c| c != '*') {
        return vec![path.to_owned()];
    }
    let literal = NamePattern::new(directory.as_bytes()).name();
    let literal = literal.map(|name| PathBuf::from(OsString::from_vec(name)));
    let entries = literal.and_then(|directory| std::fs::read_dir(directory.join("")).ok());
    let files = entries.into_iter().flatten().flatten().filter(|entry| {
        entry.file_type().is_ok_and(|kind| kind.is_file()) && is_private_key(&entry.path())
    });
    let names = files.map(|file| glob::quote(&file.file_name().to_string_lossy()));
    names.map(|name| format!("{directory}/{name}")).collect()
}

/// Whether a file begins as a private key does, in one of its formats.
fn is_private_key(path: &Path) -> bool {
    let mut begin = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(64).read_to_end(&mut begin));
    let is_pem = begin.starts_with(b"-----BEGIN ") && begin.windows(7).any(|it| it == b"PRIVATE");
    read.is_ok() && (is_pem || begin.starts_with(b"PuTTY-User-Key-File"))
}

/// A path of this machine, as the served tree has it, as a pattern.
pub(super) fn inside(root: &Path, path: &Path) -> Option<String> {
    let root = root.canonicalize().ok()?;
    let rest = path.strip_prefix(root).ok()?.to_str()?;
    Some(format!("/{}", glob::quote(rest)))
}

/// An absolute path with patterns. A relative one is one of the working directory.
fn beneath_here(path: &str) -> String {
    if path.starts_with('/') {
        return path.to_owned();
    }
    let here = std::env::current_dir().unwrap_or_default();
    format!("{}/{path}", glob::quote(&here.to_string_lossy()))
}

/// The served directory and a home, with their links followed once for all the patterns.
#[derive(Debug)]
pub(super) struct ServedHome {
    root: Option<PathBuf>,
    /// The home as it is named, as a pattern.
    named: String,
    /// The home without links, as a pattern.
    real: String,
}

impl ServedHome {
    pub(super) fn new(root: &Path, home: &Path) -> Self {
        let quoted = |path: &Path| glob::quote(&path.to_string_lossy());
        Self {
            root: root.canonicalize().ok(),
            named: quoted(home),
            real: quoted(&home.canonicalize().unwrap_or_else(|_| home.into())),
        }
    }

    /// Absolute paths in the served tree. `~` is the home in it, and also this machine's if that is in it elsewhere, as with
    /// `-root /home`; another relative path is one of the working directory.
    pub(super) fn absolute(&self, path: &str) -> Vec<String> {
        let served = |path: &str| self.root.as_deref().and_then(|root| served(root, path));
        match path.strip_prefix('~') {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                let named = self.named.clone() + rest;
                let real = served(&format!("{}{rest}", self.real));
                let real = real.filter(|real| *real != named);
                [named].into_iter().chain(real).collect()
            }
            _ if path.starts_with('/') => vec![path.to_owned()],
            _ => served(&beneath_here(path)).into_iter().collect(),
        }
    }
}

/// Whether a path that is to be hidden, without patterns, is that of no file which is served.
pub(crate) fn is_missing(path: &str, root: &Path, home: &Path) -> bool {
    let paths = ServedHome::new(root, home).absolute(path);
    paths.iter().all(|path| {
        let literal = NamePattern::new(path.as_bytes()).name();
        literal.is_some_and(|name| {
            let name = PathBuf::from(OsString::from_vec(name));
            let file = root.join(name.strip_prefix("/").unwrap_or(&name));
            file.symlink_metadata()
                .is_err_and(|error| matches!(error.kind(), NotFound | NotADirectory))
        })
    })
}

/// A path of this machine, whose names may be patterns, as the tree beneath `root`, a path without links, has it. None if it is
/// elsewhere, or if what is served is part of it: that was asked for.
fn served(root: &Path, path: &str) -> Option<String> {
    let names = path.split('/');
    let mut names = names.filter(|name| !name.is_empty() && *name != ".");
    for part in root.components().skip(1) {
        let part = part.as_os_str().as_encoded_bytes();
        names
            .next()
            .filter(|name| NamePattern::new(name.as_bytes()).matches(part))?;
    }
    let rest: Vec<_> = names.collect();
    (!rest.is_empty()).then(|| format!("/{}", rest.join("/")))
}

/// The homes in a file like passwd(5) of those who can log in, but this one.
pub(crate) fn homes_but(passwd: &str, own: &Path) -> Vec<PathBuf> {
    let mut homes = Vec::new();
    for line in passwd.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, _, _, _, home, shell] = fields[..] else {
            continue;
        };
        let has_login = !["nologin", "false", "sync", "halt", "shutdown"]
            .iter()
            .any(|program| shell.rsplit('/').next() == Some(*program));
        let home = PathBuf::from(home);
        // What has no home of its own has nothing there to hide.
        let is_home = home.is_absolute() && home.components().count() > 1 && home != own;
        if has_login && is_home && !homes.contains(&home) {
            homes.push(home);
        }
    }
    homes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_those_of_people_who_log_in() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nann:x:1:1::/home/ann:/bin/zsh\n\
            daemon:x:2:2::/usr/sbin:/usr/sbin/nologin\nbob:x:3:3::/home/bob:\n\
            sync:x:4:65534:sync:/bin:/bin/sync\nx:x:5:5::/nonexistent:/bin/false\n\
            y:x:6:6::/:/bin/sh\n# a comment\nann2:x:1:1::/home/ann:/bin/sh\nz:x:7:7::home:/bin/sh\n";
        let homes = homes_but(passwd, Path::new("/root"));
        assert_eq!(homes, ["/home/ann", "/home/bob"].map(PathBuf::from));
    }

    #[test]
    fn a_file_to_hide_that_is_not_there_is_noticed() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("home/ann")).unwrap();
        std::fs::write(root.path().join("home/ann/[x"), "").unwrap();
        let is_missing = |path| is_missing(path, root.path(), Path::new("/home/ann"));
        assert!(is_missing("~/none") && is_missing("/x") && is_missing("/home/ann/[x/y"));
        assert!(!is_missing("~") && !is_missing("/home/ann/\\[x") && !is_missing("~/n*"));
    }

    #[test]
    fn a_directory_is_not_hidden_because_keys_are_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().display().to_string();
        for (name, text) in [
            ("board", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"),
            ("other", "PuTTY-User-Key-File-3: ssh-ed25519\n"),
            ("board.pub", "ssh-ed25519 AAAA"),
            ("notes", "-----BEGIN CERTIFICATE-----\n"),
        ] {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let mut found = key_files(&format!("{top}/*"));
        found.sort();
        assert_eq!(found, [format!("{top}/board"), format!("{top}/other")]);
        for pattern in [format!("{top}/*.pem"), format!("{top}/key")] {
            let found = key_files(&pattern);
            assert_eq!(found, [pattern]);
        }
        assert_eq!(key_files(&format!("{top}/*/*")), [""; 0]);
    }

    #[test]
    fn the_home_is_found_beneath_another_root() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().canonicalize().unwrap();
        let home = top.join("home/ann");
        std::fs::create_dir_all(home.join(".ssh/sub")).unwrap();
        let usual = format!("{}/.ssh/*", home.display());
        for (root, also) in [
            ("home/ann", Some("/.ssh/*")),
            ("home", Some("/ann/.ssh/*")),
            ("home/ann/.ssh", Some("/*")),
            ("home/ann/.ssh/sub", None),
        ] {
            let paths = ServedHome::new(&top.join(root), &home).absolute("~/.ssh/*");
            let wanted: Vec<_> = [usual.as_str()].into_iter().chain(also).collect();
            assert_eq!(paths, wanted, "{root}");
        }
        assert_eq!(
            ServedHome::new(Path::new("/"), &home).absolute("~/.ssh/*"),
            [usual]
        );
        assert_eq!(ServedHome::new(&home, &home).absolute("/x"), ["/x"]);
        let here = std::env::current_dir().unwrap();
        assert_eq!(ServedHome::new(&here, &home).absolute("x"), ["/x"]);
    }
}
