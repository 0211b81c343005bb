//! Tests of kernels that take minutes to compile: for flash ROMs, hardened, for ARM. They need `make flash hardened aarch64`,
//! and run one after the other, since each boots a machine.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use e2e::client::{Client, Home};
use e2e::image::{self, OVMF, boot_stick, mkimage, runs_arm, runs_date};
use e2e::vm::Vm;
use e2e::{out, root};
use libtest_mimic::{Arguments, Trial};

/// One sentence and its proof.
type Test = (&'static str, fn() -> Result<()>);

const TESTS: &[Test] = &[
    ("flash_kernel_boots_under_uefi_and_is_small", flash),
    ("flash_kernel_boots_from_nothing_but_its_rom", flash_rom),
    (
        "everything_on_usb_and_the_kernel_is_locked_down",
        usb_and_hardened,
    ),
    ("an_arm_machine_boots_and_runs_arm_programs", arm),
    ("an_arm_stick_boots_under_uefi", arm_stick),
    ("an_arm_stick_boots_under_u_boot", arm_stick_u_boot),
];

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let trials = TESTS.iter().map(|&(name, test)| {
        Trial::test(name, move || {
            test().map_err(|error| format!("{error:?}").into())
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

/// Room in the flash chips that LinuxBoot is put into: 2.75 MiB.
const FLASH: u64 = 2_883_584;

fn flash() -> Result<()> {
    let kernel = root().join("out/flash/cpukernel");
    let size = std::fs::metadata(&kernel)
        .context("no out/flash/cpukernel: make flash")?
        .len();
    ensure!(size <= FLASH, "{size} bytes");
    let directory = tempfile::tempdir()?;
    for name in ["cpu", "cpu_rsa.pub"] {
        std::fs::copy(out().join(name), directory.path().join(name))?;
    }
    let words = ["usb".as_ref(), "--kernel".as_ref(), kernel.as_os_str()];
    mkimage(directory.path(), &words)?;
    let vm = boot_stick(directory.path(), &["-drive", OVMF], "x86_64")?;
    runs_date(&vm)
}

fn flash_rom() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let rom = directory.path().join("rom");
    let kernel = root().join("out/flash/cpukernel");
    let firmware = Path::new("/usr/share/OVMF/OVMF_CODE_4M.fd");
    image::flash(firmware, &kernel, &rom).context("no out/flash/cpukernel: make flash")?;
    runs_date(&image::boot_rom(&rom)?)
}

/// Network and disk are on USB, and not even root gets below the kernel.
fn usb_and_hardened() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let disk = directory.path().join("disk");
    std::fs::write(&disk, "on a disk".repeat(1 << 16))?;
    let mut script = Command::new(root().join("qemu/run"));
    script
        .env("KERNEL", root().join("out/hardened/cpukernel"))
        .env("NIC", "usb-net,bus=usb.0")
        .args(["-device", "qemu-xhci,id=usb"])
        .args(["-device", "usb-storage,bus=usb.0,drive=disk", "-drive"])
        .arg(format!(
            "if=none,id=disk,format=raw,file={}",
            disk.display()
        ));
    let vm = Vm::start(script)?;
    let home = Home::new()?;
    let client = Client::new(vm.port(), &home);
    // A disk on USB is found when it has answered, which may be after the network on USB serves.
    let stdout = client.sh_ok(
        "ls /sys/class/net; i=0; until [ -s /sys/block/sda/size ] && [ -r /dev/sda ] || [ $i = 600 ]; \
         do sleep 0.1; i=$((i+1)); done; sha256sum < /dev/sda; cat /sys/kernel/security/lockdown; \
         cat /sys/devices/system/cpu/vulnerabilities/spectre_v2; \
         ls /dev/mem /dev/port /dev/cpu/0/msr /proc/kcore 2>&1; true",
    )?;
    let disk = Command::new("sha256sum")
        .stdin(File::open(&disk)?)
        .output()?;
    for expected in [
        "usb0",
        str::from_utf8(&disk.stdout)?.trim(),
        "[confidentiality]",
        "Mitigation: ",
    ] {
        ensure!(stdout.contains(expected), "no {expected} in {stdout}");
    }
    ensure!(stdout.matches("No such file").count() == 4, "{stdout}");
    Ok(())
}

fn arm_out() -> PathBuf {
    root().join("out/aarch64")
}

fn arm_key() -> PathBuf {
    arm_out().join("cpu_rsa")
}

fn arm() -> Result<()> {
    let mut script = Command::new(root().join("qemu/run"));
    script
        .env("ARCH", "aarch64")
        .env("KERNEL", arm_out().join("cpukernel"));
    runs_arm(&Vm::start(script)?, &arm_key())
}

fn arm_stick_made() -> Result<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    for name in ["cpukernel", "cpu", "cpu_rsa.pub"] {
        std::fs::copy(arm_out().join(name), directory.path().join(name))?;
    }
    let kernel = directory.path().join("cpukernel");
    let words = ["usb", "--arch", "aarch64", "--kernel"].map(std::ffi::OsStr::new);
    mkimage(
        directory.path(),
        &[&words[..], &[kernel.as_os_str()]].concat(),
    )?;
    Ok(directory)
}

fn arm_stick() -> Result<()> {
    let directory = arm_stick_made()?;
    // The firmware's image fills the whole of its flash.
    let flash = directory.path().join("firmware");
    std::fs::copy("/usr/share/qemu-efi-aarch64/QEMU_EFI.fd", &flash)
        .context("no UEFI firmware for ARM: package qemu-efi-aarch64")?;
    std::fs::File::options()
        .write(true)
        .open(&flash)?
        .set_len(64 << 20)?;
    let firmware = format!("if=pflash,format=raw,readonly=on,file={}", flash.display());
    runs_arm(
        &boot_stick(directory.path(), &["-drive", &firmware], "aarch64")?,
        &arm_key(),
    )
}

/// U-Boot looks for `/extlinux/extlinux.conf` and gives the kernel the device tree of the board.
fn arm_stick_u_boot() -> Result<()> {
    let directory = arm_stick_made()?;
    let firmware = ["-bios", "/usr/lib/u-boot/qemu_arm64/u-boot.bin"];
    ensure!(
        Path::new(firmware[1]).exists(),
        "no {}: package u-boot-qemu",
        firmware[1]
    );
    let vm = boot_stick(directory.path(), &firmware, "aarch64")?;
    let console = vm.console();
    ensure!(
        console.contains("Retrieving file: /extlinux/extlinux.conf"),
        "{console}"
    );
    runs_arm(&vm, &arm_key())
}
