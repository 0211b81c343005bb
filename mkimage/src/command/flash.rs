//! `mkimage flash`.

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::progress::Progress;
use crate::publish;
use crate::read;
use crate::rom::{self, Edit};

/// Put a kernel into the ROM image of a machine with UEFI firmware
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mkimage flash --rom rom.img --list
  mkimage flash --rom rom.img --kernel out/flash/cpukernel --remove network --remove usb -o new.img

The kernel takes the place of the UEFI Shell, which the firmware starts when nothing else boots. Only the volumes with
what is replaced or removed are changed; no other file moves. The result is read back and compared before it is
written. docs/flash.md says how to read and write the chip.")]
pub(crate) struct FlashArgs {
    /// The image to read, as flashrom -r writes it
    #[arg(long, value_name = "FILE")]
    rom: PathBuf,

    /// Print what is in it, with sizes and free space
    #[arg(long, conflicts_with_all = ["kernel", "replace", "remove", "insert", "output"])]
    list: bool,

    /// The kernel to put into it, an EFI program
    #[arg(long, value_name = "FILE", requires = "output")]
    kernel: Option<PathBuf>,

    /// The file whose program the kernel replaces, by name or GUID [default: the UEFI Shell]
    #[arg(long, value_name = "NAME", requires = "kernel")]
    replace: Option<String>,

    /// Remove files by name, GUID or pattern, or the group network, usb, disks, setup, screen or tpm
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "output")]
    remove: Vec<String>,

    /// Insert a driver, as a whole file of a firmware volume (FFS), where the drivers are; may be repeated
    #[arg(long, value_name = "FILE", requires = "output")]
    insert: Vec<PathBuf>,

    /// The image to write
    #[arg(short, long, value_name = "FILE", required_unless_present = "list")]
    output: Option<PathBuf>,
}

impl FlashArgs {
    pub(crate) fn run(self, progress: Progress) -> Result<()> {
        let started = Instant::now();
        let rom = self.rom.display();
        let image = read::whole(&self.rom, rom::MAX_ROM)
            .with_context(|| format!("cannot read the ROM {rom}"))?;
        let Some(output) = self.output else {
            let parsed = rom::readable(&image).with_context(|| format!("cannot list {rom}"))?;
            let text = rom::tree(&parsed, &image);
            return match std::io::stdout().write_all(text.as_bytes()) {
                // As with | head.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
                written => Ok(written?),
            };
        };
        let same = |path: &Path| path.canonicalize().ok();
        let is_output = |path: &PathBuf| same(&output).is_some_and(|it| same(path) == Some(it));
        ensure!(
            !is_output(&self.rom),
            "{} is the ROM itself, which is needed to go back: choose another name with -o",
            output.display()
        );
        ensure!(
            !self.kernel.iter().chain(&self.insert).any(is_output),
            "{} is what is put into the ROM: choose another name with -o",
            output.display()
        );
        let kernel = self
            .kernel
            .map(|path| {
                read::whole(&path, read::MAX_FILE)
                    .with_context(|| format!("cannot read the kernel {}", path.display()))
            })
            .transpose()?;
        let insert = self.insert.into_iter().map(|path| {
            let called = path.display().to_string();
            let bytes = read::whole(&path, rom::MAX_ROM);
            let bytes = bytes.with_context(|| format!("cannot read {called}"))?;
            Ok((called, bytes))
        });
        let insert = insert.collect::<Result<Vec<_>>>()?;
        ensure!(
            kernel.is_some() || !self.remove.is_empty() || !insert.is_empty(),
            "there is nothing to do without --kernel, --remove or --insert"
        );
        let edit = Edit {
            remove: self.remove,
            replace: kernel.map(|kernel| (self.replace, kernel)),
            insert,
        };
        let task = progress.task("editing", None);
        let result =
            rom::apply(&image, &edit).with_context(|| format!("cannot edit the ROM {rom}"))?;
        drop(task);
        // The machine's host key is inside the kernel.
        publish::replace(&output, publish::PRIVATE, &result)?;
        progress.made(&output, result.len(), started);
        let changed = ranges(&image, &result);
        progress.say(format!(
            "changed and read back: {changed}; all else is as it was"
        ));
        Ok(())
    }
}

/// The first and the last byte that differ.
fn ranges(before: &[u8], after: &[u8]) -> String {
    let first = before.iter().zip(after).position(|(old, new)| old != new);
    let last = before.iter().zip(after).rposition(|(old, new)| old != new);
    match (first, last) {
        (Some(first), Some(last)) => format!("from {first:#x} to {last:#x}"),
        _ => "nothing".to_owned(),
    }
}
