//! Forwarding of an agent: programs of a session log in with keys that never leave this computer.

use std::process::{Command, Output};

use anyhow::{Result, ensure};
use e2e::client::ended;
use e2e::daemon::Daemon;
use e2e::user::{User, works};

use crate::Test;
use crate::keys::Agent;

pub(crate) const TESTS: &[Test] = &[
    ("agent_is_forwarded_when_asked_for", forwarded),
    ("agent_is_forwarded_to_openssh", from_openssh),
    ("agent_is_forwarded_into_isolation", isolated),
];

/// Whether ssh-add in the session signs with the agent's key, twice, and both times through a channel of its own.
const SIGNS: &str = "ssh-add -L >/tmp/key.pub && ssh-add -T /tmp/key.pub && ssh-add -T /tmp/key.pub && echo signed $SSH_AUTH_SOCK";

fn forwarded() -> Result<()> {
    let (daemon, user) = (Daemon::cpud()?, User::new()?);
    let socket = user.ssh().join("agent");
    let agent = Agent::start(&socket, &user.key())?;
    let port = format!("-sp={}", daemon.port);
    let run = |flags: &[&str], script: &str| -> Result<Output> {
        let words = [flags, &[&port, "127.0.0.1", "sh", "-c", script]].concat();
        ended(user.cpu(&words).env("SSH_AUTH_SOCK", &socket))
    };
    // The first login says that the host is new.
    works(&run(&[], "true")?)?;
    for flags in [&["-A"][..], &["-A", "-user", "me"]] {
        let output = run(flags, SIGNS)?;
        ensure!(
            works(&output)? == "signed /tmp/.ssh-agent/socket\n",
            "{output:?}"
        );
        ensure!(output.stderr.is_empty(), "{output:?}");
    }
    // Only its owner may use it.
    let output = run(
        &["-A"],
        "stat -c '%a %U' /tmp/.ssh-agent /tmp/.ssh-agent/socket",
    )?;
    ensure!(works(&output)? == "700 root\n600 root\n", "{output:?}");
    let unforwarded = "ssh-add -l; echo ${SSH_AUTH_SOCK-none}; ls -A /tmp/.ssh-agent";
    let output = run(&[], unforwarded)?;
    ensure!(
        String::from_utf8_lossy(&output.stdout).starts_with("none"),
        "{output:?}"
    );
    // ForwardAgent of the configuration, yes and no.
    user.configure("Host 127.0.0.1\nForwardAgent yes\n")?;
    works(&run(&[], SIGNS)?)?;
    // The command line wins.
    ensure!(!run(&["-A=false"], SIGNS)?.status.success());
    user.configure(
        "Host 127.0.0.1\nForwardAgent ~/.ssh/agent\nIdentityAgent none\nIdentityFile ~/.ssh/own\n",
    )?;
    works(&run(&[], SIGNS)?)?;
    user.configure("Host 127.0.0.1\nForwardAgent no\nIdentityFile ~/.ssh/own\n")?;
    ensure!(!run(&[], SIGNS)?.status.success());
    // If the agent has ended, the program there gets an error and cpu prints a line.
    drop(agent);
    let output = run(&["-A"], "ssh-add -l; echo $?")?;
    ensure!(output.stdout != b"0\n", "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains("cannot reach the agent"), "{said}");
    Ok(())
}

fn from_openssh() -> Result<()> {
    let (daemon, user) = (Daemon::cpud()?, User::new()?);
    let socket = user.ssh().join("agent");
    let _agent = Agent::start(&socket, &user.key())?;
    let ssh = |flag: &str| {
        let mut command = Command::new("ssh");
        command
            .args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o"])
            .arg("UserKnownHostsFile=/dev/null")
            .args(["-o", "LogLevel=ERROR", flag, "-p", &daemon.port.to_string()])
            .args(["127.0.0.1", &format!("sh -c '{SIGNS}'")])
            .env("SSH_AUTH_SOCK", &socket)
            .env("HOME", user.home());
        ended(&mut command)
    };
    let output = ssh("-A")?;
    ensure!(
        works(&output)? == "signed /tmp/.ssh-agent/socket\n",
        "{output:?}"
    );
    ensure!(!ssh("-a")?.status.success());
    Ok(())
}

fn isolated() -> Result<()> {
    let (daemon, user) = (Daemon::cpud_with("-isolate")?, User::new()?);
    let socket = user.ssh().join("agent");
    let _agent = Agent::start(&socket, &user.key())?;
    let port = format!("-sp={}", daemon.port);
    let run = |flags: &[&str], script: &str| -> Result<Output> {
        let words = [flags, &[&port, "127.0.0.1", "sh", "-c", script]].concat();
        ended(user.cpu(&words).env("SSH_AUTH_SOCK", &socket))
    };
    // The first login says that the host is new.
    let map = works(&run(&[], "cat /proc/self/uid_map")?)?;
    ensure!(!map.contains("4294967295"), "not isolated: {map}");
    for flags in [&["-A"][..], &["-A", "-user", "me"]] {
        let output = run(flags, SIGNS)?;
        ensure!(
            works(&output)? == "signed /tmp/.ssh-agent/socket\n",
            "{flags:?}: {output:?}"
        );
    }
    ensure!(!run(&[], SIGNS)?.status.success());
    Ok(())
}
