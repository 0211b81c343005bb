//! One program of u-root's pair, played by a stand-in, with the other one of ours; and servers that behave worse.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use e2e::client::ended;
use e2e::daemon::{Daemon, keygen};
use e2e::user::{User, works};
use e2e::{out, u_root, wait_until};

use crate::Test;
use crate::interop::TIMEOUT;

pub(crate) const TESTS: &[Test] = &[
    ("interop_go_client_without_files", go_client_plain),
    ("interop_go_server_reads_our_files", go_server),
    ("interop_go_server_a_thief_gets_nothing", go_server_thief),
    ("interop_a_refused_command_ends", refusing_server),
    ("interop_a_stalled_start_is_interrupted", stalling_server),
];

fn go_client_plain() -> Result<()> {
    // RSA, as u-root's usually is; on the machine it logs in with what mkimage makes when no type is named.
    let directory = tempfile::tempdir()?;
    let key = directory.path().join("cpu_rsa");
    rsa_key(directory.path())?;
    let daemon = Daemon::cpud_for(&key.with_extension("pub"))?;
    let cpu = |environment, terminal| u_root::Cpu {
        port: daemon.port,
        key: &key,
        root: None,
        environment,
        terminal,
        input: b"",
        second_choice: false,
    };
    let run = |environment, words: &[&str]| cpu(environment, None).run(words);
    let environment = [("PATH", "/usr/bin:/bin"), ("PWD", "/usr")];
    let ran = run(&environment, &["sh", "-c", "pwd; exit 5"])?;
    ensure!(ran.status == Some(5) && ran.stdout == "/usr\n", "{ran:?}");
    let terminal = cpu(&environment, Some((100, 30)));
    let script = "tty; stty size; stty -a | grep -o ' echo '; echo $TERM; tty <&2; exit 6";
    let ran = terminal.run(&["sh", "-c", script])?;
    let stdout: Vec<_> = ran.stdout.split("\r\n").collect();
    ensure!(
        matches!(stdout[..], [here, "30 100", " echo ", "ansi", there, ""]
            if here.starts_with("/dev/pts/") && here == there),
        "{ran:?}"
    );
    ensure!(ran.status == Some(6), "{ran:?}");
    // Without a command: the shell.
    let shell = [("PATH", "/usr/bin:/bin"), ("SHELL", "/usr/bin/id")];
    let ran = cpu(&shell, Some((80, 24))).run(&[])?;
    ensure!(
        ran.status == Some(0) && ran.stdout.starts_with("uid="),
        "{ran:?}"
    );
    // A nonce and a port that were never handed out are refused.
    let forged = [("PATH", "/usr/bin:/bin"), ("CPUNONCE", "ab")];
    let ran = run(&forged, &["-port9p=50000", "true"])?;
    ensure!(ran.status == Some(127) && ran.connections == 0, "{ran:?}");
    Ok(())
}

/// `cpu_rsa` of this type in a directory, as mkimage makes it.
fn rsa_key(directory: &Path) -> Result<()> {
    let mut mkimage = Command::new(out().join("mkimage"));
    let flags = ["keys", "--type", "rsa", "--no-passphrase", "-o"];
    works(&ended(mkimage.args(flags).arg(directory))?)?;
    Ok(())
}

/// A key for the stand-in and one for its user, RSA as u-root's usually are, and a user with a file.
fn with_go_server(habit: u_root::Habit) -> Result<(u_root::Cpud, User, tempfile::TempDir)> {
    let directory = tempfile::tempdir()?;
    let host_key = directory.path().join("host_key");
    keygen(&host_key, &["-t", "rsa"], "")?;
    let root = directory.path().join("root");
    fs::create_dir_all(root.join("etc"))?;
    fs::write(root.join("etc/motd"), "a file of the client\n")?;
    fs::write(root.join("file"), "not for thieves\n")?;
    let user = User::new()?;
    rsa_key(directory.path())?;
    fs::copy(directory.path().join("cpu_rsa"), user.key())?;
    Ok((u_root::Cpud::start(&host_key, habit)?, user, directory))
}

fn go_cpu(server: &u_root::Cpud, user: &User, flags: &[&str], words: &[&str]) -> Result<Output> {
    ended(&mut go_command(server, user, flags, words))
}

fn go_command(server: &u_root::Cpud, user: &User, flags: &[&str], words: &[&str]) -> Command {
    let key = user.home().join(".ssh/own");
    let mut command = Command::new(out().join("cpu"));
    command
        .arg("-key")
        .arg(key)
        .arg(format!("-sp={}", server.port))
        .args(flags)
        .arg("127.0.0.1")
        .args(words)
        .env("HOME", user.home())
        .env("PWD", "/")
        .env("READ", "etc/motd")
        .env_remove("SSH_AUTH_SOCK")
        .stdin(Stdio::null());
    command
}

