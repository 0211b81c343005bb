//! A login may take as long as a person needs, and works with many keys. The servers run on this computer.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::client::{ended, finish};
use e2e::daemon::{Daemon, keygen};
use e2e::delay::Delay;
use e2e::user::{User, fails, works};
use e2e::{out, wait_until};

use crate::Test;
use crate::keys::Agent;

pub(crate) const TESTS: &[Test] = &[
    (
        "login_may_take_longer_than_a_silent_peer_is_left_alone",
        slow,
    ),
    ("login_is_followed_by_questions_to_a_silent_client", asked),
    ("login_finds_the_right_one_of_many_keys", many_keys),
    ("login_says_what_is_wrong_with_a_key_file", key_files),
    ("login_keys_of_all_hosts_are_listed_as_hidden", all_hidden),
];

/// How long the person takes; cpud is told to ask a silent client every second.
const SLOW: Duration = Duration::from_secs(3);

/// `SSH_ASKPASS`: somebody who types a passphrase, or agrees to what an agent asks, slowly.
fn person(user: &User) -> Result<PathBuf> {
    let path = user.ssh().join("askpass");
    let script = format!(
        "#!/bin/sh\nsleep {}\ncase $1 in *passphrase*) echo sesame ;; *) echo yes ;; esac\n",
        SLOW.as_secs()
    );
    fs::write(&path, script)?;
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
    Ok(path)
}

/// `ssh`, with nobody's configuration, to a port here.
fn ssh(user: &User, port: u16, key: &Path) -> Command {
    let mut command = Command::new("ssh");
    command
        .args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o"])
        .arg(format!(
            "UserKnownHostsFile={}",
            user.ssh().join("hosts").display()
        ))
        .args(["-p", &port.to_string(), "-i"])
        .arg(key)
        .arg("127.0.0.1")
        .env_remove("SSH_AUTH_SOCK")
        .stdin(Stdio::null());
    command
}

fn asking<'a>(command: &'a mut Command, person: &Path) -> &'a mut Command {
    command
        .env("SSH_ASKPASS", person)
        .env("SSH_ASKPASS_REQUIRE", "force")
}

fn slow() -> Result<()> {
    let daemon = Daemon::cpud_with("-alive=1")?;
    let user = User::new()?;
    let person = person(&user)?;
    let locked = user.ssh().join("locked");
    fs::copy(user.key(), &locked)?;
    let changed = Command::new("ssh-keygen")
        .args(["-q", "-p", "-N", "sesame", "-f"])
        .arg(&locked)
        .status()?;
    ensure!(changed.success(), "ssh-keygen -p: {changed}");
    let mut command = Command::new("ssh-agent");
    asking(&mut command, &person);
    let agent = Agent::run(command, &user.ssh().join("agent"))?;
    agent.add(&user.key(), &["-c"])?;

    let (port, flag) = (daemon.port, format!("-sp={}", daemon.port));
    let runs = |command: &mut Command| works(&ended(command)?).map(drop);
    let by_file = || runs(asking(ssh(&user, port, &locked).arg("true"), &person));
    let by_agent = || {
        let mut command = ssh(&user, port, &locked);
        runs(command.arg("true").env("SSH_AUTH_SOCK", &agent.socket))
    };
    let ours_by_agent = || {
        let mut command = user.cpu(&[&flag, "127.0.0.1", "true"]);
        runs(command.env("SSH_AUTH_SOCK", &agent.socket))
    };
    let ours_by_file = || {
        let locked = locked.display().to_string();
        let mut terminal = user.typed(&[&flag, "-key", &locked, "127.0.0.1", "true"])?;
        terminal.expect_from(0, "Enter passphrase for key")?;
        std::thread::sleep(SLOW);
        terminal.send("sesame\r")?;
        ensure!(terminal.wait()?.success(), "{}", terminal.screen());
        Ok(())
    };
    let ways: [(&str, &(dyn Fn() -> Result<()> + Sync)); 4] = [
        ("ssh with a passphrase", &by_file),
        ("ssh with an agent that asks", &by_agent),
        ("cpu with an agent that asks", &ours_by_agent),
        ("cpu with a passphrase", &ours_by_file),
    ];
    std::thread::scope(|scope| {
        let ways = ways.map(|(way, run)| {
            scope.spawn(move || {
                let start = Instant::now();
                run().context(way)?;
                ensure!(start.elapsed() >= SLOW, "{way} was not slow");
                Ok(())
            })
        });
        for way in ways {
            way.join().ok().context("a thread panicked")??;
        }
        Ok(())
    })
}

