//! `mkimage initramfs`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;

use super::Target;
use crate::progress::Progress;
use crate::{compress, epoch, files, initramfs, newc};

/// Pack cpud and the keys into the archive that the kernel unpacks as its root
#[derive(clap::Args)]
#[command(after_help = "Example: mkimage initramfs -o out/x86_64")]
pub(crate) struct Initramfs {
    #[command(flatten)]
    target: Target,

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

impl Initramfs {
    pub(crate) fn run(&self, progress: Progress) -> Result<()> {
        let started = Instant::now();
        let target = &self.target;
        let _turn = target.turn(progress)?;
        let keys = match self.keys.as_slice() {
            [] => vec![target.path("cpu_rsa.pub")],
            given => given.to_vec(),
        };
        let tree = initramfs::appliance(
            target.arch,
            &target.given_or(self.cpud.as_ref(), "cpud"),
            &keys,
            &target.given_or(self.host_key.as_ref(), "ssh_host_ed25519_key"),
        )?;
        let archive = newc::pack(&tree, epoch::from_environment()?)?;
        let bytes = self.compress.apply(archive)?;
        let path = target.path(&format!("initramfs.cpio{}", self.compress.suffix()));
        files::replace(&path, files::PRIVATE, &bytes)?;
        progress.made(&path, bytes.len(), started);
        Ok(())
    }
}
