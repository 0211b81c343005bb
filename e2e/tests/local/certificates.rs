//! Certificates that ssh-keygen makes: of users, for cpud, with ssh and cpu as clients, and of hosts, for cpu.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::client::ended;
use e2e::daemon::{Daemon, keygen};
use e2e::user::{User, fails, works};
use e2e::wait_until;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("certificates_let_their_holders_in", holders),
    ("certificates_of_every_type_are_read", types),
    ("certificates_say_who_when_and_from_where", validity),
    ("certificates_permit_or_do_not", permissions),
    (
        "certificates_are_taken_from_the_agent_and_the_configuration",
        sources,
    ),
    ("certificates_and_their_keys_are_unlocked_once", locked),
    ("certificates_that_are_revoked_are_refused", revoked),
    ("certificates_of_hosts_are_checked", hosts),
];

/// A user whose key has certificates, and a cpud that trusts their CA.
struct Laboratory {
    daemon: Daemon,
    user: User,
}

impl Laboratory {
    /// The server's file of keys has these lines, in which `%name` stands for the key of that name.
    fn new(lines: &str) -> Result<Self> {
        Self::with(lines, &["-t", "ed25519"], &["-t", "ed25519"])
    }

    fn with(lines: &str, ca: &[&str], own: &[&str]) -> Result<Self> {
        let user = User::new()?;
        fs::remove_file(user.key())?;
        let file = |name: &str| user.ssh().join(name);
        keygen(&file("ca"), ca, "")?;
        keygen(&file("own"), own, "")?;
        let mut text = lines.to_owned();
        for name in ["ca", "own"] {
            let key = fs::read_to_string(file(name).with_added_extension("pub"))?;
            text = text.replace(&format!("%{name}"), key.trim());
        }
        fs::write(file("keys"), text)?;
        let daemon = Daemon::cpud_for_with(&file("keys"), Some("-forward"))?;
        user.configure(&format!(
            "Host board\nHostName 127.0.0.1\nPort {}\nIdentityFile ~/.ssh/own\nUser ann\n",
            daemon.port
        ))?;
        Ok(Self { daemon, user })
    }

    fn certificate(&self) -> PathBuf {
        self.user.ssh().join("own-cert.pub")
    }

    /// Makes the certificate of the user's key, with these words of ssh-keygen.
    fn sign(&self, words: &[&str]) -> Result<()> {
        let mut keygen = Command::new("ssh-keygen");
        keygen
            .args(["-q", "-s", "ca", "-I", "ann's key"])
            .args(words);
        keygen.arg("own.pub").current_dir(self.user.ssh());
        works(&ended(&mut keygen)?).map(drop)
    }

    /// `ssh` with the key, and its certificate if there is one.
    fn ssh(&self, flags: &[&str], words: &[&str]) -> Result<Output> {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-p", &self.daemon.port.to_string()]);
        for option in [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "IdentitiesOnly=yes",
            "BatchMode=yes",
        ] {
            ssh.args(["-o", option]);
        }
        // The first name counts.
        ssh.arg("-i").arg(self.user.key()).args(flags);
        ssh.args(["-l", "ann"]);
        ssh.arg("127.0.0.1").args(words);
        ssh.env("HOME", self.user.home())
            .env_remove("SSH_AUTH_SOCK");
        ended(ssh.stdin(Stdio::null()))
    }

    fn cpu(&self) -> Result<Output> {
        self.user.run(&["board", "echo", "in"])
    }

    /// Both clients log in.
    fn both_work(&self) -> Result<()> {
        ensure!(works(&self.cpu()?)? == "in\n");
        ensure!(works(&self.ssh(&[], &["echo", "in"])?)? == "in\n");
        Ok(())
    }

    /// Neither does, and cpud says why.
    fn both_fail(&self, why: &str) -> Result<()> {
        fails(&self.cpu()?, &["refuses"])?;
        let output = self.ssh(&[], &["true"])?;
        ensure!(output.status.code() == Some(255), "{output:?}");
        self.said(why)
    }

    fn said(&self, words: &str) -> Result<()> {
        let found = wait_until(words, Duration::from_secs(20), || {
            Ok(self.daemon.log().contains(words).then_some(()))
        });
        found.with_context(|| self.daemon.log())
    }
}

