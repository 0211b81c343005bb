//! `mkimage kernel`, and `mkimage fetch` for its source.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::kernel_from::KernelFrom;
use super::{CommonOptions, prepare};
use crate::arch::Arch;
use crate::archive::compress::Compression;
use crate::archive::decompress::MAX_UNPACKED;
use crate::archive::{self, newc};
use crate::distro::{PrebuiltKernel, firmware};
use crate::plan::{self, Product};
use crate::progress::Progress;
use crate::{cache, epoch, kernel, publish, read};

/// Get the kernel's source into the cache, and say where it is.
pub(crate) fn fetch(progress: Progress) -> Result<()> {
    let cache = cache::CacheDirectory::from_environment()?;
    let source = kernel::source::KernelSource::find(&cache, progress)?;
    let tree = source.unpack(&cache, progress)?;
    progress.say(format!("{source}: {}", tree.display()));
    Ok(())
}

/// What is added to the command line of a hardened kernel.
const HARDENED: &str = " lockdown=confidentiality slab_nomerge init_on_alloc=1 init_on_free=1";

/// Build the kernel with the initramfs and the command line inside, or take a distribution's
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mkimage kernel -o out/x86_64
  mkimage kernel -o out/flash --initramfs out/x86_64/initramfs.cpio.xz --config common,flash \\
    --max-size 2883584

  mkimage kernel -o out/x86_64 --from-package linux-image-6.12-amd64.deb

Of a kernel that is built comes one file, cpukernel. The source is $KERNEL_SRC (a directory or a
tarball), else Debian's linux-source-6.12, else a tarball of kernel.org. Sources and objects are kept in
$XDG_CACHE_HOME/cpu-appliance, so that another initramfs costs seconds.

Of a prebuilt kernel come three: the kernel as it is, cpuinitrd with the initramfs and those of its
modules that matter (auto: network, 9P, virtio, the usual file systems; also usb, storage, all, names of modules, patterns such
as 'e1000*', or paths such as drivers/mtd), and cpukernel.cmdline.")]
pub(crate) struct KernelArgs {
    #[command(flatten)]
    common: CommonOptions,

    /// The initramfs, compressed or not [default: DIR/initramfs.cpio.xz]
    #[arg(long, value_name = "FILE")]
    initramfs: Option<PathBuf>,

    /// The kernel's built-in command line [default: consoles on screen and serial line]
    #[arg(long, value_name = "TEXT")]
    cmdline: Option<String>,

    /// Fragments of configuration, each one of common, usb, flash and hardened, or a file
    #[arg(
        long,
        value_name = "NAME,...",
        value_delimiter = ',',
        default_value = "common",
        conflicts_with = "prebuilt"
    )]
    config: Vec<String>,

    /// An option that wins over all fragments, any number of times
    #[arg(long, value_name = "CONFIG_X=y", conflicts_with = "prebuilt")]
    set: Vec<String>,

    /// Lock the kernel down: no /dev/mem, ports or MSRs, so no flashrom or chipsec either
    #[arg(long, conflicts_with = "prebuilt")]
    hardened: bool,

    /// Fail when the kernel is larger than this
    #[arg(long, value_name = "BYTES", conflicts_with = "prebuilt")]
    max_size: Option<usize>,

    #[command(flatten)]
    prebuilt: PrebuiltArgs,

    /// Modules of a prebuilt kernel
    #[arg(
        long,
        value_name = "NAME,...",
        value_delimiter = ',',
        default_value = "auto",
        requires = "prebuilt"
    )]
    modules: Vec<String>,

    /// Firmware for these modules, such as /lib/firmware
    #[arg(long, value_name = "DIR", requires = "prebuilt")]
    firmware: Option<PathBuf>,

    /// The modules of --kernel, such as /lib/modules/6.12.0
    #[arg(long, value_name = "DIR", requires = "kernel")]
    modules_dir: Option<PathBuf>,
}

/// Where a prebuilt kernel comes from.
#[derive(clap::Args)]
#[group(id = "prebuilt", multiple = false)]
struct PrebuiltArgs {
    /// Use the kernel and the modules of a package of Debian, Ubuntu, Fedora, openSUSE, Alpine or Arch; any number of times, the one
    /// with the kernel first
    #[arg(long, visible_alias = "from-deb", value_name = "FILE")]
    from_package: Vec<PathBuf>,

    /// Use the kernel and the modules of this machine
    #[arg(long)]
    host_kernel: bool,

    /// Use the kernel that is at hand: auto, compile, package, host, or the FILE of a package
    #[arg(long, value_name = "WHERE")]
    kernel_from: Option<KernelFrom>,

    /// Use this kernel, with the modules of --modules-dir
    #[arg(long, value_name = "FILE", requires = "modules_dir")]
    kernel: Option<PathBuf>,
}

impl PrebuiltArgs {
    /// The kernel that was asked for, if one was.
    fn find(
        &self,
        modules: Option<&PathBuf>,
        arch: Arch,
        progress: Progress,
    ) -> Result<Option<PrebuiltKernel>> {
        let packages = self.from_package.as_slice();
        Ok(if !packages.is_empty() {
            Some(PrebuiltKernel::from_packages(packages, arch, progress)?)
        } else if self.host_kernel {
            Some(PrebuiltKernel::of_host(arch)?)
        } else if let (Some(kernel), Some(modules)) = (&self.kernel, modules) {
            Some(PrebuiltKernel::from_files(kernel, modules, arch)?)
        } else if let Some(kernel_from) = &self.kernel_from {
            kernel_from.prebuilt(arch, progress)?
        } else {
            None
        })
    }
}

