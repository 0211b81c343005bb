//! Uses a distribution's kernel as it is, with an initramfs of cpud and the modules that an appliance needs. Nothing is
//! compiled.

pub(crate) mod apt;
pub(crate) mod firmware;
mod modules;
mod store;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::arch::Arch;
use crate::archive::compress::Compression;
use crate::archive::deb;
use crate::kernel::config::{self, KernelConfig};
use crate::kernel::image;
use crate::progress::Progress;
use crate::read::{self, MAX_FILE};
use modules::{ModuleSet, Selection};
use store::Store;

/// Why it cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("this machine has no kernel in /boot ({0}): take one from a package with --from-deb")]
    NoHostKernel(PathBuf),
    #[error("cannot use the package {path}")]
    Deb { path: PathBuf, source: deb::Error },
    #[error(
        "the package {0} has no kernel in /boot and modules in /lib/modules; is it linux-image-*.deb?"
    )]
    NoKernel(PathBuf),
    #[error("cannot use the kernel {path}")]
    Image { path: PathBuf, source: image::Error },
    #[error(
        "{0} does not say its version, and its modules' directory has another name than a version"
    )]
    NoRelease(PathBuf),
    #[error(
        "cpud cannot run on the kernel {path}, which was built without {}; take a kernel for real \
         machines, such as Debian's linux-image-amd64, not one for clouds", .missing.join(", ")
    )]
    CannotRunCpud {
        path: PathBuf,
        missing: Vec<&'static str>,
    },
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Modules(#[from] modules::Error),
}

/// A kernel that somebody else has built.
pub(crate) struct PrebuiltKernel {
    /// The image's bytes.
    pub(crate) image: Vec<u8>,
    /// Its `.config`, when there is one.
    pub(crate) config: Option<Vec<u8>>,
    /// As `uname -r` says it.
    pub(crate) release: String,
    path: PathBuf,
    store: Store,
    /// What the names of the modules' files begin with.
    prefix: String,
}

impl PrebuiltKernel {
    /// That of a package `linux-image-*.deb`.
    pub(crate) fn from_deb(deb: &Path, arch: Arch, progress: Progress) -> Result<Self, Error> {
        let task = progress.task("unpacking", None);
        let store = unpack(deb, arch).map_err(|source| Error::Deb {
            path: deb.to_owned(),
            source,
        })?;
        drop(task);
        let none = || Error::NoKernel(deb.to_owned());
        let newest = |prefix: &str| {
            let names = store.names().filter_map(|name| name.strip_prefix(prefix));
            names.max_by_key(|name| numbers(name)).map(str::to_owned)
        };
        let release = newest("boot/vmlinuz-").ok_or_else(none)?;
        let read = |name: String| store.read(&name);
        let image = read(format!("boot/vmlinuz-{release}")).map_err(|source| Error::Read {
            path: deb.join(format!("boot/vmlinuz-{release}")),
            source,
        })?;
        image::header_for(&image, arch).map_err(|source| Error::Image {
            path: deb.to_owned(),
            source,
        })?;
        Ok(Self {
            config: read(format!("boot/config-{release}")).ok(),
            image,
            path: deb.to_owned(),
            prefix: format!("lib/modules/{release}/"),
            release,
            store,
        })
    }

    /// The running one of this machine, else the newest in /boot.
    pub(crate) fn of_host(arch: Arch) -> Result<Self, Error> {
        let running = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let running = Path::new("/boot").join(format!("vmlinuz-{}", running.trim()));
        let kernel = if running.exists() {
            running
        } else {
            newest_of(Path::new("/boot"), "vmlinuz-", "").unwrap_or(running)
        };
        if !kernel.exists() {
            return Err(Error::NoHostKernel(kernel));
        }
        let name = kernel.file_name().unwrap_or_default().to_string_lossy();
        let release = name.trim_start_matches("vmlinuz-");
        Self::from_files(&kernel, &Path::new("/lib/modules").join(release), arch)
    }

    /// A kernel and the directory of its modules. Its configuration is beside it under the name that
    /// has `config` for `vmlinuz`.
    pub(crate) fn from_files(kernel: &Path, modules: &Path, arch: Arch) -> Result<Self, Error> {
        let image = read::whole(kernel, MAX_FILE).map_err(|source| Error::Read {
            path: kernel.to_owned(),
            source,
        })?;
        let header = image::header_for(&image, arch).map_err(|source| Error::Image {
            path: kernel.to_owned(),
            source,
        })?;
        let from_name = modules
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let release = header
            .version
            .as_deref()
            .and_then(|version| version.split(' ').next())
            .map(str::to_owned)
            .or(from_name.filter(|name| name.starts_with(|first: char| first.is_ascii_digit())))
            .ok_or_else(|| Error::NoRelease(kernel.to_owned()))?;
        let name = kernel.file_name().unwrap_or_default().to_string_lossy();
        let config = name
            .contains("vmlinuz")
            .then(|| kernel.with_file_name(name.replace("vmlinuz", "config")))
            .and_then(|path| read::whole(&path, MAX_FILE).ok());
        Ok(Self {
            image,
            config,
            release,
            path: kernel.to_owned(),
            store: directory(modules)?,
            prefix: String::new(),
        })
    }

