//! Packages of Debian and Ubuntu for any architecture, fetched by apt into the cache with a state of its own: neither root
//! nor a package that is installed here is needed, and apt's state on this machine is not changed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::os_release;
use crate::arch::Arch;
use crate::cache::{self, CacheDirectory};
use crate::lock::{self, Lock};
use crate::progress::Progress;
use crate::tools;

/// Why there is no package.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot make a directory for apt's state")]
    State(#[source] io::Error),
    #[error("cannot keep a package in the cache")]
    Keep(#[source] io::Error),
    #[error("cannot fetch {what} for {arch} with apt")]
    Apt {
        what: &'static str,
        arch: Arch,
        source: tools::Error,
    },
    #[error(
        "apt knows no package {what} for {arch} (apt-cache depends): add Debian to its sources, or name a package \
         that you have (mkimage kernel --from-package FILE)"
    )]
    Unknown { what: &'static str, arch: Arch },
    #[error(transparent)]
    Cache(#[from] cache::Error),
    #[error(transparent)]
    Lock(#[from] lock::Error),
}

/// Where the packages are kept.
const DIRECTORY: &str = "debs";

/// Whether this is Debian.
pub(crate) fn is_here() -> bool {
    os_release::id() == "debian"
}

/// Whether this is Ubuntu, which has other names for its kernels, and splits them into several packages.
pub(super) fn is_ubuntu() -> bool {
    os_release::id() == "ubuntu"
}

/// The newest kernel package in the cache.
fn cached_kernel(arch: Arch, cache: &CacheDirectory) -> Result<Option<PathBuf>, Error> {
    let directory = cache.directory(DIRECTORY)?;
    let suffix = format!("_{}.deb", arch.facts().debian_name);
    Ok(super::newest_of(&directory, "linux-image-", &suffix))
}

/// The kernel that the distribution installs by default: its package in the cache, fetched if there is none.
pub(crate) fn kernel(
    arch: Arch,
    cache: &CacheDirectory,
    progress: Progress,
) -> Result<PathBuf, Error> {
    let directory = cache.directory(DIRECTORY)?;
    let _lock = Lock::beside(&directory.join(arch.facts().debian_name), progress)?;
    if let Some(package) = cached_kernel(arch, cache)? {
        progress.say(format!("{}: fetched earlier", package.display()));
        return Ok(package);
    }
    let task = progress.task("fetching", None);
    let apt = Apt::start(arch, progress)?;
    let what = "linux-image";
    let metapackage = if is_ubuntu() {
        "linux-image-generic".to_owned()
    } else {
        format!("linux-image-{}", arch.facts().debian_name)
    };
    let depends = apt.output("apt-cache", &["depends", &metapackage], what)?;
    let name = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .ok_or(Error::Unknown { what, arch })?;
    let modules = name.replacen("linux-image-", "linux-modules-", 1);
    // The package with the kernel comes last: when that is in the cache, all are.
    for name in is_ubuntu()
        .then_some(modules.as_str())
        .into_iter()
        .chain([name])
    {
        progress.say(format!("apt-get download {name}"));
        apt.download(name, &directory, what, progress)?;
    }
    drop(task);
    cached_kernel(arch, cache)?.ok_or(Error::Unknown { what, arch })
}

/// The package with systemd's EFI stub, likewise.
pub(crate) fn efi_stub(
    arch: Arch,
    cache: &CacheDirectory,
    progress: Progress,
) -> Result<PathBuf, Error> {
    let what = "systemd-boot-efi";
    let directory = cache.directory(DIRECTORY)?;
    let suffix = format!("_{}.deb", arch.facts().debian_name);
    let _lock = Lock::beside(&directory.join(arch.facts().debian_name), progress)?;
    let cached = || super::newest_of(&directory, what, &suffix);
    if let Some(package) = cached() {
        return Ok(package);
    }
    progress.say(format!("apt-get download {what}"));
    Apt::start(arch, progress)?.download(what, &directory, what, progress)?;
    cached().ok_or(Error::Unknown { what, arch })
}

/// apt with lists of its own for one architecture.
struct Apt {
    arch: Arch,
    state: tempfile::TempDir,
}

impl Apt {
    fn start(arch: Arch, progress: Progress) -> Result<Self, Error> {
        let state = tempfile::tempdir().map_err(Error::State)?;
        fs::create_dir(state.path().join("partial")).map_err(Error::State)?;
        let apt = Self { arch, state };
        let mut update = apt.command("apt-get");
        update.arg("update");
        tools::run_short(update, progress).map_err(apt.failed("the lists of packages"))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let arch = self.arch.facts().debian_name;
        let state = self.state.path().display();
        let mut command = tools::command(program);
        let options = [
            format!("APT::Architecture={arch}"),
            format!("APT::Architectures={arch}"),
            "APT::Sandbox::User=root".to_owned(),
            format!("Dir::State={state}"),
            "Dir::State::status=/dev/null".to_owned(),
            format!("Dir::Cache={state}"),
        ];
        command.arg("-qq");
        for option in options {
            command.args(["-o", &option]);
        }
        tools::pass_proxies(&mut command);
        command
    }

    fn output(
        &self,
        program: &str,
        arguments: &[&str],
        what: &'static str,
    ) -> Result<String, Error> {
        let mut command = self.command(program);
        command.args(arguments);
        tools::output(command).map_err(self.failed(what))
    }

    fn download(
        &self,
        name: &str,
        to: &Path,
        what: &'static str,
        progress: Progress,
    ) -> Result<(), Error> {
        // Only a whole package gets a name in the cache.
        let part = tempfile::tempdir_in(to).map_err(Error::Keep)?;
        let mut command = self.command("apt-get");
        command.args(["download", name]).current_dir(&part);
        tools::run_short(command, progress).map_err(self.failed(what))?;
        for file in fs::read_dir(&part).map_err(Error::Keep)? {
            let file = file.map_err(Error::Keep)?;
            fs::rename(file.path(), to.join(file.file_name())).map_err(Error::Keep)?;
        }
        Ok(())
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(tools::Error) -> Error {
        let arch = self.arch;
        move |error| Error::Apt {
            what,
            arch,
            source: error.with_last_line(),
        }
    }
}
