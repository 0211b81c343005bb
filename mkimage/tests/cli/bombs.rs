//! Small files that unpack to very much: each is refused in one line, within 512 MB of memory, little disk and a few
//! seconds of processor time, and honest ones are not.

use std::io::{self, Read, Write as _};
use std::process::{Command, Output};

use crate::inputs::Inputs;

/// Bytes of memory, of any file, and seconds of processor time that mkimage gets.
const MEMORY: u64 = 512_000_000;
const FILE: u64 = 100_000_000;
const SECONDS: u64 = 20;

const MIB: u64 = 1 << 20;

/// What mkimage says when it has no more than that.
fn run(inputs: &Inputs, arguments: &[&str]) -> Output {
    let [memory, file] = [MEMORY, FILE].map(|limit| (limit / 1024).to_string());
    let script = "ulimit -v $1 -t $2; ulimit -f $3; shift 3; exec \"$@\"";
    let mut command = Command::new("bash");
    command.args(["-c", script, "bash", &memory, &SECONDS.to_string(), &file]);
    command.arg(env!("CARGO_BIN_EXE_mkimage"));
    command.arg("-q").args(arguments);
    command.env("TMPDIR", inputs.dir());
    command.output().expect("bash runs")
}

fn refused(inputs: &Inputs, arguments: &[&str], words: &[&str]) {
    let output = run(inputs, arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
    assert_eq!(said.lines().count(), 1, "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said:?}");
    }
}

fn accepted(inputs: &Inputs, arguments: &[&str]) -> String {
    let output = run(inputs, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn xz(mut from: impl Read) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
    io::copy(&mut from, &mut encoder).expect("xz");
    encoder.finish().expect("xz")
}

fn zstd(mut from: impl Read) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("zstd");
    io::copy(&mut from, &mut encoder).expect("zstd");
    encoder.finish().expect("zstd")
}

fn gzip(mut from: impl Read) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    io::copy(&mut from, &mut encoder).expect("gzip");
    encoder.finish().expect("gzip")
}

fn zeros(length: u64) -> impl Read {
    io::repeat(0).take(length)
}

/// The header of a file of so many bytes in a tar archive.
fn tar_header(name: &str, length: u64) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).expect("a short name");
    header.set_size(length);
    header.set_mode(0o644);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// A Debian package for x86_64 with this `data.tar.xz`.
fn package(data: &[u8]) -> Vec<u8> {
    let control = b"Package: x\nArchitecture: amd64\n";
    let mut tar = tar_header("control", control.len() as u64);
    tar.extend(control);
    tar.resize(2048, 0);
    let mut package = b"!<arch>\n".to_vec();
    for (name, bytes) in [("control.tar", &tar[..]), ("data.tar.xz", data)] {
        let size = bytes.len();
        writeln!(package, "{name:<16}{:<32}{size:<10}`", 0).expect("memory");
        package.extend(bytes);
        package.resize(package.len().next_multiple_of(2), b'\n');
    }
    package
}

#[test]
fn an_initramfs_that_becomes_very_large() {
    let inputs = Inputs::new();
    assert!(inputs.run(&["initramfs"]).status.success());
    let file = |name: &str| inputs.path(name).display().to_string();
    let dir = inputs.dir().display().to_string();
    // Each of 1.5 GiB: one with many parts, one that begins as a newc archive.
    inputs.write("zstd", &zstd(zeros(1536 * MIB)));
    inputs.write("gzip", &gzip(zeros(300 * MIB)));
    inputs.write("parts", &xz(zeros(30 * MIB)).repeat(50));
    let entry = b"070701000000010000A1ED000000000000000000000001000000007FFFFFF0000000000000000000000000000000000000000200000000x\0";
    inputs.write("xz", &xz(entry.chain(zeros(200 * MIB))));
    for name in ["zstd", "gzip", "xz"] {
        let length = inputs.path(name).metadata().expect("the bomb").len();
        assert!(length < 2 * MIB, "{name} has {length} bytes");
        let path = file(name);
        let words = [&path, "unpack to more than", "unpack it yourself"];
        refused(&inputs, &["initramfs", "--list", &path], &words);
        refused(&inputs, &["inspect", &path], &words);
        refused(
            &inputs,
            &["initramfs", "-o", &dir, "--append", &path],
            &words,
        );
        refused(
            &inputs,
            &["kernel", "-o", &dir, "--initramfs", &path],
            &words,
        );
    }
    refused(&inputs, &["inspect", &file("parts")], &[&file("parts")]);

    let whole = file("initramfs.cpio.xz");
    assert!(accepted(&inputs, &["initramfs", "--list", &whole]).contains(" key.pub\n"));
    assert!(accepted(&inputs, &["inspect", &whole]).contains("may log in"));
    accepted(&inputs, &["initramfs", "-o", &dir, "--append", &whole]);
}

