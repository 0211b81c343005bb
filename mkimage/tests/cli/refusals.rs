//! Bad input: one line that says what, on what and what to do, and nothing is written.

use crate::inputs::{AARCH64, Inputs, X86_64, elf, mkimage};

/// The one line that mkimage says about it.
fn refused(inputs: &Inputs, arguments: &[&str]) -> String {
    let before = inputs.names();
    // Without the progress lines.
    let output = inputs.run(&[&["-q"], arguments].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success(),
        "{arguments:?} was accepted: {said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("mkimage: "), "{said}");
    assert_eq!(inputs.names(), before, "{arguments:?} wrote something");
    said
}

fn says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said:?}");
    }
}

#[test]
fn a_cpud_that_could_not_run() {
    let inputs = Inputs::new();
    inputs.write("cpud", &elf(AARCH64, false));
    let said = refused(&inputs, &["initramfs"]);
    says(&said, &["cpud", "for aarch64, and the machine is x86_64"]);
    inputs.write("cpud", &elf(X86_64, true));
    let said = refused(&inputs, &["initramfs"]);
    says(&said, &["cpud", "not static", "musl"]);
    inputs.write("cpud", b"#!/bin/sh\n");
    says(&refused(&inputs, &["initramfs"]), &["cpud", "no 64-bit"]);
}

#[test]
fn a_rom_that_is_none_or_would_be_overwritten() {
    let inputs = Inputs::new();
    inputs.write("rom", &[0xff; 4096]);
    let rom = inputs.path("rom").display().to_string();
    let said = refused(&inputs, &["flash", "--rom", &rom, "--remove", "usb"]);
    says(&said, &["rom", "no ROM of UEFI firmware"]);
    let output = mkimage(&["flash", "--rom", &rom, "--list"])
        .output()
        .unwrap();
    assert_eq!((output.status.code(), output.stdout), (Some(1), Vec::new()));
    says(
        &String::from_utf8_lossy(&output.stderr),
        &["cannot list", "rom", "no ROM of UEFI firmware"],
    );
    says(
        &refused(&inputs, &["flash", "--rom", &rom]),
        &["nothing to do"],
    );
    let over = ["flash", "--rom", &rom, "--remove", "usb", "-o", &rom];
    let output = mkimage(&over).output().unwrap();
    assert!(!output.status.success());
    says(
        &String::from_utf8_lossy(&output.stderr),
        &["rom is the ROM itself"],
    );
    inputs.write("driver.ffs", b"a driver");
    let driver = inputs.path("driver.ffs").display().to_string();
    let over = ["flash", "--rom", &rom, "--insert", &driver, "-o", &driver];
    let output = mkimage(&over).output().unwrap();
    assert!(!output.status.success());
    says(
        &String::from_utf8_lossy(&output.stderr),
        &["driver.ffs is what is put into the ROM"],
    );
}

#[test]
fn keys_that_are_none_or_the_wrong_half() {
    let inputs = Inputs::new();
    let private = inputs.path("cpu_rsa").display().to_string();
    let said = refused(&inputs, &["initramfs", "--key", &private]);
    says(&said, &["private key", "FILE.pub"]);
    says(
        &refused(&inputs, &["usb", "--key", &private]),
        &["private key"],
    );
    inputs.write("bad", b"# a comment\nssh-ed25519 AAAA\n");
    let bad = inputs.path("bad").display().to_string();
    let said = refused(&inputs, &["initramfs", "--key", &bad]);
    says(&said, &["bad has no key", "line 2 is not a public key"]);
    // A file of another kind has many such lines.
    inputs.write("bad", "daemon:x:1:1\n".repeat(40).as_bytes());
    let said = refused(&inputs, &["initramfs", "--key", &bad]);
    says(&said, &["line 3 is not a public key", ": and 37 more"]);
    assert!(said.len() < 500, "{said}");
    let public = std::fs::read_to_string(inputs.path("cpu_rsa.pub")).unwrap();
    inputs.write("bad", format!("permitopen=\"a:1\" {public}").as_bytes());
    for command in ["initramfs", "usb"] {
        let said = refused(&inputs, &[command, "--key", &bad]);
        says(
            &said,
            &["could log in: line 1 has options (permitopen=\"a:1\")"],
        );
    }

    // One valid line is enough; the others are reported.
    let mixed = format!("{public}permitopen=\"a:1\" {public}restrict {public}");
    inputs.write("mixed", mixed.as_bytes());
    let mixed = inputs.path("mixed").display().to_string();
    let made = inputs.run(&["initramfs", "--key", &mixed]);
    let told = "line 2 has options (permitopen=\"a:1\"), which are not supported; it is left out";
    says(&String::from_utf8_lossy(&made.stderr), &["mixed: ", told]);
    assert!(made.status.success(), "{made:?}");
    let archive = inputs.path("initramfs.cpio.xz").display().to_string();
    let inspected = mkimage(&["inspect", &archive]).output().unwrap();
    let said = String::from_utf8_lossy(&inspected.stdout).into_owned();
    says(
        &said,
        &[
            "/key.pub: may log in",
            told,
            ", with options that limit it\n",
        ],
    );
    assert_eq!(said.matches("key ssh-ed25519 SHA256:").count(), 2, "{said}");
    assert_eq!(said.matches("with options").count(), 1, "{said}");
}

