//! The client's files in a session, with and without 9P, binds and fstab.
//!
//! Since the machine has no programs, the static `cpud -V` is used as one. Where the machine must have files of its own, cpud
//! runs on this computer.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::client::{Client, ended};
use e2e::daemon::Daemon;
use e2e::tree;
use e2e::vm::Vm;
use e2e::wait_until;

use crate::{Machine, Test};

pub(crate) const TESTS: &[Test] = &[
    ("mounts_are_9p_with_binds_by_default", with_binds),
    ("mounts_of_9p_and_of_fstab_go_together", with_fstab),
    ("mounts_without_binds_leave_only_tmp_cpu", without_binds),
    ("mounts_of_fstab_need_no_9p", only_fstab),
    ("mounts_of_no_kind_are_plain_ssh", plain),
    ("mounts_may_be_named_after_the_host", after_the_host),
    ("mounts_that_9p_cannot_serve_are_refused", contradiction),
    ("mounts_joined_by_a_shell_are_refused", joined),
    ("mounts_of_a_foreign_root_warn_of_nothing", foreign_root),
    ("mounts_of_containers_are_their_own_files", containers),
    ("mounts_of_virtiofs_are_the_machines", virtiofs),
];

const MOUNTS: &str = "cat /proc/self/mounts";

fn text(output: Output) -> Result<String> {
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Whether a mount table has this file system at this place.
fn has(table: &str, place: &str, kind: &str) -> bool {
    table
        .lines()
        .any(|line| line.contains(&format!(" {place} {kind} ")))
}

/// A program that needs nothing else, by the name it has beneath the client's tree.
fn static_program() -> Result<String> {
    let path = e2e::out().join("cpud").canonicalize()?;
    Ok(format!("/tmp/cpu{}", path.display()))
}

fn with_binds(machine: &Machine) -> Result<()> {
    let output = machine.client.run(&["sh", "-c", MOUNTS])?;
    ensure!(output.stderr.is_empty(), "{output:?}");
    let table = text(output)?;
    for place in ["/tmp/cpu", "/usr", "/bin", "/etc", "/home"] {
        ensure!(has(&table, place, "9p"), "{place} in {table}");
    }
    Ok(())
}

fn with_fstab(machine: &Machine) -> Result<()> {
    let file = machine.home.path().join("fstab");
    std::fs::write(
        &file,
        "# two\nnone /mnt tmpfs size=1m 0 0\nnone /srv tmpfs ro\n",
    )?;
    let file = file.display().to_string();
    let own = "none /media tmpfs rw 0 0";

    let mut command = machine.client.command(&[], &["sh", "-c", MOUNTS]);
    command.env("CPU_FSTAB", own);
    let table = text(machine.client.output(command, b"")?)?;
    ensure!(
        has(&table, "/usr", "9p") && has(&table, "/media", "tmpfs"),
        "{table}"
    );

    let mut command = machine
        .client
        .command(&["-fstab", &file], &["sh", "-c", MOUNTS]);
    command.env("CPU_FSTAB", own);
    let table = text(machine.client.output(command, b"")?)?;
    ensure!(has(&table, "/usr", "9p"), "{table}");
    ensure!(
        has(&table, "/mnt", "tmpfs") && has(&table, "/srv", "tmpfs"),
        "{table}"
    );
    ensure!(!has(&table, "/media", "tmpfs"), "the file wins: {table}");
    Ok(())
}

fn without_binds(machine: &Machine) -> Result<()> {
    let program = static_program()?;
    for variable in [false, true] {
        let flags: &[&str] = if variable { &[] } else { &["-namespace", ""] };
        let prepared = |words: &[&str]| {
            let mut command = machine.client.command(flags, words);
            if variable {
                command.env("CPU_NAMESPACE", "");
            }
            machine.client.output(command, b"")
        };
        ensure!(text(prepared(&[&program, "-V"])?)?.starts_with("cpud "));
        let output = prepared(&["/bin/true"])?;
        ensure!(output.status.code() == Some(127), "{output:?}");
    }
    // The mounts of an fstab are there in addition to the files.
    let binds = ["bin", "lib", "lib64", "usr"]
        .map(|name| format!("/tmp/cpu/{name} /{name} none bind 0 0\n"));
    let file = machine.home.path().join("binds");
    std::fs::write(&file, format!("{}none /mnt tmpfs rw 0 0\n", binds.concat()))?;
    let flags = ["-namespace", "", "-fstab", &file.display().to_string()];
    let mut command = machine.client.command(&flags, &["sh", "-c", MOUNTS]);
    command.env("PWD", "/");
    let table = text(machine.client.output(command, b"")?)?;
    ensure!(
        has(&table, "/mnt", "tmpfs") && has(&table, "/usr", "9p"),
        "{table}"
    );
    ensure!(!has(&table, "/home", "9p"), "{table}");

    // Even if an fstab covers /dev and others, the session has what it needs.
    let flags = ["-namespace", "/bin:/lib:/lib64:/usr:/dev"];
    let mut command = machine.client.command(&flags, &["sh", "-c", "exit 7"]);
    command.env("PWD", "/");
    let output = machine.client.output(command, b"")?;
    ensure!(output.status.code() == Some(7), "{output:?}");
    Ok(())
}

/// A client of a cpud here; the pin file beside the key is another machine's.
pub(crate) fn local(machine: &Machine, daemon: &Daemon, flags: &[&str], words: &[&str]) -> Command {
    let client = Client::new(daemon.port, &machine.home);
    let pin = daemon.host_key().display().to_string();
    client.command(&[&["-hk", &pin], flags].concat(), words)
}

fn only_fstab(machine: &Machine) -> Result<()> {
    let daemon = Daemon::cpud()?;
    let words = ["cat", "/proc/self/mounts"];
    for flags in [&["-9p=false"][..], &["-9p=false", "-namespace", ""]] {
        let mut command = local(machine, &daemon, flags, &words);
        command.env("CPU_FSTAB", "none /mnt tmpfs rw 0 0");
        let table = text(machine.client.output(command, b"")?)?;
        ensure!(has(&table, "/mnt", "tmpfs"), "{table}");
        ensure!(!has(&table, "/tmp/cpu", "9p"), "{table}");
    }
    Ok(())
}

fn plain(machine: &Machine) -> Result<()> {
    let daemon = Daemon::cpud()?;
    let flags = ["-namespace=", "-9p=false"];
    let mut command = local(machine, &daemon, &flags, &["/bin/ls"]);
    command.env("PWD", "/");
    let output = machine.client.output(command, b"")?;
    ensure!(output.stderr.is_empty(), "{output:?}");
    let listing = text(output)?;
    for name in ["proc", "tmp", "usr"] {
        ensure!(listing.lines().any(|line| line == name), "{listing}");
    }
    // Without the client's files, PWD is a directory of the machine.
    let mut command = local(machine, &daemon, &flags, &["/bin/pwd"]);
    command.env("PWD", "/usr");
    let output = machine.client.output(command, b"")?;
    ensure!(output.stderr.is_empty(), "{output:?}");
    ensure!(text(output)? == "/usr\n");
    Ok(())
}

fn after_the_host(machine: &Machine) -> Result<()> {
    let program = static_program()?;
    let output = machine.client.run(&["-namespace=/home", &program, "-V"])?;
    ensure!(text(output)?.starts_with("cpud "));
    let output = machine.client.run(&["-namespace=/home", "/bin/date"])?;
    ensure!(output.status.code() == Some(127), "{output:?}");
    let words = ["-namespace=/bin:/lib:/lib64:/usr", "/bin/date", "+%s"];
    text(machine.client.run(&words)?)?.trim().parse::<u64>()?;
    Ok(())
}

fn contradiction(machine: &Machine) -> Result<()> {
    let command = machine
        .client
        .command(&["-9p=false", "-namespace=/home"], &["true"]);
    let output = machine.client.output(command, b"")?;
    ensure!(output.status.code() == Some(255), "{output:?}");
    let expected = "cpu: 9p is false but the namespace is non-empty; \
                    to force an empty namespace use -namespace=\"\"\n";
    ensure!(output.stderr == expected.as_bytes(), "{output:?}");
    Ok(())
}

fn joined(machine: &Machine) -> Result<()> {
    let mut command = machine.client.command(&[], &["true"]);
    command.env("CPU_FSTAB", "a /a tmpfs rw 0 0 b /b tmpfs rw 0 0");
    let output = machine.client.output(command, b"")?;
    let stderr = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(255), "{stderr}");
    ensure!(
        stderr.contains("CPU_FSTAB") && stderr.contains("separated by newlines"),
        "{stderr}"
    );
    Ok(())
}

