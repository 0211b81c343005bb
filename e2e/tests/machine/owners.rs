//! Owners of files in a session of an ordinary user, whose command is root's or, with `-user me`, the user's own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use e2e::client::ended;
use e2e::ordinary::as_root;

use crate::{Machine, Test};

pub(crate) const TESTS: &[Test] = &[
    (
        "owners_find_their_repository_trusted_and_read_as_little_as_here",
        repository,
    ),
    ("owners_may_make_roots_what_stays_theirs", made_roots),
    (
        "owners_are_refused_there_what_they_may_not_do_here",
        refused,
    ),
    ("owners_of_what_is_unpacked_are_who_unpacks_it", archives),
    ("owners_home_is_roots_home_there", home),
    ("owners_sudo_simply_runs_what_it_is_given", sudo),
    (
        "owners_as_themselves_have_their_numbers_and_every_capability",
        himself,
    ),
    (
        "owners_as_themselves_find_that_programs_do_as_here",
        programs_as_here,
    ),
];

/// Files of the repository: many more than git reads otherwise.
const FILES: usize = 300;

/// A user and a group that are nobody's of the tests.
const STRANGER: (u32, u32) = (1234, 4321);

fn owner(path: &Path) -> Result<(u32, u32)> {
    let found = path
        .symlink_metadata()
        .with_context(|| path.display().to_string())?;
    Ok((found.uid(), found.gid()))
}

/// His numbers.
fn his() -> (u32, u32) {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    (uid.as_raw(), gid.as_raw())
}

/// A command of here, which succeeds.
fn here(command: &mut Command) -> Result<Output> {
    let output = ended(command)?;
    ensure!(output.status.success(), "{command:?}: {output:?}");
    Ok(output)
}

fn git(repository: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args([
        "-c",
        "user.name=Ann",
        "-c",
        "user.email=ann@example.org",
        "-C",
    ]);
    command.arg(repository).args(arguments);
    command
        .env_remove("XDG_RUNTIME_DIR")
        .env("HOME", repository);
    command
}

/// How many files `git status` of a session opens, which must find the repository clean. Each is asked for, and none comes with
/// another.
fn files_opened(machine: &Machine, variables: &[&str]) -> Result<usize> {
    let words = [
        &["env"],
        variables,
        &["git", "-C", "repository", "status", "--short"],
    ]
    .concat();
    let output = machine.client.output(
        machine.client.command(&["-stats", "-cache=none"], &words),
        b"",
    )?;
    let table = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() && output.stdout.is_empty(),
        "{output:?}"
    );
    let opens = table.lines().find_map(|line| line.strip_prefix("open "));
    let opens = opens.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    opens.with_context(|| format!("no line of opens in {table}"))
}

/// How many entries of the index were written as of a file of root's.
fn entries_of_root(repository: &Path) -> Result<usize> {
    let output = here(&mut git(repository, &["ls-files", "--debug"]))?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text
        .lines()
        .filter(|line| line.trim_start().starts_with("uid: 0\t"))
        .count())
}

fn repository(machine: &Machine) -> Result<()> {
    let repository = machine.home.path().join("repository");
    for n in 0..FILES {
        let directory = repository.join(format!("d{}", n / 50));
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(format!("f{n}")), n.to_string())?;
    }
    here(Command::new("git").args(["init", "-q"]).arg(&repository))?;
    here(&mut git(&repository, &["add", "-A"]))?;
    here(&mut git(&repository, &["commit", "-q", "-m", "all"]))?;
    // git reads files again in any case if they are as young as the index.
    let index = repository.join(".git/index");
    here(
        Command::new("find")
            .arg(&repository)
            .args(["-type", "f", "-exec", "touch", "-d", "-1 hour", "{}", "+"]),
    )?;
    here(&mut git(&repository, &["update-index", "-q", "--refresh"]))?;

    let before = fs::read(&index)?;
    let opened = files_opened(machine, &[])?;
    ensure!(opened < FILES / 2, "{opened} files opened");
    ensure!(fs::read(&index)? == before, "the index is another");
    // Without core.checkStat=minimal, git reads all of them.
    let all = files_opened(machine, &["GIT_CONFIG_COUNT=0", "GIT_OPTIONAL_LOCKS=0"])?;
    ensure!(all > FILES, "{all} files opened");

    // One file is changed there: only its entry in the index may differ.
    machine
        .client
        .sh_ok("cd repository && echo new >d0/f0 && git add d0/f0 && git status --short")?;
    let of_root = entries_of_root(&repository)?;
    ensure!(of_root <= 1, "{of_root} entries are root's");
    let status = here(&mut git(&repository, &["status", "--short"]))?;
    ensure!(status.stdout == b"M  d0/f0\n", "{status:?}");
    ensure!(
        entries_of_root(&repository)? == 0,
        "the index was not refreshed here"
    );
    Ok(())
}

