//! Uses a distribution's kernel as it is, with an initramfs of cpud and the modules that an appliance needs. Nothing is
//! compiled.

pub(crate) mod apt;
mod companions;
pub(crate) mod fetch;
pub(crate) mod firmware;
mod modules;
mod os_release;
mod place;
mod store;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cpu_proto::printable;

use crate::arch::Arch;
use crate::archive::compress::Compression;
use crate::archive::{decompress, package};
use crate::kernel::config::{self, KernelConfig};
use crate::kernel::image::{self, KernelHeader};
use crate::kernel::packed;
use crate::progress::Progress;
use crate::read::{self, MAX_FILE, MAX_TEXT};
use modules::{ModuleSet, Selection};
use store::Store;

/// Why it cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "this machine has no kernel in /boot ({0}): take one from a package with --from-package"
    )]
    NoHostKernel(PathBuf),
    #[error("cannot make a temporary file in {path} ($TMPDIR)")]
    Temporary { path: PathBuf, source: io::Error },
    #[error("cannot use the package {path}")]
    Package {
        path: PathBuf,
        source: package::Error,
    },
    #[error(
        "the package {0} has no kernel: it is in Debian's linux-image-*, Fedora's kernel-core, openSUSE's kernel-default, \
         Alpine's linux-lts and Arch's linux"
    )]
    NoKernel(PathBuf),
    #[error(
        "the package {path} has a kernel and not its modules: put the package with them beside it, or give it too \
         ({})",
        companions::MODULES
    )]
    NoModules { path: PathBuf },
    #[error(
        "cpud cannot run on the kernel {path}: of the modules 9p and fuse, one of which a session needs for its files, none is in \
         it or with it; give the package that has one too ({}), or take another kernel, such as Debian's linux-image-amd64",
        companions::MODULES
    )]
    NoMount { path: PathBuf },
    #[error(
        "the kernel of {path} is {kernel}, and the modules with it are of {modules}: give packages of one version and flavour"
    )]
    OtherRelease {
        path: PathBuf,
        kernel: String,
        modules: String,
    },
    #[error("cannot use the kernel {path}")]
    Image { path: PathBuf, source: image::Error },
    #[error("cannot unpack the kernel {path}")]
    Packed {
        path: PathBuf,
        source: decompress::Error,
    },
    #[error(
        "{0} does not say its version, and its modules' directory has another name than a version"
    )]
    NoRelease(PathBuf),
    #[error(
        "cpud cannot run on the kernel {path}, which was built without {}; take another, such as Debian's \
         linux-image-amd64", .missing.join(", ")
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
    /// That of a package, with what is in the others, and in those that lie beside them and belong to them.
    pub(crate) fn from_packages(
        packages: &[PathBuf],
        arch: Arch,
        progress: Progress,
    ) -> Result<Self, Error> {
        let task = progress.task("unpacking", None);
        let all = companions::with(packages, progress);
        let mut store = Store::unnamed().map_err(|source| Error::Temporary {
            path: std::env::temp_dir(),
            source,
        })?;
        for path in &all {
            unpack(path, arch, &mut store).map_err(|source| Error::Package {
                path: path.clone(),
                source,
            })?;
        }
        drop(task);
        let path = packages.first().cloned().unwrap_or_default();
        let Some((name, release)) = place::find(&store) else {
            return Err(Error::NoKernel(path));
        };
        let read = |name: &str, max| {
            store.read(name, max).map_err(|source| Error::Read {
                path: path.join(name),
                source,
            })
        };
        let (image, header) = plain(read(&name, MAX_FILE)?, &path, arch)?;
        // Its modules are of `release`.
        if let Some(other) = header.release().filter(|other| *other != release) {
            let kernel = printable(other);
            return Err(Error::OtherRelease {
                path,
                kernel,
                modules: release,
            });
        }
        let prefix = format!("lib/modules/{release}/");
        let is_module = |name: &str| name.starts_with(&prefix) && name.contains(".ko");
        if !store.names().any(is_module) {
            return Err(Error::NoModules { path });
        }
        let configs = [format!("boot/config-{release}"), format!("{prefix}config")];
        let config = configs.iter().find(|name| store.has(name));
        Ok(Self {
            config: config.map(|name| read(name, MAX_TEXT)).transpose()?,
            image,
            path,
            prefix,
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
        let (image, header) = plain(image, kernel, arch)?;
        let from_name = modules
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let release = header
            .release()
            .map(str::to_owned)
            .or(from_name.filter(|name| name.starts_with(|first: char| first.is_ascii_digit())))
            .ok_or_else(|| Error::NoRelease(kernel.to_owned()))?;
        let name = kernel.file_name().unwrap_or_default().to_string_lossy();
        let config = name
            .contains("vmlinuz")
            .then(|| kernel.with_file_name(name.replace("vmlinuz", "config")))
            .and_then(|path| read::whole(&path, MAX_TEXT).ok());
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
        if self.lacks_mount(&modules) {
            let path = self.path.clone();
            return Err(Error::NoMount { path });
        }
        Ok(modules.choose(list, &self.release, || task.step())?)
    }
}

impl PrebuiltKernel {
    /// Whether neither 9P nor FUSE is a module that is here, or in the kernel itself.
    fn lacks_mount(&self, modules: &ModuleSet<'_>) -> bool {
        let config = String::from_utf8_lossy(self.config.as_deref().unwrap_or_default());
        let config = KernelConfig::parse("the kernel's", &config).unwrap_or_default();
        [("CONFIG_9P_FS", "9p"), ("CONFIG_FUSE_FS", "fuse")]
            .iter()
            .all(|(option, module)| !config.is_on(option) && modules.lacks(module))
    }
}

/// A kernel as boot loaders want it, with its header.
fn plain(image: Vec<u8>, path: &Path, arch: Arch) -> Result<(Vec<u8>, KernelHeader), Error> {
    let path = || path.to_owned();
    let inside = packed::unpacked(&image).map_err(|source| Error::Packed {
        path: path(),
        source,
    })?;
    let image = inside.unwrap_or(image);
    let header = image::header_for(&image, arch).map_err(|source| Error::Image {
        path: path(),
        source,
    })?;
    Ok((image, header))
}

/// Keep the files of a package that belong to a kernel.
fn unpack(package: &Path, arch: Arch, store: &mut Store) -> Result<(), package::Error> {
    package::unpack(
        package,
        arch,
        &mut |name, reader| match kernel_file(&name) {
            Some(name) => store
                .add(name.to_owned(), reader)
                .map_err(|error| match error {
                    store::Error::Read(source) => package::unread(source),
                    store::Error::Write(source) => package::Error::Keep(source),
                    store::Error::TooMuch => package::Error::TooMuch,
                }),
            None => Ok(()),
        },
    )
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
mod tests;
