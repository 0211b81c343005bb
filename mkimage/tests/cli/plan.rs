//! One command makes what it needs: what is missing, and what is older than the files it is made of.

use std::fs::{self, File};
use std::process::Output;
use std::time::{Duration, SystemTime};

use crate::inputs::{Inputs, X86_64, elf, mkimage};

fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    text
}

#[test]
fn a_dry_run_in_an_empty_directory_shows_every_step_and_makes_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = mkimage(&["usb", "--dry-run", "--kernel-from", "compile"]);
    let output = command.current_dir(dir.path()).output().unwrap();
    said(&output);
    let stdout = String::from_utf8(output.stdout).unwrap();
    let arch = std::env::consts::ARCH;
    let expected = format!(
        "# there is no cpu_rsa.pub\nmkimage keys -o .\n\
         # there is no cpu\nmkimage programs -o . --arch {arch}\n\
         # there is no initramfs.cpio.xz\nmkimage initramfs -o . --arch {arch}\n\
         # there is no cpukernel\n# --kernel-from compile: as asked\n\
         mkimage kernel -o . --arch {arch} --kernel-from compile\n\
         mkimage usb --kernel-from compile\n"
    );
    assert_eq!(stdout, expected);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn an_initramfs_is_made_again_with_the_arguments_of_the_first_time() {
    let inputs = Inputs::new();
    let extra = format!("{}:/bin/tool", inputs.path("cpu").display());
    said(&inputs.run(&["initramfs", "--file", &extra]));
    let archive = inputs.path("initramfs.cpio.xz");
    let first = fs::read(&archive).unwrap();
    let age = |name: &str, seconds| {
        let time = SystemTime::now() - Duration::from_secs(seconds);
        let file = File::options().write(true).open(inputs.path(name));
        file.unwrap().set_modified(time).unwrap();
    };
    age("initramfs.cpio.xz", 60);
    age("cpukernel", 30);
    for name in ["cpu", "cpud", "cpu_rsa.pub", "ssh_host_ed25519_key"] {
        age(name, 90);
    }
    let quiet = said(&inputs.run(&["usb"]));
    assert!(!quiet.contains("initramfs"), "{quiet}");

    let mut program = elf(X86_64, false);
    program.extend(b"a newer version");
    inputs.write("cpud", &program);
    let told = said(&inputs.run(&["usb"]));
    assert!(
        told.contains("cpud is newer: mkimage initramfs --file "),
        "{told}"
    );
    // Nobody knows how this kernel was made.
    assert!(
        told.contains("cpukernel is used as it is, though initramfs.cpio.xz is new;"),
        "{told}"
    );
    assert_ne!(fs::read(&archive).unwrap(), first);
    let list = mkimage(&["initramfs", "--list", archive.to_str().unwrap()]).output();
    let list = String::from_utf8(list.unwrap().stdout).unwrap();
    assert!(list.contains("bin/tool"), "{list}");
}

#[test]
fn keys_are_made_for_an_initramfs_and_never_made_again() {
    let inputs = Inputs::new();
    for name in [
        "cpu_rsa",
        "cpu_rsa.pub",
        "cpu_rsa.hostkey",
        "ssh_host_ed25519_key",
        "ssh_host_ed25519_key.pub",
    ] {
        fs::remove_file(inputs.path(name)).unwrap();
    }
    let told = said(&inputs.run(&["initramfs"]));
    assert!(
        told.contains("there is no cpu_rsa.pub: mkimage keys -o "),
        "{told}"
    );
    let key = fs::read(inputs.path("cpu_rsa")).unwrap();
    said(&inputs.run(&["initramfs"]));
    assert_eq!(fs::read(inputs.path("cpu_rsa")).unwrap(), key);
}

#[test]
fn a_step_that_fails_is_the_last_one() {
    let inputs = Inputs::new();
    fs::remove_file(inputs.path("cpukernel")).unwrap();
    inputs.write("cpud", b"#!/bin/sh\n");
    let output = inputs.run(&["usb", "--kernel-from", "compile"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && told.contains("no 64-bit"),
        "{told}"
    );
    let last = "mkimage: without initramfs there is nothing to go on with";
    assert_eq!(told.lines().last(), Some(last), "{told}");
    assert!(!inputs.path("usbstick").exists());
}

#[test]
fn a_dry_run_makes_nothing_of_a_named_kernel_either() {
    let inputs = Inputs::new();
    let (before, kernel) = (inputs.names(), inputs.path("cpukernel"));
    for command in ["usb", "netboot", "bundle"] {
        let named = ["--dry-run", "--kernel", kernel.to_str().unwrap()];
        said(&inputs.run(&[&[command], &named[..]].concat()));
        assert_eq!(inputs.names(), before, "{command}");
    }
}

#[test]
fn no_keys_are_made_for_a_kernel_that_has_others() {
    let inputs = Inputs::new();
    fs::remove_file(inputs.path("ssh_host_ed25519_key")).unwrap();
    said(&inputs.run(&["bundle"]));
    // The pin beside the key is that of the kernel.
    assert!(!inputs.path("ssh_host_ed25519_key").exists());
    fs::remove_file(inputs.path("cpu_rsa.pub")).unwrap();
    for made in ["cpukernel", "initramfs.cpio.xz"] {
        let output = inputs.run(&["usb"]);
        let told = String::from_utf8_lossy(&output.stderr);
        let expected = format!("there is {}, but no", inputs.path(made).display());
        assert!(
            !output.status.success() && told.contains(&expected) && told.contains("--key"),
            "{told}"
        );
        fs::rename(inputs.path(made), inputs.path("initramfs.cpio.xz")).unwrap();
    }
}

#[test]
fn who_names_a_kernel_cannot_also_say_where_to_get_one() {
    let inputs = Inputs::new();
    let (before, kernel) = (inputs.names(), inputs.path("cpukernel"));
    for command in ["usb", "netboot", "bundle"] {
        let both = [
            "--kernel-from",
            "host",
            "--kernel",
            kernel.to_str().unwrap(),
        ];
        let output = inputs.run(&[&[command], &both[..]].concat());
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains("'--kernel-from <WHERE>'"), "{told}");
        assert_eq!(inputs.names(), before, "{command}");
    }
}

#[test]
fn an_initramfs_is_made_again_with_the_same_keys_when_told_so() {
    let inputs = Inputs::new();
    let archive = inputs.path("initramfs.cpio.xz");
    let list = || {
        let output = mkimage(&["initramfs", "--list", archive.to_str().unwrap()]).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let extra = format!("{}:/bin/tool", inputs.path("cpu").display());
    // Nothing is known of a last time.
    said(&inputs.run(&["initramfs", "--again"]));
    assert!(!list().contains("bin/tool"), "{}", list());
    said(&inputs.run(&["initramfs", "--file", &extra]));
    let told = said(&inputs.run(&["initramfs", "--again"]));
    assert!(
        told.contains("as the last time: mkimage initramfs --file "),
        "{told}"
    );
    assert!(list().contains("bin/tool"), "{}", list());
    // What would have no effect is refused.
    let both = inputs.run(&["initramfs", "--again", "--isolate"]);
    assert_eq!(both.status.code(), Some(2), "{both:?}");
    said(&inputs.run(&["initramfs"]));
    assert!(!list().contains("bin/tool"), "{}", list());
}
