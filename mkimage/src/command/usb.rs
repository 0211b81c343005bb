//! `mkimage usb`.

use std::fs;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use super::CommonOptions;
use crate::arch::Arch;
use crate::archive::compress;
use crate::disk::device::Device;
use crate::disk::{self, Layout, Volume, bmap};
use crate::media::boot_files::{self, Boot, ClientFiles};
use crate::media::syslinux;
use crate::progress::Progress;
use crate::publish::{self, Draft};
use crate::{epoch, initramfs, program};

/// Make an image for a USB stick that boots under BIOS and UEFI (aarch64: UEFI and U-Boot)
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mkimage usb -o out/x86_64
  dd if=out/x86_64/usbstick of=/dev/sdX bs=1M conv=fsync
  mkimage usb -o out/x86_64 --device /dev/sdX

Writes usbstick, usbstick.bmap (for bmaptool) and usbstick.xz. What goes into the image is taken from
DIR: cpukernel, cpu.config, cpu, cpu_rsa.pub, cpu_rsa.hostkey, and cpuinitrd and cpukernel.cmdline
where mkimage kernel has made them.")]
pub(crate) struct UsbArgs {
    #[command(flatten)]
    common: CommonOptions,

    #[command(flatten)]
    contents: Contents,

    /// Size of the image, as in 64M or 1G
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = parse_size)]
    size: u64,

    /// Put the private key on it too: whoever has the stick can then log in
    #[arg(long)]
    include_private_key: bool,

    /// Device trees for boards whose U-Boot has none, by the names that it looks for
    #[arg(long, value_name = "DIR")]
    dtbs: Option<PathBuf>,

    /// Write the image to this stick too, and compare it afterwards
    #[arg(long, value_name = "DEVICE")]
    device: Option<PathBuf>,

    /// Write to a DEVICE that does not say it is removable
    #[arg(long, requires = "device")]
    force: bool,

    /// Do not ask before DEVICE is overwritten
    #[arg(long, requires = "device")]
    yes: bool,
}

/// What a stick and a bundle have in common.
#[derive(clap::Args)]
pub(crate) struct Contents {
    /// The kernel [default: DIR/cpukernel]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// The client program [default: DIR/cpu]
    #[arg(long, value_name = "FILE")]
    cpu: Option<PathBuf>,

    /// The public key that may log in, as it is in the machine [default: DIR/cpu_rsa.pub]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

impl Contents {
    /// Read all of it.
    pub(super) fn read(
        &self,
        common: &CommonOptions,
        private_key: bool,
    ) -> Result<(Boot, ClientFiles)> {
        let kernel = common.given_or(self.kernel.as_ref(), "cpukernel");
        let boot = read_boot(&kernel)?;
        let cpu = common.given_or(self.cpu.as_ref(), "cpu");
        let client = read("the client (make programs)", &cpu)?;
        program::check(&client, Arch::HERE)
            .or_else(|_| program::check(&client, common.arch))
            .with_context(|| format!("{} cannot run on every Linux", cpu.display()))?;
        let key = common.given_or(self.key.as_ref(), "cpu_rsa.pub");
        let (public_key, _) = initramfs::public_key(&key)?;
        let private = key.with_extension("");
        let key_name = private.file_name().unwrap_or_default();
        let client_files = ClientFiles {
            cpu: client,
            key_name: key_name.to_string_lossy().into_owned(),
            public_key,
            host_key: optional(&private.with_added_extension("hostkey"))?,
            private_key: private_key
                .then(|| read("the private key", &private))
                .transpose()?,
        };
        Ok((boot, client_files))
    }
}

impl UsbArgs {
    pub(crate) fn run(&self, progress: Progress) -> Result<()> {
        let started = Instant::now();
        let common = &self.common;
        let _lock = common.lock(progress)?;
        let device = self
            .device
            .as_ref()
            .map(|path| Device::find(path, self.size, self.force))
            .transpose()?;
        let (boot, client_files) = self.contents.read(common, self.include_private_key)?;
        if let Some(device) = &device {
            self.ask(device)?;
        }
        if client_files.private_key.is_some() {
            progress.say(WARNING);
        }
        let mut files = boot_files::files(common.arch, boot, client_files)
            .with_context(|| "cannot make a stick of this kernel")?;
        if let Some(directory) = &self.dtbs {
            add_device_trees(&mut files, directory)?;
        }
        let Image { disk, xz, map } =
            make(common.arch, &common.output, self.size, files, progress)?;
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
        }
        Ok(())
    }

