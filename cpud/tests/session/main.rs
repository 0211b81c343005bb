//! The session role, with real processes in real mount namespaces, but without SSH and 9P. Needs root.
#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but not in their helpers"
)]

mod command;
mod lifetime;
mod mounts;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::str::FromStr as _;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

/// A session, and this end of its control channel.
struct SessionFixture {
    child: Child,
    control: Option<File>,
}

/// Starts `cpud session` with these variables and this command, and perhaps a terminal.
fn start(
    environment: &[(&str, &str)],
    argv: &[&str],
    terminal: Option<&OwnedFd>,
) -> SessionFixture {
    assert!(
        nix::unistd::geteuid().is_root(),
        "sessions make mount namespaces: run this test as root, or by make check"
    );
    let (theirs, ours) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cpud"));
    command.args(["session", "--control", &theirs.as_raw_fd().to_string()]);
    let own = [("PATH", "/usr/bin:/bin")];
    let all = own.iter().chain(environment);
    // As the connection passes them.
    command
        .env_clear()
        .envs(all.map(|(name, value)| (format!("CLIENT_{name}"), value)));
    if let Some(slave) = terminal {
        command.arg("--tty");
        command
            .stdin(slave.try_clone().unwrap())
            .stdout(slave.try_clone().unwrap());
        command.stderr(slave.try_clone().unwrap());
    } else {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
    }
    let child = command.arg("--").args(argv).spawn().unwrap();
    SessionFixture {
        child,
        control: Some(ours.into()),
    }
}

/// Runs a session to its end.
fn run(environment: &[(&str, &str)], argv: &[&str]) -> Output {
    let SessionFixture { child, control } = start(environment, argv, None);
    let output = child.wait_with_output().unwrap();
    drop(control);
    output
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A script of `sh`, which must succeed and print nothing on standard error.
fn sh(environment: &[(&str, &str)], script: &str) -> String {
    let output = run(environment, &["sh", "-c", script]);
    assert_eq!(
        (text(&output.stderr), output.status.code()),
        ("", Some(0)),
        "{script}"
    );
    text(&output.stdout).to_owned()
}

/// Reads until `wanted` has appeared.
fn read_until(from: &mut impl std::io::Read, wanted: &str) -> String {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&seen).contains(wanted) {
        match from.read(&mut byte) {
            Ok(1..) => seen.push(byte[0]),
            end => panic!(
                "{end:?} before {wanted:?}, after {:?}",
                String::from_utf8_lossy(&seen)
            ),
        }
    }
    String::from_utf8(seen).unwrap()
}
