//! `mkimage` makes the machine: the keys, the initramfs with cpud in it, the kernel around that.
//! This file is the command line; each command is a module.

mod cache;
mod compress;
mod epoch;
mod files;
mod initramfs;
mod kernel;
mod keys;
mod newc;
mod progress;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum};

use crate::progress::Progress;

/// Makes the keys, the initramfs and the kernel of a cpu appliance.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    /// Say nothing but errors
    #[arg(short, long, global = true)]
    quiet: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Keys(Keys),
    Initramfs(Initramfs),
    /// Get the kernel's source into the cache, and say where it is
    Fetch,
    Kernel(Kernel),
}

/// Make the key that logs in and the key by which the machine is known
#[derive(clap::Args)]
#[command(after_help = "Example: mkimage keys -o out/x86_64")]
struct Keys {
    /// Directory to write into; files that exist are never overwritten
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    output: PathBuf,

    /// Type of the key that logs in
    #[arg(long = "type", value_name = "TYPE", default_value = "rsa")]
    kind: KeyKind,

    /// Size of an RSA key
    #[arg(long, default_value_t = 3072, value_parser = clap::value_parser!(u16).range(2048..=16384))]
    bits: u16,
}

#[derive(Clone, Copy, ValueEnum)]
enum KeyKind {
    Rsa,
    Ed25519,
}

/// Pack cpud and the keys into the archive that the kernel unpacks as its root
#[derive(clap::Args)]
#[command(after_help = "Example: mkimage initramfs -o out/x86_64")]
struct Initramfs {
    /// Directory to write into
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    output: PathBuf,

    /// The program that becomes /init [default: DIR/cpud]
    #[arg(long, value_name = "FILE")]
    cpud: Option<PathBuf>,

    /// Public keys that may log in, any number of times [default: DIR/cpu_rsa.pub]
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,

    /// The machine's private host key [default: DIR/ssh_host_ed25519_key]
    #[arg(long, value_name = "FILE")]
    host_key: Option<PathBuf>,

    /// How to compress
    #[arg(long, default_value = "xz")]
    compress: compress::Compression,
}

/// Build the kernel with the initramfs and the command line inside
#[derive(clap::Args)]
#[command(after_help = "\
Example: mkimage kernel -o out/x86_64

The source is $KERNEL_SRC (a directory or a tarball), else Debian's linux-source-6.12, else a
tarball of kernel.org. Sources and objects are kept in $XDG_CACHE_HOME/cpu-appliance, so that
another initramfs costs seconds.")]
struct Kernel {
    /// Directory to write cpukernel and cpu.config into
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    output: PathBuf,

    /// The initramfs, compressed by xz or not at all [default: DIR/initramfs.cpio.xz]
    #[arg(long, value_name = "FILE")]
    initramfs: Option<PathBuf>,

    /// The kernel's built-in command line
    #[arg(long, value_name = "TEXT", default_value = kernel::COMMAND_LINE)]
    cmdline: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let progress = Progress::new(arguments.quiet);
    let done = match arguments.command {
        Command::Keys(options) => make_keys(&options, progress),
        Command::Initramfs(options) => make_initramfs(&options, progress),
        Command::Fetch => fetch(progress),
        Command::Kernel(options) => make_kernel(&options, progress),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mkimage: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn make_keys(options: &Keys, progress: Progress) -> Result<()> {
    let kind = match options.kind {
        KeyKind::Rsa => keys::Kind::Rsa { bits: options.bits },
        KeyKind::Ed25519 => keys::Kind::Ed25519,
    };
    let made = keys::make(&options.output, kind, progress)?;
    for key in [&made.user, &made.host] {
        progress.say(format!("{}  {}", key.path.display(), key.fingerprint));
    }
    let user = made.user.path.display();
    progress.say(format!(
        "The client knows the machine by {user}.hostkey, beside the key. Next:\n  \
         mkimage initramfs -o {dir} --key {user}.pub\n  mkimage kernel -o {dir}\n  \
         cpu -key {user} HOST date",
        dir = options.output.display(),
    ));
    Ok(())
}

fn make_initramfs(options: &Initramfs, progress: Progress) -> Result<()> {
    let started = Instant::now();
    let dir = &options.output;
    let or_in_dir = |given: &Option<PathBuf>, name| given.clone().unwrap_or_else(|| dir.join(name));
    let keys = match options.keys.as_slice() {
        [] => vec![dir.join("cpu_rsa.pub")],
        given => given.to_vec(),
    };
    let tree = initramfs::appliance(
        &or_in_dir(&options.cpud, "cpud"),
        &keys,
        &or_in_dir(&options.host_key, "ssh_host_ed25519_key"),
    )?;
    let archive = newc::pack(&tree, epoch::from_environment()?)?;
    let bytes = options.compress.apply(archive)?;
    let path = dir.join(format!("initramfs.cpio{}", options.compress.suffix()));
    files::replace(&path, files::PRIVATE, &bytes)?;
    progress.made(&path, bytes.len(), started);
    Ok(())
}

fn fetch(progress: Progress) -> Result<()> {
    let cache = cache::Cache::from_environment()?;
    let source = kernel::source::Source::find(&cache, progress)?;
    let tree = source.unpack(&cache, progress)?;
    progress.say(format!("{source}: {}", tree.display()));
    Ok(())
}

fn make_kernel(options: &Kernel, progress: Progress) -> Result<()> {
    let started = Instant::now();
    let dir = &options.output;
    let initramfs = options
        .initramfs
        .clone()
        .unwrap_or_else(|| dir.join("initramfs.cpio.xz"));
    let packed = std::fs::read(&initramfs)
        .with_context(|| format!("cannot read the initramfs {}", initramfs.display()))?;
    let archive = compress::unpack(packed)
        .with_context(|| format!("cannot use the initramfs {}", initramfs.display()))?;
    let cache = cache::Cache::from_environment()?;
    let wanted = kernel::Wanted {
        arch: &kernel::X86_64,
        command_line: &options.cmdline,
        initramfs: &archive,
        epoch: epoch::from_environment()?,
    };
    let built = kernel::build(&wanted, &cache, progress)?;
    files::replace(&dir.join("cpu.config"), files::PUBLIC, &built.config)?;
    let path = dir.join("cpukernel");
    files::replace(&path, files::PRIVATE, &built.image)?;
    progress.made(&path, built.image.len(), started);
    Ok(())
}