    /// Refuse a kernel on which cpud could not run, and say how its initramfs may be compressed.
    pub(crate) fn compression(&self) -> Result<Compression, Error> {
        let Some(text) = &self.config else {
            return Ok(Compression::Gzip);
        };
        let config = KernelConfig::parse("the kernel's", &String::from_utf8_lossy(text))?;
        let missing = config.missing_for_cpud();
        if !missing.is_empty() {
            return Err(Error::CannotRunCpud {
                path: self.path.clone(),
                missing,
            });
        }
        let known = [
            ("CONFIG_RD_XZ", Compression::Xz),
            ("CONFIG_RD_ZSTD", Compression::Zstd),
            ("CONFIG_RD_GZIP", Compression::Gzip),
        ];
        let found = known.into_iter().find(|(option, _)| config.is_on(option));
        Ok(found.map_or(Compression::None, |(_, compression)| compression))
    }

    /// The modules of a list.
    pub(crate) fn modules(&self, list: &[String], progress: Progress) -> Result<Selection, Error> {
        let mut task = progress.task("modules", None);
        let modules = ModuleSet::find(&self.store, &self.prefix, &self.path)?;
        Ok(modules.choose(list, &self.release, || task.step())?)
    }
}

/// The files of a package that belong to a kernel.
fn unpack(package: &Path, arch: Arch) -> Result<Store, deb::Error> {
    let mut store = Store::unnamed().map_err(deb::Error::Keep)?;
    deb::unpack(package, arch, |name, reader| match kernel_file(&name) {
        Some(name) => store
            .add(name.to_owned(), reader)
            .map_err(|error| match error {
                store::Error::Read(source) => deb::unread(source),
                store::Error::Write(source) => deb::Error::Keep(source),
            }),
        None => Ok(()),
    })?;
    Ok(store)
}

/// The path of a file beneath `boot` or `lib`, of which distributions keep the second in `usr`.
fn kernel_file(path: &str) -> Option<&str> {
    let path = path.strip_prefix("usr/").unwrap_or(path);
    (path.starts_with("boot/") || path.starts_with("lib/")).then_some(path)
}

/// The modules of a list, from a directory like /lib/modules/RELEASE.
pub(crate) fn choose(
    modules: &Path,
    release: &str,
    list: &[String],
    progress: Progress,
) -> Result<Selection, Error> {
    let mut task = progress.task("modules", None);
    let store = directory(modules)?;
    let found = ModuleSet::find(&store, "", modules)?;
    Ok(found.choose(list, release, || task.step())?)
}

fn directory(path: &Path) -> Result<Store, Error> {
    Store::directory(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

/// The entry of a directory, of those whose names begin and end so, that is last in the order of its versions' numbers.
fn newest_of(directory: &Path, prefix: &str, suffix: &str) -> Option<PathBuf> {
    fs::read_dir(directory)
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix) && name.ends_with(suffix))
        .max_by_key(|name| numbers(name))
        .map(|name| directory.join(name))
}

/// The numbers of a version.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|other: char| !other.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(config: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmlinuz-6.12.1");
        fs::write(&path, image::tests::kernel(Arch::X86_64)).unwrap();
        fs::write(dir.path().join("config-6.12.1"), config).unwrap();
        (dir, path)
    }

    fn good() -> String {
        config::NEEDED
            .map(|option| format!("{option}=m\n"))
            .concat()
    }

    #[test]
    fn a_kernel_says_its_release_and_how_its_initramfs_may_be_packed() {
        let (dir, path) = kernel(&(good() + "CONFIG_RD_ZSTD=y\n"));
        let found = PrebuiltKernel::from_files(&path, dir.path(), Arch::X86_64).unwrap();
        assert_eq!(found.release, "6.12.1");
        assert!(matches!(found.compression(), Ok(Compression::Zstd)));
    }

    #[test]
    fn a_kernel_without_9p_is_refused() {
        let (dir, path) = kernel(&good().replace("CONFIG_9P_FS=m", "# CONFIG_9P_FS is not set"));
        let found = PrebuiltKernel::from_files(&path, dir.path(), Arch::X86_64).unwrap();
        let error = found.compression().unwrap_err().to_string();
        assert!(error.contains("was built without CONFIG_9P_FS;"), "{error}");
        let other = PrebuiltKernel::from_files(&path, dir.path(), Arch::Aarch64);
        assert!(matches!(other, Err(Error::Image { .. })));
    }

    #[test]
    fn of_a_package_the_kernel_and_its_modules_are_kept() {
        let files: [(&str, &[u8]); 3] = [
            ("./boot/vmlinuz-6.1", b"kernel"),
            ("./usr/lib/modules/6.1/a.ko", b"module"),
            ("./usr/share/doc/x", b"text"),
        ];
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), deb::tests::package("amd64", &files)).unwrap();
        let store = unpack(file.path(), Arch::X86_64).unwrap();
        let names: Vec<&str> = store.names().collect();
        assert_eq!(names, ["boot/vmlinuz-6.1", "lib/modules/6.1/a.ko"]);
        assert_eq!(store.read("boot/vmlinuz-6.1").unwrap(), b"kernel");
        assert_eq!(store.read("lib/modules/6.1/a.ko").unwrap(), b"module");
    }

    #[test]
    fn the_newest_is_by_numbers() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["vmlinuz-6.9.1", "vmlinuz-6.12.0", "vmlinuz.old", "zzz"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let found = newest_of(dir.path(), "vmlinuz-", "").unwrap();
        assert!(found.ends_with("vmlinuz-6.12.0"), "{found:?}");
        let found = newest_of(dir.path(), "vmlinuz-", ".1").unwrap();
        assert!(found.ends_with("vmlinuz-6.9.1"), "{found:?}");
    }
}
