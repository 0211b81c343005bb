//! `--kernel-from`: which kernel is used when the user names none. Compiling one takes minutes the first time, a
//! distribution's seconds.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, Result};

use crate::arch::Arch;
use crate::cache::CacheDirectory;
use crate::distro::{PrebuiltKernel, fetch};
use crate::kernel;
use crate::progress::Progress;

/// Where a kernel comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KernelFrom {
    /// Compile if one was compiled before, else package where that always works, else host, package or compile.
    Auto,
    /// Small, with everything inside: minutes the first time, seconds later.
    Compile,
    /// The distribution's default kernel, fetched by its own tool.
    Package,
    /// The kernel of this machine.
    Host,
    /// A package that the user has.
    File(PathBuf),
}

impl FromStr for KernelFrom {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "compile" => Ok(Self::Compile),
            "package" => Ok(Self::Package),
            "host" => Ok(Self::Host),
            // A word that is none of these is rather one with a mistake than a file.
            file if file.contains(['.', '/']) => Ok(Self::File(file.into())),
            _ => Err("it is auto, compile, package, host, or the file of a package"),
        }
    }
}

const PACKAGE: &str = "nothing is compiled; some 70 MB to fetch the first time";

impl KernelFrom {
    /// Which one it is in the end, and why; never `Auto`.
    pub(crate) fn choose(&self, arch: Arch) -> Result<(Self, &'static str)> {
        if *self != Self::Auto {
            return Ok((self.clone(), "as asked"));
        }
        let cache = CacheDirectory::from_environment()?;
        Ok(if kernel::was_compiled(arch, &cache) {
            (
                Self::Compile,
                "one was compiled before, so only what has changed is compiled",
            )
        } else if fetch::is_always_possible() {
            (Self::Package, PACKAGE)
        } else if PrebuiltKernel::of_host(arch).is_ok_and(|kernel| kernel.compression().is_ok()) {
            (Self::Host, "nothing is compiled or fetched")
        } else if fetch::is_here(arch) {
            (Self::Package, PACKAGE)
        } else {
            (
                Self::Compile,
                "no other is at hand; 5 to 15 minutes the first time",
            )
        })
    }

    /// The prebuilt kernel, unless one is to be compiled.
    pub(crate) fn prebuilt(
        &self,
        arch: Arch,
        progress: Progress,
    ) -> Result<Option<PrebuiltKernel>> {
        let (chosen, reason) = self.choose(arch)?;
        if *self == Self::Auto {
            progress.say(format!("kernel: --kernel-from {chosen}: {reason}"));
        }
        let package = match chosen {
            Self::Compile | Self::Auto => return Ok(None),
            Self::Host => return Ok(Some(PrebuiltKernel::of_host(arch)?)),
            Self::File(path) => path,
            Self::Package => {
                let cache = CacheDirectory::from_environment()?;
                fetch::kernel(arch, &cache, progress).context(
                    "cannot get the distribution's kernel (--kernel-from compile needs none)",
                )?
            }
        };
        Ok(Some(PrebuiltKernel::from_packages(
            &[package],
            arch,
            progress,
        )?))
    }
}

impl Display for KernelFrom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Compile => f.write_str("compile"),
            Self::Package => f.write_str("package"),
            Self::Host => f.write_str("host"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}
