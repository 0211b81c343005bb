//! Unusual ends and beginnings of sessions: full disks, interrupts, refusals. The servers run on this computer.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::client::ended;
use e2e::daemon::{Daemon, keygen};
use e2e::out;
use e2e::terminal::Terminal;
use e2e::user::{User, board, works};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("edge_output_that_is_lost_is_no_success", lost_output),
    ("edge_a_line_that_nobody_reads_ends_nothing", no_reader),
    ("edge_signals_that_were_ignored_stay_so", ignored_signals),
    ("edge_a_passphrase_prompt_is_interrupted", interrupted),
    ("edge_a_refused_terminal_leaves_this_one", refused_terminal),
    ("edge_proxies_have_our_umask_and_limits", proxy_limits),
    ("edge_a_proxy_may_ask_a_person", asking_proxy),
];

fn lost_output() -> Result<()> {
    let (_daemon, user) = board()?;
    // The loss and the exit status may arrive in either order.
    for _ in 0..20 {
        let mut command = user.cpu(&["board", "echo", "lost"]);
        command.stdout(File::options().write(true).open("/dev/full")?);
        let output = command.stderr(Stdio::piped()).output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(255) && stderr.contains("No space left"),
            "{output:?}"
        );
    }
    Ok(())
}

fn no_reader() -> Result<()> {
    let (_daemon, user) = board()?;
    let (reader, writer) = nix::unistd::pipe()?;
    drop(reader);
    let mut command = user.cpu(&["-t", "board", "sh", "-c", "exit 7"]);
    command.stderr(writer);
    let status = command.status()?;
    ensure!(status.code() == Some(7), "{status}");
    Ok(())
}

fn ignored_signals() -> Result<()> {
    let (_daemon, user) = board()?;
    let script = "trap 'echo got' HUP INT; trap 'echo usr; exit 44' USR1; echo ready; while :; do sleep 0.1; done";
    for (ignored, expected) in [("trap '' HUP INT;", "usr\n"), ("", "got\nusr\n")] {
        let cpu = user.cpu(&["board", "sh", "-c", script]);
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &format!("{ignored} exec \"$@\""), "sh"]);
        command.arg(cpu.get_program()).args(cpu.get_args());
        for (name, value) in cpu.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn()?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        let mut from = child.stdout.take().context("no output")?;
        let mut ready = [0; 6];
        from.read_exact(&mut ready)?;
        // Then a signal that is not ignored. The INT before it is the first one, and only a second one ends cpu.
        for signal in [Signal::SIGINT, Signal::SIGUSR1] {
            kill(pid, signal)?;
            std::thread::sleep(Duration::from_secs(1));
        }
        let mut rest = String::new();
        from.read_to_string(&mut rest)?;
        let status = child.wait()?;
        ensure!(
            rest == expected && status.code() == Some(44),
            "{ignored}: {rest:?} {status}"
        );
    }
    // An INT after another signal is the first INT: the command decides.
    let script = "trap 'echo int; exit 45' INT; trap 'echo usr' USR1; echo ready; while :; do sleep 0.1; done";
    let mut command = user.cpu(&["board", "sh", "-c", script]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let mut from = child.stdout.take().context("no output")?;
    for (line, signal) in [("ready\n", Signal::SIGUSR1), ("usr\n", Signal::SIGINT)] {
        let mut told = vec![0; line.len()];
        from.read_exact(&mut told)?;
        ensure!(told == line.as_bytes());
        kill(pid, signal)?;
    }
    let status = child.wait()?;
    ensure!(status.code() == Some(45), "{status}");
    Ok(())
}

fn interrupted() -> Result<()> {
    let (daemon, user) = (Daemon::cpud()?, User::new()?);
    let key = user.key().with_extension("locked");
    keygen(&key, &["-t", "ed25519"], "sesame")?;
    let keys = user.home().join("keys");
    fs::copy(key.with_added_extension("pub"), &keys)?;
    drop(daemon);
    let daemon = Daemon::cpud_for(&keys)?;
    let script = format!(
        "{} -9p=false -sp={} -key {} 127.0.0.1 true; echo \"status $?\"; stty -a",
        out().join("cpu").display(),
        daemon.port,
        key.display()
    );
    let command = pty_process::blocking::Command::new("sh")
        // The shell itself goes on.
        .args(["-c", &format!("trap : INT; {script}")])
        .env("HOME", user.home())
        .env_remove("SSH_AUTH_SOCK");
    let mut terminal = Terminal::start(command, 24, 80)?;
    let at = terminal.expect_from(0, "Enter passphrase")?;
    terminal.send("ses\x03")?;
    let at = terminal.expect_from(at, "status 130")?;
    terminal.expect_from(at, " echo ")?;
    terminal.wait()?;
    ensure!(
        !terminal.screen().contains("ses\x03"),
        "{}",
        terminal.screen()
    );
    Ok(())
}

