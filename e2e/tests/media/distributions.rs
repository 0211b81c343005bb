//! Debian's kernels with their modules: from a package, as if the kernel ran here, on a stick, and for ARM.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::client::{Client, Home};
use e2e::image::{OVMF, cloud_kernel, debian_kernel, mkimage, runs_arm};
use e2e::vm::Vm;
use e2e::{out, root};

use crate::Test;
use crate::screen::{GOP, VGA, is_shown};

pub(crate) const TESTS: &[Test] = &[
    ("debians_kernel_boots_and_loads_its_modules", debian),
    ("debians_kernel_boots_from_a_stick_under_uefi", debian_stick),
    ("the_kernel_that_runs_here_is_taken", host_kernel),
    (
        "debians_kernel_for_clouds_has_no_9p_and_serves_by_fuse",
        cloud,
    ),
    ("debians_kernel_for_arm_boots_and_runs_arm_programs", arm),
];

/// VLANs are there at once; a device's module comes when it is opened, a link's and a file system's when one is made.
const ON_DEMAND: &str = "set -ex; exec 2>&1
    loaded() { grep \"^$1 \" /proc/modules; }
    loaded 8021q; ! loaded tun; : <>/dev/net/tun; loaded tun
    ip link add br7 type bridge; loaded bridge; ip link del br7
    truncate -s 32M /tmp/disk; mkfs.ext4 -q /tmp/disk; mkdir /tmp/mounted
    mount -o loop /tmp/disk /tmp/mounted; loaded loop; loaded ext4; df -t ext4 /tmp/mounted
    mount -t binfmt_misc none /proc/sys/fs/binfmt_misc; ls /proc/sys/fs/binfmt_misc/register";

/// The files that mkimage needs beside a kernel, of the machine that make has built in `made`.
pub(crate) fn machine_of(made: &Path) -> Result<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    for name in ["initramfs.cpio.xz", "cpu", "cpu_rsa.pub", "cpu_rsa.hostkey"] {
        std::fs::copy(made.join(name), directory.path().join(name))?;
    }
    Ok(directory)
}

/// Debian's kernel, with few modules since packing all takes a minute.
pub(crate) fn take(directory: &Path, package: &Path, more: &[&str]) -> Result<()> {
    let modules = "virtio_net,virtio_pci,e1000,9p,9pnet_fd,af_packet,virtio_rng";
    let mut words = vec!["kernel", "--modules", modules, "--from-deb"];
    words.push(package.to_str().context("a path that is not UTF-8")?);
    words.extend(more);
    mkimage(directory, &words)
}

fn runs_on_debian(vm: &Vm, key: &Path) -> Result<()> {
    let home = Home::new()?;
    let client = Client::new(vm.port(), &home).with_key(key);
    let stdout = client.sh_ok("date +%s; uname -rn; cat /proc/modules")?;
    let mut lines = stdout.lines();
    let seconds: i64 = lines.next().context("no date")?.parse()?;
    ensure!(seconds > 1_700_000_000, "{stdout}");
    let name = lines.next().context("no name")?;
    ensure!(
        name.starts_with("cpu ") && name.contains("+deb"),
        "{stdout}"
    );
    // The card's module is found by its device, the file system's by the kernel's call of modprobe.
    for module in ["virtio_net ", "9p ", "9pnet_fd "] {
        ensure!(
            stdout.lines().any(|line| line.starts_with(module)),
            "no {module}in {stdout}"
        );
    }
    Ok(())
}

fn debian() -> Result<()> {
    let directory = machine_of(&out())?;
    take(directory.path(), &debian_kernel("amd64")?, &[])?;
    let vm = Vm::boot_kernel(&directory.path().join("cpukernel"), &[])?;
    runs_on_debian(&vm, &out().join("cpu_rsa"))?;
    let home = Home::new()?;
    is_shown(&vm, &Client::new(vm.port(), &home), VGA)
}

/// Debian's kernel again, as if it were this machine's own: where its package would have put it.
fn host_kernel() -> Result<()> {
    let directory = machine_of(&out())?;
    let script = "dpkg-deb -x \"$1\" \"$2/tree\" && mkdir -p /boot && \
                  mount --bind \"$2/tree/boot\" /boot && mount -t overlay overlay \
                  -o lowerdir=\"$2/tree/lib\":/usr/lib /usr/lib && \"$3\" kernel -q --host-kernel \
                  --modules 'virtio_*,e1000*,9p,9pnet_fd,af_packet' -o \"$2\"";
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .args([
            &debian_kernel("amd64")?,
            directory.path(),
            &out().join("mkimage"),
        ])
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
    let (vm, key) = (Vm::start(script)?, made.join("cpu_rsa"));
    runs_on_debian(&vm, &key)?;
    let home = Home::new()?;
    let client = Client::new(vm.port(), &home).with_key(&key);
    is_shown(&vm, &client, GOP)?;
    client.sh_ok(ON_DEMAND)?;
    Ok(())
}

/// The modules are the default ones: no file system is asked for by its name.
fn cloud() -> Result<()> {
    let directory = machine_of(&out())?;
    let package = cloud_kernel()?;
    let package = package.to_str().context("a path that is not UTF-8")?;
    mkimage(directory.path(), &["kernel", "--from-deb", package])?;
    let vm = Vm::boot_kernel(&directory.path().join("cpukernel"), &[])?;
    let home = Home::new()?;
    let client = Client::new(vm.port(), &home);
    let stdout = client.sh_ok(
        "date +%s; uname -r; grep 9p /proc/filesystems /proc/modules; findmnt -no FSTYPE /tmp/cpu",
    )?;
    let lines: Vec<&str> = stdout.lines().collect();
    let [seconds, release, "fuse"] = lines[..] else {
        bail!("{stdout}");
    };
    ensure!(seconds.parse::<i64>()? > 1_700_000_000, "{stdout}");
    ensure!(release.ends_with("-cloud-amd64"), "{stdout}");
    let (read, written) = (home.path().join("read"), home.path().join("written"));
    std::fs::write(&read, "from here\n")?;
    client.sh_ok("cd && sed s/here/there/ read >new && mv new written")?;
    ensure!(std::fs::read_to_string(written)? == "from there\n");
    Ok(())
}

/// The programs of `make ARCH=aarch64 OUT=out/quick-aarch64 initramfs`.
fn arm() -> Result<()> {
    let made = root().join("out/quick-aarch64");
    let directory = machine_of(&made)?;
    take(
        directory.path(),
        &debian_kernel("arm64")?,
        &["--arch", "aarch64"],
    )?;
    let mut script = Command::new(root().join("qemu/run"));
    script
        .env("ARCH", "aarch64")
        .env("KERNEL", directory.path().join("cpukernel"));
    runs_arm(&Vm::start(script)?, &made.join("cpu_rsa"))
}
