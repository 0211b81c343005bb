//! cpu behaves as ssh: its configuration, keys and host keys, and a stock sshd as the server. The servers run on this
//! computer.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::client::{ended, fed, finish};
use e2e::daemon::{Daemon, keygen};
use e2e::delay::Delay;
use e2e::user::{User, fails, works};
use e2e::{out, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getuid};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("ssh_config_says_where_and_how", configuration),
    ("ssh_goes_through_proxies_and_jumps", proxies),
    ("ssh_keys_are_tried_in_turn", several_keys),
    ("ssh_keys_of_every_kind_log_in", kinds_of_keys),
    ("ssh_passphrases_are_asked_for_without_echo", passphrase),
    ("ssh_agents_sign", agent),
    ("ssh_known_hosts_are_kept_and_obeyed", known_hosts),
    ("ssh_servers_of_stock_work_as_with_ssh", stock_sshd),
    ("ssh_servers_are_asked_whether_they_live", alive),
    ("ssh_over_a_unix_socket", unix_socket),
    ("ssh_waiting_is_shown_on_a_terminal", waiting),
];

fn configuration() -> Result<()> {
    let (daemon, user) = (Daemon::cpud()?, User::new()?);
    let port = daemon.port;
    user.configure(
        "Include board.conf\nMatch host=127.0.0.1 user bob\n  SetEnv FROM_CONFIG=yes BOB=1\n\
         Host board-*\n  ForwardX11 yes\n  Port 1\n  SetEnv FROM_CONFIG=yes LATE=no\n",
    )?;
    fs::write(
        user.ssh().join("board.conf"),
        format!(
            "Host board-?\n  Port {port}\n  HostName 127.0.0.1\n  IdentityFile ~/.ssh/missing\n  IdentityFile %d/.ssh/own\n  \
             UserKnownHostsFile ~/.ssh/hosts\n  HashKnownHosts no\n  AddressFamily inet\n"
        ),
    )?;
    let script = "echo $FROM_CONFIG $BOB";
    let output = user.run(&["board-1", "sh", "-c", script])?;
    ensure!(works(&output)? == "yes\n", "{output:?}");
    ensure!(
        fs::read_to_string(user.ssh().join("hosts"))?.starts_with(&format!("[127.0.0.1]:{port} "))
    );
    let output = user.run(&["bob@board-1", "sh", "-c", script])?;
    ensure!(
        works(&output)? == "yes 1\n" && output.stderr.is_empty(),
        "{output:?}"
    );

    let output = user.run(&["-d", "board-1", "true"])?;
    let stderr = String::from_utf8(output.stderr)?;
    ensure!(stderr.matches("forwardx11").count() == 1, "{stderr}");

    // No local terminal.
    user.configure("Include board.conf\nHost board-1\n  RequestTTY force\n")?;
    for (words, status) in [
        (&["board-1", "test", "-t", "0"][..], 0),
        (&["board-2", "test", "-t", "0"], 1),
        (&["-T", "board-1", "test", "-t", "0"], 1),
    ] {
        let output = user.run(words)?;
        ensure!(output.status.code() == Some(status), "{words:?} {output:?}");
    }

    user.configure("\nHost x\n  Port 1\nHost *\n  Port many\n")?;
    fails(&user.run(&["board-1", "true"])?, &["config line 5", "many"])?;
    user.configure("Port 1\n")?;
    fs::set_permissions(user.ssh().join("config"), PermissionsExt::from_mode(0o666))?;
    fails(&user.run(&["board-1", "true"])?, &["config", "chmod 600"])
}

