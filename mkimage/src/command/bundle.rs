//! `mkimage bundle`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use super::prepare::PrepareArgs;
use super::{CommonOptions, InputArgs};
use crate::archive::{compress, tar};
use crate::disk::FileList;
use crate::epoch;
use crate::media::inputs::{Boot, ClientFiles};
use crate::media::{boot_files, stick, syslinux};
use crate::progress::Progress;
use crate::publish::{self, Draft};

/// Make the download: everything to try the machine with nothing but QEMU, or on a stick
#[derive(clap::Args)]
#[command(after_help = "\
Example: mkimage bundle -o out/x86_64

Makes the directory DIR/cpu-appliance-ARCH and the same as .tar.xz: kernel, stick, client, scripts and
keys, the PRIVATE key too, which is only good for a demonstration when others get it. In it:
  xz -d usbstick.xz
  bash QEMU -hda usbstick
  ./cpu -key cpu_rsa localhost date")]
pub(crate) struct BundleArgs {
    #[command(flatten)]
    common: CommonOptions,

    #[command(flatten)]
    inputs: InputArgs,

    #[command(flatten)]
    prepare: PrepareArgs,

    /// Size of the stick's image, as in 64M or 1G
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = super::parse_size)]
    size: u64,

    /// Leave the private key out: only those who have it can use the machine
    #[arg(long)]
    no_private_key: bool,
}

impl BundleArgs {
    pub(crate) fn run(&self, progress: Progress) -> Result<()> {
        let started = Instant::now();
        let common = &self.common;
        if common.arch.facts().has_bios && !self.prepare.dry_run {
            syslinux::boot_code()?;
        }
        if !self.inputs.prepare(&self.prepare, common, progress)? {
            return Ok(());
        }
        let _lock = common.lock(progress)?;
        let name = format!("cpu-appliance-{}", common.arch);
        let path = common.path(&name);

        let on_stick = self.inputs.read(common, false, progress)?;
        let stick = boot_files::files(common.arch, on_stick.0, on_stick.1)?;
        let image = stick::make(common.arch, &common.output, self.size, stick, progress)?;
        let (boot, client_files) = self.inputs.read(common, !self.no_private_key, progress)?;
        if client_files.private_key.is_some() {
            progress.say(super::PRIVATE_KEY_WARNING);
        }
        let files = files(common.arch, boot, client_files, read_all(image.xz.file())?);

        let tar_path = common.path(&format!("{name}.tar.xz"));
        let tar = Draft::new(&tar_path)?;
        let whole = tempfile::tempfile().context("cannot make a temporary file")?;
        tar::pack(&name, &files, mode, epoch::from_environment()?, &whole)
            .context("cannot make a temporary tar archive")?;
        let length = whole.metadata()?.len();
        let mut task = progress.task("compressing", Some(length.div_ceil(1 << 20)));
        compress::xz_file(&whole, length, tar.file(), || task.step())
            .map_err(|error| tar.failed(error))?;
        drop(task);
        let sizes = [
            files.iter().map(|(_, bytes)| bytes.len()).sum(),
            usize::try_from(tar.file().metadata()?.len())?,
        ];

        let staging = publish::staging(&path);
        let mut drafts = Vec::new();
        for (name, bytes) in files {
            let draft = Draft::for_later(&staging.join(&name), &path)?;
            draft
                .file()
                .write_all(&bytes)
                .map_err(|error| draft.failed(error))?;
            drafts.push((draft, mode(&name)));
        }
        publish::publish_directory(&path, drafts)?;
        tar.publish(publish::PRIVATE)?;
        for (path, size) in [&path, &tar_path].into_iter().zip(sizes) {
            progress.made(path, size, started);
        }
        progress.say(format!(
            "Next: in {}: xz -d usbstick.xz, then bash QEMU -hda usbstick",
            path.display()
        ));
        Ok(())
    }
}

/// All files, their hashes last.
fn files(
    arch: crate::arch::Arch,
    mut boot: Boot,
    client_files: ClientFiles,
    stick: Vec<u8>,
) -> FileList {
    let (menu, text) = boot_files::menu(arch, &boot);
    // The archive has no directories: their files lie beside the rest.
    let menu = menu.rsplit('/').next().unwrap_or(&menu).to_owned();
    let kernel = std::mem::take(&mut boot.kernel);
    let mut files = vec![
        ("cpukernel".to_owned(), kernel),
        (menu, text),
        ("usbstick.xz".to_owned(), stick),
    ];
    files.extend(boot_files::support_files(arch, boot, client_files));
    files.sort();
    let mut sums = String::new();
    for (name, bytes) in &files {
        let hash = HEXLOWER.encode(&Sha256::digest(bytes));
        let _ = writeln!(sums, "{hash}  {name}");
    }
    files.push(("SHA256SUMS".to_owned(), sums.into_bytes()));
    files
}

/// Permission bits by name: the programs run, the private key is nobody else's.
fn mode(name: &str) -> u32 {
    match name {
        "cpu" | "QEMU" | "TESTQEMU" | "EXAMPLE" => 0o755,
        key if key.starts_with("cpu_") && !key.contains('.') => publish::PRIVATE,
        _ => publish::PUBLIC,
    }
}

fn read_all(mut file: &File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    std::io::Read::read_to_end(&mut file, &mut bytes)?;
    ensure!(!bytes.is_empty(), "the stick's image is empty");
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Arch;
    use crate::kernel::image;

    fn bundle() -> FileList {
        let boot = Boot {
            kernel: image::tests::kernel(Arch::X86_64),
            initrd: None,
            command_line: None,
            efi_stub: None,
            config: None,
        };
        let client_files = ClientFiles {
            cpu: b"client".to_vec(),
            key_name: "cpu_rsa".to_owned(),
            public_key: b"public".to_vec(),
            host_key: None,
            private_key: Some(b"secret".to_vec()),
        };
        files(Arch::X86_64, boot, client_files, b"stick".to_vec())
    }

    #[test]
    fn every_file_is_in_the_sums() {
        let files = bundle();
        let (sums, rest) = files.split_last().unwrap();
        let text = String::from_utf8(sums.1.clone()).unwrap();
        assert_eq!(text.lines().count(), rest.len());
        // printf stick | sha256sum
        let line = format!(
            "{}  usbstick.xz",
            HEXLOWER.encode(&Sha256::digest(b"stick"))
        );
        assert!(text.lines().any(|found| found == line), "{text}");
        for name in ["cpu", "cpu_rsa", "extlinux.conf", "QEMU", "README"] {
            assert!(rest.iter().any(|(found, _)| found == name), "{name}");
        }
    }

    #[test]
    fn the_programs_run_and_the_private_key_is_nobody_elses() {
        let modes: Vec<_> = ["cpu", "QEMU", "cpu_rsa", "cpu_rsa.pub", "README"]
            .map(mode)
            .into();
        assert_eq!(modes, [0o755, 0o755, 0o600, 0o644, 0o644]);
    }
}