fn holders() -> Result<()> {
    let lab = Laboratory::new("cert-authority %ca of-the-lab\n")?;
    lab.said("0 key(s) and the certificates of 1 CA(s) may log in")?;
    // Without a certificate the key is nothing, and neither is the CA's.
    lab.both_fail("it offered 1 key(s) that may not log in, the last one as ann with key SHA256:")?;
    let key = lab.user.ssh().join("ca").display().to_string();
    fails(
        &lab.user.run(&["-key", &key, "board", "true"])?,
        &["refuses"],
    )?;
    lab.sign(&["-n", "ann,root", "-z", "7", "-V", "+1d"])?;
    lab.both_work()?;
    lab.said(" \"ann's key serial 7 of root@")?;
    // A name that is not in it.
    let output = lab.ssh(&["-l", "bob"], &["true"])?;
    ensure!(!output.status.success(), "{output:?}");
    lab.said("as bob with key SHA256:")?;
    lab.said("its certificate names ann, root, and not whom it should")
}

fn types() -> Result<()> {
    for (ca, own) in [
        (
            &["-t", "rsa", "-b", "2048"][..],
            &["-t", "rsa", "-b", "2048"][..],
        ),
        (&["-t", "ecdsa"], &["-t", "ecdsa", "-b", "384"]),
        (&["-t", "ed25519"], &["-t", "rsa", "-b", "2048"]),
    ] {
        let lab = Laboratory::with("cert-authority %ca\n", ca, own)?;
        lab.sign(&["-n", "ann"])?;
        lab.both_work().with_context(|| format!("{ca:?} {own:?}"))?;
    }
    // A signature with SHA-1, which may be forged.
    let rsa = &["-t", "rsa", "-b", "2048"];
    let lab = Laboratory::with("cert-authority %ca\n", rsa, rsa)?;
    lab.sign(&["-n", "ann", "-t", "ssh-rsa"])?;
    lab.both_fail("is signed with SHA-1")
}

fn validity() -> Result<()> {
    let line = "cert-authority,principals=\"ops,night\" %ca\n";
    for (words, why) in [
        (
            &["-n", "ops", "-V", "20200101:20200201"][..],
            "is not valid at this time",
        ),
        (
            &["-n", "ops", "-V", "20990101:20990201"],
            "is not valid at this time",
        ),
        (&["-n", "ann"], "names ann, and not whom"),
        (&[], "names nobody, and not whom"),
        (
            &["-n", "ops", "-O", "source-address=192.0.2.0/24"],
            "does not allow this address",
        ),
        (
            &["-n", "ops", "-O", "critical:a@example.org=b"],
            "critical option a@example.org=",
        ),
        // Clients do not offer it.
        (
            &["-h", "-n", "ops"],
            "it offered 1 key(s) that may not log in",
        ),
    ] {
        // Each its own, since a server does not tell of all refusals.
        let lab = Laboratory::new(line)?;
        lab.sign(words)?;
        lab.both_fail(why).with_context(|| format!("{words:?}"))?;
    }
    let lab = Laboratory::new(line)?;
    // The person is told by his own program when it has expired.
    lab.sign(&["-n", "ops", "-V", "20200101:20200201"])?;
    fails(
        &lab.cpu()?,
        &["own-cert.pub (which has expired, by the clock here)"],
    )?;
    for words in [
        &["-n", "x,night", "-V", "-1d:+1d"][..],
        &["-n", "ops", "-O", "source-address=192.0.2.0/24,127.0.0.0/8"],
    ] {
        lab.sign(words)?;
        lab.both_work().with_context(|| format!("{words:?}"))?;
    }
    Ok(())
}

fn permissions() -> Result<()> {
    let lab = Laboratory::new("cert-authority,no-pty %ca\n")?;
    let all = Laboratory::new("cert-authority %ca\n")?;
    let forwards = &["-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1"];
    let tests: [(&Laboratory, &[&str], bool, bool); 4] = [
        (&all, &[], true, true),
        (&all, &["-O", "clear"], false, false),
        (&all, &["-O", "clear", "-O", "permit-pty"], true, false),
        (&lab, &[], false, true),
    ];
    for (lab, words, has_pty, may_forward) in tests {
        lab.sign(&[&["-n", "ann"][..], words].concat())?;
        let output = lab.ssh(&["-tt"], &["test", "-t", "1"])?;
        ensure!(output.status.success() == has_pty, "{words:?}: {output:?}");
        let output = lab.ssh(forwards, &["true"])?;
        ensure!(
            output.status.success() == may_forward,
            "{words:?}: {output:?}"
        );
    }
    all.sign(&["-n", "ann", "-O", "force-command=echo forced"])?;
    ensure!(works(&all.cpu()?)? == "forced\n");
    ensure!(works(&all.ssh(&[], &["id"])?)? == "forced\n");
    Ok(())
}

