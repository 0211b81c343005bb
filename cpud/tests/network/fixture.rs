//! `cpud network` and `cpud server` on one end of a pair of veths, and the test on the other.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::pipe2;

/// `cpud network` and `cpud server` in their own namespaces, with an /etc and a kernel command line for the test.
/// This thread is in the network namespace at the other end of their eth0.
pub(crate) struct NetworkFixture {
    /// `cpud network`.
    pub(crate) child: Child,
    server: Child,
    console: BufReader<File>,
    /// The fingerprint of the host key.
    fingerprint: String,
    directory: tempfile::TempDir,
}

impl NetworkFixture {
    pub(crate) fn new(cmdline: &str) -> Self {
        Self::with(cmdline, |_| ())
    }

    /// The same. `prepare` is called with the process number of `cpud network` before that looks at its links.
    pub(crate) fn with(cmdline: &str, prepare: impl FnOnce(&str)) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "network namespaces: run this test as root, or by make check"
        );
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("etc")).unwrap();
        fs::write(directory.path().join("cmdline"), cmdline).unwrap();
        let key = directory.path().join("key");
        let keygen = |args: &[&str]| {
            let mut command = Command::new("ssh-keygen");
            let output = command.args(args).arg("-f").arg(&key).output();
            let output = output.expect("ssh-keygen (package openssh-client) is needed");
            String::from_utf8(output.stdout).unwrap()
        };
        keygen(&["-q", "-t", "ed25519", "-N", ""]);
        let printed = keygen(&["-l"]);
        let fingerprint = printed.split(' ').nth(1).unwrap().to_owned();
        let (console, stderr) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let script = "read go; cd $1; mount --bind cmdline /proc/cmdline; mount --bind etc /etc;
                      hostname cpu; exec $2 network";
        let child = Command::new("unshare")
            .args(["--net", "--mount", "--uts", "sh", "-c", script, "sh"])
            .arg(directory.path())
            .arg(env!("CARGO_BIN_EXE_cpud"))
            .stdin(Stdio::piped())
            .stderr(stderr.try_clone().unwrap())
            .spawn()
            .expect("unshare (package util-linux) is needed");
        // Wait until the namespaces have been made.
        let space = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/uts")).unwrap();
        while space(child.id()) == space(std::process::id()) {
            sleep(Duration::from_millis(5));
        }
        let pid = child.id().to_string();
        ip(&[
            "link", "add", "wire", "type", "veth", "peer", "name", "eth0", "netns", &pid,
        ]);
        ip(&["addr", "add", "10.9.0.1/24", "dev", "wire"]);
        ip(&["link", "set", "wire", "up"]);
        let server = Command::new("nsenter")
            .args([
                "--target",
                &pid,
                "--net",
                env!("CARGO_BIN_EXE_cpud"),
                "server",
                "-pk",
            ])
            .arg(key.with_extension("pub"))
            .arg("-hk")
            .arg(&key)
            .stderr(stderr)
            .spawn()
            .unwrap();
        let mut machine = Self {
            child,
            server,
            console: BufReader::new(console.into()),
            fingerprint,
            directory,
        };
        let serving = machine.line();
        assert!(
            serving.starts_with("cpud: serving on port 17010"),
            "{serving}"
        );
        prepare(&pid);
        let go = machine.child.stdin.as_mut().unwrap();
        go.write_all(b"go\n").unwrap();
        machine
    }

    /// The announcement of an address on eth0.
    pub(crate) fn announcement(&self, address: &str) -> String {
        let key = &self.fingerprint;
        format!("cpud: eth0 {address} port 17010 host key {key}; try: cpu {address} date")
    }

    /// The next line on the console, which comes within a minute.
    pub(crate) fn line(&mut self) -> String {
        if self.console.buffer().is_empty() {
            let mut wait = [PollFd::new(
                self.console.get_ref().as_fd(),
                PollFlags::POLLIN,
            )];
            let heard = uninterrupted(|| Ok(poll(&mut wait, 60_000_u16)?));
            assert_eq!(heard.unwrap(), 1, "nothing is said");
        }
        let mut line = String::new();
        self.console.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Checks that nothing is on the console in this time.
    pub(crate) fn says_nothing(&mut self, time: Duration) {
        assert!(self.console.buffer().is_empty());
        let mut wait = [PollFd::new(
            self.console.get_ref().as_fd(),
            PollFlags::POLLIN,
        )];
        let milliseconds = PollTimeout::try_from(time).unwrap();
        let heard = uninterrupted(|| Ok(poll(&mut wait, milliseconds)?));
        assert!(heard.unwrap() == 0, "{}", self.line());
    }

    /// The output of `ip` inside.
    pub(crate) fn ip(&self, args: &str) -> String {
        let pid = self.child.id().to_string();
        let output = Command::new("nsenter")
            .args(["--target", &pid, "--net", "ip"])
            .args(args.split(' '))
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn host_name(&self) -> String {
        let pid = self.child.id().to_string();
        let output = Command::new("nsenter")
            .args(["--target", &pid, "--uts", "uname", "-n"])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Waits until the output of `ip` inside contains a text, or does not contain it.
    pub(crate) fn wait_until(&self, args: &str, text: &str, present: bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.ip(args).contains(text) != present {
            assert!(
                Instant::now() < deadline,
                "ip {args} without {text:?}: {}",
                self.ip(args)
            );
            sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn file(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
    }

    /// How often the network role has been woken up.
    pub(crate) fn wakes(&self) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        status
            .lines()
            .find(|line| line.starts_with("voluntary"))
            .unwrap()
            .to_owned()
    }
}

impl Drop for NetworkFixture {
    fn drop(&mut self) {
        for child in [&mut self.child, &mut self.server] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Receives a datagram within the socket's time-out.
pub(crate) fn receive_from(
    socket: &UdpSocket,
    message: &mut [u8],
) -> io::Result<(usize, SocketAddr)> {
    uninterrupted(|| socket.recv_from(message))
}

/// Repeats a call that a signal interrupts. SIGCHLD does, though nobody handles it: when a child of another test ends while
/// that test blocks signals to start its next one, the kernel wakes this thread.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

pub(crate) fn ip(args: &[&str]) {
    let status = Command::new("ip")
        .args(args)
        .status()
        .expect("ip (package iproute2) is needed");
    assert!(status.success(), "ip {args:?}");
}
