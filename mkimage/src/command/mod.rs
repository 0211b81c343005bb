//! The commands: each file has its options as clap reads them, and what it does with them.

pub(crate) mod bundle;
pub(crate) mod initramfs;
pub(crate) mod inspect;
pub(crate) mod kernel;
pub(crate) mod keys;
pub(crate) mod netboot;
pub(crate) mod usb;

use std::path::PathBuf;

use crate::arch::Arch;
use crate::files::{self, Turn};
use crate::progress::Progress;

/// What every command that makes something for a machine is told.
#[derive(clap::Args)]
pub(crate) struct Target {
    /// Directory of what is made, and of the inputs that are not named
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    output: PathBuf,

    /// The machine's architecture
    #[arg(long, default_value_t = Arch::HERE, value_enum)]
    arch: Arch,
}

impl Target {
    /// The right to write into the directory.
    fn turn(&self, progress: Progress) -> Result<Turn, files::Error> {
        Turn::wait(&self.output, progress)
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
