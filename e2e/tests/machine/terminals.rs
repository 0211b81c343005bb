//! Sessions in a terminal.

use anyhow::{Context, Result, ensure};
use e2e::terminal::Terminal;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pty_process::blocking::Command;

use crate::{Machine, Test};

pub(crate) const TESTS: &[Test] = &[
    ("a_shell_in_a_terminal_does_what_a_shell_does", shell),
    ("a_shell_shows_what_the_guide_shows", as_in_the_guide),
    ("tilde_dot_leaves", tilde_dot),
    ("the_terminal_is_restored_after_sigterm", restored),
];

/// `bash` here in a terminal, with the client's words ready to type: so that the terminal's modes
/// can be looked at after the client has gone.
fn local_shell(machine: &Machine) -> Result<Terminal> {
    let command = Command::new("bash")
        .args(["--norc", "--noprofile"])
        .env("PS1", "local> ")
        .env("HOME", machine.home.path())
        .env("TERM", "xterm")
        .current_dir(machine.home.path());
    let terminal = Terminal::start(command, 33, 111)?;
    terminal.expect_from(0, "local> ")?;
    Ok(terminal)
}

/// The line that starts a remote bash with a prompt of its own, `there> `, which the line itself
/// does not contain.
fn remote_shell(machine: &Machine) -> String {
    format!(
        "PS1='th''ere> ' {} -key {} -sp {} localhost bash --norc --noprofile\r",
        e2e::out().join("cpu").display(),
        e2e::out().join("cpu_rsa").display(),
        machine.vm.port()
    )
}

fn shell(machine: &Machine) -> Result<()> {
    let mut terminal = local_shell(machine)?;
    terminal.send(&remote_shell(machine))?;
    let mut at = terminal.expect_from(0, "there> ")?;
    terminal.send("stty size\r")?;
    at = terminal.expect_from(at, "33 111")?;
    terminal.resize(44, 122)?;
    terminal.send("until stty size | grep '44 1''22'; do sleep 0.1; done\r")?;
    at = terminal.expect_from(at, "44 122")?;
    // Ctrl-C interrupts the command and nothing else. The command itself says that it is in the foreground.
    terminal.send("sh -c \"echo be''gun; exec sleep 1000\"; echo status=$?\r")?;
    at = terminal.expect_from(at, "begun")?;
    terminal.send("\x03")?;
    at = terminal.expect_from(at, "there> ")?;
    terminal.send("echo status=$?\r")?;
    at = terminal.expect_from(at, "status=130")?;
    terminal.send("tty; exit 7\r")?;
    at = terminal.expect_from(at, "/dev/pts/")?;
    at = terminal.expect_from(at, "local> ")?;
    terminal.send("echo left=$?\r")?;
    terminal.expect_from(at, "left=7")?;
    terminal.send("exit\r")?;
    terminal.wait()?;
    Ok(())
}

fn tilde_dot(machine: &Machine) -> Result<()> {
    let mut terminal = local_shell(machine)?;
    terminal.send(&remote_shell(machine))?;
    let mut at = terminal.expect_from(0, "there> ")?;
    terminal.send("\r~.")?;
    at = terminal.expect_from(at, "local> ")?;
    terminal.send("echo left=$?; stty -a | grep -q -- -icanon || echo coo''ked\r")?;
    at = terminal.expect_from(at, "left=255")?;
    terminal.expect_from(at, "cooked")?;
    terminal.send("exit\r")?;
    terminal.wait()?;
    Ok(())
}

fn restored(machine: &Machine) -> Result<()> {
    let mut terminal = local_shell(machine)?;
    terminal.send("stty -g > ~/modes-before\r")?;
    terminal.send(&remote_shell(machine))?;
    let at = terminal.expect_from(0, "there> ")?;
    let client = child_of(terminal.child.id())?;
    kill(client, Signal::SIGTERM)?;
    let at = terminal.expect_from(at, "local> ")?;
    terminal.send("stty -g > ~/modes-after; echo do''ne\r")?;
    terminal.expect_from(at, "done")?;
    let read = |name| std::fs::read_to_string(machine.home.path().join(name));
    let (before, after) = (read("modes-before")?, read("modes-after")?);
    ensure!(
        !before.is_empty() && before == after,
        "{before} became {after}"
    );
    terminal.send("exit\r")?;
    terminal.wait()?;
    Ok(())
}

/// The one child of a process (proc_pid_stat(5): the fields after the name are state and parent).
fn child_of(parent: u32) -> Result<Pid> {
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let after_name = stat.rsplit(") ").next().unwrap_or_default();
        if after_name.split(' ').nth(1) == Some(&parent.to_string()) {
            let pid = entry.file_name().into_string().ok().context("no pid")?;
            return Ok(Pid::from_raw(pid.parse()?));
        }
    }
    anyhow::bail!("process {parent} has no child")
}

/// No words: the user's own shell, in the same directory, with this machine's programs and libraries.
fn as_in_the_guide(machine: &Machine) -> Result<()> {
    std::fs::write(machine.home.path().join(".bashrc"), "PS1='th''ere> '\n")?;
    std::fs::write(machine.home.path().join("LICENSE"), "")?;
    let command = Command::new(e2e::out().join("cpu"))
        .arg("-key")
        .arg(e2e::out().join("cpu_rsa"))
        .args(["-sp", &machine.vm.port().to_string(), "localhost"])
        .env("HOME", machine.home.path())
        .env("PWD", machine.home.path())
        .env("SHELL", "/bin/bash")
        .env("PATH", "/usr/bin:/bin")
        .env_remove("SSH_AUTH_SOCK")
        .current_dir(machine.home.path());
    let mut terminal = Terminal::start(command, 40, 200)?;
    let mut at = terminal.expect_from(0, "there> ")?;
    let home = machine.home.path().display().to_string();
    for (typed, shown) in [
        ("pwd", &[home.as_str()][..]),
        ("ls", &["LICENSE"]),
        ("which date", &["/usr/bin/date"]),
        (
            "ldd $(which date)",
            &["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux"],
        ),
        (
            "mount",
            &[
                "cpu on /tmp type tmpfs",
                "on /tmp/local type",
                "on /tmp/cpu type 9p",
                "on /usr type 9p",
                "on /home type 9p",
            ],
        ),
    ] {
        terminal.send(&format!("{typed}\r"))?;
        for shown in shown {
            at = terminal.expect_from(at, shown)?;
        }
        at = terminal.expect_from(at, "there> ")?;
    }
    terminal.send("exit 3\r")?;
    ensure!(terminal.wait()?.code() == Some(3));
    Ok(())
}