/// A tree with nothing but a program and a directory: no warning for what the default namespace
/// would have of a bigger one.
fn foreign_root(machine: &Machine) -> Result<()> {
    let root: PathBuf = machine.home.path().join("arm");
    std::fs::create_dir_all(root.join("bin")).context("cannot make a tree")?;
    std::fs::copy(e2e::out().join("cpud"), root.join("bin/theirs"))?;
    let root = root.display().to_string();
    let mut command = machine.client.command(&["-root", &root], &["theirs", "-V"]);
    command.env("PWD", "/").env("PATH", "/bin");
    let output = machine.client.output(command, b"")?;
    ensure!(output.stderr.is_empty(), "{output:?}");
    ensure!(text(output)?.starts_with("cpud "));

    let flags = ["-root", &root, "-namespace", "/opt=/bin"];
    let mut command = machine.client.command(&flags, &["/opt/theirs", "-V"]);
    command.env("PWD", "/");
    ensure!(text(machine.client.output(command, b"")?)?.starts_with("cpud "));
    Ok(())
}

/// A container's root gets the client and its key; nothing is mounted there, nothing resolves names.
fn enter(root: &Path) -> Result<()> {
    for directory in ["bin", "home", "lib", "lib64", "usr"] {
        std::fs::create_dir_all(root.join(directory))?;
    }
    for (file, place) in [
        ("cpu", "bin/cpu"),
        ("cpu_rsa", "key"),
        ("cpu_rsa.hostkey", "key.hostkey"),
    ] {
        std::fs::copy(e2e::out().join(file), root.join(place))?;
    }
    std::fs::set_permissions(root.join("key"), PermissionsExt::from_mode(0o600))?;
    for absent in ["proc/self", "etc/resolv.conf", "etc/hosts", "etc/passwd"] {
        ensure!(!root.join(absent).exists(), "there is a /{absent}");
    }
    Ok(())
}