/// An archive with a file of this owner.
fn archive(machine: &Machine, name: &str, (uid, gid): (u32, u32)) -> Result<()> {
    fs::write(machine.home.path().join("member"), "x")?;
    fs::set_permissions(
        machine.home.path().join("member"),
        PermissionsExt::from_mode(0o666),
    )?;
    let mut tar = Command::new("tar");
    tar.args([
        "--numeric-owner",
        &format!("--owner={uid}"),
        &format!("--group={gid}"),
        "-cf",
        name,
        "member",
    ]);
    here(tar.current_dir(machine.home.path()))?;
    Ok(())
}

/// A package of Debian with a file of this owner.
fn package(machine: &Machine, name: &str, (uid, gid): (u32, u32)) -> Result<()> {
    let tree = machine.home.path().join("package");
    fs::create_dir_all(tree.join("DEBIAN"))?;
    fs::set_permissions(tree.join("DEBIAN"), PermissionsExt::from_mode(0o755))?;
    let control =
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: A <a@b>\nDescription: x\n";
    fs::write(tree.join("DEBIAN/control"), control)?;
    fs::write(tree.join("file"), "x")?;
    // The file's owner must not matter when it is packed.
    fs::set_permissions(tree.join("file"), PermissionsExt::from_mode(0o644))?;
    as_root(|| Ok(chown(tree.join("file"), Some(uid), Some(gid))?))?;
    let package = machine.home.path().join(name);
    here(Command::new("dpkg-deb").arg("-b").args([&tree, &package]))?;
    Ok(fs::remove_dir_all(tree)?)
}

fn made_roots(machine: &Machine) -> Result<()> {
    archive(machine, "roots.tar", (0, 0))?;
    package(machine, "roots.deb", (0, 0))?;
    let seen = machine.client.sh_ok(
        "set -e; mkdir made; cd made; echo x >file; chown 0:0 file; chown root file
         tar xf ../roots.tar; dpkg-deb -x ../roots.deb .; rsync -a /etc/hostname rsync
         cp -a /etc/hostname copy; install -o root -g root -m 4755 file installed; ln -s file link
         chown -h root:root link; stat -c '%n %u:%g' *; stat -c %u:%g /etc/hostname",
    )?;
    let mut lines: Vec<_> = seen.lines().collect();
    ensure!(lines.pop() == Some("0:0"), "{seen}");
    ensure!(lines.len() == 6, "{seen}");
    for line in lines {
        let name = line.strip_suffix(" 0:0").with_context(|| seen.clone())?;
        let path = machine.home.path().join("made").join(name);
        ensure!(owner(&path)? == his(), "{name} is {:?}'s", owner(&path)?);
    }
    let installed = machine.home.path().join("made/installed");
    ensure!(installed.metadata()?.mode() & 0o7777 == 0o4755);
    Ok(())
}

fn refused(machine: &Machine) -> Result<()> {
    let home = machine.home.path();
    for name in ["file", "stranger's", "roots"] {
        fs::write(home.join(name), "x")?;
    }
    let give = |name, (uid, gid)| as_root(|| Ok(chown(home.join(name), Some(uid), Some(gid))?));
    give("stranger's", STRANGER)?;
    give("roots", (0, 0))?;
    for script in [
        "chown 1234 file",
        "chown 0:4321 file",
        "chgrp 4321 file",
        "chown 0 \"stranger's\"",
        "chown 1234 roots",
        "install -o 1234 file installed",
        "echo y >roots",
        "chmod 666 roots",
    ] {
        let output = machine.client.sh(script)?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let is_refused = stderr.contains("not permitted") || stderr.contains("denied");
        ensure!(
            !output.status.success() && is_refused,
            "{script}: {output:?}"
        );
    }
    ensure!(owner(&home.join("file"))? == his());
    ensure!(owner(&home.join("stranger's"))? == STRANGER);
    ensure!(owner(&home.join("roots"))? == (0, 0));
    ensure!(home.join("roots").metadata()?.mode() & 0o7777 != 0o666);
    // To a group that the user is in, as is allowed here; and back to his own, which there is root's.
    let seen = machine.client.sh_ok(
        "chgrp 100 file; stat -c %u:%g file; chgrp 0 file; stat -c %u:%g file \"stranger's\" roots",
    )?;
    ensure!(seen == "0:100\n0:0\n1234:4321\n0:0\n", "{seen}");
    ensure!(owner(&home.join("file"))? == his());
    Ok(())
}

fn archives(machine: &Machine) -> Result<()> {
    archive(machine, "others.tar", STRANGER)?;
    machine
        .client
        .sh_ok("mkdir others && tar xf others.tar -C others")?;
    let member = machine.home.path().join("others/member");
    ensure!(owner(&member)? == his());
    ensure!(
        member.metadata()?.mode() & 0o7777 == 0o600,
        "the umask was not applied"
    );
    // If the owner is requested explicitly, the refusal is reported.
    let output = machine
        .client
        .sh("tar xf others.tar -C others --same-owner")?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(stderr.contains("Cannot change ownership"), "{stderr}");
    Ok(())
}