fn refused_terminal() -> Result<()> {
    let user = User::new()?;
    let banner = user.home().join("banner");
    fs::write(&banner, "welcome\n\x1b]0;title\x07to \x1b[2Jthe lab\n")?;
    let banner = format!("Banner {}", banner.display());
    let daemon = Daemon::sshd_with(&["PermitTTY no", &banner])?;
    user.configure(&format!(
        "Host sshd\nHostName 127.0.0.1\nIdentityFile ~/.ssh/own\nPort {}\nSetEnv TERM=vt52\n",
        daemon.port
    ))?;
    let output = user.run(&["-namespace", "", "sshd", "true"])?;
    works(&output)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    // Nothing in it controls the terminal.
    ensure!(
        stderr.contains("welcome\n") && stderr.contains("the lab\n"),
        "{stderr}"
    );
    ensure!(!stderr.contains(['\x1b', '\x07']), "{stderr:?}");

    // A shell without a remote terminal, and the local terminal unchanged.
    let mut terminal = user.typed(&["-namespace", "", "sshd"])?;
    let at = terminal.expect_from(0, "PTY allocation request failed")?;
    terminal.send("tty; exit 5\r")?;
    let at = terminal.expect_from(at, "tty; exit 5\r\n")?;
    terminal.expect_from(at, "not a tty")?;
    ensure!(terminal.wait()?.code() == Some(5), "{}", terminal.screen());
    // With -t, cpu does not go on without one.
    let output = user.run(&["-tt", "-namespace", "", "sshd", "true"])?;
    ensure!(output.status.code() == Some(255), "{output:?}");
    drop(daemon);

    let daemon = Daemon::sshd()?;
    user.configure(&format!(
        "Host sshd\nHostName 127.0.0.1\nIdentityFile ~/.ssh/own\nPort {}\nUserKnownHostsFile ~/.ssh/new\nSetEnv TERM=vt52\n",
        daemon.port
    ))?;
    let output = user.run(&["-tt", "-namespace", "", "sshd", "echo $TERM"])?;
    ensure!(works(&output)? == "vt52\r\n", "{output:?}");
    Ok(())
}

/// What the file server changes for itself is not for the programs that make the connection.
fn proxy_limits() -> Result<()> {
    let user = User::new()?;
    let file = user.home().join("limits");
    user.configure(&format!(
        "Host board\nIdentityFile ~/.ssh/own\nProxyCommand sh -c '(umask; ulimit -Sn) > {}'\n",
        file.display()
    ))?;
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "umask 027; ulimit -Sn 321; exec \"$@\"", "sh"]);
    command.arg(out().join("cpu")).args(["board", "true"]);
    command.env("HOME", user.home()).env_remove("SSH_AUTH_SOCK");
    let output = ended(&mut command)?;
    ensure!(output.status.code() == Some(255), "{output:?}");
    let limits = fs::read_to_string(&file)?;
    ensure!(limits == "0027\n321\n", "{limits:?} {output:?}");
    ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o640);
    Ok(())
}

/// As ssh does for a jump host's password: it takes longer than a machine may take to answer, and nothing is
/// shown over the question.
fn asking_proxy() -> Result<()> {
    let (daemon, bastion, user) = (Daemon::cpud()?, Daemon::sshd()?, User::new()?);
    user.configure(&format!(
        "Host board\nHostName 127.0.0.1\nPort {}\nIdentityFile ~/.ssh/own\n\
         ProxyCommand sh -c 'printf \"who? \" > /dev/tty; read name < /dev/tty; exec ssh -F none \
         -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -i {} -p {} -W %h:%p $name'\n",
        daemon.port,
        user.key().display(),
        bastion.port
    ))?;
    let mut terminal = user.typed(&["board", "echo", "in''side"])?;
    terminal.expect_from(0, "who? ")?;
    std::thread::sleep(Duration::from_secs(16));
    terminal.send("127.0.0.1\r")?;
    terminal.expect_from(0, "in''side")?;
    ensure!(terminal.wait()?.success());
    ensure!(
        terminal.screen().starts_with("who? 127.0.0.1\r\n"),
        "{:?}",
        terminal.screen()
    );
    Ok(())
}