impl KernelArgs {
    pub(crate) fn run(&self, progress: Progress) -> Result<()> {
        if self.initramfs.is_none() {
            prepare::all(&[Product::Initramfs], &self.common, progress)?;
        }
        let started = Instant::now();
        let common = &self.common;
        let _lock = common.lock(progress)?;
        let initramfs = common.given_or(self.initramfs.as_ref(), "initramfs.cpio.xz");
        let packed = read::whole(&initramfs, MAX_UNPACKED)
            .with_context(|| format!("cannot read the initramfs {}", initramfs.display()))?;
        let archive = archive::unpack(&packed)
            .with_context(|| format!("cannot use the initramfs {}", initramfs.display()))?;
        drop(packed);
        let found = self
            .prebuilt
            .find(self.modules_dir.as_ref(), common.arch, progress)?;
        if let Some(kernel) = found {
            return self.use_prebuilt(&kernel, archive, started, progress);
        }
        let cache = cache::CacheDirectory::from_environment()?;
        let mut command_line = self.command_line(common.arch, progress).to_owned();
        let mut fragments = self.config.clone();
        if self.hardened {
            fragments.push(kernel::fragments::HARDENED.to_owned());
            command_line.push_str(HARDENED);
        }
        let options = kernel::BuildOptions {
            arch: common.arch,
            fragments: &fragments,
            settings: &self.set,
            command_line: &command_line,
            initramfs: &archive,
            epoch: epoch::from_environment()?,
        };
        let built = kernel::build(&options, &cache, progress)?;
        let size = built.image.len();
        if let Some(more) = self.max_size.and_then(|max| size.checked_sub(max))
            && more > 0
        {
            let largest: Vec<String> = built
                .parts
                .iter()
                .take(5)
                .map(|(size, name)| format!("{name} {size}"))
                .collect();
            bail!(
                "the kernel has {size} bytes, {more} more than --max-size; the largest parts, before \
                 compression: {}",
                largest.join(", ")
            );
        }
        publish::replace(&common.path("cpu.config"), publish::PUBLIC, &built.config)?;
        let path = common.path("cpukernel");
        publish::replace(&path, publish::PRIVATE, &built.image)?;
        // An Image is not compressed; U-Boot takes it so too.
        if common.arch.facts().is_image_plain {
            let small = Compression::Gzip.apply(built.image.clone(), common.arch)?;
            publish::replace(&common.path("cpukernel.gz"), publish::PRIVATE, &small)?;
            progress.made(&common.path("cpukernel.gz"), small.len(), started);
        }
        // Left from a prebuilt kernel; this kernel has both inside.
        publish::remove(&common.path("cpuinitrd"))?;
        publish::remove(&common.path("cpukernel.cmdline"))?;
        plan::record(&common.output, Product::Kernel)?;
        progress.made(&path, built.image.len(), started);
        Ok(())
    }

    /// The kernel's command line.
    fn command_line(&self, arch: Arch, progress: Progress) -> &str {
        let default = arch.facts().command_line;
        let Some(given) = &self.cmdline else {
            return default;
        };
        let mut parameters = given.split_ascii_whitespace();
        if !parameters.any(|parameter| parameter.starts_with("console=")) {
            progress.say(format!(
                "--cmdline has no console=, so the machine may show nothing; the default is '{default}'"
            ));
        }
        given
    }

    /// Put a kernel that somebody else has built beside the initramfs that it needs.
    fn use_prebuilt(
        &self,
        kernel: &PrebuiltKernel,
        mut archive: Vec<u8>,
        started: Instant,
        progress: Progress,
    ) -> Result<()> {
        let common = &self.common;
        let compression = kernel.compression()?;
        let mut chosen = kernel.modules(&self.modules, progress)?;
        let names = std::mem::take(&mut chosen.firmware);
        let missing = match &self.firmware {
            Some(directory) => firmware::add(&mut chosen.tree, names, directory)?,
            None => names.into_iter().collect(),
        };
        newc::append(&mut archive, chosen.tree, epoch::from_environment()?)?;
        let whole = archive.len();
        let task = progress.task("compressing", None);
        let initrd = compression.apply(archive, common.arch)?;
        drop(task);
        if let Some(config) = &kernel.config {
            publish::replace(&common.path("cpu.config"), publish::PUBLIC, config)?;
        } else {
            publish::remove(&common.path("cpu.config"))?;
        }
        let command_line = self.command_line(common.arch, progress);
        let command_line = format!("{}\n", command_line.trim_end());
        let (path, initrd_path) = (common.path("cpukernel"), common.path("cpuinitrd"));
        publish::replace(
            &common.path("cpukernel.cmdline"),
            publish::PUBLIC,
            command_line.as_bytes(),
        )?;
        publish::replace(&initrd_path, publish::PRIVATE, &initrd)?;
        publish::replace(&path, publish::PUBLIC, &kernel.image)?;
        plan::record(&common.output, Product::Kernel)?;
        let count = chosen.count;
        progress.say(format!(
            "{}: {count} modules, {whole} bytes before compression",
            kernel.release
        ));
        if !missing.is_empty() {
            let some = missing
                .iter()
                .take(3)
                .map(String::as_str)
                .collect::<Vec<_>>();
            progress.say(format!(
                "{} firmware files that some devices need are not in it: {}, ... (give --firmware DIR)",
                missing.len(),
                some.join(", ")
            ));
            progress.detail(missing.join(" "));
        }
        progress.made(&path, kernel.image.len(), started);
        progress.made(&initrd_path, initrd.len(), started);
        Ok(())
    }
}
