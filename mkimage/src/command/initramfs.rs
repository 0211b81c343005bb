//! `mkimage initramfs`.

use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::{CommonOptions, prepare};
use crate::archive::{self, compress, decompress, newc};
use crate::distro::{self, firmware};
use crate::initramfs::ExtraFile;
use crate::plan::{self, Product};
use crate::progress::Progress;
use crate::{epoch, initramfs, publish, read};

/// Pack cpud and the keys into the archive that the kernel unpacks as its root
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mkimage initramfs -o out/x86_64
  mkimage initramfs -o out/x86_64 --key ann.pub --key bob.pub --isolate
  mkimage initramfs -o out/x86_64 --file ./lspci:/bin/lspci --compress zstd
  mkimage initramfs --list /boot/initrd.img")]
pub(crate) struct InitramfsArgs {
    #[command(flatten)]
    common: CommonOptions,

    /// The program that becomes /init [default: DIR/cpud]
    #[arg(long, value_name = "FILE")]
    cpud: Option<PathBuf>,

    /// Public keys that may log in, any number of times [default: DIR/cpu_rsa.pub]
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,

    /// Give each key only its own sessions, and none of them the machine's devices or settings
    #[arg(long)]
    isolate: bool,

    /// The machine's private host key, or first-boot: the machine makes one each time that it boots [default: DIR/ssh_host_ed25519_key]
    #[arg(long, value_name = "FILE")]
    host_key: Option<PathBuf>,

    /// A file to put in too, any number of times
    #[arg(long = "file", value_name = "SRC:DST[:MODE]")]
    files: Vec<ExtraFile>,

    /// An initramfs to add to: it comes first, then what is made here, which wins
    #[arg(long, value_name = "FILE")]
    append: Option<PathBuf>,

    /// Kernel modules: auto, usb, storage, all, names, patterns of them, or paths such as drivers/mtd
    #[arg(
        long,
        value_name = "NAME,...",
        value_delimiter = ',',
        requires = "modules_dir"
    )]
    modules: Vec<String>,

    /// Where they are, such as /lib/modules/6.12.0; its name is the kernel's version
    #[arg(long, value_name = "DIR", requires = "modules")]
    modules_dir: Option<PathBuf>,

    /// Firmware for these modules, such as /lib/firmware
    #[arg(long, value_name = "DIR", requires = "modules")]
    firmware: Option<PathBuf>,

    /// How to compress
    #[arg(long, default_value = "xz")]
    compress: compress::Compression,

    /// With the options of the last time in DIR, if there was one
    #[arg(
        long,
        conflicts_with_all = [
            "cpud", "keys", "isolate", "host_key", "files", "append", "modules", "modules_dir", "firmware", "compress"
        ]
    )]
    again: bool,

    /// Only show what is in an initramfs, of whatever origin
    #[arg(long, value_name = "FILE", exclusive = true)]
    list: Option<PathBuf>,
}

impl InitramfsArgs {
    pub(crate) fn run(&self, progress: Progress) -> Result<()> {
        if let Some(path) = &self.list {
            return list(path);
        }
        let started = Instant::now();
        let common = &self.common;
        if self.again && prepare::again(Product::Initramfs, common, progress)? {
            return Ok(());
        }
        let mut needed = Vec::new();
        if self.keys.is_empty() || self.host_key.is_none() {
            needed.push(Product::Keys);
        }
        if self.cpud.is_none() {
            needed.push(Product::Programs);
        }
        prepare::all(&needed, common, progress)?;
        let _lock = common.lock(progress)?;
        let keys = match self.keys.as_slice() {
            [] => vec![common.path("cpu_rsa.pub")],
            given => given.to_vec(),
        };
        let mut tree = initramfs::appliance(
            common.arch,
            &common.given_or(self.cpud.as_ref(), "cpud"),
            &keys,
            self.isolate,
            &common.given_or(self.host_key.as_ref(), "ssh_host_ed25519_key"),
            progress,
        )?;
        if let Some(directory) = &self.modules_dir {
            let release = directory.file_name().unwrap_or_default().to_string_lossy();
            let mut chosen = distro::choose(directory, &release, &self.modules, progress)?;
            if let Some(from) = &self.firmware {
                let names = std::mem::take(&mut chosen.firmware);
                let missing = firmware::add(&mut chosen.tree, names, from)?;
                if !missing.is_empty() {
                    progress.say(format!(
                        "firmware files that were not found: {}",
                        missing.join(" ")
                    ));
                }
            }
            tree.extend(chosen.tree);
        }
        initramfs::add(&mut tree, &self.files)?;
        let archive = newc::pack(tree, epoch::from_environment()?)?;
        let mut bytes = self.compress.apply(archive, common.arch)?;
        if let Some(path) = &self.append {
            let mut first = read(path)?;
            parts(path, &first)?;
            first.resize(first.len().next_multiple_of(4), 0);
            first.append(&mut bytes);
            bytes = first;
        }
        if self
            .host_key
            .as_deref()
            .is_some_and(initramfs::makes_its_host_key)
        {
            progress.say("the machine makes its host key when it boots: compare the fingerprint that cpu shows with that on its console".to_owned());
            let pin = common.path("cpu_rsa.hostkey");
            if pin.exists() {
                progress.say(format!(
                    "{} pins another host key, so cpu -key cpu_rsa refuses this machine: remove that file",
                    pin.display()
                ));
            }
        }
        let path = common.path(&format!("initramfs.cpio{}", self.compress.suffix()));
        publish::replace(&path, publish::PRIVATE, &bytes)?;
        plan::record(&common.output, Product::Initramfs)?;
        progress.made(&path, bytes.len(), started);
        Ok(())
    }
}

fn list(path: &Path) -> Result<()> {
    let bytes = read(path)?;
    let parts = parts(path, &bytes)?;
    match archive::list(&parts, BufWriter::new(std::io::stdout().lock())) {
        // As with | head.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    read::whole(path, decompress::MAX_UNPACKED)
        .with_context(|| format!("cannot read the initramfs {}", path.display()))
}

/// What is in an initramfs, which is whole.
fn parts<'a>(path: &Path, bytes: &'a [u8]) -> Result<Vec<archive::Part<'a>>> {
    archive::read(bytes).with_context(|| format!("cannot use the initramfs {}", path.display()))
}