fn go_server() -> Result<()> {
    let (server, user, directory) = with_go_server(u_root::Habit::Usual)?;
    let root = directory.path().join("root").display().to_string();
    let flags = ["-root", &root, "-namespace", "/etc"];
    let stdout = works(&go_cpu(&server, &user, &flags, &["ls", "it's"])?)?;
    let expected = "words [\"ls\", \"it's\"]\n/tmp/cpu/etc /etc none defaults,bind 0 0\n\
                    a second connection is refused: true\na file of the client\n";
    ensure!(stdout == expected, "{stdout}");
    let seen = server.seen();
    ensure!(
        seen.first()
            .is_some_and(|line| line.starts_with("login rsa-sha2-")),
        "{seen:?}"
    );
    let rest: Vec<_> = seen.iter().skip(1).map(String::as_str).collect();
    ensure!(
        rest[..3]
            == [
                "forward 127.0.0.1 0",
                "session",
                "exec -port9p=N 'ls' 'it'\"'\"'s'"
            ],
        "{seen:?}"
    );
    ensure!(rest.contains(&"cancel 127.0.0.1"), "{seen:?}");

    // It mounts as always; an option that it cannot be told is refused here.
    for flags in [
        ["-cache=loose", "-namespace=/etc"],
        ["-cache=mmap", "-namespace="],
        ["-namespace", "/etc,cache=none"],
    ] {
        let output = go_cpu(&server, &user, &flags, &["ls"])?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let why = "cpu: the server is u-root's cpud, which supports only -cache none";
        ensure!(
            output.status.code() == Some(255) && stderr.starts_with(why),
            "{flags:?} {output:?}"
        );
    }
    let flags = ["-root", &root, "-namespace=/etc", "-cache=none"];
    works(&go_cpu(&server, &user, &flags, &["ls"])?)?;

    // It drops empty arguments and waits for the end of standard input, which stays open here until the command has ended.
    let (stdin, _open) = std::io::pipe()?;
    let mut command = go_command(&server, &user, &flags, &["printf", "", "it's"]);
    let stdout = works(&ended(command.stdin(stdin))?)?;
    let words = r#"words ["sh", "-c", "exec 'printf' '' 'it'\"'\"'s'"]"#;
    ensure!(stdout.starts_with(words), "{stdout}");

    // In a terminal, and without a command.
    let port = format!("-sp={}", server.port);
    let own = user.key().display().to_string();
    let mut terminal = user.typed(&[&port, "-key", &own, "127.0.0.1"])?;
    terminal.expect_from(0, "words []")?;
    ensure!(terminal.wait()?.success());
    let seen = server.seen();
    let from = seen.iter().rposition(|line| line == "session");
    let last = &seen[from.context("no session")?..];
    ensure!(last == ["session", "pty xterm 80 24", "exec  "], "{last:?}");

    // Without files there is no port and no nonce, and a failing command is reported as such.
    let output = go_cpu(&server, &user, &["-9p=false"], &["false"])?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let seen = server.seen();
    ensure!(
        seen.iter()
            .filter(|line| line.starts_with("forward"))
            .count()
            == 3,
        "{seen:?}"
    );
    Ok(())
}

fn go_server_thief() -> Result<()> {
    let (server, user, directory) = with_go_server(u_root::Habit::Thief)?;
    let root = directory.path().join("root").display().to_string();
    let output = go_cpu(&server, &user, &["-root", &root, "-namespace", ""], &["ls"])?;
    let (said, told) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(output.status.code() == Some(1), "{output:?}");
    ensure!(
        !said.contains("not for thieves") && !said.contains("a file of"),
        "{said}"
    );
    ensure!(told.contains("something else than the session"), "{told}");
    Ok(())
}

/// A server that refuses the command and leaves the channel open (RFC 4254, 5.4, lets it).
fn refusing_server() -> Result<()> {
    let (server, user, _directory) = with_go_server(u_root::Habit::Refuses)?;
    let output = go_cpu(&server, &user, &["-9p=false"], &["date"])?;
    let stderr = String::from_utf8(output.stderr)?;
    ensure!(
        output.status.code() == Some(255),
        "{} {stderr}",
        output.status
    );
    ensure!(stderr.contains("refused to run the command"), "{stderr}");
    Ok(())
}

/// A server that hangs before there is a session: the keys that interrupt still do.
fn stalling_server() -> Result<()> {
    let (server, user, _directory) = with_go_server(u_root::Habit::Stalls)?;
    user.configure("Host *\nIdentityFile ~/.ssh/own\n")?;
    let port = server.port.to_string();
    let mut terminal = user.typed(&["-sp", &port, "127.0.0.1"])?;
    wait_until("the server is asked for a session", TIMEOUT, || {
        Ok(server
            .seen()
            .iter()
            .any(|line| line == "session")
            .then_some(()))
    })?;
    terminal.send("\x03")?;
    let status = terminal.wait()?;
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    ensure!(signal == Some(2), "{status}");
    Ok(())
}