#[test]
fn authorities_and_revoked_keys_are_in_the_image_and_shown() {
    let inputs = Inputs::new();
    let public = std::fs::read_to_string(inputs.path("cpu_rsa.pub")).unwrap();
    let host = std::fs::read_to_string(inputs.path("ssh_host_ed25519_key.pub")).unwrap();
    let lines = format!("cert-authority,principals=\"ops,night\" {public}@revoked {host}");
    inputs.write("ca", lines.as_bytes());
    let authority = inputs.path("ca").display().to_string();
    let made = inputs.run(&["initramfs", "--key", &authority]);
    assert!(made.status.success(), "{made:?}");
    let archive = inputs.path("initramfs.cpio.xz").display().to_string();
    let inspected = mkimage(&["inspect", &archive]).output().unwrap();
    let said = String::from_utf8_lossy(&inspected.stdout).into_owned();
    says(
        &said,
        &[
            "/key.pub: may log in",
            "certificates of the CA ssh-ed25519 SHA256:",
            ", for ops, night\n",
            "revoked key ssh-ed25519 SHA256:",
        ],
    );
    assert!(!said.contains("with options"), "{said}");
    inputs.write("ca", format!("{lines}@revoked {public}").as_bytes());
    let said = refused(&inputs, &["initramfs", "--key", &authority]);
    says(&said, &["no key in it that could log in", "line 3 revokes"]);
}

#[test]
fn files_that_are_not_there() {
    let inputs = Inputs::new();
    let said = refused(&inputs, &["initramfs", "--file", "/no/such/tool:/bin/tool"]);
    says(&said, &["--file", "/no/such/tool", "No such file"]);
    let said = refused(&inputs, &["usb", "--kernel", "/no/such/kernel"]);
    says(&said, &["/no/such/kernel", "mkimage kernel"]);
}

#[test]
fn words_that_are_not_understood() {
    let inputs = Inputs::new();
    says(
        &refused(&inputs, &["usb", "--size", "64X"]),
        &["64X", "--size"],
    );
    says(
        &refused(&inputs, &["usb", "--sise", "64M"]),
        &["--sise", "--size"],
    );
    says(
        &refused(&inputs, &["initramfs", "--file", "x"]),
        &["SRC:DST"],
    );
    says(&refused(&inputs, &["stick"]), &["stick"]);
}

#[test]
fn a_stick_that_is_too_small_or_not_a_stick() {
    let inputs = Inputs::new();
    says(&refused(&inputs, &["usb", "--size", "8M"]), &["36M"]);
    inputs.write("cpu.config", &vec![b'#'; 40 << 20]);
    let said = refused(&inputs, &["usb", "--size", "40M"]);
    says(&said, &["do not fit", "--size"]);
    let file = inputs.path("cpu").display().to_string();
    // Before a kernel is made, which takes minutes.
    std::fs::remove_file(inputs.path("cpukernel")).unwrap();
    let said = refused(&inputs, &["usb", "--device", &file]);
    says(&said, &["no disk", "/dev/sdX"]);
}

#[test]
fn a_kernel_that_is_none_or_for_another_machine() {
    let inputs = Inputs::new();
    let said = refused(&inputs, &["usb", "--arch", "aarch64"]);
    says(&said, &["kernel for x86_64, and the machine is aarch64"]);
    inputs.write("cpukernel", b"hello");
    says(&refused(&inputs, &["usb"]), &["no kernel"]);
    says(
        &refused(&inputs, &["netboot", "--subnet", "10.0.0.0"]),
        &["no kernel"],
    );
}

