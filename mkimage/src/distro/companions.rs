//! The packages that a distribution has split a kernel into: whoever names the one with the kernel gets those with its modules, if they lie
//! beside it.

use std::path::{Path, PathBuf};

use super::newest_of;
use crate::progress::Progress;

/// Which packages have the modules, for messages.
pub(super) const MODULES: &str =
    "Ubuntu's linux-modules-*, Fedora's kernel-modules-core and kernel-modules";

/// How the names of packages begin, and those of the packages that belong to them.
const COMPANIONS: [(&str, &[&str]); 3] = [
    (
        "linux-image-unsigned-",
        &["linux-modules-", "linux-modules-extra-"],
    ),
    ("linux-image-", &["linux-modules-", "linux-modules-extra-"]),
    ("kernel-core-", &["kernel-modules-core-", "kernel-modules-"]),
];

/// These packages, and those beside them that belong to them.
pub(super) fn with(packages: &[PathBuf], progress: Progress) -> Vec<PathBuf> {
    let mut all = packages.to_vec();
    for found in packages.iter().flat_map(|package| beside(package)) {
        if !all.contains(&found) {
            progress.say(format_args!("{}: used too", found.display()));
            all.push(found);
        }
    }
    all
}

fn beside(package: &Path) -> Vec<PathBuf> {
    let name = package.file_name().unwrap_or_default().to_string_lossy();
    let mut known = COMPANIONS.iter();
    let Some((rest, prefixes)) =
        known.find_map(|(prefix, others)| Some((name.strip_prefix(prefix)?, others)))
    else {
        return Vec::new();
    };
    // Of Debian's names, the version in the middle may differ: signed packages have their own.
    let split = rest.split_once('_').zip(rest.rsplit_once('_'));
    let (start, end) = match split {
        Some(((release, _), (_, arch))) => (format!("{release}_"), format!("_{arch}")),
        None => (rest.to_owned(), String::new()),
    };
    let directory = crate::publish::directory_of(package);
    let find = |prefix| newest_of(directory, &format!("{prefix}{start}"), &end);
    prefixes.iter().filter_map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_found_beside_their_kernel() {
        let dir = tempfile::tempdir().unwrap();
        let names = [
            "linux-modules-6.8.0-31-generic_6.8.0-31.31_amd64.deb",
            "linux-modules-6.8.0-40-generic_6.8.0-40.40_amd64.deb",
            "kernel-modules-core-6.12.4-200.fc41.x86_64.rpm",
            "kernel-modules-6.12.4-200.fc41.x86_64.rpm",
            "kernel-modules-extra-6.12.4-200.fc41.x86_64.rpm",
        ];
        for name in names {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let found = |name: &str| {
            let all = with(&[dir.path().join(name)], Progress::silent());
            let names = all
                .iter()
                .skip(1)
                .map(|path| path.strip_prefix(dir.path()).unwrap());
            names
                .map(|name| name.display().to_string())
                .collect::<Vec<_>>()
        };
        let generic = "linux-image-6.8.0-31-generic_6.8.0-31.31+1_amd64.deb";
        assert_eq!(found(generic), names[..1]);
        let unsigned = generic.replace("image-", "image-unsigned-");
        assert_eq!(found(&unsigned), names[..1]);
        assert_eq!(found("kernel-core-6.12.4-200.fc41.x86_64.rpm"), names[2..4]);
        assert_eq!(
            found("linux-image-6.12.1-amd64_6.12.1-1_amd64.deb"),
            [""; 0]
        );
        assert_eq!(found("linux-lts-6.12.1-r0.apk"), [""; 0]);
        // Given twice, taken once.
        let both =
            [names[2], "kernel-core-6.12.4-200.fc41.x86_64.rpm"].map(|name| dir.path().join(name));
        assert_eq!(with(&both, Progress::silent()).len(), 3);
    }
}
