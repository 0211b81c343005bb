//! The kernel that a distribution installs by default, fetched by its own tool into the cache. What the tool says about signatures is
//! what counts: mkimage checks none.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{apt, newest_of, os_release};
use crate::arch::Arch;
use crate::cache::{self, CacheDirectory};
use crate::lock::{self, Lock};
use crate::progress::Progress;
use crate::tools;

/// Why there is no package.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Apt(#[from] apt::Error),
    #[error("cannot fetch {packages} with {program}")]
    Tool {
        packages: String,
        program: &'static str,
        source: tools::Error,
    },
    #[error("{program} has fetched no {package}")]
    Nothing {
        package: &'static str,
        program: &'static str,
    },
    #[error("cannot keep a package in the cache")]
    Keep(#[source] io::Error),
    #[error(transparent)]
    Cache(#[from] cache::Error),
    #[error(transparent)]
    Lock(#[from] lock::Error),
}

/// Where the packages are kept.
const DIRECTORY: &str = "packages";

/// How a distribution fetches its own kernel.
struct Fetcher {
    distribution: &'static str,
    program: &'static str,
    /// Then follow the directory and the packages.
    arguments: &'static [&'static str],
    /// The first one has the kernel.
    packages: &'static [&'static str],
    /// How the name of a package ends.
    suffix: &'static str,
}

const FETCHERS: [Fetcher; 3] = [
    Fetcher {
        distribution: "fedora",
        program: "dnf",
        arguments: &["download", "--destdir"],
        packages: &["kernel-core", "kernel-modules-core", "kernel-modules"],
        suffix: ".rpm",
    },
    Fetcher {
        distribution: "alpine",
        program: "apk",
        arguments: &["fetch", "--output"],
        packages: &["linux-lts"],
        suffix: ".apk",
    },
    Fetcher {
        distribution: "arch",
        program: "pacman",
        // Without what the package depends on.
        arguments: &["-Swdd", "--noconfirm", "--cachedir"],
        packages: &["linux"],
        suffix: ".pkg.tar.zst",
    },
];

/// The tool of this distribution, for machines like this one.
fn own(arch: Arch) -> Option<&'static Fetcher> {
    let id = os_release::id();
    let mut all = FETCHERS.iter();
    all.find(|fetcher| arch == Arch::HERE && fetcher.distribution == id)
}

/// Whether the kernel can be fetched by everybody, for every architecture: other tools than apt may want root or a plugin.
pub(crate) fn is_always_possible() -> bool {
    apt::is_here()
}

/// Whether this distribution has a kernel for machines of this architecture.
pub(crate) fn is_here(arch: Arch) -> bool {
    own(arch).is_some() || apt::is_here() || apt::is_ubuntu()
}

/// The package with the kernel, fetched if it is not in the cache; those with its modules are beside it.
pub(crate) fn kernel(
    arch: Arch,
    cache: &CacheDirectory,
    progress: Progress,
) -> Result<PathBuf, Error> {
    let Some(fetcher) = own(arch) else {
        return Ok(apt::kernel(arch, cache, progress)?);
    };
    let directory = cache.directory(DIRECTORY)?;
    let _lock = Lock::beside(&directory.join(fetcher.program), progress)?;
    fetcher.kernel(fetcher.program.as_ref(), &directory, progress)
}

impl Fetcher {
    fn cached(&self, directory: &Path) -> Option<PathBuf> {
        newest_of(directory, &format!("{}-", self.packages[0]), self.suffix)
    }

    fn kernel(&self, program: &OsStr, to: &Path, progress: Progress) -> Result<PathBuf, Error> {
        if let Some(package) = self.cached(to) {
            progress.say(format!("{}: fetched earlier", package.display()));
            return Ok(package);
        }
        let packages = self.packages.join(" ");
        progress.say(format!(
            "{} {} DIR {packages}",
            self.program,
            self.arguments.join(" ")
        ));
        let task = progress.task("fetching", None);
        // Only a whole package gets a name in the cache.
        let part = tempfile::tempdir_in(to).map_err(Error::Keep)?;
        let mut command = tools::command(program);
        tools::pass_proxies(&mut command);
        command
            .args(self.arguments)
            .arg(part.path())
            .args(self.packages);
        tools::run_short(command, progress).map_err(|error| Error::Tool {
            packages,
            program: self.program,
            source: error.with_last_line(),
        })?;
        drop(task);
        for file in fs::read_dir(&part).map_err(Error::Keep)? {
            let file = file.map_err(Error::Keep)?;
            fs::rename(file.path(), to.join(file.file_name())).map_err(Error::Keep)?;
        }
        self.cached(to).ok_or(Error::Nothing {
            package: self.packages[0],
            program: self.program,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// What the tool of a distribution is asked for, and the package that comes of it.
    fn fetched(
        fetcher: &Fetcher,
        names: &str,
    ) -> (String, Result<PathBuf, Error>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let (tool, said) = (dir.path().join("tool"), dir.path().join("said"));
        let said_name = said.display();
        // The directory is before the packages.
        let script = format!(
            "#!/bin/sh\necho \"$@\" >>{said_name}\nwhile [ ! -d \"$1\" ]; do shift; done\ncd \"$1\" && touch {names}\n"
        );
        fs::write(&tool, script).unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        let cache = dir.path().join("cache");
        fs::create_dir(&cache).unwrap();
        let mut result = fetcher.kernel(tool.as_os_str(), &cache, Progress::silent());
        if result.is_ok() {
            result = fetcher.kernel(tool.as_os_str(), &cache, Progress::silent());
        }
        (fs::read_to_string(said).unwrap(), result, dir)
    }

    #[test]
    fn each_tool_is_asked_once_and_the_package_with_the_kernel_is_found() {
        let names = [
            (
                "kernel-core-6.12.4-200.fc41.x86_64.rpm kernel-modules-6.12.4-200.fc41.x86_64.rpm",
                "download --destdir",
            ),
            ("linux-lts-6.12.1-r0.apk", "fetch --output"),
            (
                "linux-6.12.1.arch1-1-x86_64.pkg.tar.zst linux-6.12.1.arch1-1-x86_64.pkg.tar.zst.sig",
                "-Swdd --noconfirm --cachedir",
            ),
        ];
        for (fetcher, (names, arguments)) in FETCHERS.iter().zip(names) {
            let (said, found, _dir) = fetched(fetcher, names);
            assert_eq!(said.lines().count(), 1, "{said}");
            assert!(said.starts_with(arguments), "{said}");
            assert!(
                said.trim_end().ends_with(&fetcher.packages.join(" ")),
                "{said}"
            );
            let name = names.split(' ').next().unwrap();
            assert!(found.unwrap().ends_with(format!("cache/{name}")));
        }
    }

    #[test]
    fn a_tool_that_fetches_nothing_or_fails_is_told() {
        let (_, nothing, _dir) = fetched(&FETCHERS[0], "other.rpm");
        let error = nothing.unwrap_err().to_string();
        assert_eq!(error, "dnf has fetched no kernel-core");
        let (_, failed, _dir) = fetched(&FETCHERS[2], "x; echo not root; exit 1");
        assert!(
            matches!(
                failed,
                Err(Error::Tool {
                    program: "pacman",
                    ..
                })
            ),
            "{failed:?}"
        );
    }
}
