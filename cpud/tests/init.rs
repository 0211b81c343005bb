//! The init as PID 1 of its own namespaces, with a file as its console. Needs root and the
//! tools `unshare` and `nsenter`.
#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but not in their helpers"
)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Init, and what it starts.
struct InitFixture {
    unshare: Child,
    directory: tempfile::TempDir,
}

impl InitFixture {
    /// Boots with this kernel command line; the server finds no keys and dies at once.
    fn boot(cmdline: &str) -> Self {
        let machine = Self::start(cmdline, "exec chroot root /init splash -pk /nosuch");
        machine.wait_for("is init\n");
        machine
    }

    /// Boots with a key that may log in, and a host key.
    fn boot_initramfs() -> Self {
        let script = "ssh-keygen -q -t ed25519 -N '' -f host_key; cp host_key root/; cp host_key.pub root/key.pub
            cp root/key.pub .
            exec chroot root /init";
        let machine = Self::start("ip=off\n", script);
        machine.wait_for("serving on port 17010");
        machine
    }

    /// Runs a script that executes `/init` in the directory `root`, a tmpfs as the kernel's rootfs is one.
    fn start(cmdline: &str, script: &str) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "PID namespaces: run this test as root, or by make check"
        );
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::write(directory.path().join("cmdline"), cmdline).unwrap();
        fs::write(directory.path().join("console"), "").unwrap();
        // The libraries and the shell are this computer's.
        let root = "cd $1; mkdir root; mount -t tmpfs -o mode=1777 root root; cp $2 root/init
            mkdir root/proc root/sys root/dev root/etc root/tmp root/run
            for name in /usr /bin /lib /lib64; do
                [ ! -e $name ] || { mkdir root$name; mount --rbind $name root$name; }
            done
            mount -t proc proc root/proc; mount --bind cmdline root/proc/cmdline
            mount -t tmpfs -o mode=755 dev root/dev; touch root/dev/null root/dev/console
            mount --bind /dev/null root/dev/null; mount --bind console root/dev/console
            ";
        let unshare = Command::new("unshare")
            .args([
                "--pid",
                "--fork",
                "--kill-child",
                "--mount",
                "--net",
                "--uts",
            ])
            .args(["sh", "-ec", &format!("{root}{script}"), "sh"])
            .arg(directory.path())
            .arg(env!("CARGO_BIN_EXE_cpud"))
            .spawn()
            .expect("unshare (package util-linux) is needed");
        Self { unshare, directory }
    }

    fn console(&self) -> String {
        fs::read_to_string(self.directory.path().join("console")).unwrap()
    }

    fn wait_for(&self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.console().contains(text) {
            assert!(
                Instant::now() < deadline,
                "no {text:?} in {:?}",
                self.console()
            );
            sleep(Duration::from_millis(10));
        }
    }

    /// Init's process number outside.
    fn init(&self) -> u32 {
        children(self.unshare.id()).pop().unwrap()
    }

    /// Runs a shell script inside. The result is its output.
    fn run(&self, script: &str) -> String {
        let output = Command::new("nsenter")
            .args([
                "--target",
                &self.init().to_string(),
                "--pid",
                "--mount",
                "--root",
                "--uts",
                "--net",
                "sh",
                "-c",
                script,
            ])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// The child of init in this role.
    fn child(&self, role: &str) -> Option<u32> {
        let has = |pid: &u32| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split('\0').any(|argument| argument == role)
        };
        children(self.init()).into_iter().find(has)
    }
}

impl Drop for InitFixture {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([name, &pid.to_string()]).status();
    assert!(status.unwrap().success());
}

fn children(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let behind_name = stat.rsplit(')').next().unwrap();
        behind_name.split(' ').nth(2) == Some(&parent.to_string())
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(is_child)
        .collect()
}

#[test]
fn it_makes_a_machine_supervises_and_reaps() {
    let machine = InitFixture::boot("quiet hostname=board ip=off\n");
    assert_eq!(
        machine.run("uname -n; stat -fc %T /tmp /run"),
        "board\ntmpfs\ntmpfs\n"
    );
    assert_eq!(machine.run("readlink /dev/fd"), "/proc/self/fd\n");

    // The flags have reached the server, which is started again after longer and longer delays.
    machine.wait_for("cannot read the public keys in /nosuch");
    machine.wait_for("ended with status 1 after 0 s; starting it again in 2 s");

    let first = machine.child("network").expect("the network runs");
    signal(first, "-KILL");
    machine.wait_for("was killed by SIGKILL after ");
    let deadline = Instant::now() + Duration::from_secs(5);
    while machine.child("network").is_none_or(|pid| pid == first) {
        assert!(
            Instant::now() < deadline,
            "the network is not started again"
        );
        sleep(Duration::from_millis(20));
    }

    // Orphans come to init and are reaped.
    machine.run("for i in 1 2 3 4 5 6 7 8 9; do (sleep 0.1 &); done");
    sleep(Duration::from_millis(400));
    let states: String = children(machine.init())
        .iter()
        .map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default())
        .collect();
    assert!(!states.contains(") Z "), "{states}");
}

#[test]
fn its_root_is_root_s_and_its_processes_have_names() {
    let machine = InitFixture::boot_initramfs();
    assert_eq!(machine.run("stat -c %a /"), "755\n");
    let names = machine.run("cat /proc/[0-9]*/comm | sort | uniq -c");
    let names: Vec<&str> = names.split_whitespace().collect();
    assert!(
        names.contains(&"cpud") && !names.contains(&"exe"),
        "{names:?}"
    );
    assert_eq!(machine.run("cat /proc/1/comm"), "cpud\n");
    assert!(machine.child("server").is_some());
}

