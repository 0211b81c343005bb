//! Which host keys cpu accepts: pin files, known_hosts, and a host that is new, as with ssh.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::client::ended;
use e2e::daemon::{Daemon, keygen};
use e2e::out;
use e2e::user::{User, fails, works};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[("ssh_known_hosts_are_kept_and_obeyed", known_hosts)];

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
