//! `mkimage key`.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::archive::compress;
use crate::disk::bmap;
use crate::lock::Lock;
use crate::logins::image::{self, ChangedImage};
use crate::logins::{self, NewKeys};
use crate::plan;
use crate::progress::Progress;
use crate::publish::{self, Draft};

/// Change who may log in to an image that is there, without making it again
#[derive(clap::Args)]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommands,
}

#[derive(clap::Subcommand)]
enum KeyCommands {
    Add(AddArgs),
}

/// Let one more key log in
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mkimage key add ann.pub --to board/initramfs.cpio.xz
  mkimage key add ann.pub --to board/usbstick --isolate

IMAGE is an initramfs, a unified kernel image, or a stick with a distribution's kernel. A kernel that
mkimage has built has the initramfs inside: add the key to initramfs.cpio.xz, then make kernel and stick
again. usbstick.bmap and usbstick.xz beside a stick are made again. mkimage inspect shows all keys.")]
struct AddArgs {
    /// Public keys in the format of authorized_keys
    #[arg(value_name = "FILE")]
    keys: PathBuf,

    /// What they are added to
    #[arg(long, value_name = "IMAGE", default_value = "initramfs.cpio.xz")]
    to: PathBuf,

    /// Give the key only its own sessions, and none of the machine's devices or settings
    #[arg(long)]
    isolate: bool,
}

impl KeyArgs {
    pub(crate) fn run(&self, progress: Progress) -> Result<()> {
        match &self.command {
            KeyCommands::Add(options) => options.run(progress),
        }
    }
}

impl AddArgs {
    fn run(&self, progress: Progress) -> Result<()> {
        let started = Instant::now();
        let new = NewKeys::read(&self.keys, self.isolate, progress)?;
        let cannot_read = || format!("cannot read the image {} (--to)", self.to.display());
        // What is replaced is the file, not a link to it.
        let path = fs::canonicalize(&self.to).with_context(cannot_read)?;
        ensure!(
            path.is_file(),
            "{} is no file: add the key to an image, and write that to the stick",
            self.to.display()
        );
        let directory = publish::directory_of(&path);
        let _lock = Lock::directory(directory, progress)?;
        let file = File::open(&path).with_context(cannot_read)?;
        let mode = file.metadata().with_context(cannot_read)?.permissions();
        let mut list = None;
        let task = progress.task("adding", None);
        let mut add = |old: &[u8]| {
            let new = new.added_to(old)?;
            list.clone_from(&new);
            Ok(new)
        };
        let changed = image::edit(&file, &path, &mut add)
            .with_context(|| format!("cannot add a key to {}", self.to.display()))?;
        drop(task);
        let Some(changed) = changed else {
            progress.say(format!(
                "{} is as it was: it has the keys of {} already",
                self.to.display(),
                self.keys.display()
            ));
            return Ok(());
        };
        let draft = match changed {
            ChangedImage::Bytes(bytes) => {
                let draft = Draft::new(&path)?;
                draft
                    .file()
                    .write_all(&bytes)
                    .map_err(|error| draft.failed(error))?;
                draft
            }
            ChangedImage::Stick(stick) => {
                let end = stick.end.next_multiple_of(4096);
                let mapped = [0..end, stick.partition.end..file.metadata()?.len()];
                made_again(&stick.image, &mapped, &path, progress)?;
                stick.image
            }
        };
        let size = draft.file().metadata()?.len();
        draft.publish(mode.mode() & 0o7777)?;
        if path.ends_with("initramfs.cpio.xz") {
            plan::record_keys(directory, &new.used_lines())
                .context("cannot keep what mkimage initramfs --again needs")?;
        }
        if let Some(list) = list {
            logins::warn_of(&list, progress);
        }
        progress.made(&self.to, usize::try_from(size)?, started);
        Ok(())
    }
}

/// The files that describe a stick's image, if they are beside it.
fn made_again(
    image: &Draft,
    mapped: &[std::ops::Range<u64>; 2],
    path: &Path,
    progress: Progress,
) -> Result<()> {
    let xz_path = path.with_added_extension("xz");
    let xz = if xz_path.exists() {
        let xz = Draft::new(&xz_path)?;
        let steps = mapped[1].end.div_ceil(1 << 20);
        let mut task = progress.task("compressing", Some(steps));
        compress::xz_file(image.file(), mapped[0].end, xz.file(), || task.step())
            .map_err(|error| xz.failed(error))?;
        Some(xz)
    } else {
        None
    };
    let map_path = path.with_added_extension("bmap");
    if map_path.exists() {
        let map = bmap::make(image.file(), mapped).map_err(|error| image.failed(error))?;
        publish::replace(&map_path, publish::PUBLIC, map.as_bytes())?;
    }
    if let Some(xz) = xz {
        xz.publish(publish::PRIVATE)?;
    }
    Ok(())
}