fn proxies() -> Result<()> {
    let (daemon, bastion, user) = (Daemon::cpud()?, Daemon::sshd()?, User::new()?);
    let ssh = format!(
        "ssh -F none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -i {}",
        user.key().display()
    );
    let common = format!(
        "Host board\nHostName 127.0.0.1\nPort {}\nIdentityFile ~/.ssh/own\n",
        daemon.port
    );
    let through = bastion.port;
    user.configure(&format!(
        "{common}ProxyCommand {ssh} -p {through} -W %h:%p 127.0.0.1\n"
    ))?;
    ensure!(works(&user.run(&["board", "echo", "there"])?)? == "there\n");

    // ssh finds its configuration by passwd(5), not by $HOME, so it is named here.
    let bin = user.home().join("bin");
    fs::create_dir(&bin)?;
    fs::write(
        bin.join("ssh"),
        format!("#!/bin/sh\nexec /usr/bin/{ssh} \"$@\"\n"),
    )?;
    fs::set_permissions(bin.join("ssh"), PermissionsExt::from_mode(0o755))?;
    user.configure(&format!("{common}ProxyJump 127.0.0.1:{through}\n"))?;
    let path = format!("{}:{}", bin.display(), std::env::var("PATH")?);
    let output = ended(user.cpu(&["board", "echo", "there"]).env("PATH", path))?;
    ensure!(works(&output)? == "there\n");

    user.configure(&format!("{common}ProxyCommand exit 3\n"))?;
    fails(&user.run(&["board", "true"])?, &["through", "exit 3"])
}

fn several_keys() -> Result<()> {
    let (daemon, user) = (Daemon::cpud()?, User::new()?);
    let port = format!("-sp={}", daemon.port);
    let (wrong, own) = (user.ssh().join("wrong"), user.key().display().to_string());
    keygen(&wrong, &["-t", "ecdsa"], "")?;
    let wrong = wrong.display().to_string();
    let words = [&port, "-key", &wrong, "-key", &own, "127.0.0.1", "true"];
    works(&user.run(&words)?)?;
    let words = [&port, "-key", &wrong, "127.0.0.1", "true"];
    fails(&user.run(&words)?, &["refuses the key", &wrong])?;

    // Default key names are tried without a flag.
    fs::rename(user.key(), user.ssh().join("id_rsa"))?;
    works(&user.run(&[&port, "127.0.0.1", "true"])?)?;
    fs::set_permissions(user.ssh().join("id_rsa"), PermissionsExt::from_mode(0o644))?;
    let output = user.run(&[&port, "127.0.0.1", "true"])?;
    fails(
        &output,
        &["id_rsa is not used", "0644", "no key to log in with"],
    )
}

fn passphrase() -> Result<()> {
    let (daemon, user) = (Daemon::cpud()?, User::new()?);
    let own = user.key().display().to_string();
    let changed = ended(Command::new("ssh-keygen").args(["-q", "-p", "-N", "sesame", "-f", &own]))?;
    ensure!(changed.status.success(), "{changed:?}");
    let port = format!("-sp={}", daemon.port);
    let words = [port.as_str(), "-key", &own, "127.0.0.1", "echo", "in''side"];
    let mut terminal = user.typed(&words)?;
    let at = terminal.expect_from(0, &format!("Enter passphrase for key '{own}': "))?;
    terminal.send("wrong\r")?;
    let at = terminal.expect_from(at, "Enter passphrase")?;
    terminal.send("sesame\r")?;
    terminal.expect_from(at, "in''side")?;
    ensure!(terminal.wait()?.success());
    ensure!(
        !terminal.screen().contains("sesame"),
        "{}",
        terminal.screen()
    );

    // Nobody can be asked: setsid takes the terminal away.
    let mut command = Command::new("setsid");
    command
        .arg("-w")
        .arg(out().join("cpu"))
        .arg("-9p=false")
        .args(words);
    let output = ended(command.env("HOME", user.home()).env_remove("SSH_AUTH_SOCK"))?;
    fails(&output, &["no terminal", "passphrase", "ssh-agent"])
}

/// `ssh-agent`, until dropped.
pub(crate) struct Agent {
    child: Child,
    pub(crate) socket: PathBuf,
}

impl Agent {
    /// With one key.
    pub(crate) fn start(socket: &Path, key: &Path) -> Result<Self> {
        let agent = Self::run(Command::new("ssh-agent"), socket)?;
        agent.add(key, &[])?;
        Ok(agent)
    }