fn home(machine: &Machine) -> Result<()> {
    let ssh = machine.home.path().join(".ssh");
    fs::create_dir_all(&ssh)?;
    fs::write(ssh.join("config"), "Host foo\n  User bar\n")?;
    let seen = machine.client.sh_ok(
        "ssh -G foo | grep '^user '; [ ~root -ef \"$HOME\" ] && echo same; cd ~root && pwd && ls -A >/dev/null
         python3 -c 'import os, pwd; print(os.path.samefile(pwd.getpwuid(0).pw_dir, os.environ[\"HOME\"]))'",
    )?;
    ensure!(seen == "user bar\nsame\n/root\nTrue\n", "{seen}");
    // If the namespace binds something else at /root, that stays.
    let flags = ["-namespace=/lib:/lib64:/usr:/bin:/etc:/home:/root=/etc"];
    let words = ["sh", "-c", "[ /root -ef /etc ] && echo etc"];
    let output = machine
        .client
        .output(machine.client.command(&flags, &words), b"")?;
    ensure!(output.stdout == b"etc\n", "{output:?}");
    Ok(())
}

fn sudo(machine: &Machine) -> Result<()> {
    let script = machine.home.path().join("script");
    fs::write(
        &script,
        "#!/bin/sh\n/usr/bin/sudo -n id -u\n/bin/sudo -E VAR=x sh -c 'echo $VAR $KEPT'\n",
    )?;
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755))?;
    let seen = machine.client.sh_ok(
        "KEPT=y ./script; sudo sh -c 'exit 7' || echo $?; sudo -v && sudo sysctl -n kernel.ostype",
    )?;
    ensure!(seen == "0\nx y\n7\nLinux\n", "{seen}");
    let output = machine.client.sh("sudo -u nobody id")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{output:?}");
    ensure!(
        stderr.starts_with("sudo: -u nobody: ") && stderr.lines().count() == 1,
        "{stderr}"
    );
    Ok(())
}

/// What a script prints that runs as he himself, and succeeds.
fn as_me(machine: &Machine, script: &str) -> Result<String> {
    let command = machine
        .client
        .command(&["-user", "me"], &["sh", "-c", script]);
    let output = machine.client.output(command, b"")?;
    ensure!(output.status.success(), "{script}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

fn himself(machine: &Machine) -> Result<()> {
    let (uid, gid) = his();
    let mut groups: Vec<_> = nix::unistd::getgroups()?
        .iter()
        .map(|group| group.as_raw())
        .collect();
    groups.sort_unstable();
    fs::write(machine.home.path().join("mine"), "x")?;
    let seen = as_me(
        machine,
        "id -u; id -g; sed -n 's/^Groups:[[:space:]]*//p' /proc/self/status; stat -c %u:%g mine /etc/hostname; touch made; mkdir dir
         sh -c 'grep CapEff /proc/self/status'; grep CapBnd /proc/self/status",
    )?;
    let lines: Vec<_> = seen.lines().collect();
    let [user, group, others, mine, roots, effective, bound] = lines[..] else {
        anyhow::bail!("{seen}");
    };
    let mut others: Vec<u32> = others
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    others.sort_unstable();
    ensure!(
        (user, group) == (&*uid.to_string(), &*gid.to_string()),
        "{seen}"
    );
    ensure!(others == groups, "{others:?} are not {groups:?}");
    ensure!((mine, roots) == (&*format!("{uid}:{gid}"), "0:0"), "{seen}");
    ensure!(effective.replace("Eff", "Bnd") == bound, "{seen}");
    for made in ["made", "dir"] {
        ensure!(owner(&machine.home.path().join(made))? == his());
    }

    // Operations that need a capability work. mount(8) refuses users other than root by itself; mount(2) does not.
    let seen = as_me(
        machine,
        "set -e; dmesg | head -n 1 | wc -l; ip link set lo mtu 65535; ip link set lo mtu 65536
         head -c 4 /dev/mem >/dev/null; nice -n -5 true; chroot / true
         touch /tmp/x; chown 1234:4321 /tmp/x; stat -c %u:%g /tmp/x; mkdir /tmp/a /tmp/b
         python3 -c 'import ctypes; print(ctypes.CDLL(None).mount(b\"x\", b\"/tmp/a\", b\"tmpfs\", 0, None))'
         sudo id -u; sudo mount -t tmpfs x /tmp/b; grep -c ' /tmp/[ab] tmpfs ' /proc/mounts",
    )?;
    ensure!(seen == "1\n1234:4321\n0\n0\n2\n", "{seen}");
    Ok(())
}

fn programs_as_here(machine: &Machine) -> Result<()> {
    archive(machine, "theirs.tar", STRANGER)?;
    package(machine, "theirs.deb", STRANGER)?;
    let theirs = machine.home.path().join("theirs");
    fs::write(&theirs, "x")?;
    fs::set_permissions(&theirs, PermissionsExt::from_mode(0o644))?;
    as_root(|| Ok(chown(&theirs, Some(STRANGER.0), Some(STRANGER.1))?))?;
    as_me(
        machine,
        "set -e; mkdir me; cd me; tar xf ../theirs.tar; dpkg-deb -x ../theirs.deb .; cp -a ../theirs copy; rsync -a ../theirs rsync",
    )?;
    for name in ["member", "file", "copy", "rsync"] {
        ensure!(
            owner(&machine.home.path().join("me").join(name))? == his(),
            "{name}"
        );
    }
    Ok(())
}
