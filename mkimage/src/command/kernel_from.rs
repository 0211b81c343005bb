//! `--kernel-from`: which kernel is used when the user names none. Compiling one takes minutes the first time, a
//! distribution's seconds.

use std::fmt::Display;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::arch::Arch;
use crate::cache::CacheDirectory;
use crate::distro::{PrebuiltKernel, apt};
use crate::kernel;
use crate::progress::Progress;

/// Where a kernel comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KernelFrom {
    /// compile if one was compiled before, else package, else host, else compile
    Auto,
    /// small, with everything inside: minutes the first time, seconds later
    Compile,
    /// Debian's default kernel, fetched by apt
    Package,
    /// the kernel of this machine
    Host,
}

impl KernelFrom {
    /// Which one it is in the end, and why; never `Auto`.
    pub(crate) fn choose(self, arch: Arch) -> Result<(Self, &'static str)> {
        if self != Self::Auto {
            return Ok((self, "as asked"));
        }
        let cache = CacheDirectory::from_environment()?;
        Ok(if kernel::was_compiled(arch, &cache) {
            (
                Self::Compile,
                "one was compiled before, so this takes a minute",
            )
        } else if apt::is_here() {
            (
                Self::Package,
                "nothing is compiled; some 70 MB to fetch the first time",
            )
        } else if PrebuiltKernel::of_host(arch).is_ok_and(|kernel| kernel.compression().is_ok()) {
            (Self::Host, "nothing is compiled or fetched")
        } else {
            (
                Self::Compile,
                "no other is at hand; 5 to 15 minutes the first time",
            )
        })
    }

    /// The prebuilt kernel, unless one is to be compiled.
    pub(crate) fn prebuilt(self, arch: Arch, progress: Progress) -> Result<Option<PrebuiltKernel>> {
        let (chosen, reason) = self.choose(arch)?;
        if self == Self::Auto {
            progress.say(format!("kernel: --kernel-from {chosen}: {reason}"));
        }
        match chosen {
            Self::Compile | Self::Auto => Ok(None),
            Self::Host => Ok(Some(PrebuiltKernel::of_host(arch)?)),
            Self::Package => {
                let cache = CacheDirectory::from_environment()?;
                let package = apt::kernel(arch, &cache, progress).context(
                    "cannot get the distribution's kernel (--kernel-from compile needs none)",
                )?;
                Ok(Some(PrebuiltKernel::from_deb(&package, arch, progress)?))
            }
        }
    }
}

impl Display for KernelFrom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}
