//! `mkimage keys`.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;

use crate::keys;
use crate::progress::Progress;

/// Make the key that logs in and the key by which the machine is known
#[derive(clap::Args)]
#[command(after_help = "Example: mkimage keys -o out/x86_64")]
pub(crate) struct KeysArgs {
    /// Directory to write into; files that exist are never overwritten
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    output: PathBuf,

    /// Type of the key that logs in
    #[arg(long = "type", value_name = "TYPE", default_value = "rsa")]
    kind: TypeName,

    /// Size of an RSA key
    #[arg(long, default_value_t = 3072, value_parser = clap::value_parser!(u16).range(2048..=16384))]
    bits: u16,
}

#[derive(Clone, Copy, ValueEnum)]
enum TypeName {
    Rsa,
    Ed25519,
}

impl KeysArgs {
    pub(crate) fn run(&self, progress: Progress) -> Result<()> {
        let kind = match self.kind {
            TypeName::Rsa => keys::KeyType::Rsa { bits: self.bits },
            TypeName::Ed25519 => keys::KeyType::Ed25519,
        };
        let made = keys::make(&self.output, kind, progress)?;
        for key in [&made.user, &made.host] {
            progress.say(format!("{}  {}", key.path.display(), key.fingerprint));
        }
        let user = made.user.path.display();
        progress.say(format!(
            "The client knows the machine by {user}.hostkey, beside the key. Next:\n  \
             mkimage initramfs -o {dir} --key {user}.pub\n  mkimage kernel -o {dir}\n  \
             cpu -key {user} HOST date",
            dir = self.output.display(),
        ));
        Ok(())
    }
}
