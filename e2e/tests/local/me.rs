//! `-user me`: the user of the command, on this computer.

use anyhow::{Context as _, Result, ensure};
use e2e::client::ended;
use e2e::daemon::Daemon;
use e2e::user::{User, board, fails, works};

use crate::Test;

/// For whoever runs it, root too.
pub(crate) const TESTS: &[Test] = &[
    ("user_is_root_or_who_runs_cpu", command),
    ("user_owns_the_terminal", terminal),
    ("user_is_nothing_that_another_server_knows", other_servers),
];

fn command() -> Result<()> {
    let (_daemon, user) = board()?;
    let here = works(&ended(std::process::Command::new("id").arg("-u"))?)?;
    for (flags, wanted) in [
        (&[][..], "0\n"),
        (&["-user", "root"], "0\n"),
        (&["-user", "me"], &here),
        (&["--user=me"], &here),
    ] {
        let words = [flags, &["board", "id", "-u"]].concat();
        let seen = works(&user.run(&words)?)?;
        ensure!(seen == wanted, "{flags:?}: {seen}");
    }
    // Also in a shell, and in what the shell starts.
    let mut shell = user.cpu(&["-user", "me", "-T", "board"]);
    shell.env("SHELL", "/bin/sh");
    let output = e2e::client::fed(&mut shell, b"sh -c 'id -u'; exit 3\n")?;
    ensure!(output.status.code() == Some(3), "{output:?}");
    ensure!(output.stdout == here.as_bytes(), "{output:?}");
    let refused = user.run(&["-user", "ann", "board", "id"])?;
    fails(&refused, &["write root or me"])
}

fn terminal() -> Result<()> {
    let (_daemon, user) = board()?;
    let mut terminal = user.typed(&[
        "-user",
        "me",
        "-t",
        "board",
        "sh",
        "-c",
        "[ -O $(tty) ] && echo mine=$?",
    ])?;
    terminal.expect_from(0, "mine=0")?;
    terminal.wait()?;
    Ok(())
}

fn other_servers() -> Result<()> {
    let (sshd, user) = (Daemon::sshd()?, User::new()?);
    let port = format!("-sp={}", sshd.port);
    let key = user.key();
    let key = key.to_str().context("a strange directory")?;
    let words = [
        "-key",
        key,
        &port,
        "-user",
        "me",
        "root@127.0.0.1",
        "id",
        "-u",
    ];
    let output = user.run(&words)?;
    let is_root = nix::unistd::geteuid().is_root();
    if is_root {
        // The user who runs cpu is root, so -user me changes nothing.
        return works(&output).map(drop);
    }
    ensure!(output.stdout.is_empty(), "{output:?}");
    fails(&output, &["-user", "run as the user who logs in"])
}
