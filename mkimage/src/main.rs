//! `mkimage` makes the machine: the keys, the initramfs with cpud in it, the kernel around that, and
//! what it boots from. This file is the command line's top; each command is a file of `command/`.

mod arch;
mod archive;
mod cache;
mod command;
mod compress;
mod disk;
mod distro;
mod epoch;
mod files;
mod image;
mod initramfs;
mod inspect;
mod kernel;
mod keys;
mod netboot;
mod newc;
mod program;
mod progress;
mod stick;
mod syslinux;
mod tools;
mod uki;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::progress::Progress;

/// Makes the keys, the initramfs, the kernel and the boot media of a cpu appliance.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    /// Say nothing but errors
    #[arg(short, long, global = true)]
    quiet: bool,

    /// Show what is run, and what it says
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    verbose: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Keys(command::keys::Keys),
    Initramfs(command::initramfs::Initramfs),
    /// Get the kernel's source into the cache, and say where it is
    Fetch,
    Kernel(command::kernel::Kernel),
    Usb(command::usb::Usb),
    Netboot(command::netboot::Netboot),
    Bundle(command::bundle::Bundle),
    Inspect(command::inspect::Inspect),
}

fn main() -> ExitCode {
    #[cfg(feature = "docs")]
    if let Some(directory) = manual::wanted() {
        let page = manual::Page {
            command: <Arguments as clap::CommandFactory>::command(),
            section: "1",
            synopsis: "mkimage [flags] command [flags] [words]",
            rest: include_str!("../../docs/man/mkimage.roff"),
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
        Err(error) if error.use_stderr() => {
            eprintln!("mkimage: {}", in_one_line(&error.to_string()));
            return ExitCode::from(2);
        }
        // Help and version are no errors.
        Err(error) => error.exit(),
    };
    let progress = Progress::new(arguments.quiet, arguments.verbose);
    let done = match arguments.command {
        Command::Keys(options) => options.run(progress),
        Command::Initramfs(options) => options.run(progress),
        Command::Fetch => command::kernel::fetch(progress),
        Command::Kernel(options) => options.run(progress),
        Command::Usb(options) => options.run(progress),
        Command::Netboot(options) => options.run(progress),
        Command::Bundle(options) => options.run(progress),
        Command::Inspect(options) => options.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mkimage: {error:#}");
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
    format!("{all} (--help tells more)")
}
