//! The console role with pseudo-terminals as consoles, in its own mount and UTS namespaces. Needs root
//! and the tools `unshare` and `setsid`.
#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but not in their helpers"
)]

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::pty::{Winsize, openpty};
use nix::unistd::pipe2;

const SIZE: Winsize = Winsize {
    ws_row: 25,
    ws_col: 80,
    ws_xpixel: 0,
    ws_ypixel: 0,
};

/// The console role in its namespaces.
struct ConsoleFixture {
    role: Child,
    /// Where the other roles write.
    said: File,
    directory: tempfile::TempDir,
}

/// A console: its master, which shows what is on it, and its slave, which the role opens.
struct Console {
    shown: File,
    _device: OwnedFd,
    path: String,
}

impl Console {
    fn new() -> Self {
        let pty = openpty(&SIZE, None).unwrap();
        fcntl(&pty.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let number = format!("/proc/self/fd/{}", pty.slave.as_raw_fd());
        Self {
            path: fs::read_link(number).unwrap().to_str().unwrap().to_owned(),
            shown: pty.master.into(),
            _device: pty.slave,
        }
    }

    /// Reads until `wanted` has appeared. The result is what has been read.
    fn shows(&mut self, wanted: &str) -> String {
        let mut seen = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let text = String::from_utf8_lossy(&seen).into_owned();
            if text.contains(wanted) {
                return text;
            }
            assert!(Instant::now() < deadline, "no {wanted:?} in {text:?}");
            let mut buffer = [0; 4096];
            match self.shown.read(&mut buffer) {
                Ok(length) => seen.extend(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let wait = PollFd::new(self.shown.as_fd(), PollFlags::POLLIN);
                    poll(&mut [wait], 100_u16).unwrap();
                }
                Err(error) => panic!("{error} after {text:?}"),
            }
        }
    }
}

impl ConsoleFixture {
    /// Starts the role with these consoles, whose names are in the list of active ones.
    fn new(consoles: &[(&str, &Console)]) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "mount namespaces: run this test as root, or by make check"
        );
        let directory = tempfile::tempdir().unwrap();
        let names: Vec<&str> = consoles.iter().map(|(name, _)| *name).collect();
        fs::write(directory.path().join("active"), names.join(" ")).unwrap();
        // The devices are in a tmpfs, with the real /dev/console: without that, the list is not used.
        let script = "cd $1; program=$2; shift 2; mkdir dev; mount -t tmpfs dev dev; touch dev/console dev/null dev/kmsg;
            mount --bind /dev/console dev/console; mount --bind /dev/null dev/null
            while [ $# -gt 0 ]; do touch dev/$1; mount --bind $2 dev/$1; shift 2; done
            mount --bind active /sys/class/tty/console/active; mount --rbind dev /dev;
            mount -t tmpfs run /run; hostname board
            exec setsid $program console -pk /nosuch -hk /nosuch";
        let (read, said) = pipe2(OFlag::O_CLOEXEC).unwrap();
        fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--uts", "--net", "sh", "-euc", script, "sh"]);
        unshare
            .arg(directory.path())
            .arg(env!("CARGO_BIN_EXE_cpud"));
        for (name, console) in consoles {
            let device = if *name == "tty0" { "tty1" } else { name };
            unshare.args([device, &console.path]);
        }
        let role = unshare
            .stdin(read)
            .spawn()
            .expect("unshare (package util-linux) is needed");
        Self {
            role,
            said: said.into(),
            directory,
        }
    }

    fn say(&mut self, line: &str) {
        self.said.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn run(&self, script: &str) {
        let pid = self.role.id().to_string();
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--target", &pid, "--uts", "--mount", "sh", "-c", script]);
        assert!(nsenter.status().unwrap().success(), "{script}");
    }
}

impl Drop for ConsoleFixture {
    fn drop(&mut self) {
        let _ = self.role.kill();
        let _ = self.role.wait();
    }
}

#[test]
fn a_console_that_takes_nothing_holds_up_no_other() {
    let (mut stopped, mut other) = (Console::new(), Console::new());
    let mut machine = ConsoleFixture::new(&[("ttyA", &stopped), ("ttyB", &other)]);
    for number in 0..4000 {
        machine.say(&format!("cpud: line {number:04} {}", "x".repeat(80)));
        // The other console is read all the time. For the one that is not, lines are queued, and then lost.
        if number % 100 == 99 {
            other.shows(&format!("line {number:04}"));
        }
    }
    let kept = stopped.shows("line 0500");
    let lines: Vec<&str> = kept.split_inclusive('\n').collect();
    for (number, line) in lines.iter().take(500).enumerate() {
        let whole = format!("cpud: line {number:04} {}\r\n", "x".repeat(80));
        assert_eq!(*line, whole);
    }
    // When it is read again, new lines arrive.
    machine.say("cpud: the end");
    let rest = stopped.shows("cpud: the end\r\n");
    assert!(!rest.contains("line 3000"), "64 KiB are kept");
}

#[test]
fn a_console_that_appears_is_told_what_was_said_before() {
    let (mut first, mut second) = (Console::new(), Console::new());
    let mut machine = ConsoleFixture::new(&[("ttyA", &first), ("ttyB", &second)]);
    let active = machine.directory.path().join("active");
    fs::write(&active, "ttyA").unwrap();
    machine.say("cpud: one\x1b[2J");
    first.shows("cpud: one\u{fffd}[2J\r\n");
    fs::write(&active, "ttyA ttyB").unwrap();
    machine.say("cpud: two");
    second.shows("cpud: one\u{fffd}[2J\r\ncpud: two\r\n");
    // The kernel's log has them too, with a priority that keeps them off the consoles.
    machine.run("grep -qx '<7>cpud: one.*2J' /dev/kmsg && grep -qx '<7>cpud: two' /dev/kmsg");
}

#[test]
fn a_screen_is_drawn_anew_only_where_it_has_changed() {
    let mut screen = Console::new();
    let mut machine = ConsoleFixture::new(&[("tty0", &screen)]);
    let page = screen.shows("---\x1b[m\x1b8");
    assert!(
        page.starts_with("\x1bc\x1b[?25l\x1b[14;25r\x1b[14;1H"),
        "{page:?}"
    );
    for text in [
        " board ",
        "\x1b[36m    links\x1b[m none",
        " host key\x1b[m none yet",
    ] {
        assert!(page.contains(text), "no {text:?} in {page:?}");
    }
    machine.say("cpud: hello");
    assert_eq!(screen.shows("hello\r\n"), "cpud: hello\r\n");
    machine.run("hostname other");
    let title = screen.shows("\x1b8");
    assert!(
        title.starts_with("\x1b7\x1b[1;1H\x1b[7m other  "),
        "{title:?}"
    );
    assert_eq!(title.matches("\x1b7").count(), 1, "{title:?}");
    // If nothing on the page changes, nothing is drawn.
    machine.run("hostname other");
    sleep(Duration::from_millis(300));
    machine.say("cpud: end");
    assert_eq!(screen.shows("end\r\n"), "cpud: end\r\n");
    // With another size the whole screen is drawn, and the last lines.
    let size = Winsize { ws_row: 40, ..SIZE };
    let resize = Command::new("stty")
        .args(["-F", &screen.path, "rows", &size.ws_row.to_string()])
        .status();
    assert!(resize.unwrap().success());
    let page = screen.shows("cpud: end\r\n");
    assert!(page.starts_with("\x1bc\x1b[?25l\x1b[19;40r"), "{page:?}");
    assert!(
        page.contains(" other ") && page.contains("cpud: hello\r\n"),
        "{page:?}"
    );
}