/// The client as a container's entry point.
fn run_in(root: &Path, port: u16, words: &[&str]) -> Result<String> {
    let mut command = Command::new("/usr/sbin/chroot");
    command.arg(root).arg("/bin/cpu").args(["-key", "/key"]);
    command
        .arg(format!("-sp={port}"))
        .arg("localhost")
        .args(words);
    command
        .env_clear()
        .env("PATH", "/bin:/usr/bin")
        .env("PWD", "/");
    let output = ended(&mut command)?;
    ensure!(output.stderr.is_empty(), "{output:?}");
    text(output)
}

/// A Debian, and what Alpine is made of: busybox, and musl beneath a program that needs its loader.
fn containers(machine: &Machine) -> Result<()> {
    let port = machine.vm.port();
    let debian = tempfile::tempdir()?;
    tree::debian("amd64", debian.path())?;
    enter(debian.path())?;
    std::fs::write(debian.path().join("home/lines"), "1\n2\n")?;
    let script =
        "tac /home/lines > /home/back; echo $BASH_VERSION; ls /home; cat /etc/debian_version";
    let stdout = run_in(debian.path(), port, &["bash", "-c", script])?;
    let version = std::fs::read_to_string(debian.path().join("etc/debian_version"))?;
    ensure!(
        stdout.starts_with("5.") && stdout.ends_with(&format!("\nback\nlines\n{version}")),
        "{stdout}"
    );
    ensure!(std::fs::read(debian.path().join("home/back"))? == b"2\n1\n");

    let alpine = tempfile::tempdir()?;
    enter(alpine.path())?;
    tree::busybox(
        debian.path(),
        &alpine.path().join("bin"),
        &["sh", "ls", "sed"],
    )?;
    std::fs::create_dir(alpine.path().join("etc"))?;
    std::fs::write(alpine.path().join("etc/os-release"), "ID=alpine\n")?;
    let source = alpine.path().join("hello.c");
    let program = "#include <stdio.h>\nint main(void) { char line[99]; FILE *f = fopen(\"/etc/os-release\", \"r\");\n\
                   return !f || !fgets(line, 99, f) || printf(\"musl on %s\", line) < 0; }\n";
    std::fs::write(&source, program)?;
    let mut compiler = Command::new("musl-gcc");
    compiler.arg("-o").arg(alpine.path().join("bin/hello"));
    ensure!(compiler.arg(&source).status()?.success());
    let loader = Path::new("/lib/ld-musl-x86_64.so.1");
    std::fs::copy(loader, alpine.path().join("lib/ld-musl-x86_64.so.1"))
        .with_context(|| format!("no {}: package musl", loader.display()))?;
    let script = "hello; sed s/alpine/busybox/ /etc/os-release > /home/made; ls /home";
    let stdout = run_in(alpine.path(), port, &["sh", "-c", script])?;
    ensure!(stdout == "musl on ID=alpine\nmade\n", "{stdout}");
    ensure!(std::fs::read(alpine.path().join("home/made"))? == b"ID=busybox\n");
    Ok(())
}

