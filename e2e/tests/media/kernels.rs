//! Other kernels than the general one: a distribution's, with its modules.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use e2e::client::{Client, Home};
use e2e::out;
use e2e::vm::Vm;

use crate::Test;
use crate::stick::OVMF;

pub(crate) const TESTS: &[Test] = &[
    ("debians_kernel_boots_and_loads_its_modules", debian),
    ("debians_kernel_boots_from_a_stick_under_uefi", debian_stick),
];

/// The package that scripts/deps has fetched.
fn package() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(std::env::home_dir()?.join(".cache")))
        .context("no cache directory")?;
    let debs = cache.join("cpu-appliance/debs");
    std::fs::read_dir(&debs)
        .with_context(|| format!("no {}: run scripts/deps distro", debs.display()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("linux-image-6.12") && name.ends_with("_amd64.deb")
        })
        .with_context(|| format!("no kernel in {}: run scripts/deps distro", debs.display()))
}

/// Take Debian's kernel, with few modules since packing all takes a minute, and the files of the machine
/// that make has built.
fn taken() -> Result<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    for name in ["initramfs.cpio.xz", "cpu", "cpu_rsa.pub", "cpu_rsa.hostkey"] {
        std::fs::copy(out().join(name), directory.path().join(name))?;
    }
    let modules = "virtio_net,virtio_pci,e1000,9p,9pnet_fd,af_packet,virtio_rng";
    mkimage(
        directory.path(),
        &["kernel", "--modules", modules, "--from-deb"],
        Some(&package()?),
    )?;
    Ok(directory)
}

fn mkimage(directory: &Path, words: &[&str], last: Option<&Path>) -> Result<()> {
    let output = Command::new(out().join("mkimage"))
        .args(words)
        .args(last)
        .arg("-o")
        .arg(directory)
        .output()?;
    ensure!(output.status.success(), "{words:?}: {output:?}");
    Ok(())
}

fn runs_on_debian(vm: &Vm) -> Result<()> {
    let home = Home::new()?;
    let said = Client::new(vm.port(), &home).sh_ok("date +%s; uname -r; cat /proc/modules")?;
    let mut lines = said.lines();
    let seconds: i64 = lines.next().context("no date")?.parse()?;
    ensure!(seconds > 1_700_000_000, "{said}");
    ensure!(
        lines.next().is_some_and(|release| release.contains("+deb")),
        "{said}"
    );
    // The card's by its device, the file system by the kernel's own call of modprobe.
    for module in ["virtio_net ", "9p ", "9pnet_fd "] {
        ensure!(
            said.lines().any(|line| line.starts_with(module)),
            "no {module}in {said}"
        );
    }
    Ok(())
}

fn debian() -> Result<()> {
    let directory = taken()?;
    let vm = Vm::boot_kernel(&directory.path().join("cpukernel"), &[])?;
    runs_on_debian(&vm)
}

fn debian_stick() -> Result<()> {
    let directory = taken()?;
    mkimage(directory.path(), &["usb"], None)?;
    let image = directory.path().join("usbstick").display().to_string();
    let mut script = Command::new("bash");
    script
        .arg(e2e::root().join("qemu/QEMU"))
        .args(["-nographic", "-drive", OVMF, "-hda", &image]);
    runs_on_debian(&Vm::start(script)?)
}
