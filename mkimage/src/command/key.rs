//! `mkimage key`.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use crate::archive::compress;
use crate::disk::bmap;
use crate::lock::Lock;
use crate::logins::image::{self, ChangedImage, ListEdit};
use crate::logins::{self, NewKeys, OldKeys};
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
    Remove(RemoveArgs),
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

/// Let a key log in no longer
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mkimage key remove ann.pub --from board/initramfs.cpio.xz
  mkimage key remove SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDaYuLjWA8kRRPbZMk --from board/usbstick

IMAGE is what it is for key add. The last key that can log in stays. Machines that were booted from the
image before, and copies of it, still let the key in. mkimage inspect shows fingerprints and comments.")]
struct RemoveArgs {
    /// A file with the public key, or the key's fingerprint or comment
    #[arg(value_name = "KEY")]
    key: String,

    /// What it is removed from
    #[arg(
        long,
        visible_alias = "to",
        value_name = "IMAGE",
        default_value = "initramfs.cpio.xz"
    )]
    from: PathBuf,
}

impl KeyArgs {
    pub(crate) fn run(&self, progress: Progress) -> Result<()> {
        match &self.command {
            KeyCommands::Add(options) => options.run(progress),
            KeyCommands::Remove(options) => options.run(progress),
        }
    }
}

impl AddArgs {
    fn run(&self, progress: Progress) -> Result<()> {
        let new = NewKeys::read(&self.keys, self.isolate, progress)?;
        let image = Image::open(&self.to, "--to", progress)?;
        let cannot = || format!("cannot add a key to {}", self.to.display());
        let list = image.edit(&mut |old| new.added_to(old), cannot, progress)?;
        let Some(list) = list else {
            progress.say(format!(
                "{} is as it was: it has the keys of {} already",
                self.to.display(),
                self.keys.display()
            ));
            return Ok(());
        };
        if image.is_recorded() {
            plan::record_keys(image.directory(), &new.used_lines()).context(CANNOT_RECORD)?;
        }
        logins::warn_of(&list, progress);
        image.made(progress)
    }
}

impl RemoveArgs {
    fn run(&self, progress: Progress) -> Result<()> {
        let old = OldKeys::find(&self.key)?;
        let image = Image::open(&self.from, "--from", progress)?;
        let cannot = || format!("cannot remove a key from {}", self.from.display());
        let list = image.edit(&mut |list| old.removed_from(list), cannot, progress)?;
        let Some(list) = list else {
            bail!(
                "no key of {image} has the fingerprint or the comment {key}, or is in a file {key}: mkimage inspect {image} \
                 shows its keys",
                image = self.from.display(),
                key = self.key,
            );
        };
        if image.is_recorded() {
            plan::forget_keys(image.directory(), &list, |lines| old.lines_without(lines))
                .context(CANNOT_RECORD)?;
        }
        image.made(progress)
    }
}

const CANNOT_RECORD: &str = "cannot keep what mkimage initramfs --again needs";

/// An image whose list of keys is changed.
struct Image<'a> {
    /// As it was given, for messages.
    name: &'a Path,
    path: PathBuf,
    file: File,
    started: Instant,
    _lock: Lock,
}

impl<'a> Image<'a> {
    fn open(name: &'a Path, option: &str, progress: Progress) -> Result<Self> {
        let started = Instant::now();
        let cannot_read = || format!("cannot read the image {} ({option})", name.display());
        // What is replaced is the file, not a link to it.
        let path = fs::canonicalize(name).with_context(cannot_read)?;
        ensure!(
            path.is_file(),
            "{} is no file: change an image, and write that to the stick",
            name.display()
        );
        let lock = Lock::directory(publish::directory_of(&path), progress)?;
        let file = File::open(&path).with_context(cannot_read)?;
        Ok(Self {
            name,
            path,
            file,
            started,
            _lock: lock,
        })
    }

    fn directory(&self) -> &Path {
        publish::directory_of(&self.path)
    }

    /// Whether it is what `mkimage initramfs --again` makes.
    fn is_recorded(&self) -> bool {
        self.path.ends_with("initramfs.cpio.xz")
    }

    /// Put one with another list in its place. The list, if it is another.
    fn edit(
        &self,
        edit: &mut ListEdit<'_>,
        cannot: impl FnOnce() -> String,
        progress: Progress,
    ) -> Result<Option<Vec<u8>>> {
        let before = self.file.metadata()?;
        let mut list = None;
        let task = progress.task("changing", None);
        let mut edit = |old: &[u8]| {
            let new = edit(old)?;
            // A stick has two lists, one of which may be right already.
            if new.is_some() {
                list.clone_from(&new);
            }
            Ok(new)
        };
        let changed = image::edit(&self.file, &self.path, &mut edit).with_context(cannot)?;
        drop(task);
        let draft = match changed {
            None => return Ok(None),
            Some(ChangedImage::Bytes(bytes)) => {
                let draft = Draft::new(&self.path)?;
                draft
                    .file()
                    .write_all(&bytes)
                    .map_err(|error| draft.failed(error))?;
                draft
            }
            Some(ChangedImage::Stick(stick)) => {
                let end = stick.end.next_multiple_of(4096);
                let mapped = [0..end, stick.partition.end..before.len()];
                made_again(&stick.image, &mapped, &self.path, progress)?;
                stick.image
            }
        };
        // Of another user's image, root's new one is that user's too.
        if before.uid() != draft.file().metadata()?.uid() {
            let _ = fchown(draft.file(), Some(before.uid()), Some(before.gid()));
        }
        draft.publish(before.mode() & 0o7777)?;
        Ok(list)
    }

    /// Say that it is ready.
    fn made(&self, progress: Progress) -> Result<()> {
        let size = fs::metadata(&self.path)?.len();
        progress.made(self.name, usize::try_from(size)?, self.started);
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