    /// Without a key, run by this command.
    pub(crate) fn run(mut command: Command, socket: &Path) -> Result<Self> {
        command.arg("-D").arg("-a").arg(socket);
        let agent = Self {
            child: command.stdout(Stdio::null()).spawn()?,
            socket: socket.to_owned(),
        };
        wait_until("ssh-agent listens", Duration::from_mins(1), || {
            Ok(UnixStream::connect(socket).is_ok().then_some(()))
        })?;
        Ok(agent)
    }

    /// Give it a key, with options of ssh-add.
    pub(crate) fn add(&self, key: &Path, options: &[&str]) -> Result<()> {
        let mut add = Command::new("ssh-add");
        add.arg("-q").args(options).arg(key);
        ensure!(add.env("SSH_AUTH_SOCK", &self.socket).status()?.success());
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn agent() -> Result<()> {
    let (daemon, user) = (Daemon::cpud()?, User::new()?);
    let socket = user.ssh().join("agent");
    let _agent = Agent::start(&socket, &user.key())?;
    let port = format!("-sp={}", daemon.port);
    // Now only the agent has the key.
    fs::remove_file(user.key())?;
    let words = [&port, "127.0.0.1", "true"];
    let run = || ended(user.cpu(&words).env("SSH_AUTH_SOCK", &socket));
    works(&run()?)?;
    user.configure("IdentityAgent none\n")?;
    fails(&run()?, &["no key to log in with"])?;
    user.configure("IdentityAgent ~/.ssh/agent\n")?;
    works(&user.run(&words)?)?;
    let other = user.ssh().join("other");
    keygen(&other, &["-t", "ed25519"], "")?;
    let only = "IdentityAgent ~/.ssh/agent\nIdentitiesOnly yes\nIdentityFile ~/.ssh/other\n";
    user.configure(only)?;
    fails(&user.run(&words)?, &["refuses the key", "other"])?;
    // If only the public key file exists, the key is the agent's; also if the .pub file itself is named.
    let public = fs::read_to_string(out().join("cpu_rsa.pub"))?;
    fs::write(user.ssh().join("token.pub"), public)?;
    for name in ["token", "token.pub"] {
        user.configure(&only.replace("other", name).replace("yes", "Yes"))?;
        works(&user.run(&words)?)?;
    }
    Ok(())
}

/// A pin beside a usual key is of some machines; known_hosts may know another. Beside a named key it is of all.
fn pins(user: &User, port: &str, right: &str, wrong: &str) -> Result<()> {
    let usual = user.ssh().join("cpu_rsa");
    fs::copy(user.key(), &usual)?;
    fs::write(user.ssh().join("cpu_rsa.hostkey"), wrong)?;
    let known = user.ssh().join("known_hosts");
    fs::write(&known, "")?;
    let words = [port, "127.0.0.1", "true"];
    fails(
        &user.run(&words)?,
        &["cpu_rsa.hostkey pins", "-hk", "known_hosts"],
    )?;
    ensure!(fs::read_to_string(&known)?.is_empty(), "it was remembered");
    let number = port.rsplit('=').next().unwrap_or_default();
    fs::write(&known, format!("[127.0.0.1]:{number} {right}\n"))?;
    works(&user.run(&words)?)?;
    let named = usual.display().to_string();
    let words = [port, "-key", &named, "127.0.0.1", "true"];
    fails(&user.run(&words)?, &["cpu_rsa.hostkey pins", "-hk"])?;
    fs::remove_file(user.ssh().join("cpu_rsa.hostkey"))?;
    fs::remove_file(usual)?;
    Ok(())
}

/// Without a setting, a person decides, and where there is none nothing is sent and nothing is learned.
fn new_host_by_default(user: &User, words: &[&str], daemon: &Daemon) -> Result<()> {
    user.configure_exactly("")?;
    let file = user.ssh().join("known_hosts");
    // setsid takes the terminal away.
    let mut alone = Command::new("setsid");
    alone
        .arg("-w")
        .arg(out().join("cpu"))
        .arg("-9p=false")
        .args(words);
    fails(
        &ended(alone.env("HOME", user.home()).env_remove("SSH_AUTH_SOCK"))?,
        &["is new", "SHA256:", "no terminal", "accept-new"],
    )?;
    ensure!(!file.exists());
    ensure!(!daemon.log().contains("cpud: login "), "{}", daemon.log());
    let shown = ended(Command::new("ssh-keygen").arg("-lf").arg(daemon.host_key()))?;
    let shown = works(&shown)?;
    let fingerprint = shown
        .split(' ')
        .nth(1)
        .context("no fingerprint")?
        .to_owned();
    for (answers, status) in [
        (&["no"][..], 255),
        (&["maybe", "NO"], 255),
        (&["SHA256:other", "no"], 255),
        (&["what", &fingerprint], 0),
    ] {
        let mut terminal = user.typed(words)?;
        terminal.expect_from(0, &fingerprint)?;
        let mut from = 0;
        for answer in answers {
            let question = if from == 0 {
                "fingerprint])?"
            } else {
                "Write yes, no or the fingerprint:"
            };
            from = terminal.expect_from(from, question)?;
            terminal.send(&format!("{answer}\r"))?;
        }
        let ended = terminal.wait()?;
        ensure!(
            ended.code() == Some(status),
            "{answers:?}: {}",
            terminal.screen()
        );
        ensure!(file.exists() == (status == 0), "{answers:?}");
    }
    Ok(fs::remove_file(file)?)
}

fn known_hosts() -> Result<()> {
    let (daemon, user) = (Daemon::cpud()?, User::new()?);
    let file = user.ssh().join("known_hosts");
    let (port, own) = (
        format!("-sp={}", daemon.port),
        user.key().display().to_string(),
    );
    let words = [port.as_str(), "-key", &own, "127.0.0.1", "true"];
    let key = fs::read_to_string(daemon.host_key())?;
    let key = key.split(' ').take(2).collect::<Vec<_>>().join(" ");

    user.configure("StrictHostKeyChecking yes\n")?;
    fails(
        &user.run(&words)?,
        &["is new", "SHA256:", "StrictHostKeyChecking"],
    )?;
    new_host_by_default(&user, &words, &daemon)?;
    user.configure("")?;
    let first = user.run(&words)?;
    works(&first)?;
    ensure!(
        String::from_utf8_lossy(&first.stderr).contains("is new"),
        "{first:?}"
    );
    let again = user.run(&words)?;
    works(&again)?;
    ensure!(again.stderr.is_empty(), "{again:?}");

    // ssh itself finds the host key that cpu has written.
    let finds = |name: &str| {
        let mut find = Command::new("ssh-keygen");
        Ok::<_, anyhow::Error>(
            ended(find.args(["-F", name, "-f"]).arg(&file))?
                .status
                .success(),
        )
    };
    user.configure("HostKeyAlias lab\nHashKnownHosts yes\n")?;
    let output = user.run(&words)?;
    works(&output)?;
    ensure!(
        String::from_utf8_lossy(&output.stderr).contains("(lab) is new"),
        "{output:?}"
    );
    ensure!(finds("lab")? && !finds("127.0.0.1")?);
    ensure!(finds(&format!("[127.0.0.1]:{}", daemon.port))?);
    ensure!(!fs::read_to_string(&file)?.contains("lab"));
    let again = user.run(&words)?;
    works(&again)?;
    ensure!(again.stderr.is_empty(), "{again:?}");

    let mut hash = Command::new("ssh-keygen");
    hash.args(["-q", "-H", "-f"]).arg(&file);
    ensure!(ended(&mut hash)?.status.success());
    ensure!(fs::read_to_string(&file)?.starts_with("|1|"));
    user.configure("StrictHostKeyChecking yes\n")?;
    works(&user.run(&words)?)?;
    fs::write(&file, format!("[127.0.*]:{} {key}\n", daemon.port))?;
    works(&user.run(&words)?)?;

    fs::write(&file, format!("# revoked\n@revoked * {key}\n"))?;
    fails(
        &user.run(&words)?,
        &["known_hosts line 2", "revokes", "SHA256:"],
    )?;

    let other = user.ssh().join("other");
    keygen(&other, &["-t", "ed25519"], "")?;
    let other_key = fs::read_to_string(other.with_extension("pub"))?;
    fs::write(
        &file,
        format!("\n\n[127.0.0.1]:{} {other_key}", daemon.port),
    )?;
    fails(
        &user.run(&words)?,
        &["known_hosts line 3", "SHA256:", "another machine"],
    )?;
    // Also with a key of another type: the machine must not choose by which key it is known.
    let rsa = user.ssh().join("rsa");
    keygen(&rsa, &["-t", "rsa", "-b", "2048"], "")?;
    let rsa_key = fs::read_to_string(rsa.with_extension("pub"))?;
    fs::write(&file, format!("[127.0.0.1]:{} {rsa_key}", daemon.port))?;
    fails(
        &user.run(&words)?,
        &["known_hosts line 1", "SHA256:", "another machine"],
    )?;
    pins(&user, &port, &key, &other_key)?;
    fs::write(
        &file,
        format!("\n\n[127.0.0.1]:{} {other_key}", daemon.port),
    )?;
    user.configure("StrictHostKeyChecking no\n")?;
    let output = user.run(&words)?;
    works(&output)?;
    ensure!(
        String::from_utf8_lossy(&output.stderr).contains("line 3"),
        "{output:?}"
    );

    fs::remove_file(&file)?;
    user.configure("StrictHostKeyChecking ask\nConnectTimeout 2\n")?;
    for (answer, status) in [("no", 255), ("yes", 0), ("", 0)] {
        let mut terminal = user.typed(&words)?;
        if !answer.is_empty() {
            terminal.expect_from(0, "(yes/no/[fingerprint])?")?;
            // Longer than the connect time-out.
            std::thread::sleep(Duration::from_secs(3));
            terminal.send(&format!("{answer}\r"))?;
        }
        let ended = terminal.wait()?;
        ensure!(
            ended.code() == Some(status),
            "{answer}: {}",
            terminal.screen()
        );
    }

    let pin = daemon.host_key().display().to_string();
    works(&user.run(&[&["-hk", pin.as_str()], &words[..]].concat())?)?;
    let pin = other.with_extension("pub").display().to_string();
    fails(
        &user.run(&[&["-hk", pin.as_str()], &words[..]].concat())?,
        &["pins", &pin],
    )
}

fn stock_sshd() -> Result<()> {
    let (daemon, user) = (Daemon::sshd()?, User::new()?);
    user.configure(&format!(
        "Host sshd\nHostName 127.0.0.1\nIdentityFile ~/.ssh/own\nUserKnownHostsFile ~/.ssh/hosts\n\
         SetEnv FROM_CONFIG=set\nSendEnv SENT\nPort {}\n",
        daemon.port
    ))?;
    let run = |words: &[&str]| user.run(&[&["-namespace", "", "sshd"], words].concat());
    // The remote shell parses the words, as with ssh.
    let output = run(&["echo $((6*7)) | tr 4 5; exit 3"])?;
    ensure!(
        output.status.code() == Some(3) && output.stdout == b"52\n",
        "{output:?}"
    );
    ensure!(run(&["kill -TERM $$"])?.status.code() == Some(143));
    // Arguments are joined by blanks, without quoting.
    let output = run(&["echo", "a  b", "'c  d'", "$((1+1))"])?;
    ensure!(works(&output)? == "a b c  d 2\n", "{output:?}");
    signals_to_sshd(&user)?;
    let mut command = user.cpu(&["sshd", "echo $FROM_CONFIG $SENT $KEPT; echo err >&2"]);
    let output = ended(command.env("SENT", "sent").env("KEPT", "kept"))?;
    ensure!(
        works(&output)? == "set sent\n" && output.stderr == b"err\n",
        "{output:?}"
    );

    let output = fed(&mut user.cpu(&["sshd"]), b"echo shell $0; exit 4\n")?;
    ensure!(output.status.code() == Some(4), "{output:?}");
    ensure!(output.stdout.starts_with(b"shell "), "{output:?}");

    let mut terminal = user.typed(&["sshd", "tty; stty size; sleep 1; stty size"])?;
    let at = terminal.expect_from(0, "/dev/pts/")?;
    let at = terminal.expect_from(at, "24 80")?;
    terminal.resize(30, 90)?;
    terminal.expect_from(at, "30 90")?;
    ensure!(terminal.wait()?.success());
    Ok(())
}

/// To root's commands sshd passes no signals on ("session signalling requires privilege separation"): cpu, which
/// asked for it, ends by itself then. Others' get them.
fn signals_to_sshd(user: &User) -> Result<()> {
    // It must end by itself: nobody signals it.
    let script =
        "trap 'echo got TERM; exit 9' TERM; echo ready; for i in $(seq 300); do sleep 0.1; done";
    let mut child = user
        .cpu(&["-namespace", "", "sshd", script])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdout = BufReader::new(child.stdout.take().context("no output")?);
    let mut line = String::new();
    stdout.read_line(&mut line)?;
    ensure!(line == "ready\n", "{line:?}");
    kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
    let output = finish(child)?;
    let status = if getuid().is_root() { 143 } else { 9 };
    ensure!(output.status.code() == Some(status), "{output:?}");
    Ok(())
}

/// `ServerAliveInterval`: a server that is there is left alone, also while nobody reads what it sends; one that
/// has gone is not waited for.
fn alive() -> Result<()> {
    let (sshd, cpud) = (Daemon::sshd()?, Daemon::cpud()?);
    // Tests of both kinds wait most of the time.
    std::thread::scope(|scope| {
        let sshd = scope.spawn(|| is_asked(&sshd, &["-namespace", ""]));
        is_asked(&cpud, &[])?;
        sshd.join().ok().context("a thread panicked")?
    })
}

fn is_asked(daemon: &Daemon, flags: &[&str]) -> Result<()> {
    let (path, user) = (Delay::start(daemon.port, Duration::ZERO)?, User::new()?);
    user.configure(&format!(
        "Host board\nHostName 127.0.0.1\nIdentityFile ~/.ssh/own\nUserKnownHostsFile ~/.ssh/hosts\n\
         StrictHostKeyChecking no\nPort {}\nServerAliveInterval 1\nServerAliveCountMax 2\n",
        path.port
    ))?;
    // Longer than a silent server is waited for.
    let long = Duration::from_secs(5);
    let words = [flags, &["board", "head", "-c", "60000000", "/dev/zero"]].concat();
    let mut child = user.cpu(&words).stdout(Stdio::piped()).spawn()?;
    std::thread::sleep(long);
    ensure!(child.try_wait()?.is_none(), "it did not wait");
    let output = finish(child)?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(output.stdout.len() == 60_000_000, "{}", output.stdout.len());

    let mut child = user
        .cpu(&[flags, &["board", "sleep", "1000"]].concat())
        .stderr(Stdio::piped())
        .spawn()?;
    std::thread::sleep(long);
    ensure!(child.try_wait()?.is_none(), "an idle server was given up");
    path.fall_silent();
    fails(
        &finish(child)?,
        &["the connection was lost", "no answer for 3 seconds"],
    )
}

fn unix_socket() -> Result<()> {
    let (daemon, user) = (Daemon::cpud_at_a_socket()?, User::new()?);
    let (socket, own) = (
        daemon.socket().display().to_string(),
        user.key().display().to_string(),
    );
    let words = [
        "-net", "unix", "-sp", &socket, "-key", &own, "board", "echo", "there",
    ];
    ensure!(works(&user.run(&words)?)? == "there\n");
    drop(daemon);
    fails(
        &user.run(&words)?,
        &["cannot connect to the socket", &socket],
    )?;
    fails(
        &user.run(&["-net", "unix", "board", "true"])?,
        &["-sp PATH"],
    )?;
    fails(
        &user.run(&["-net", "udp", "board", "true"])?,
        &["tcp, unix or vsock"],
    )
}

/// `ssh-keygen`'s kinds of keys and formats.
fn kinds_of_keys() -> Result<()> {
    let (user, mut allowed) = (User::new()?, String::new());
    let kinds = [
        ("ed25519", "-t ed25519", "OPENSSH PRIVATE KEY"),
        ("p256", "-t ecdsa -b 256", "OPENSSH PRIVATE KEY"),
        ("p384", "-t ecdsa -b 384", "OPENSSH PRIVATE KEY"),
        ("p521", "-t ecdsa -b 521", "OPENSSH PRIVATE KEY"),
        ("rsa", "-t rsa -b 2048", "OPENSSH PRIVATE KEY"),
        ("rsa-pem", "-t rsa -b 2048 -m PEM", "RSA PRIVATE KEY"),
        ("rsa-pkcs8", "-t rsa -b 2048 -m PKCS8", "PRIVATE KEY"),
        ("p256-pem", "-t ecdsa -b 256 -m PEM", "EC PRIVATE KEY"),
        ("p384-pkcs8", "-t ecdsa -b 384 -m PKCS8", "PRIVATE KEY"),
    ];
    for (name, arguments, header) in kinds {
        let key = user.ssh().join(name);
        let arguments: Vec<_> = arguments.split(' ').collect();
        keygen(&key, &arguments, "")?;
        let begin = format!("-----BEGIN {header}-----\n");
        ensure!(fs::read_to_string(&key)?.starts_with(&begin), "{name}");
        allowed += &fs::read_to_string(key.with_extension("pub"))?;
    }
    let keys = user.ssh().join("allowed");
    fs::write(&keys, allowed)?;
    let daemon = Daemon::cpud_for(&keys)?;
    let port = format!("-sp={}", daemon.port);
    for (name, ..) in kinds {
        let key = user.ssh().join(name).display().to_string();
        let output = user.run(&[&port, "-key", &key, "127.0.0.1", "echo", name])?;
        ensure!(works(&output)? == format!("{name}\n"), "{output:?}");
        let mut ssh = Command::new("ssh");
        ssh.args([
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=no",
        ]);
        ssh.args([
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "IdentitiesOnly=yes",
        ]);
        ssh.args(["-i", &key, "-p", &daemon.port.to_string(), "127.0.0.1"]);
        ssh.args(["echo", name]).env_remove("SSH_AUTH_SOCK");
        let output = ended(&mut ssh)?;
        ensure!(works(&output)? == format!("{name}\n"), "{output:?}");
    }
    // The key that the machine presents is not in the file.
    let own = user.key().display().to_string();
    let output = user.run(&[&port, "-key", &own, "127.0.0.1", "true"])?;
    fails(&output, &["refuses the key"])
}

fn waiting() -> Result<()> {
    let user = User::new()?;
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let port = format!("-sp={}", silent.local_addr()?.port());
    let own = user.key().display().to_string();
    user.configure("ConnectTimeout 3\n")?;
    let words = [port.as_str(), "-key", &own, "127.0.0.1", "true"];
    let mut terminal = user.typed(&words)?;
    let at = terminal.expect_from(0, "waiting for 127.0.0.1 port")?;
    terminal.expect_from(at, "no answer within 3 seconds")?;
    ensure!(terminal.wait()?.code() == Some(255));
    let output = user.run(&words)?;
    fails(&output, &["no answer within 3 seconds"])?;
    let stderr = String::from_utf8(output.stderr)?;
    ensure!(
        stderr.lines().count() == 1 && !stderr.contains("waiting"),
        "{stderr}"
    );
    Ok(())
}