/// virtiofsd, until dropped.
struct Virtiofsd(Child);

impl Drop for Virtiofsd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Virtiofsd {
    fn start(socket: &Path, shared: &Path) -> Result<Self> {
        // The one in C came with QEMU until 7.2; its successor has its own package.
        let places = ["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"];
        let program = places.iter().find(|place| Path::new(place).exists());
        let program = program.context("no virtiofsd: package qemu-system-common, or virtiofsd")?;
        let mut command = Command::new(program);
        command.arg(format!("--socket-path={}", socket.display()));
        if *program == places[0] {
            command
                .arg("-o")
                .arg(format!("source={}", shared.display()));
        } else {
            command.arg("--shared-dir").arg(shared);
        }
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = Self(command.spawn()?);
        wait_until("virtiofsd listens", Duration::from_mins(1), || {
            Ok(socket.exists().then_some(()))
        })?;
        Ok(daemon)
    }
}

/// As the seed has it: the tag `myfs`, by the variable and by the file.
fn virtiofs(machine: &Machine) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (socket, shared) = (
        directory.path().join("socket"),
        directory.path().join("shared"),
    );
    std::fs::create_dir(&shared)?;
    std::fs::write(shared.join("seen"), "through virtiofs\n")?;
    let _daemon = Virtiofsd::start(&socket, &shared)?;
    let vm = Vm::boot_kernel(
        &e2e::out().join("cpukernel"),
        &[
            "-object",
            "memory-backend-memfd,id=memory,size=1G,share=on",
            "-machine",
            "memory-backend=memory",
            "-chardev",
            &format!("socket,id=fs,path={}", socket.display()),
            "-device",
            "vhost-user-fs-pci,chardev=fs,tag=myfs",
        ],
    )?;
    let client = Client::new(vm.port(), &machine.home);
    let line = "myfs /mnt virtiofs rw 0 0";
    let mut command = client.command(&[], &["ls", "/mnt"]);
    command.env("CPU_FSTAB", line);
    ensure!(text(client.output(command, b"")?)? == "seen\n");
    let file = machine.home.path().join("virtiofs");
    std::fs::write(&file, format!("{line}\n"))?;
    let script = "cat /mnt/seen; echo back > /mnt/written; grep ' /mnt ' /proc/mounts";
    let flags = ["-fstab", &file.display().to_string()];
    let command = client.command(&flags, &["sh", "-c", script]);
    let stdout = text(client.output(command, b"")?)?;
    ensure!(
        stdout.starts_with("through virtiofs\nmyfs /mnt virtiofs rw"),
        "{stdout}"
    );
    ensure!(std::fs::read(shared.join("written"))? == b"back\n");
    Ok(())
}
