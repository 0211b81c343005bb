//! Makes images with mkimage and boots them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::client::{Client, Home};
use crate::vm::Vm;
use crate::{cache, out, root, tree};

/// UEFI firmware, as Debian's package ovmf has it.
pub const OVMF: &str = "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd";

/// Run mkimage, which takes what it is not told from `directory` and writes there.
pub fn mkimage(directory: &Path, words: &[impl AsRef<OsStr>]) -> Result<()> {
    let mut mkimage = Command::new(out().join("mkimage"));
    mkimage.args(words).arg("-o").arg(directory);
    let output = mkimage.output().context("cannot run mkimage")?;
    ensure!(output.status.success(), "{mkimage:?}: {output:?}");
    Ok(())
}

/// The package of Debian's kernel that scripts/deps has fetched: for `amd64` or `arm64`.
pub fn debian_kernel(arch: &str) -> Result<PathBuf> {
    kernel_in(&cache()?.join("debs"), arch, "distro")
}

/// The package of Debian's kernel for clouds, likewise.
pub fn cloud_kernel() -> Result<PathBuf> {
    kernel_in(&cache()?.join("debs/cloud"), "amd64", "cloud")
}

fn kernel_in(debs: &Path, arch: &str, group: &str) -> Result<PathBuf> {
    let end = format!("_{arch}.deb");
    std::fs::read_dir(debs)
        .with_context(|| format!("no {}: run scripts/deps {group}", debs.display()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("linux-image-6.12") && name.ends_with(&end)
        })
        .with_context(|| format!("no kernel in {}: run scripts/deps {group}", debs.display()))
}

/// Boot the stick in a directory: `firmware` is QEMU's arguments for it.
pub fn boot_stick(directory: &Path, firmware: &[&str], arch: &str) -> Result<Vm> {
    let image = directory.join("usbstick").display().to_string();
    let mut script = Command::new("bash");
    script
        .arg(root().join("qemu/QEMU"))
        .arg("-nographic")
        .args(firmware)
        .args(["-drive", &format!("format=raw,file={image}")])
        .env("ARCH", arch);
    Vm::start(script)
}

/// Put a kernel into a ROM in place of the UEFI Shell, with what Linux does without removed.
pub fn flash(rom: &Path, kernel: &Path, output: &Path) -> Result<()> {
    let words: [&OsStr; 7] = [
        "flash".as_ref(),
        "--rom".as_ref(),
        rom.as_os_str(),
        "--kernel".as_ref(),
        kernel.as_os_str(),
        "--remove".as_ref(),
        REMOVED.as_ref(),
    ];
    mkimage(output, &words)
}

/// What the firmware needs to start a kernel out of its own ROM is left.
const REMOVED: &str = "network,usb,disks,setup,screen,tpm,EbcDxe,*ShellCommand,BootScriptExecutorDxe,\
    Ps2KeyboardDxe,PlatformDxe,QemuKernelLoaderFsDxe,EnglishDxe,NullMemoryTestDxe,SioBusDxe,AmdSevDxe,VirtioRngDxe";

/// Boot a machine that has nothing but a flash chip: no disk, no `-kernel`, and a network card that cannot boot.
pub fn boot_rom(rom: &Path) -> Result<Vm> {
    let drive = format!("if=pflash,format=raw,readonly=on,file={}", rom.display());
    let mut script = Command::new("bash");
    script
        .arg(root().join("qemu/QEMU"))
        .args(["-nographic", "-drive", &drive]);
    Vm::start(script)
}

/// That a machine runs this machine's programs.
pub fn runs_date(vm: &Vm) -> Result<()> {
    let home = Home::new()?;
    let said = Client::new(vm.port(), &home).sh_ok("date +%s; uname -n")?;
    let mut lines = said.lines();
    let seconds: i64 = lines.next().context("no date")?.parse()?;
    ensure!(seconds > 1_700_000_000, "{said}");
    ensure!(lines.next() == Some("cpu"), "{said}");
    Ok(())
}

/// That a machine runs programs for ARM. None of this machine's can run there, so they come from Debian's packages:
/// first `uname` and its libraries in a tree of their own, then busybox's in the place of this machine's `/bin`.
pub fn runs_arm(vm: &Vm, key: &Path) -> Result<()> {
    let (root, bin) = (tempfile::tempdir()?, tempfile::tempdir()?);
    tree::debian("arm64", root.path())?;
    tree::busybox(root.path(), bin.path(), &["uname"])?;
    for flags in [
        &["-root", &root.path().display().to_string()][..],
        &["-namespace", &format!("/bin={}", bin.path().display())],
    ] {
        let output = Command::new(out().join("cpu"))
            .arg("-key")
            .arg(key)
            .args(flags)
            .args(["-sp", &vm.port().to_string()])
            .args(["localhost", "/bin/uname", "-m"])
            .env("PWD", "/")
            .current_dir("/")
            .output()?;
        ensure!(output.status.success(), "{flags:?}: {output:?}");
        ensure!(output.stdout == b"aarch64\n", "{flags:?}: {output:?}");
    }
    Ok(())
}