#[test]
fn the_host_key_of_an_initramfs_is_in_no_file_when_it_serves() {
    let machine = InitFixture::boot_initramfs();
    let kept = fs::read_to_string(machine.directory.path().join("host_key")).unwrap();
    assert!(kept.contains("PRIVATE KEY"));
    assert_eq!(machine.run("ls /host_key*"), "/host_key.pub\n");
    let public = fs::read_to_string(machine.directory.path().join("key.pub")).unwrap();
    let shown = machine.run("cat /host_key.pub");
    let words = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    assert_eq!(words(&shown).trim(), words(&public));
    // Nor is it in an argument, a variable, or a descriptor of a process that runs.
    // In brackets, so that the script and grep do not contain it.
    let (first, rest) = kept.lines().nth(2).unwrap().split_at(1);
    let secret = format!("[{first}]{rest}");
    let found = "cd /proc; grep -sl -e KEY [0-9]*/cmdline [0-9]*/environ; for fd in [0-9]*/fd/*; do
        case $(readlink $fd) in pipe:*) timeout .2 grep -sq -e KEY $fd && echo $fd;; /*key*) echo $fd;; esac; done";
    let found = machine.run(&found.replace("KEY", &secret));
    assert_eq!(found, "");
    // A server that is started again has the same one.
    let fingerprint = "host key SHA256:";
    signal(machine.child("server").unwrap(), "-KILL");
    let deadline = Instant::now() + Duration::from_secs(10);
    while machine.console().matches(fingerprint).count() < 2 {
        assert!(Instant::now() < deadline, "{}", machine.console());
        sleep(Duration::from_millis(20));
    }
    let console = machine.console();
    let keys = console.split(fingerprint).skip(1);
    let mut keys: Vec<&str> = keys.map(|rest| &rest[..43]).collect();
    keys.dedup();
    assert_eq!(keys.len(), 1, "{console}");
}

#[test]
fn a_host_key_is_made_at_each_boot_if_the_image_says_so() {
    let fingerprint = || {
        let script = "ssh-keygen -q -t ed25519 -N '' -f user; cp user.pub root/key.pub
            echo first-boot >root/host_key
            exec chroot root /init";
        let machine = InitFixture::start("ip=off\n", script);
        machine.wait_for("serving on port 17010");
        let console = machine.console();
        let said = console.split("host key SHA256:").nth(1).unwrap();
        assert_eq!(machine.run("ls /host_key*"), "/host_key.pub\n");
        assert!(machine.run("cat /host_key.pub").starts_with("ssh-ed25519 "));
        said[..43].to_owned()
    };
    assert_ne!(fingerprint(), fingerprint());
}

#[test]
fn it_ends_everything_and_reboots() {
    let mut machine = InitFixture::boot("\n");
    // An orphan that ignores SIGTERM.
    machine.run(
        "(setsid sh -c \"trap '' TERM; echo deaf >/dev/console; while :; do sleep 0.2; done\" >&- 2>&- &)",
    );
    machine.wait_for("deaf\n");
    let begun = Instant::now();
    signal(machine.init(), "-TERM");
    machine.wait_for("cpud: SIGTERM: reboot\n");
    // In a PID namespace, reboot(2) kills its init.
    let status = machine.unshare.wait().unwrap();
    assert!(!status.success());
    let took = begun.elapsed();
    // Three seconds between SIGTERM and SIGKILL, and what a busy machine needs for the rest.
    assert!(
        (Duration::from_secs(3)..Duration::from_secs(20)).contains(&took),
        "{took:?}"
    );
    assert!(
        !machine.console().contains("was killed by SIGTERM"),
        "{}",
        machine.console()
    );
}

/// The FIFO is what systemd's programs write to when they find no systemd, and sysvinit's always: struct init_request with magic
/// number, command and runlevel.
#[test]
fn it_powers_off_when_its_fifo_says_so() {
    let mut machine = InitFixture::boot("ip=off\n");
    let request = |magic: &str, level: &str| {
        format!(
            "printf '{magic}\\001\\000\\000\\000{level}\\000\\000\\000' |
             dd bs=384 conv=sync 2>/dev/null >/run/initctl"
        )
    };
    assert_eq!(machine.run("stat -c '%F %a' /run/initctl"), "fifo 600\n");
    machine.run("echo nonsense >/run/initctl");
    machine.run(&request("\\001\\031\\011\\003", "0"));
    machine.run(&request("\\151\\031\\011\\003", "3"));
    machine.run(&request("\\151\\031\\011\\003", "0"));
    machine.wait_for("cpud: runlevel 0: power off\n");
    // In a PID namespace, reboot(2) kills its init.
    assert!(!machine.unshare.wait().unwrap().success());
    let console = machine.console();
    assert_eq!(console.matches("runlevel").count(), 1, "{console}");
}

#[test]
fn as_an_ordinary_process_it_mounts_nothing_and_ends_with_its_children() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "network namespaces: run this test as root, or by make check"
    );
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut init = Command::new("unshare")
        .args([
            "--net",
            env!("CARGO_BIN_EXE_cpud"),
            "-init",
            "-pk",
            "/nosuch",
        ])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while children(init.id()).is_empty() {
        assert!(Instant::now() < deadline, "nothing is started");
        sleep(Duration::from_millis(10));
    }
    sleep(Duration::from_millis(300));
    let network = children(init.id()).pop().unwrap();
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts);
    signal(init.id(), "-TERM");
    assert_eq!(init.wait().unwrap().code(), Some(0));
    assert!(!Path::new(&format!("/proc/{network}")).exists());
}