#[test]
fn a_package_that_becomes_very_large() {
    let inputs = Inputs::new();
    assert!(inputs.run(&["initramfs"]).status.success());
    // 4 GiB, in many streams, since one of them takes long to make.
    let part = xz(zeros(64 * MIB));
    let data = [
        xz(&tar_header("boot/vmlinuz-6.1", 4096 * MIB)[..]),
        part.repeat(64),
    ]
    .concat();
    inputs.write("bomb.deb", &package(&data));
    assert!(data.len() < 2 << 20, "{}", data.len());
    let path = inputs.path("bomb.deb").display().to_string();
    let dir = inputs.dir().display().to_string();
    let kernel = ["kernel", "-o", &dir, "--from-deb", &path];
    refused(
        &inputs,
        &kernel,
        &[&path, "unpack to more than", "unpack it yourself"],
    );

    // A package of ordinary size is unpacked, whatever is wrong with its kernel.
    let mut data = tar_header("boot/vmlinuz-6.1", 20 * MIB);
    data.resize(512 + (20 << 20), 0);
    inputs.write("bomb.deb", &package(&xz(&data[..])));
    refused(&inputs, &kernel, &[&path, "it is no kernel"]);
}

#[test]
fn modules_that_become_very_large() {
    let inputs = Inputs::new();
    let modules = inputs.path("6.1");
    std::fs::create_dir(&modules).expect("a directory");
    let modules = modules.display().to_string();
    let out = inputs.path("out").display().to_string();
    let [key, host, cpud] = ["cpu_rsa.pub", "ssh_host_ed25519_key", "cpud"]
        .map(|name| inputs.path(name).display().to_string());
    let command = [
        "initramfs",
        "-o",
        &out,
        "--key",
        &key,
        "--host-key",
        &host,
        "--cpud",
        &cpud,
        "--modules",
        "all",
        "--modules-dir",
        &modules,
    ];
    // An ELF file without .modinfo counts as a module without dependencies.
    let module = crate::inputs::elf(crate::inputs::X86_64, false);
    inputs.write("6.1/big.ko.xz", &xz(module.chain(zeros(200 * MIB))));
    refused(
        &inputs,
        &command,
        &["big.ko.xz", "unpack to more than", "unpack it yourself"],
    );
    inputs.write("6.1/big.ko.xz", &xz(module.chain(zeros(20 * MIB))));
    accepted(&inputs, &command);
    // Together they are too much.
    let module = xz(module.chain(zeros(20 * MIB)));
    for number in 0..50 {
        inputs.write(&format!("6.1/big{number}.ko.xz"), &module);
    }
    refused(
        &inputs,
        &command,
        &["6.1", "too much for memory", "--modules"],
    );
}

#[test]
fn a_stick_is_mostly_zeros_and_no_bomb() {
    let inputs = Inputs::new();
    let made = inputs.run(&["usb", "--size", "48M"]);
    assert!(made.status.success(), "{made:?}");
    let path = inputs.path("usbstick.xz").display().to_string();
    let packed = inputs.path("usbstick.xz").metadata().expect("it").len();
    assert!(packed * 16 < 48 * MIB, "{packed}");
    // The file it is unpacked into is sparse: long, but small on the disk.
    let output = crate::inputs::mkimage(&["inspect", &path])
        .output()
        .expect("mkimage runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.contains("cpukernel") && said.contains("50331648"),
        "{output:?}"
    );

    let start = [vec![0; 512], b"EFI PART".to_vec(), vec![1; 512]].concat();
    let bomb = start.chain(io::repeat(1).take(100 * MIB));
    inputs.write("bomb.xz", &xz(bomb));
    let path = inputs.path("bomb.xz").display().to_string();
    refused(
        &inputs,
        &["inspect", &path],
        &[&path, "unpack to more than"],
    );
}

#[test]
fn files_without_an_end() {
    let inputs = Inputs::new();
    assert!(inputs.run(&["initramfs"]).status.success());
    let dir = inputs.dir().display().to_string();
    let options = [
        &["initramfs", "--key"][..],
        &["initramfs", "--host-key"],
        &["initramfs", "--cpud"],
        &["usb", "--key"],
    ];
    for option in options {
        let arguments = [option, &["/dev/zero", "-o", &dir]].concat();
        refused(
            &inputs,
            &arguments,
            &["/dev/zero", "it has more than", "the right file"],
        );
    }
}
