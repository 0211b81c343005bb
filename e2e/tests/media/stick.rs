//! The stick's image under both kinds of firmware, and the download.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use e2e::client::{Client, Home};
use e2e::image::{OVMF, runs_date};
use e2e::vm::Vm;
use e2e::{out, root};

use crate::screen::{GOP, VGA, is_shown};
use crate::{Test, make};

pub(crate) const TESTS: &[Test] = &[
    ("a_stick_boots_under_a_bios_with_its_prompt", bios),
    ("a_stick_boots_under_uefi", uefi),
    ("a_stick_is_told_by_inspect", inspect),
    ("a_stick_is_made_from_nothing_by_one_command", from_nothing),
    ("the_download_works_with_nothing_but_qemu", download),
];

fn stick(directory: &Path) -> Result<String> {
    let out = out();
    let (cpu, key) = (out.join("cpu"), out.join("cpu_rsa.pub"));
    let paths = [&cpu, &key].map(|path| path.display().to_string());
    make("usb", directory, &["--cpu", &paths[0], "--key", &paths[1]])?;
    Ok(directory.join("usbstick").display().to_string())
}

fn boot(arguments: &[&str]) -> Result<Vm> {
    let mut script = Command::new("bash");
    script.arg(root().join("qemu/QEMU")).args(arguments);
    Vm::start(script)
}

fn bios() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let vm = boot(&["-nographic", "-hda", &stick(directory.path())?])?;
    let console = vm.console();
    ensure!(console.contains("SYSLINUX"), "{console}");
    ensure!(console.contains("boot:"), "{console}");
    runs_date(&vm)?;
    let home = Home::new()?;
    is_shown(&vm, &Client::new(vm.port(), &home), VGA)
}

fn uefi() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let vm = boot(&[
        "-nographic",
        "-drive",
        OVMF,
        "-hda",
        &stick(directory.path())?,
    ])?;
    let console = vm.console();
    ensure!(console.contains("BdsDxe: starting"), "{console}");
    ensure!(!console.contains("SYSLINUX"), "{console}");
    runs_date(&vm)?;
    let home = Home::new()?;
    is_shown(&vm, &Client::new(vm.port(), &home), GOP)
}

/// In an empty directory, of programs that are beside mkimage and Debian's kernel; nobody is there to ask for a passphrase.
fn from_nothing() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let output = Command::new(out().join("mkimage"))
        .args(["usb", "--kernel-from", "package"])
        .stdin(Stdio::null())
        .current_dir(&directory)
        .output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{stderr}");
    for step in ["keys", "programs", "initramfs", "kernel"] {
        ensure!(
            stderr.contains(&format!(": mkimage {step} -o .")),
            "{step}: {stderr}"
        );
    }
    let vm = boot(&[
        "-nographic",
        "-hda",
        &directory.path().join("usbstick").display().to_string(),
    ])?;
    date_of(&vm, directory.path())
}

/// What a user types who has only this directory.
fn date_of(vm: &Vm, directory: &Path) -> Result<()> {
    let output = Command::new("./cpu")
        .args(["-key", "cpu_rsa", "-sp", &vm.port().to_string()])
        .args(["localhost", "date", "+%s"])
        .env("PWD", directory)
        .current_dir(directory)
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    let seconds: i64 = String::from_utf8(output.stdout)?.trim().parse()?;
    ensure!(seconds > 1_700_000_000, "{seconds}");
    Ok(())
}

fn inspect() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let image = stick(directory.path())?;
    let output = Command::new(out().join("mkimage"))
        .args(["inspect", &image])
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout)?;
    let host_key = std::fs::read_to_string(out().join("cpu_rsa.hostkey"))?;
    let fingerprint = Command::new("ssh-keygen")
        .args(["-l", "-f"])
        .arg(out().join("cpu_rsa.hostkey"))
        .output()
        .context("cannot run ssh-keygen")?;
    let fingerprint = String::from_utf8(fingerprint.stdout)?;
    let fingerprint = fingerprint.split(' ').nth(1).context(host_key)?;
    for words in [
        "GUID partition table",
        "boot code for a BIOS",
        "/EFI/BOOT/BOOTX64.EFI",
        "a kernel for x86_64, starts under UEFI: 6.",
        "command line: console=tty0 console=ttyS0,115200",
        "/init: cpud ",
        "/key.pub: may log in",
        fingerprint,
    ] {
        ensure!(text.contains(words), "{words:?} is not in\n{text}");
    }
    ensure!(!text.contains("PRIVATE"), "{text}");
    Ok(())
}

fn download() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let out = out();
    let (cpu, key) = (out.join("cpu"), out.join("cpu_rsa.pub"));
    let paths = [&cpu, &key].map(|path| path.display().to_string());
    make(
        "bundle",
        directory.path(),
        &["--cpu", &paths[0], "--key", &paths[1]],
    )?;
    // As a user who has only the archive.
    let there = directory.path().join("there");
    std::fs::create_dir(&there)?;
    let script = "tar -xJf ../cpu-appliance-x86_64.tar.xz && cd cpu-appliance-x86_64 && \
        sha256sum --quiet -c SHA256SUMS && xz -d usbstick.xz";
    let status = Command::new("sh")
        .args(["-c", script])
        .current_dir(&there)
        .status()?;
    ensure!(status.success(), "{script}: {status}");
    let here = there.join("cpu-appliance-x86_64");
    let mut script = Command::new("bash");
    script
        .args(["QEMU", "-hda", "usbstick"])
        .env_remove("DISPLAY")
        .env_remove("WAYLAND_DISPLAY")
        .current_dir(&here);
    date_of(&Vm::start(script)?, &here)
}
