//! `mkimage key add`: an image with one more key is the image that would have been made with it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::process::Output;

use crate::inputs::{Inputs, mkimage};

const BOB: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti bob\n";

fn inputs() -> Inputs {
    let inputs = Inputs::new();
    inputs.write("bob.pub", BOB.as_bytes());
    inputs
}

/// What `mkimage key add` says, in the directory of the inputs.
fn add(inputs: &Inputs, arguments: &[&str]) -> Output {
    let mut command = mkimage(&[&["key", "add"], arguments].concat());
    command.current_dir(inputs.dir()).output().expect("it runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn inspected(inputs: &Inputs, name: &str) -> String {
    let path = inputs.path(name);
    let mut command = mkimage(&["inspect", path.to_str().expect("UTF-8")]);
    let output = command.output().expect("it runs");
    String::from_utf8(output.stdout).expect("text")
}

fn initramfs(inputs: &Inputs, more: &[&str]) {
    let made = inputs.run(&[&["initramfs"], more].concat());
    assert!(made.status.success(), "{made:?}");
}

#[test]
fn the_image_is_the_one_that_would_have_been_made_with_both_keys() {
    let inputs = inputs();
    let [ann, bob] = ["cpu_rsa.pub", "bob.pub"].map(|name| inputs.path(name).display().to_string());
    for (form, name) in [
        ("xz", "initramfs.cpio.xz"),
        ("zstd", "initramfs.cpio.zst"),
        ("gzip", "initramfs.cpio.gz"),
        ("none", "initramfs.cpio"),
    ] {
        let both = ["--key", &ann, "--key", &bob, "--compress", form];
        initramfs(&inputs, &both);
        let expected = fs::read(inputs.path(name)).unwrap();
        initramfs(&inputs, &["--compress", form]);
        assert_ne!(fs::read(inputs.path(name)).unwrap(), expected);
        let added = add(&inputs, &["bob.pub", "--to", name]);
        assert!(added.status.success(), "{added:?}");
        assert!(fs::read(inputs.path(name)).unwrap() == expected, "{form}");
        let mode = inputs.path(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let shown = inspected(&inputs, "initramfs.cpio.xz");
    assert_eq!(
        shown.matches("key ssh-ed25519 SHA256:").count(),
        2,
        "{shown}"
    );
    assert!(shown.contains(" bob\n"), "{shown}");
}

#[test]
fn a_key_that_is_there_changes_nothing() {
    let inputs = inputs();
    initramfs(&inputs, &[]);
    let added = add(&inputs, &["bob.pub"]);
    assert!(said(&added).contains("2 keys may log in"), "{added:?}");
    let before = fs::metadata(inputs.path("initramfs.cpio.xz")).unwrap();
    let again = add(&inputs, &["bob.pub"]);
    assert!(again.status.success(), "{again:?}");
    assert!(
        said(&again).contains("has the keys of bob.pub already"),
        "{again:?}"
    );
    let after = fs::metadata(inputs.path("initramfs.cpio.xz")).unwrap();
    assert_eq!(
        (before.ino(), before.mtime_nsec()),
        (after.ino(), after.mtime_nsec())
    );
}

#[test]
fn an_isolated_key_is_added_as_such_and_a_link_stays_one() {
    let inputs = inputs();
    initramfs(&inputs, &["--isolate"]);
    symlink("initramfs.cpio.xz", inputs.path("link")).unwrap();
    let added = add(&inputs, &["bob.pub", "--isolate", "--to", "link"]);
    assert!(
        added.status.success() && !said(&added).contains("keys may log in"),
        "{added:?}"
    );
    assert!(inputs.path("link").is_symlink());
    let shown = inspected(&inputs, "initramfs.cpio.xz");
    assert_eq!(shown.matches(", isolated\n").count(), 2, "{shown}");
}

#[test]
fn an_initramfs_that_is_made_again_keeps_the_keys_that_were_added() {
    let inputs = inputs();
    initramfs(&inputs, &[]);
    let host = fs::read_to_string(inputs.path("ssh_host_ed25519_key.pub")).unwrap();
    inputs.write("third.pub", host.as_bytes());
    for key in ["bob.pub", "third.pub"] {
        assert!(add(&inputs, &[key]).status.success());
        fs::remove_file(inputs.path(key)).unwrap();
    }
    let added = fs::read(inputs.path("initramfs.cpio.xz")).unwrap();
    inputs.write(
        "cpud",
        &[fs::read(inputs.path("cpud")).unwrap(), vec![7]].concat(),
    );
    initramfs(&inputs, &["--again"]);
    assert_ne!(fs::read(inputs.path("initramfs.cpio.xz")).unwrap(), added);
    let shown = inspected(&inputs, "initramfs.cpio.xz");
    assert_eq!(
        shown.matches("key ssh-ed25519 SHA256:").count(),
        3,
        "{shown}"
    );
    // Who says which keys are wanted says which are not.
    initramfs(&inputs, &[]);
    let shown = inspected(&inputs, "initramfs.cpio.xz");
    assert_eq!(
        shown.matches("key ssh-ed25519 SHA256:").count(),
        1,
        "{shown}"
    );
}

#[test]
fn what_cannot_be_done_is_refused_and_the_image_stays() {
    let inputs = inputs();
    initramfs(&inputs, &[]);
    let made = inputs.run(&["usb", "--size", "36M"]);
    assert!(made.status.success(), "{made:?}");
    let good = fs::read_to_string(inputs.path("cpu_rsa.pub")).unwrap();
    inputs.write("text", b"hello");
    inputs.write("bad.pub", format!("permitopen=\"a:1\" {BOB}").as_bytes());
    inputs.write("same.pub", format!("isolate {good}").as_bytes());
    inputs.write("out.pub", format!("@revoked {good}").as_bytes());
    let whole = fs::read(inputs.path("initramfs.cpio.xz")).unwrap();
    inputs.write("cut.cpio.xz", &whole[..whole.len() / 2]);
    fs::create_dir(inputs.path("theirs")).unwrap();
    inputs.write("theirs/cpukernel", &crate::inputs::kernel());
    inputs.write("theirs/cpuinitrd", b"");
    let image = "initramfs.cpio.xz";
    for (key, to, words) in [
        (
            "bob.pub",
            "cpukernel",
            &["cpukernel", "inside the kernel", "run mkimage kernel"][..],
        ),
        ("bob.pub", "usbstick", &["usbstick", "inside the kernel"]),
        ("bob.pub", "usbstick.xz", &["usbstick.xz", "xz -dk"]),
        (
            "bob.pub",
            "theirs/cpukernel",
            &["is beside it", "theirs/cpuinitrd"],
        ),
        ("bob.pub", "text", &["text", "neither an initramfs"]),
        ("bob.pub", "cut.cpio.xz", &["cut.cpio.xz", "damaged"]),
        ("bob.pub", "none", &["none", "No such file"]),
        ("bob.pub", "/dev/null", &["/dev/null is no file"]),
        ("none.pub", image, &["none.pub", "No such file"]),
        (
            "cpu_rsa",
            image,
            &["cpu_rsa holds a private key", "FILE.pub"],
        ),
        (
            "bad.pub",
            image,
            &["bad.pub", "line 1 has options (permitopen"],
        ),
        (
            "same.pub",
            image,
            &["same.pub", "with other options", "initramfs --key"],
        ),
        (
            "out.pub",
            image,
            &["nobody could log in any more", "out.pub"],
        ),
    ] {
        let before = (inputs.names(), fs::read(inputs.path(to)).ok());
        let output = add(&inputs, &["-q", key, "--to", to]);
        let told = said(&output);
        assert_eq!(output.status.code(), Some(1), "{key} {to}: {told}");
        assert_eq!(told.lines().count(), 1, "{told}");
        for word in words {
            assert!(told.contains(word), "{word:?} is not in {told:?}");
        }
        assert!(
            before == (inputs.names(), fs::read(inputs.path(to)).ok()),
            "{to}"
        );
    }
}
