//! What mkimage promises whatever happens: the same bytes from the same inputs, whole files or none,
//! one writer at a time, and no private key where it was not asked for.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::inputs::{Inputs, mkimage};

/// What everything is made of.
const INPUTS: [&str; 9] = [
    "cpu",
    "cpu.config",
    "cpu_rsa",
    "cpu_rsa.hostkey",
    "cpu_rsa.pub",
    "cpud",
    "cpukernel",
    "ssh_host_ed25519_key",
    "ssh_host_ed25519_key.pub",
];

fn outputs(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let entry = entry.expect("an entry");
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy().into_owned();
        if name == ".mkimage" {
            // The arguments of the last run, which name the directory.
            continue;
        }
        if path.is_dir() {
            let inner = outputs(&path).into_iter();
            found.extend(inner.map(|(file, bytes)| (format!("{name}/{file}"), bytes)));
        } else if !INPUTS.contains(&name.as_str()) {
            found.insert(name, fs::read(&path).expect("a file"));
        }
    }
    found
}

#[test]
fn the_same_inputs_give_the_same_bytes_anywhere_at_any_time() {
    let first = Inputs::new();
    let second = Inputs::new();
    for name in INPUTS {
        fs::copy(first.path(name), second.path(name)).unwrap();
    }
    let tool = first.path("cpu").display().to_string();
    let extra = format!("{tool}:/bin/tool");
    let begun = Instant::now();
    let commands: [&[&str]; 3] = [&["initramfs", "--file", &extra], &["usb"], &["bundle"]];
    for command in commands {
        assert!(first.run(command).status.success(), "{command:?}");
    }
    // FAT counts in steps of two seconds.
    std::thread::sleep(Duration::from_secs(3).saturating_sub(begun.elapsed()));
    for command in commands {
        let program = env!("CARGO_BIN_EXE_mkimage");
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "umask 077; exec \"$@\"", "sh", program])
            .args(command)
            .current_dir("/")
            .arg("-o")
            .arg(second.dir())
            .env("LC_ALL", "tr_TR.UTF-8")
            .env("TZ", "Pacific/Kiritimati")
            .env("HOME", "/nonexistent")
            .env("USER", "somebody");
        assert!(shell.output().unwrap().status.success(), "{command:?}");
    }
    let (first, second) = (outputs(first.dir()), outputs(second.dir()));
    assert!(
        first.contains_key("usbstick") && first.contains_key("cpu-appliance-x86_64/SHA256SUMS")
    );
    assert!(first.keys().eq(second.keys()));
    for (name, bytes) in &first {
        assert!(bytes == &second[name], "{name} differs");
    }
}

#[test]
fn the_one_time_is_source_date_epoch() {
    let inputs = Inputs::new();
    let bytes = |epoch: &str| {
        let mut command = inputs.command(&["initramfs", "--compress", "none"]);
        assert!(
            command
                .env("SOURCE_DATE_EPOCH", epoch)
                .output()
                .unwrap()
                .status
                .success()
        );
        fs::read(inputs.path("initramfs.cpio")).unwrap()
    };
    assert_ne!(bytes("1"), bytes("2"));
}

#[test]
fn a_killed_run_leaves_the_old_files_and_nothing_else() {
    let inputs = Inputs::new();
    assert!(inputs.run(&["usb", "--size", "36M"]).status.success());
    let before = (inputs.names(), outputs(inputs.dir()));
    inputs.write("cpu.config", b"CONFIG_X=n\n");
    let mut killed = 0;
    for (round, signal) in [9, 2, 15].into_iter().cycle().take(12).enumerate() {
        let mut child = inputs
            .command(&["-q", "usb", "--size", "36M"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(30 * round as u64));
        let pid = child.id().to_string();
        let kill = Command::new("kill")
            .args([&format!("-{signal}"), &pid])
            .status();
        assert!(kill.unwrap().success() || round > 3);
        if child.wait().unwrap().signal() == Some(signal) {
            killed += 1;
            assert_eq!(inputs.names(), before.0, "after {round}");
            assert!(outputs(inputs.dir()) == before.1, "after {round}");
        }
    }
    assert!(
        killed >= 3,
        "only {killed} runs were killed before their end"
    );
}

#[test]
fn a_full_disk_leaves_the_old_files_and_nothing_else() {
    let inputs = Inputs::new();
    // A disk of 6 MiB: the inputs take 2, the image with its two kernels does not fit.
    let script = "mount -t tmpfs -o size=6m,mode=700 disk \"$1/disk\" && cp \"$1\"/* \"$1/disk\" 2>/dev/null; \
        cd \"$1/disk\" && echo old >usbstick && ls -A >../before && ! \"$2\" usb -o . 2>../said && \
        ls -A >../after && cp usbstick ../usbstick";
    fs::create_dir(inputs.path("disk")).unwrap();
    let status = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(inputs.dir())
        .arg(env!("CARGO_BIN_EXE_mkimage"))
        .status()
        .unwrap();
    assert!(status.success());
    let read = |name: &str| fs::read_to_string(inputs.path(name)).unwrap();
    assert_eq!(read("before"), read("after"));
    assert_eq!(read("usbstick"), "old\n");
    let said = read("said");
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("mkimage: "))
        .collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(
        lines[0].contains("cannot write ./usbstick") && lines[0].contains("No space left"),
        "{said}"
    );
}

