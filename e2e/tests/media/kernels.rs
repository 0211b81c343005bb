//! Other kernels than the general one: a distribution's with its modules, the one for flash ROMs, those of
//! another architecture.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use e2e::client::{Client, Home};
use e2e::vm::Vm;
use e2e::{out, root, tree};

use crate::Test;
use crate::stick::OVMF;

pub(crate) const TESTS: &[Test] = &[
    ("debians_kernel_boots_and_loads_its_modules", debian),
    ("debians_kernel_boots_from_a_stick_under_uefi", debian_stick),
    ("flash_kernel_boots_under_uefi_and_is_small", flash),
    ("the_kernel_that_runs_here_is_taken", host_kernel),
    (
        "everything_on_usb_and_the_kernel_is_locked_down",
        usb_and_hardened,
    ),
    ("an_arm_machine_boots_and_runs_arm_programs", arm),
    ("an_arm_stick_boots_under_uefi", arm_stick),
    ("an_arm_stick_boots_under_u_boot", arm_stick_u_boot),
];

/// The package that scripts/deps has fetched.
fn package() -> Result<PathBuf> {
    let debs = e2e::cache()?.join("debs");
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

fn runs_on_debian(vm: &Vm, key: &Path) -> Result<()> {
    let home = Home::new()?;
    let client = Client::new(vm.port(), &home).with_key(key);
    let said = client.sh_ok("date +%s; uname -rn; cat /proc/modules")?;
    let mut lines = said.lines();
    let seconds: i64 = lines.next().context("no date")?.parse()?;
    ensure!(seconds > 1_700_000_000, "{said}");
    let name = lines.next().context("no name")?;
    ensure!(name.starts_with("cpu ") && name.contains("+deb"), "{said}");
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
    runs_on_debian(&vm, &out().join("cpu_rsa"))
}

/// Debian's kernel again, as if it were this machine's own: where its package would have put it.
fn host_kernel() -> Result<()> {
    let directory = tempfile::tempdir()?;
    for name in ["initramfs.cpio.xz", "cpu", "cpu_rsa.pub", "cpu_rsa.hostkey"] {
        std::fs::copy(out().join(name), directory.path().join(name))?;
    }
    let script = "dpkg-deb -x \"$1\" \"$2/tree\" && mkdir -p /boot && \
                  mount --bind \"$2/tree/boot\" /boot && mount -t overlay overlay \
                  -o lowerdir=\"$2/tree/lib\":/usr/lib /usr/lib && \"$3\" kernel -q --host-kernel \
                  --modules 'virtio_*,e1000*,9p,9pnet_fd,af_packet' -o \"$2\"";
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .args([&package()?, directory.path(), &out().join("mkimage")])
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    let vm = Vm::boot_kernel(&directory.path().join("cpukernel"), &[])?;
    runs_on_debian(&vm, &out().join("cpu_rsa"))
}

/// The stick of `make stick`: every module and the quick profile.
fn debian_stick() -> Result<()> {
    let made = root().join("out/quick");
    let image = made.join("usbstick");
    ensure!(image.exists(), "no {}: make stick", image.display());
    let mut script = Command::new("bash");
    script
        .arg(root().join("qemu/QEMU"))
        .args(["-nographic", "-snapshot", "-drive", OVMF, "-hda"])
        .arg(image);
    runs_on_debian(&Vm::start(script)?, &made.join("cpu_rsa"))
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
    mkimage(directory.path(), &["usb", "--kernel"], Some(&kernel))?;
    let vm = boot_stick(directory.path(), &["-drive", OVMF], "x86_64")?;
    crate::runs_date(&vm)
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
    let said = client.sh_ok(
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
        ensure!(said.contains(expected), "no {expected} in {said}");
    }
    ensure!(said.matches("No such file").count() == 4, "{said}");
    Ok(())
}

fn boot_stick(directory: &Path, firmware: &[&str], arch: &str) -> Result<Vm> {
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

fn arm_out() -> PathBuf {
    root().join("out/aarch64")
}

/// Nothing of this machine can run there: Debian's `uname` for ARM and its libraries in a tree of their own, then
/// busybox's in the place of this machine's `/bin`.
fn runs_arm(vm: &Vm) -> Result<()> {
    let (root, bin) = (tempfile::tempdir()?, tempfile::tempdir()?);
    tree::debian("arm64", root.path())?;
    tree::busybox(root.path(), bin.path(), &["uname"])?;
    for flags in [
        &["-root", &root.path().display().to_string()][..],
        &["-namespace", &format!("/bin={}", bin.path().display())],
    ] {
        let output = Command::new(out().join("cpu"))
            .arg("-key")
            .arg(arm_out().join("cpu_rsa"))
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

fn arm() -> Result<()> {
    let mut script = Command::new(root().join("qemu/run"));
    script
        .env("ARCH", "aarch64")
        .env("KERNEL", arm_out().join("cpukernel"));
    runs_arm(&Vm::start(script)?)
}

fn arm_stick_made() -> Result<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    for name in ["cpukernel", "cpu", "cpu_rsa.pub"] {
        std::fs::copy(arm_out().join(name), directory.path().join(name))?;
    }
    mkimage(directory.path(), &["usb", "--arch", "aarch64"], None)?;
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
    runs_arm(&boot_stick(
        directory.path(),
        &["-drive", &firmware],
        "aarch64",
    )?)
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
    runs_arm(&vm)
}
