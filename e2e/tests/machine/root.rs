//! What `/` is in a session: a directory that programs can make containers of, or the whole tree of this machine.

use std::fs;
use std::path::Path;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use e2e::{out, u_root};

use crate::{Machine, Test};

pub(crate) const TESTS: &[Test] = &[
    ("root_can_be_changed_as_containers_do", containers),
    ("root_may_be_the_whole_tree_of_this_machine", whole),
    ("root_may_be_another_directory_in_a_mode_of_its_own", other),
    ("interop_go_client_may_give_its_whole_tree", of_go),
];

fn text(output: Output) -> Result<String> {
    ensure!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    Ok(String::from_utf8(output.stdout)?)
}

fn containers(machine: &Machine) -> Result<()> {
    let pivot = "set -e; mount --bind /tmp /tmp; cd /tmp; mkdir old; /usr/sbin/pivot_root . old; test -d old/usr; echo pivoted";
    let bubble = [
        "bwrap",
        "--ro-bind",
        "/",
        "/",
        "--dev",
        "/dev",
        "--proc",
        "/proc",
    ];
    let other = [&bubble[..], &["--unshare-all", "--tmpfs", "/home"]].concat();
    let inside = ["sh", "-c", "echo in $(readlink /proc/self/root); ls /home"];
    for flags in [&[][..], &["-namespace", "/"]] {
        let run = |words: &[&str]| {
            text(
                machine
                    .client
                    .output(machine.client.command(flags, words), b"")?,
            )
        };
        ensure!(run(&["unshare", "--mount", "sh", "-c", pivot])? == "pivoted\n");
        run(&[&bubble[..], &["true"]].concat())?;
        ensure!(run(&[&other[..], &inside].concat())? == "in /\n");
    }
    Ok(())
}

/// The machine's processes, devices and /run, the session's own /tmp, and of the rest nothing is the machine's.
const LOOK: &str = "pwd; uname -n; cat /proc/sys/kernel/hostname; ls -A /tmp; grep -c . /proc/cmdline; test -c /dev/kmsg && echo kmsg
    echo mine >/tmp/mine; echo made >made; cat /etc/hostname; ls -A / | tr '\\n' ' '; echo; grep -c ' /run tmpfs ' /proc/mounts; grep '^cpu / ' /proc/mounts";

/// What [`LOOK`] prints in the directory `home`, up to the mount of `/`.
fn seen(home: &Path) -> Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir("/")? {
        let name = entry?.file_name();
        names.push(name.into_string().ok().context("a strange name")?);
    }
    names.sort_unstable();
    Ok(format!(
        "{}\ncpu\ncpu\ncpu\nlocal\n1\nkmsg\n{}{} \n1\ncpu / 9p ",
        home.display(),
        fs::read_to_string("/etc/hostname")?,
        names.join(" ")
    ))
}

fn whole(machine: &Machine) -> Result<()> {
    let home = machine.home.path();
    let command = machine
        .client
        .command(&["-namespace", "/"], &["sh", "-c", LOOK]);
    let stdout = text(machine.client.output(command, b"")?)?;
    let wanted = seen(home)?;
    ensure!(stdout.starts_with(&wanted), "{stdout} is not {wanted}");
    ensure!(fs::read_to_string(home.join("made"))? == "made\n");
    ensure!(!Path::new("/tmp/mine").exists());
    // The machine's own files are unchanged.
    let mounts = machine.client.sh_ok("cat /proc/1/mounts")?;
    ensure!(!mounts.contains("9p"), "{mounts}");
    Ok(())
}

fn other(machine: &Machine) -> Result<()> {
    let tree = machine.home.path().join("tree");
    let make = |names: &[&str]| {
        names
            .iter()
            .try_for_each(|name| fs::create_dir_all(tree.join(name)))
    };
    make(&["bin", "proc", "sys", "dev", "tmp"])?;
    fs::copy(out().join("cpud"), tree.join("bin/theirs"))?;
    let run = |namespace: &str, words: &[&str]| {
        let namespace = format!("/={}{namespace}", tree.display());
        let mut command = machine.client.command(&["-namespace", &namespace], words);
        command.env("PWD", "/");
        machine.client.output(command, b"")
    };
    let output = run("", &["/bin/theirs", "-V"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.stdout.starts_with(b"cpud "), "{output:?}");
    ensure!(
        said.contains("in this session has no /run: make it there"),
        "{said}"
    );

    make(&["run", "usr", "lib", "lib64"])?;
    // In the order of the elements: a later one is mounted inside an earlier one.
    let script = "grep -E '^cpu (/|/usr) ' /proc/mounts; ls / | tr '\\n' ' '";
    let output = run(",cache=loose:/usr:/bin:/lib:/lib64", &["sh", "-c", script])?;
    let said = text(output)?;
    let lines: Vec<&str> = said.lines().collect();
    // What the modes are to Linux 6.12.
    for (line, point, mode) in [
        (0, "cpu / 9p ", "cache=0xf"),
        (1, "cpu /usr 9p ", "cache=0x5"),
    ] {
        let line = lines.get(line).context("no line")?;
        ensure!(line.starts_with(point) && line.contains(mode), "{said}");
    }
    ensure!(
        lines.last() == Some(&"bin dev lib lib64 proc run sys tmp usr "),
        "{said}"
    );
    Ok(())
}

fn of_go(machine: &Machine) -> Result<()> {
    let home = machine.home.path();
    let mounts = "/tmp/cpu/ / none defaults,bind 0 0\n";
    let pwd = home.display().to_string();
    let environment = [
        ("PATH", "/usr/bin:/bin"),
        ("PWD", &pwd),
        ("USER", "glenda"),
        ("CPU_FSTAB", mounts),
        ("LC_GLENDA_CPU_FSTAB", mounts),
    ];
    let ran = u_root::Cpu {
        port: machine.vm.port(),
        key: &out().join("cpu_rsa"),
        root: Some("/".as_ref()),
        environment: &environment,
        terminal: None,
        input: b"",
        second_choice: false,
    }
    .run(&["sh", "-c", LOOK])?;
    let wanted = seen(home)?;
    ensure!(ran.status == Some(0) && ran.stderr.is_empty(), "{ran:?}");
    ensure!(ran.stdout.starts_with(&wanted), "{ran:?} is not {wanted}");
    Ok(())
}