fn asked() -> Result<()> {
    let daemon = Daemon::cpud_with("-alive=1")?;
    let (path, user) = (Delay::start(daemon.port, Duration::ZERO)?, User::new()?);
    // Idle, but connected.
    let flag = format!("-sp={}", path.port);
    let mut idle = ssh(&user, path.port, &user.key());
    let idle = idle.args(["sleep", "6"]).stderr(Stdio::piped()).spawn()?;
    let own = user.key().display().to_string();
    let ours = user.run(&[&flag, "-key", &own, "127.0.0.1", "sleep", "6"])?;
    works(&ours)?;
    works(&finish(idle)?)?;
    ensure!(
        !daemon.log().contains("has not answered"),
        "{}",
        daemon.log()
    );

    let mut lost = ssh(&user, path.port, &user.key());
    let mut lost = lost.args(["sleep", "1000"]);
    lost = lost.stdout(Stdio::null()).stderr(Stdio::null());
    let mut lost = lost.spawn()?;
    let runs = || daemon.log().matches("exec").count() == 3;
    wait_until("the third command", SLOW * 10, || Ok(runs().then_some(())))?;
    path.fall_silent();
    let told = wait_until(
        "cpud gives the lost client up",
        Duration::from_secs(30),
        || {
            Ok(daemon
                .log()
                .contains("has not answered for 4s")
                .then_some(()))
        },
    );
    lost.kill()?;
    lost.wait()?;
    told.context(daemon.log())
}

fn many_keys() -> Result<()> {
    let (cpud, sshd) = (Daemon::cpud()?, Daemon::sshd()?);
    let user = User::new()?;
    let agent = Agent::run(Command::new("ssh-agent"), &user.ssh().join("agent"))?;
    for n in 0..15 {
        let one = user.ssh().join(format!("wrong-{n}"));
        keygen(&one, &["-t", "ed25519"], "")?;
        agent.add(&one, &[])?;
    }
    agent.add(&user.key(), &[])?;
    let public = fs::read(out().join("cpu_rsa.pub"))?;
    fs::write(user.ssh().join("right.pub"), public)?;
    fs::remove_file(user.key())?;
    let to = |daemon: &Daemon, config: &str| {
        user.configure(&format!(
            "StrictHostKeyChecking no\nLogLevel ERROR\n{config}"
        ))?;
        let mut command = user.cpu(&[&format!("-sp={}", daemon.port), "127.0.0.1", "true"]);
        ended(command.env("SSH_AUTH_SOCK", &agent.socket))
    };
    works(&to(&cpud, "")?)?;
    let mut command = ssh(&user, cpud.port, Path::new("/nosuch"));
    works(&ended(
        command.arg("true").env("SSH_AUTH_SOCK", &agent.socket),
    )?)?;
    // This server accepts six offers, whatever the user name.
    let root = if nix::unistd::getuid().is_root() {
        ""
    } else {
        "User root\n"
    };
    let output = to(&sshd, root)?;
    fails(
        &output,
        &[" of 16 keys had been offered", "-key", "IdentityFile"],
    )?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let told = stderr.lines().filter(|line| !line.contains("is new"));
    ensure!(told.count() == 1, "{stderr}");
    works(&to(&sshd, &format!("{root}IdentityFile ~/.ssh/right\n"))?)?;
    // All keys are refused.
    let stranger = Daemon::cpud_for(&sshd.host_key())?;
    fails(&to(&stranger, "")?, &["refuses all 16 keys", "may log in"])
}

fn key_files() -> Result<()> {
    let user = User::new()?;
    let public = user.ssh().join("own.pub");
    fs::write(&public, fs::read(out().join("cpu_rsa.pub"))?)?;
    let mut sign = Command::new("ssh-keygen");
    sign.args(["-q", "-I", "me", "-s"])
        .args([&user.key(), &public]);
    ensure!(sign.status()?.success());
    let marked = user.ssh().join("marked");
    fs::write(&marked, [b"\xef\xbb\xbf", &fs::read(&public)?[..]].concat())?;
    for (name, why) in [
        ("own-cert.pub", "is a certificate"),
        ("marked", "byte order mark"),
    ] {
        let key = user.ssh().join(name).display().to_string();
        for flag in ["-key", "-hk"] {
            let output = user.run(&["-sp=1", flag, &key, "127.0.0.1", "true"])?;
            fails(&output, &[name, why])?;
        }
    }
    Ok(())
}

fn all_hidden() -> Result<()> {
    let user = User::new()?;
    user.configure(
        "Host other\nIdentityFile /srv/keys/%h.key\nHost third\nIdentityFile ~/elsewhere/a*\n",
    )?;
    let listed = works(&user.run(&["-hide", r"/srv/x\*", "-hidden"])?)?;
    let home = user.home().display().to_string();
    for line in [
        "Hide /srv/keys/*.key",
        "Hide /srv/keys/*.key.hostkey",
        &format!(r"Hide {home}/elsewhere/a\*"),
        &format!("Hide {home}/.ssh/*"),
        r"Hide /srv/x\*",
    ] {
        ensure!(
            listed.lines().any(|found| found == line),
            "{line}: {listed}"
        );
    }
    // Root's cpu could serve the files of others too.
    let passwd = fs::read_to_string("/etc/passwd")?;
    let others = passwd.lines().filter_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let is_login = fields.get(6).is_some_and(|shell| shell.ends_with("/bash"));
        fields.get(5).filter(|_| is_login).copied()
    });
    let is_root = nix::unistd::getuid().is_root();
    for other in others.filter(|other| *other != home) {
        let line = format!("Hide {other}/.aws");
        let is_hidden = listed.lines().any(|found| found == line);
        ensure!(is_hidden == is_root, "{line}: {listed}");
    }
    Ok(())
}
