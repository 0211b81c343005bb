//! `cpu -dbg9p=FILE.json`, where no machine answers.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// A home with a key.
fn home() -> TempDir {
    let home = TempDir::new().unwrap();
    let status = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(home.path().join("key"))
        .status()
        .expect("ssh-keygen (package openssh-client)");
    assert!(status.success());
    home
}

fn cpu(home: &Path, flag: &str, port: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cpu"));
    command
        .env_clear()
        .env("HOME", home)
        .current_dir(home)
        .arg(format!("-dbg9p={flag}"))
        .args(["-key", "key", "-sp", &port.to_string(), "127.0.0.1", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The one line on standard error of a cpu that fails.
fn complaint(output: &Output) -> &str {
    assert_eq!(output.status.code(), Some(255), "{output:?}");
    let text = str::from_utf8(&output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

/// The steps that are in a file.
fn steps(file: &Path) -> Vec<String> {
    let events: Vec<Value> = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let names = events.iter().filter(|event| event["ph"] == "B");
    names
        .map(|event| event["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_file_that_cannot_be_made_is_told_of_before_anything_else() {
    let home = home();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let output = cpu(home.path(), "none/t.json", port).output().unwrap();
    let wanted = "cpu: cannot write the trace of -dbg9p to none/t.json: No such file";
    assert!(complaint(&output).starts_with(wanted), "{output:?}");
    assert!(listener.accept().is_err(), "it has connected");
}

#[test]
fn the_steps_before_a_failure_are_in_the_file() {
    let home = home();
    let file = home.path().join("t.json");
    fs::write(&file, "something longer than what is written at first").unwrap();
    let port = {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let output = cpu(home.path(), "t.json", port).output().unwrap();
    assert!(complaint(&output).contains("cannot connect"), "{output:?}");
    assert_eq!(steps(&file), ["read keys", "connect"]);
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn a_file_that_cannot_grow_is_whole_as_far_as_it_goes() {
    let home = home();
    let whole = cpu(home.path(), "t.json", 1).output().unwrap();
    assert!(complaint(&whole).contains("cannot connect"), "{whole:?}");
    let file = home.path().join("t.json");
    let size = fs::metadata(&file).unwrap().len();
    for less in [50, 100, 150] {
        let cpu = cpu(home.path(), "t.json", 1);
        // Otherwise the signal ends it.
        let script = "trap '' XFSZ; exec \"$0\" \"$@\"";
        let mut limited = Command::new("prlimit");
        limited
            .arg(format!("--fsize={}", size - less))
            .args(["sh", "-c", script])
            .arg(cpu.get_program())
            .args(cpu.get_args())
            .current_dir(home.path());
        let output = limited.output().expect("prlimit (package util-linux)");
        let text = str::from_utf8(&output.stderr).unwrap();
        let line = "cpu: the trace of -dbg9p is incomplete: File too large (os error 27)\n";
        assert!(text.starts_with(line), "{text}");
        assert!(steps(&file).len() < 3);
    }
}

#[test]
fn a_cpu_that_is_killed_leaves_a_whole_file() {
    let home = home();
    // The kernel accepts, and nobody says anything.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut child = cpu(home.path(), "t.json", port).spawn().unwrap();
    let file = home.path().join("t.json");
    let started = Instant::now();
    while !file.exists() || steps(&file).len() < 3 {
        assert_eq!(child.try_wait().unwrap(), None);
        // It gives up after 13.
        assert!(started.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(steps(&file), ["read keys", "connect", "exchange keys"]);
}
