//! What the machine does not get of this computer: hidden files, processes, and secrets in the environment.

use std::fs;
use std::path::Path;
use std::process::Output;

use anyhow::{Result, ensure};

use crate::{Machine, Test};

pub(crate) const TESTS: &[Test] = &[
    ("withheld_keys_are_not_read_and_the_user_is_told", hidden),
    ("withheld_processes_are_not_served", processes),
    ("withheld_files_may_be_read_only", read_only),
    ("withheld_is_all_but_the_namespace_with_only", only),
    ("withheld_secrets_stay_out_of_the_environment", environment),
];

/// Runs a script in a session with these flags.
fn sh(machine: &Machine, flags: &[&str], script: &str) -> Result<Output> {
    let command = machine.client.command(flags, &["sh", "-c", script]);
    machine.client.output(command, b"")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A home directory with a private key and a configuration.
fn with_key(home: &Path) -> Result<()> {
    let ssh = home.join(".ssh");
    if ssh.exists() {
        fs::remove_dir_all(&ssh)?;
    }
    fs::create_dir_all(&ssh)?;
    fs::create_dir_all(home.join(".aws"))?;
    fs::write(ssh.join("id_secret"), "PRIVATE")?;
    fs::write(ssh.join("id_secret.pub"), "PUBLIC")?;
    fs::write(home.join(".aws/credentials"), "PRIVATE")?;
    Ok(())
}

fn hidden(machine: &Machine) -> Result<()> {
    let home = machine.home.path();
    with_key(home)?;
    let shown = sh(machine, &[], "cat ~/.ssh/id_secret.pub; ls ~/.ssh")?;
    ensure!(shown.status.success(), "{shown:?}");
    ensure!(
        shown.stdout == b"PUBLICid_secret\nid_secret.pub\n",
        "{shown:?}"
    );
    ensure!(!stderr(&shown).contains("hidden"), "{shown:?}");
    let key = format!("{}/.ssh/id_secret", home.display());
    // By its path in the session, and by the one beneath /tmp/cpu.
    for path in [
        key.clone(),
        format!("/tmp/cpu{key}"),
        "/proc/self/cwd/.ssh/id_secret".into(),
    ] {
        let output = sh(machine, &[], &format!("cat {path}; echo x >>{path}"))?;
        ensure!(
            output.stdout.is_empty() && !output.status.success(),
            "{output:?}"
        );
        let said = stderr(&output);
        ensure!(said.contains("Permission denied"), "{said}");
        let alarm =
            format!("cpu: localhost asked for {key}, which is hidden; -show {key} shows it");
        ensure!(said.contains(&alarm), "no {alarm:?} in {said}");
    }
    let moved = sh(
        machine,
        &[],
        "mv ~/.ssh/id_secret ~/x; ln ~/.aws/credentials ~/y; mv ~/.aws ~/z; ls ~",
    )?;
    let names = String::from_utf8_lossy(&moved.stdout);
    ensure!(
        !names.lines().any(|name| ["x", "y", "z"].contains(&name)),
        "{moved:?}"
    );
    ensure!(fs::read(&key)? == b"PRIVATE");
    let output = sh(
        machine,
        &["-show", "~/.ssh/id_secret"],
        "cat ~/.ssh/id_secret; cat ~/.aws/credentials",
    )?;
    ensure!(output.stdout == b"PRIVATE", "{output:?}");
    ensure!(stderr(&output).contains(".aws"), "{output:?}");
    let output = sh(machine, &["-hide", "~/.ssh"], "cat ~/.ssh/id_secret.pub")?;
    ensure!(output.stdout.is_empty(), "{output:?}");
    fs::create_dir_all(home.join(".config/cpu"))?;
    fs::write(
        home.join(".config/cpu/config"),
        "Host other\nHide ~/.ssh\nHost localhost\nShow ~/.aws\n",
    )?;
    let output = sh(machine, &[], "cat ~/.ssh/id_secret.pub ~/.aws/credentials")?;
    fs::remove_file(home.join(".config/cpu/config"))?;
    ensure!(output.stdout == b"PUBLICPRIVATE", "{output:?}");
    Ok(())
}

fn processes(machine: &Machine) -> Result<()> {
    let script = "ls -A /tmp/cpu/proc /tmp/cpu/sys /tmp/cpu/dev; cat /tmp/cpu/proc/self/environ; ls /proc/self/status";
    let output = sh(machine, &[], script)?;
    let listed = "/tmp/cpu/dev:\n\n/tmp/cpu/proc:\n\n/tmp/cpu/sys:\n/proc/self/status\n";
    ensure!(output.stdout == listed.as_bytes(), "{output:?}");
    ensure!(stderr(&output).contains("No such file"), "{output:?}");
    Ok(())
}

fn read_only(machine: &Machine) -> Result<()> {
    let home = machine.home.path();
    fs::create_dir_all(home.join("kept"))?;
    fs::write(home.join("kept/file"), "as it was")?;
    let script = "cat kept/file; rm -f kept/file; mv kept/file lost; echo x >kept/file; echo x >kept/new; chmod 0 kept/file";
    let here = home.display();
    let namespace = format!("/lib:/lib64:/usr:/bin:/etc:{here}:{here}/kept,ro");
    for flags in [&["-ro"][..], &["-namespace", &namespace]] {
        let output = sh(machine, flags, script)?;
        ensure!(output.stdout == b"as it was", "{output:?}");
        ensure!(
            stderr(&output).matches("Read-only file system").count() == 5,
            "{output:?}"
        );
        ensure!(
            fs::read(home.join("kept/file"))? == b"as it was" && !home.join("kept/new").exists()
        );
    }
    let output = sh(
        machine,
        &["-namespace", &namespace],
        "echo x >free && cat free",
    )?;
    ensure!(output.stdout == b"x\n", "{output:?}");
    let output = sh(machine, &["-ro"], "echo x >free2")?;
    ensure!(
        !output.status.success() && !home.join("free2").exists(),
        "{output:?}"
    );
    Ok(())
}

fn only(machine: &Machine) -> Result<()> {
    let home = machine.home.path();
    fs::create_dir_all(home.join("project"))?;
    fs::write(home.join("project/file"), "x")?;
    let run = |flags: &[&str], script: &str| {
        let mut command = machine
            .client
            .command(flags, &["/usr/bin/sh", "-c", script]);
        let project = home.join("project");
        command.env("PWD", &project).current_dir(project);
        machine.client.output(command, b"")
    };
    let namespace = "/lib:/lib64:/usr:/bin";
    let script = format!(
        "cat file; ls /tmp/cpu; cat /tmp/cpu/etc/passwd {}/project/file",
        home.display()
    );
    let output = run(&["-only", "-namespace", namespace], &script)?;
    ensure!(output.stdout.starts_with(b"x"), "{output:?}");
    let said = stderr(&output);
    ensure!(
        said.contains("/tmp/cpu': Permission denied")
            || said.contains("/tmp/cpu: Permission denied"),
        "{said}"
    );
    ensure!(said.contains("/tmp/cpu/etc/passwd: No such file"), "{said}");
    let output = run(&["-namespace", namespace], "ls /tmp/cpu/etc/passwd")?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

fn environment(machine: &Machine) -> Result<()> {
    let run = |flags: &[&str]| -> Result<String> {
        let mut command = machine.client.command(flags, &["env"]);
        command.envs([
            ("GITHUB_TOKEN", "secret"),
            ("MY_TOKENS", "plain"),
            ("SSH_AUTH_SOCK", "/run/none"),
        ]);
        let output = machine.client.output(command, b"")?;
        ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let usual = run(&[])?;
    ensure!(
        usual.contains("MY_TOKENS=plain") && !usual.contains("secret"),
        "{usual}"
    );
    ensure!(!usual.contains("SSH_AUTH_SOCK"), "{usual}");
    for flags in [["-env", "*"], ["-env", "GITHUB_*"]] {
        ensure!(run(&flags)?.contains("GITHUB_TOKEN=secret"), "{flags:?}");
    }
    let less = run(&["-env", "-MY*"])?;
    ensure!(
        !less.contains("MY_TOKENS") && less.contains("HOME="),
        "{less}"
    );
    Ok(())
}