#[test]
fn a_second_run_on_the_same_directory_waits() {
    let inputs = Inputs::new();
    let other = File::open(inputs.dir()).unwrap();
    other.lock().unwrap();
    let mut child = inputs
        .command(&["initramfs"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let waiting = said.next().unwrap().unwrap();
    assert!(waiting.contains("waiting for another mkimage"), "{waiting}");
    assert!(!inputs.path("initramfs.cpio.xz").exists());
    drop(other);
    assert!(said.all(|line| line.is_ok()));
    assert!(child.wait().unwrap().success());
    assert!(inputs.path("initramfs.cpio.xz").exists());
}

#[test]
fn the_private_key_is_nowhere_unless_asked_for() {
    let inputs = Inputs::new();
    let private = fs::read_to_string(inputs.path("cpu_rsa")).unwrap();
    let secret = private.lines().nth(3).unwrap();
    let holds = |name: &str| {
        let bytes = fs::read(inputs.path(name)).unwrap();
        // Searching a string is much faster than comparing windows of bytes in a debug build.
        String::from_utf8_lossy(&bytes).contains(secret)
    };
    assert!(
        inputs
            .run(&["initramfs", "--compress", "none"])
            .status
            .success()
    );
    assert!(!holds("initramfs.cpio"));
    assert!(inputs.run(&["usb", "--size", "36M"]).status.success());
    assert!(!holds("usbstick"));
    let asked = inputs.run(&["usb", "--size", "36M", "--include-private-key"]);
    assert!(
        String::from_utf8_lossy(&asked.stderr).contains("WARNING"),
        "{asked:?}"
    );
    assert!(holds("usbstick"));
    for name in ["usbstick", "usbstick.xz", "initramfs.cpio"] {
        let mode = fs::metadata(inputs.path(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(
            mode & 0o777,
            0o600,
            "{name}: the machine's host key is inside"
        );
    }
}

#[test]
fn keys_are_isolated_or_it_is_told_that_they_are_not() {
    const OTHER: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti bob";
    let inputs = Inputs::new();
    let run = |keys: &[&str], flags: &[&str]| {
        let keys: Vec<String> = keys
            .iter()
            .map(|key| format!("--key={}", inputs.path(key).display()))
            .collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let output = inputs.run(&[&["initramfs"], &keys[..], flags].concat());
        assert!(output.status.success(), "{output:?}");
        let archive = inputs.path("initramfs.cpio.xz");
        let inspected = mkimage(&["inspect", archive.to_str().unwrap()]);
        let inspected = { inspected }.output().unwrap();
        let isolated = String::from_utf8_lossy(&inspected.stdout)
            .matches(", isolated")
            .count();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (isolated, said.contains("--isolate keeps them apart"))
    };
    inputs.write("bob.pub", OTHER.as_bytes());
    inputs.write("isolated.pub", format!("isolate {OTHER}").as_bytes());
    assert_eq!(run(&["cpu_rsa.pub"], &[]), (0, false));
    assert_eq!(run(&["cpu_rsa.pub", "bob.pub"], &[]), (0, true));
    assert_eq!(run(&["cpu_rsa.pub", "isolated.pub"], &[]), (1, true));
    assert_eq!(run(&["cpu_rsa.pub", "bob.pub"], &["--isolate"]), (2, false));
}