    fn ask(&self, device: &Device) -> Result<()> {
        if self.yes {
            return Ok(());
        }
        ensure!(
            std::io::stdin().is_terminal(),
            "nobody is here to ask whether {device} may be overwritten: add --yes"
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
        let bytes = read("the device tree", &directory.join(&name))?;
        files.push((format!("dtbs/{}", name.display()), bytes));
    }
    Ok(())
}

/// Said whenever the private key goes into something that will be passed on.
pub(super) const WARNING: &str = "WARNING: the private key is included: whoever gets hold of this can log in \
     as root to every machine that is booted from it";

/// An image that has no names yet.
pub(super) struct Image {
    disk: Draft,
    pub(super) xz: Draft,
    map: String,
}

/// Make the image, its map and its compressed form, the files to be in `directory`.
pub(super) fn make(
    arch: Arch,
    directory: &Path,
    size: u64,
    files: disk::FileList,
    progress: Progress,
) -> Result<Image> {
    let layout = Layout::new(size, &files)?;
    let image = Draft::new(&directory.join("usbstick"))?;
    let failed = |error: disk::Error| match error {
        disk::Error::Write(source) | disk::Error::Fat { source, .. } => {
            anyhow::Error::from(image.failed(source))
        }
        error => error.into(),
    };
    let bios = arch == Arch::X86_64;
    let boot_code = if bios {
        syslinux::boot_code()?
    } else {
        Vec::new()
    };
    layout
        .write_table(image.file(), &boot_code)
        .map_err(failed)?;
    let volume = Volume::format(image.file(), &layout).map_err(failed)?;
    if bios {
        syslinux::install(&image.name(), progress)?;
    }
    let used = volume
        .fill(&files, epoch::from_environment()?)
        .map_err(failed)?;
    drop(files);
    let mapped = layout.mapped(used);
    let map = bmap::make(image.file(), &mapped).map_err(|error| image.failed(error))?;

    let xz = Draft::new(&directory.join("usbstick.xz"))?;
    let steps = size.div_ceil(1 << 20);
    let mut task = progress.task("compressing", Some(steps));
    compress::xz_file(image.file(), used, xz.file(), || task.step())
        .map_err(|error| xz.failed(error))?;
    drop(task);
    Ok(Image {
        disk: image,
        xz,
        map,
    })
}

/// A kernel with what `mkimage kernel` has put beside it.
pub(super) fn read_boot(kernel: &Path) -> Result<Boot> {
    let beside = |name: &str| optional(&kernel.with_file_name(name));
    let command_line = beside("cpukernel.cmdline")?
        .map(|line| String::from_utf8_lossy(&line).trim_end().to_owned());
    Ok(Boot {
        initrd: beside("cpuinitrd")?,
        command_line,
        config: beside("cpu.config")?,
        kernel: read("the kernel (mkimage kernel)", kernel)?,
    })
}

fn read(what: &str, path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {what} {}", path.display()))
}

fn optional(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        result => result
            .map(Some)
            .with_context(|| format!("cannot read {}", path.display())),
    }
}

/// `64M`: bytes, or with K, M, G or T for their multiples of 1024.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.to_ascii_uppercase().strip_suffix(['K', 'M', 'G', 'T']) {
        None => (text, 0),
        Some(_) => {
            let (digits, unit) = text.split_at(text.len() - 1);
            let unit = unit.to_ascii_uppercase();
            (digits, 10 * (1 + "KMGT".find(&unit).unwrap_or(0)))
        }
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| "a number of bytes, or one with K, M, G or T".to_owned())
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

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("67108864"), Ok(64 << 20));
        assert_eq!(parse_size("64M"), Ok(64 << 20));
        assert_eq!(parse_size("1g"), Ok(1 << 30));
        for text in ["", "M", "-1", "64MB", "9999999999T", "1.5G", "é"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