fn sources() -> Result<()> {
    let lab = Laboratory::new("cert-authority %ca\n")?;
    lab.sign(&["-n", "ann"])?;
    let port = lab.daemon.port;
    // One that the configuration names.
    fs::rename(lab.certificate(), lab.user.ssh().join("elsewhere"))?;
    fails(&lab.cpu()?, &["refuses"])?;
    let host =
        format!("Host board\nHostName 127.0.0.1\nPort {port}\nUser ann\nIdentityFile ~/.ssh/own\n");
    lab.user
        .configure(&format!("{host}CertificateFile ~/.ssh/elsewhere\n"))?;
    ensure!(works(&lab.cpu()?)? == "in\n");
    // In the agent, which gets it with the key, and has nothing else.
    lab.user.configure(&host)?;
    fs::rename(lab.user.ssh().join("elsewhere"), lab.certificate())?;
    let script = "ssh-add -q ~/.ssh/own && rm ~/.ssh/own* && \"$0\" -9p=false board echo in";
    let mut agent = Command::new("ssh-agent");
    agent.args(["sh", "-c", script]).arg(e2e::out().join("cpu"));
    agent.env("HOME", lab.user.home()).env("PWD", "/");
    ensure!(works(&ended(&mut agent)?)? == "in\n");
    Ok(())
}

/// A key and its certificate are unlocked together.
fn locked() -> Result<()> {
    let lab = Laboratory::new("cert-authority %ca\n")?;
    let own = lab.user.key().display().to_string();
    let change = ["-q", "-p", "-P", "", "-N", "sesame", "-f", &own];
    works(&ended(Command::new("ssh-keygen").args(change))?)?;
    for (principal, is_let_in) in [("ann", true), ("bob", false)] {
        lab.sign(&["-n", principal])?;
        let mut terminal = lab.user.typed(&["board", "echo", "in''side"])?;
        terminal.expect_from(0, "Enter passphrase for key '")?;
        terminal.send("sesame\r")?;
        ensure!(
            terminal.wait()?.success() == is_let_in,
            "{}",
            terminal.screen()
        );
        let questions = terminal.screen().matches("Enter passphrase").count();
        ensure!(questions == 1, "{}", terminal.screen());
    }
    Ok(())
}

fn revoked() -> Result<()> {
    let lab = Laboratory::new("cert-authority %ca\n@revoked %own\n")?;
    lab.sign(&["-n", "ann"])?;
    lab.both_fail("it is revoked")?;
    // The same key as a plain one is left out.
    let lab = Laboratory::new("cert-authority %ca\n%own\n@revoked %own\n")?;
    lab.said("line 2 has a key that line 3 revokes; it is left out")?;
    lab.both_fail("it is revoked")
}

fn hosts() -> Result<()> {
    let user = User::new()?;
    let file = |name: &str| user.ssh().join(name);
    for name in ["ca", "other", "host"] {
        keygen(&file(name), &["-t", "ed25519"], "")?;
    }
    let sign = |words: &[&str]| {
        let mut keygen = Command::new("ssh-keygen");
        keygen
            .args(["-q", "-s", "ca", "-I", "the board", "-h"])
            .args(words);
        keygen.arg("host.pub").current_dir(user.ssh());
        works(&ended(&mut keygen)?).map(drop)
    };
    sign(&["-n", "127.0.0.1,*.lab"])?;
    let start = || {
        Daemon::sshd_with(&[
            &format!("HostKey {}", file("host").display()),
            &format!("HostCertificate {}", file("host-cert.pub").display()),
        ])
    };
    let known = |daemon: &Daemon, ca: &str| {
        user.configure_exactly(&format!(
            "Host *\nPort {}\nUser root\nHostName 127.0.0.1\nIdentityFile ~/.ssh/own\n\
             StrictHostKeyChecking yes\nHost x.lab\nHostKeyAlias x.lab\n",
            daemon.port
        ))?;
        let key = fs::read_to_string(file(ca).with_added_extension("pub"))?;
        let line = format!("@cert-authority 127.0.0.1,*.lab {key}");
        fs::write(file("known_hosts"), &line)?;
        anyhow::Ok(line)
    };
    let daemon = start()?;
    let line = known(&daemon, "ca")?;
    for host in ["board", "x.lab"] {
        ensure!(works(&user.run(&[host, "echo", "in"])?)? == "in\n");
    }
    ensure!(fs::read_to_string(file("known_hosts"))? == line);
    known(&daemon, "other")?;
    let output = user.run(&["board", "true"])?;
    fails(
        &output,
        &[
            "a certificate (the board) that is one of the CA SHA256:",
            "is new",
        ],
    )?;
    sign(&["-n", "127.0.0.1", "-V", "20200101:20200201"])?;
    let daemon = start()?;
    known(&daemon, "ca")?;
    fails(
        &user.run(&["board", "true"])?,
        &["has expired, by the clock", "is new"],
    )
}
