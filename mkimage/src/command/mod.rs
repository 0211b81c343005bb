//! The command line. Each command is a file with its options, as clap parses them, and what it does.

mod bundle;
mod flash;
mod initramfs;
mod inspect;
mod kernel;
mod kernel_from;
mod key;
mod keys;
mod login_hint;
mod netboot;
mod prepare;
mod programs;
mod qemu;
mod usb;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use self::prepare::PrepareArgs;
use crate::arch::Arch;
use crate::lock::Lock;
use crate::media::inputs::{self, Boot, ClientFiles};
use crate::plan::Product;
use crate::progress::{self, Progress};

/// Makes the keys, the initramfs, the kernel and the boot media of a cpu appliance.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    /// Print nothing but errors
    #[arg(short, long, global = true)]
    quiet: bool,

    /// Print the commands that are run, and their output
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    verbose: bool,

    #[command(subcommand)]
    command: Commands,
}

#[derive(Subcommand)]
enum Commands {
    Keys(keys::KeysArgs),
    Key(key::KeyArgs),
    Programs(programs::ProgramsArgs),
    Initramfs(initramfs::InitramfsArgs),
    /// Get the kernel's source into the cache, and say where it is
    Fetch,
    Kernel(kernel::KernelArgs),
    Usb(usb::UsbArgs),
    Netboot(netboot::NetbootArgs),
    Bundle(bundle::BundleArgs),
    Flash(flash::FlashArgs),
    Qemu(qemu::QemuArgs),
    Inspect(inspect::InspectArgs),
}

/// Do what the command line says.
pub fn main() -> ExitCode {
    #[cfg(feature = "docs")]
    if let Some(directory) = manual::requested_directory() {
        let page = manual::Page {
            command: <Arguments as clap::CommandFactory>::command(),
            section: "1",
            synopsis: "mkimage [flags] command [flags] [words]",
            rest: include_str!("../../../docs/man/mkimage.roff"),
            one_dash: false,
        };
        return match manual::write(page, &directory) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("mkimage: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // Who has given no command at all wants to see which there are.
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            error.exit()
        }
        Err(error) if error.use_stderr() => {
            eprintln!("mkimage: {}", in_one_line(&error.to_string()));
            return ExitCode::from(2);
        }
        // Help and version are not errors.
        Err(error) => error.exit(),
    };
    let progress = Progress::new(arguments.quiet, arguments.verbose);
    let done = match arguments.command {
        Commands::Keys(options) => options.run(progress),
        Commands::Key(options) => options.run(progress),
        Commands::Programs(options) => options.run(progress),
        Commands::Initramfs(options) => options.run(progress),
        Commands::Fetch => kernel::fetch(progress),
        Commands::Kernel(options) => options.run(progress),
        Commands::Usb(options) => options.run(progress),
        Commands::Netboot(options) => options.run(progress),
        Commands::Bundle(options) => options.run(progress),
        Commands::Flash(options) => options.run(progress),
        Commands::Qemu(options) => options.run(progress),
        Commands::Inspect(options) => options.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mkimage: {}", progress::shown(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

/// What clap says in several lines, without the usage that it shows with every mistake.
fn in_one_line(text: &str) -> String {
    let mut parts = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:"))
        .filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    let first = parts.next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    let rest = parts.map(|part| part.strip_prefix("tip: ").unwrap_or(part));
    let all: Vec<&str> = std::iter::once(first).chain(rest).collect();
    let all = all.join("; ").replace(":; ", ": ");
    format!("{all} (see --help)")
}

/// The options of every command that makes something for a machine.
#[derive(clap::Args)]
pub(crate) struct CommonOptions {
    /// Directory for what is made, and of the inputs for which no option is given
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    output: PathBuf,

    /// The machine's architecture
    #[arg(long, default_value_t = Arch::HERE, value_enum)]
    arch: Arch,
}

impl CommonOptions {
    /// Create the directory when it is missing, and lock it for writing.
    fn lock(&self, progress: Progress) -> Result<Lock> {
        fs::create_dir_all(&self.output)
            .with_context(|| format!("cannot create the directory {}", self.output.display()))?;
        Ok(Lock::directory(&self.output, progress)?)
    }

    /// A file in the directory.
    fn path(&self, name: &str) -> PathBuf {
        self.output.join(name)
    }

    /// The file that was given, else the one of this name in the directory.
    fn given_or(&self, given: Option<&PathBuf>, name: &str) -> PathBuf {
        given.cloned().unwrap_or_else(|| self.path(name))
    }
}

/// The options that say what a stick and a bundle are made of.
#[derive(clap::Args)]
struct InputArgs {
    /// The kernel [default: DIR/cpukernel]
    #[arg(long, value_name = "FILE", conflicts_with = "kernel_from")]
    kernel: Option<PathBuf>,

    /// The client program [default: DIR/cpu]
    #[arg(long, value_name = "FILE")]
    cpu: Option<PathBuf>,

    /// The public key that may log in, as it is in the machine [default: DIR/cpu_rsa.pub]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

impl InputArgs {
    /// Make what is missing of it, in the directory. False if nothing is to be done after that.
    fn prepare(
        &self,
        prepare: &PrepareArgs,
        common: &CommonOptions,
        progress: Progress,
    ) -> Result<bool> {
        let mut needed = Vec::new();
        if self.kernel.is_none() && self.key.is_none() {
            let key = common.path("cpu_rsa.pub");
            // New keys would not be those that are in it.
            let made = ["cpukernel", "initramfs.cpio.xz"].map(|name| common.path(name));
            match made.iter().find(|path| path.exists()) {
                None => needed.push(Product::Keys),
                Some(made) if !key.exists() => bail!(
                    "there is {}, but no {}: mkimage inspect shows which key is in it; name its file with --key",
                    made.display(),
                    key.display()
                ),
                Some(_) => {}
            }
        }
        if self.cpu.is_none() {
            needed.push(Product::Programs);
        }
        if self.kernel.is_none() {
            needed.push(Product::Kernel);
        }
        prepare.run(&needed, common, progress)
    }

    /// Read all of it.
    fn read(
        &self,
        common: &CommonOptions,
        private_key: bool,
        progress: Progress,
    ) -> Result<(Boot, ClientFiles)> {
        let kernel = common.given_or(self.kernel.as_ref(), "cpukernel");
        let boot = inputs::read_boot(&kernel, common.arch, progress)?;
        let client_files = inputs::read_client_files(
            common.arch,
            &common.given_or(self.cpu.as_ref(), "cpu"),
            &common.given_or(self.key.as_ref(), "cpu_rsa.pub"),
            private_key,
        )?;
        Ok((boot, client_files))
    }
}

/// Said whenever the private key goes into something that will be passed on.
const PRIVATE_KEY_WARNING: &str = "WARNING: the private key is included: whoever gets hold of this can log in \
     as root to every machine that is booted from it";

/// `64M`: bytes, or with K, M, G or T for their multiples of 1024.
fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.to_ascii_uppercase().strip_suffix(['K', 'M', 'G', 'T']) {
        None => (text, 0),
        Some(_) => {
            let (digits, unit) = text.split_at(text.len() - 1);
            let unit = unit.to_ascii_uppercase();
            (digits, 10 * (1 + "KMGT".find(&unit).unwrap_or(0)))
        }
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| "a number of bytes, or one with K, M, G or T".to_owned())
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("67108864"), Ok(64 << 20));
        assert_eq!(parse_size("64M"), Ok(64 << 20));
        assert_eq!(parse_size("1g"), Ok(1 << 30));
        for text in ["", "M", "-1", "64MB", "9999999999T", "1.5G", "é"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