#[test]
fn options_that_a_kernel_of_others_cannot_have() {
    let inputs = Inputs::new();
    assert!(inputs.run(&["initramfs"]).status.success());
    let kernel = inputs.path("cpukernel").display().to_string();
    for option in [
        "--config=usb",
        "--set=CONFIG_X=y",
        "--hardened",
        "--max-size=9",
    ] {
        let said = refused(&inputs, &["kernel", "--host-kernel", option]);
        says(&said, &["cannot be used with"]);
    }
    let said = refused(&inputs, &["kernel", "--kernel", &kernel]);
    says(&said, &["--modules-dir"]);
    let said = refused(&inputs, &["kernel", "--modules", "usb"]);
    says(&said, &["--from-package"]);
    let said = refused(&inputs, &["kernel", "--from-deb", &kernel]);
    says(&said, &["no package of Debian", "Arch"]);
    let said = refused(&inputs, &["kernel", "--from-deb", "/no/such.deb"]);
    says(&said, &["/no/such.deb", "No such file"]);
}

/// A package of Alpine for a machine, with a kernel that is none.
fn package(machine: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let info = format!("pkgname = linux-lts\narch = {machine}\n");
    for (name, bytes) in [(".PKGINFO", info.as_bytes()), ("boot/vmlinuz-lts", b"text")] {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        archive
            .append_data(&mut header, name, bytes)
            .expect("memory");
    }
    let archive = archive.into_inner().expect("memory");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &archive).expect("memory");
    encoder.finish().expect("memory")
}

#[test]
fn packages_that_are_damaged_or_for_another_machine() {
    let inputs = Inputs::new();
    assert!(inputs.run(&["initramfs"]).status.success());
    let whole = package("x86_64");
    inputs.write("whole.apk", &whole);
    inputs.write("cut.apk", &whole[..whole.len() - 9]);
    inputs.write("arm.apk", &package("aarch64"));
    for (name, words) in [
        ("whole.apk", &["whole.apk", "it is no kernel"][..]),
        ("cut.apk", &["cut.apk", "damaged or truncated"]),
        (
            "arm.apk",
            &["arm.apk", "for aarch64, and the machine is x86_64"],
        ),
        ("cpu", &["cpu", "no package of Debian"]),
        ("none.rpm", &["none.rpm", "No such file"]),
    ] {
        let path = inputs.path(name).display().to_string();
        for option in ["--from-package", "--kernel-from"] {
            says(&refused(&inputs, &["kernel", option, &path]), words);
        }
    }
    let said = refused(&inputs, &["kernel", "--kernel-from", "packag"]);
    says(&said, &["packag", "auto, compile, package, host"]);
}

#[test]
fn tools_that_are_missing_are_named_with_their_packages() {
    let inputs = Inputs::new();
    let output = inputs
        .command(&["usb"])
        .env("PATH", "/nonexistent")
        .output();
    let said = String::from_utf8(output.unwrap().stderr).unwrap();
    says(
        &said,
        &[
            "missing: syslinux, mcopy",
            "apt-get install syslinux mtools",
        ],
    );
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn an_initramfs_that_is_damaged() {
    let inputs = Inputs::new();
    assert!(inputs.run(&["initramfs"]).status.success());
    let whole = std::fs::read(inputs.path("initramfs.cpio.xz")).unwrap();
    inputs.write("cut", &whole[..whole.len() / 2]);
    let cut = inputs.path("cut").display().to_string();
    for arguments in [
        &["initramfs", "--append", &cut][..],
        &["kernel", "--initramfs", &cut],
    ] {
        says(&refused(&inputs, arguments), &["cut", "truncated"]);
    }
}

#[test]
fn keys_that_are_there_stay_as_they_are() {
    let inputs = Inputs::new();
    let said = refused(&inputs, &["keys"]);
    says(&said, &["cpu_rsa exists", "-o"]);
}

#[test]
fn without_a_command_all_of_them_are_listed() {
    let output = crate::inputs::mkimage(&[]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    says(&said, &["keys ", "initramfs ", "usb ", "flash "]);
}
