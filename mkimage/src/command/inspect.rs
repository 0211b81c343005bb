//! `mkimage inspect`.

use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::inspect;

/// Tell what an image is: partitions, files, kernel, command line, keys, cpud
#[derive(clap::Args)]
#[command(after_help = "Example: mkimage inspect out/x86_64/usbstick")]
pub(crate) struct InspectArgs {
    /// A disk image, a kernel or an initramfs, compressed or not
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

impl InspectArgs {
    pub(crate) fn run(&self) -> Result<()> {
        for path in &self.files {
            let text = inspect::file(path)
                .with_context(|| format!("cannot tell what {} is", path.display()))?;
            match std::io::stdout().write_all(text.as_bytes()) {
                // As with | head.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                written => written?,
            }
        }
        Ok(())
    }
}
