//! `mkimage keys`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::progress::Progress;
use crate::{keys, passphrase};

/// Make the key that logs in and the key by which the machine is known
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mkimage keys -o out/x86_64
  mkimage keys -o out/x86_64 --type rsa --bits 4096 --no-passphrase

Writes cpu_rsa, cpu_rsa.pub and cpu_rsa.hostkey, whatever the type: the name is the one that cpu looks for in
~/.ssh. And ssh_host_ed25519_key with its .pub, the machine's. Without a terminal no passphrase is set.")]
pub(crate) struct KeysArgs {
    /// Directory to write into; files that exist are never overwritten
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    output: PathBuf,

    /// Type of the key that logs in
    #[arg(long = "type", value_name = "TYPE", default_value = "ed25519")]
    kind: TypeName,

    /// Size of an RSA key [default: 3072]
    #[arg(long, value_parser = clap::value_parser!(u16).range(2048..=16384))]
    bits: Option<u16>,

    /// Do not ask for a passphrase, and set none
    #[arg(long)]
    no_passphrase: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum TypeName {
    Ed25519,
    Rsa,
}

/// Bits of an RSA key, as ssh-keygen makes it.
const RSA_BITS: u16 = 3072;

impl KeysArgs {
    pub(crate) fn run(&self, progress: Progress) -> Result<()> {
        let kind = match (self.kind, self.bits) {
            (TypeName::Rsa, bits) => keys::KeyType::Rsa {
                bits: bits.unwrap_or(RSA_BITS),
            },
            (TypeName::Ed25519, None) => keys::KeyType::Ed25519,
            (TypeName::Ed25519, Some(_)) => {
                bail!("an Ed25519 key has one size: --bits is for --type rsa")
            }
        };
        let passphrase = || {
            if self.no_passphrase {
                Ok(None)
            } else {
                passphrase::ask_new()
            }
        };
        let made = keys::make(&self.output, kind, passphrase, progress)?;
        for key in [&made.user, &made.host] {
            progress.say(format!("{}  {}", key.path.display(), key.fingerprint));
        }
        let user = made.user.path.display();
        progress.say(format!(
            "The client knows the machine by {user}.hostkey, beside the key."
        ));
        Ok(())
    }
}
