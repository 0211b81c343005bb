//! `mkimage kernel`, and `mkimage fetch` for its source.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::Target;
use crate::progress::Progress;
use crate::{archive, cache, epoch, files, kernel};

/// Get the kernel's source into the cache, and say where it is.
pub(crate) fn fetch(progress: Progress) -> Result<()> {
    let cache = cache::Cache::from_environment()?;
    let source = kernel::source::Source::find(&cache, progress)?;
    let tree = source.unpack(&cache, progress)?;
    progress.say(format!("{source}: {}", tree.display()));
    Ok(())
}

/// Build the kernel with the initramfs and the command line inside
#[derive(clap::Args)]
#[command(after_help = "\
Example: mkimage kernel -o out/x86_64

The source is $KERNEL_SRC (a directory or a tarball), else Debian's linux-source-6.12, else a
tarball of kernel.org. Sources and objects are kept in $XDG_CACHE_HOME/cpu-appliance, so that
another initramfs costs seconds.")]
pub(crate) struct Kernel {
    #[command(flatten)]
    target: Target,

    /// The initramfs, compressed by xz or not at all [default: DIR/initramfs.cpio.xz]
    #[arg(long, value_name = "FILE")]
    initramfs: Option<PathBuf>,

    /// The kernel's built-in command line
    #[arg(long, value_name = "TEXT", default_value = kernel::COMMAND_LINE)]
    cmdline: String,
}

impl Kernel {
    pub(crate) fn run(&self, progress: Progress) -> Result<()> {
        let started = Instant::now();
        let target = &self.target;
        let _turn = target.turn(progress)?;
        let initramfs = target.given_or(self.initramfs.as_ref(), "initramfs.cpio.xz");
        let packed = std::fs::read(&initramfs)
            .with_context(|| format!("cannot read the initramfs {}", initramfs.display()))?;
        let archive = archive::unpack(&packed)
            .with_context(|| format!("cannot use the initramfs {}", initramfs.display()))?;
        let cache = cache::Cache::from_environment()?;
        let wanted = kernel::Wanted {
            arch: &kernel::X86_64,
            command_line: &self.cmdline,
            initramfs: &archive,
            epoch: epoch::from_environment()?,
        };
        let built = kernel::build(&wanted, &cache, progress)?;
        files::replace(&target.path("cpu.config"), files::PUBLIC, &built.config)?;
        let path = target.path("cpukernel");
        files::replace(&path, files::PRIVATE, &built.image)?;
        progress.made(&path, built.image.len(), started);
        Ok(())
    }
}
