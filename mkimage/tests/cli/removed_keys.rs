//! `mkimage key remove`: an image without a key is the image that would have been made without it.

use std::fs;
use std::process::Output;

use crate::inputs::{Inputs, mkimage};

const BOB: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti bob\n";
const FINGERPRINT: &str = "SHA256:UCUiLr7Pjs9wFFJMDByLgc3NrtdU344OgUM45wZPcIQ";

/// Inputs with the keys of Ann, who has made them, and Bob.
fn inputs() -> Inputs {
    let inputs = Inputs::new();
    fs::copy(inputs.path("cpu_rsa.pub"), inputs.path("ann.pub")).expect("a key");
    inputs.write("bob.pub", BOB.as_bytes());
    inputs
}

fn key(inputs: &Inputs, arguments: &[&str]) -> Output {
    let mut command = mkimage(&[&["-q", "key"], arguments].concat());
    command.current_dir(inputs.dir()).output().expect("it runs")
}

/// The initramfs with these files of keys.
fn initramfs(inputs: &Inputs, keys: &[&str]) -> Vec<u8> {
    let keys: Vec<String> = keys
        .iter()
        .map(|name| format!("--key={}", inputs.path(name).display()))
        .collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    made(inputs, &[&["initramfs"], &keys[..]].concat())
}

fn made(inputs: &Inputs, arguments: &[&str]) -> Vec<u8> {
    let made = inputs.run(arguments);
    assert!(made.status.success(), "{made:?}");
    fs::read(inputs.path("initramfs.cpio.xz")).expect("an initramfs")
}

#[test]
fn the_image_is_the_one_that_would_have_been_made_without_the_key() {
    let inputs = inputs();
    let alone = initramfs(&inputs, &["ann.pub"]);
    for (word, option) in [
        ("bob.pub", &[][..]),
        (FINGERPRINT, &["--from", "initramfs.cpio.xz"]),
        ("bob", &["--to", "initramfs.cpio.xz"]),
    ] {
        assert_ne!(initramfs(&inputs, &["ann.pub", "bob.pub"]), alone);
        let removed = key(&inputs, &[&["remove", word], option].concat());
        assert!(removed.status.success(), "{removed:?}");
        let now = fs::read(inputs.path("initramfs.cpio.xz")).unwrap();
        assert!(now == alone, "{word}");
        // Nor does the key come back.
        assert!(made(&inputs, &["initramfs", "--again"]) == alone, "{word}");
    }
    // What was added can be removed, and added again.
    for _ in 0..2 {
        assert!(key(&inputs, &["add", "bob.pub"]).status.success());
        assert_ne!(fs::read(inputs.path("initramfs.cpio.xz")).unwrap(), alone);
        assert!(key(&inputs, &["remove", "bob.pub"]).status.success());
        assert!(made(&inputs, &["initramfs", "--again"]) == alone);
    }
}

#[test]
fn of_a_file_with_several_keys_the_others_come_back() {
    let inputs = inputs();
    let host = fs::read_to_string(inputs.path("ssh_host_ed25519_key.pub")).unwrap();
    inputs.write("team.pub", format!("{BOB}{host}").as_bytes());
    inputs.write("host.pub", host.as_bytes());
    let expected = initramfs(&inputs, &["ann.pub", "host.pub"]);
    initramfs(&inputs, &["ann.pub", "team.pub"]);
    assert!(key(&inputs, &["remove", "bob"]).status.success());
    assert!(made(&inputs, &["initramfs", "--again"]) == expected);
    assert!(key(&inputs, &["remove", "ann.pub"]).status.success());
    assert!(key(&inputs, &["add", "bob.pub"]).status.success());
    let expected = initramfs(&inputs, &["host.pub", "bob.pub"]);
    initramfs(&inputs, &["team.pub", "ann.pub"]);
    for words in [["remove", "bob"], ["remove", "ann.pub"], ["add", "bob.pub"]] {
        assert!(key(&inputs, &words).status.success());
    }
    assert!(made(&inputs, &["initramfs", "--again"]) == expected);
}

#[test]
fn what_cannot_be_removed_is_told_and_the_image_stays() {
    let inputs = inputs();
    let whole = initramfs(&inputs, &["ann.pub", "bob.pub"]);
    let both = [fs::read(inputs.path("ann.pub")).unwrap(), BOB.into()].concat();
    inputs.write("both.pub", &both);
    for (word, to, words) in [
        (
            "both.pub",
            "initramfs.cpio.xz",
            &["nobody could log in any more"][..],
        ),
        (
            "none.pub",
            "initramfs.cpio.xz",
            &["no key of", "none.pub", "mkimage inspect"],
        ),
        // A program that is called as the comment of another key is.
        ("cpud", "initramfs.cpio.xz", &["no key of", "comment cpud"]),
        (
            "cpu_rsa",
            "initramfs.cpio.xz",
            &["cpu_rsa holds a private key"],
        ),
        (
            "bob",
            "cpukernel",
            &["cannot remove a key from cpukernel", "inside the kernel"],
        ),
        ("bob", "none", &["none (--from)", "No such file"]),
        (
            "bob\x1b[2J",
            "initramfs.cpio.xz",
            &["comment bob\u{fffd}[2J,"],
        ),
    ] {
        let output = key(&inputs, &["remove", word, "--from", to]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{word} {to}: {told}");
        assert_eq!(told.lines().count(), 1, "{told}");
        for word in words {
            assert!(told.contains(word), "{word:?} is not in {told:?}");
        }
        assert!(fs::read(inputs.path("initramfs.cpio.xz")).unwrap() == whole);
    }
    // The comment of the key that is there, though a program is called so.
    assert!(key(&inputs, &["remove", "cpu"]).status.success());
}
