//! `mkimage usb`.

use std::fs;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use super::login_hint::date_command;
use super::prepare::PrepareArgs;
use super::{CommonOptions, InputArgs};
use crate::disk;
use crate::disk::device::{self, Device};
use crate::media::stick::{self, StickImage};
use crate::media::syslinux;
use crate::media::{boot_files, inputs};
use crate::progress::Progress;
use crate::publish;

/// Make an image for a USB stick that boots under BIOS and UEFI (aarch64: UEFI and U-Boot)
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mkimage usb -o board
  dd if=board/usbstick of=/dev/sdX bs=1M conv=fsync
  mkimage usb -o board --device /dev/sdX

Writes usbstick, usbstick.bmap (for bmaptool) and usbstick.xz. What goes into the image is taken from
DIR: cpukernel, cpu.config, cpu, cpu_rsa.pub, cpu_rsa.hostkey, and cpuinitrd and cpukernel.cmdline
where mkimage kernel has made them. What is not there is made first, and what is older than the files it
is made of is made again: keys, programs, initramfs, kernel (--dry-run shows the commands).")]
pub(crate) struct UsbArgs {
    #[command(flatten)]
    common: CommonOptions,

    #[command(flatten)]
    inputs: InputArgs,

    #[command(flatten)]
    prepare: PrepareArgs,

    /// Size of the image, as in 64M or 1G
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = super::parse_size)]
    size: u64,

    /// Put the private key on it too: whoever has the stick can then log in
    #[arg(long)]
    include_private_key: bool,

    /// Device trees for boards whose U-Boot has none, by the names that it looks for
    #[arg(long, value_name = "DIR")]
    dtbs: Option<PathBuf>,

    /// Write the image to this stick too, and compare it afterwards; without DEVICE, say which there are
    #[arg(long, value_name = "DEVICE", num_args = 0..=1, default_missing_value = WHICH)]
    device: Option<PathBuf>,

    /// Write to a DEVICE that does not say it is removable
    #[arg(long, requires = "device")]
    force: bool,

    /// Do not ask before DEVICE is overwritten
    #[arg(long, requires = "device")]
    yes: bool,
}

/// Stands for a DEVICE that was not named.
const WHICH: &str = "?";

impl UsbArgs {
    pub(crate) fn run(&self, progress: Progress) -> Result<()> {
        let started = Instant::now();
        let common = &self.common;
        if self.device.as_deref() == Some(Path::new(WHICH)) {
            return Err(self.which_device());
        }
        // What is wrong or asked comes before anything that takes minutes.
        if common.arch.facts().has_bios && !self.prepare.dry_run {
            syslinux::boot_code()?;
        }
        let device = match &self.device {
            Some(path) if !self.prepare.dry_run => {
                let device = Device::open(path, self.size, self.force)?;
                self.ask(&device)?;
                Some(device)
            }
            _ => None,
        };
        if !self.inputs.prepare(&self.prepare, common, progress)? {
            return Ok(());
        }
        let _lock = common.lock(progress)?;
        let (boot, client_files) = self
            .inputs
            .read(common, self.include_private_key, progress)?;
        if client_files.private_key.is_some() {
            progress.say(super::PRIVATE_KEY_WARNING);
        }
        let mut files = boot_files::files(common.arch, boot, client_files)
            .with_context(|| "cannot make a stick of this kernel")?;
        if let Some(directory) = &self.dtbs {
            add_device_trees(&mut files, directory)?;
        }
        let StickImage { disk, xz, map } =
            stick::make(common.arch, &common.output, self.size, files, progress)?;
        let written = disk.file().try_clone()?;
        let sizes = [written.metadata()?.len(), xz.file().metadata()?.len()];
        // An old map would describe the new image. The machine's host key is inside the kernel.
        publish::replace(
            &common.path("usbstick.bmap"),
            publish::PUBLIC,
            map.as_bytes(),
        )?;
        disk.publish(publish::PRIVATE)?;
        xz.publish(publish::PRIVATE)?;
        for (name, size) in ["usbstick", "usbstick.xz"].into_iter().zip(sizes) {
            progress.made(&common.path(name), usize::try_from(size)?, started);
        }
        if let Some(device) = device {
            device.write(&written, progress)?;
            progress.say(format!("{device}: written and compared"));
        } else {
            let image = common.path("usbstick");
            progress.say(format!(
                "Next: dd if={} of=/dev/sdX bs=1M conv=fsync",
                image.display()
            ));
        }
        let kernel = common.given_or(self.inputs.kernel.as_ref(), "cpukernel");
        let key = common.given_or(self.inputs.key.as_ref(), "cpu_rsa.pub");
        let private = key.with_extension("");
        progress.say(format!(
            "The machine shows its address when it serves: {}",
            date_command(&kernel, &key, &private.to_string_lossy(), "cpu", "ADDRESS")
        ));
        Ok(())
    }

    fn which_device(&self) -> anyhow::Error {
        match device::candidates(self.size).as_slice() {
            [] => anyhow!(
                "there is no stick that an image could be written to: plug one in, unmount it"
            ),
            found => anyhow!("--device wants one of: {}", found.join("; ")),
        }
    }

    fn ask(&self, device: &Device) -> Result<()> {
        if self.yes {
            return Ok(());
        }
        ensure!(
            std::io::stdin().is_terminal(),
            "cannot ask whether {device} may be overwritten, since standard input is no terminal: add --yes"
        );
        eprint!("Everything on {device} will be lost. Type yes to go on: ");
        std::io::stderr().flush()?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        if answer.trim() != "yes" {
            bail!("{device} was left as it is");
        }
        Ok(())
    }
}

/// Put every `.dtb` beneath a directory where the boot menu of U-Boot says: vendors' directories too.
fn add_device_trees(files: &mut disk::FileList, directory: &Path) -> Result<()> {
    let mut names = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(inner) = pending.pop() {
        let path = directory.join(&inner);
        let entries = fs::read_dir(&path)
            .with_context(|| format!("cannot list the device trees {}", path.display()))?;
        for entry in entries {
            let entry = entry?;
            let inner = inner.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                pending.push(inner);
            } else if inner.extension().is_some_and(|end| end == "dtb") {
                names.push(inner);
            }
        }
    }
    ensure!(
        !names.is_empty(),
        "there is no .dtb in {}: it is the directory that make dtbs_install fills",
        directory.display()
    );
    names.sort();
    for name in names {
        let bytes = inputs::read("the device tree", &directory.join(&name))?;
        files.push((format!("dtbs/{}", name.display()), bytes));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_trees_are_found_in_vendors_directories() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("rockchip")).unwrap();
        for name in ["rockchip/b.dtb", "a.dtb", "notes.txt"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let mut files = Vec::new();
        add_device_trees(&mut files, dir.path()).unwrap();
        let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["dtbs/a.dtb", "dtbs/rockchip/b.dtb"]);
        fs::remove_file(dir.path().join("a.dtb")).unwrap();
        fs::remove_dir_all(dir.path().join("rockchip")).unwrap();
        assert!(add_device_trees(&mut files, dir.path()).is_err());
    }
}
