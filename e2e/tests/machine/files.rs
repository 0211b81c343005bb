//! Files: where a session starts, what it makes here, what it mounts.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use anyhow::{Context, Result, ensure};

use crate::{Machine, Test};

pub(crate) const TESTS: &[Test] = &[
    ("a_session_starts_in_the_same_directory", same_directory),
    (
        "a_directory_outside_the_namespace_is_reached",
        outside_directory,
    ),
    ("a_file_made_there_is_here_and_both_agree", made_there),
    ("a_session_has_its_mounts_and_nobody_else_has", mounts),
    ("programs_make_rename_link_and_remove_files", all_operations),
    ("a_file_of_another_user_is_his_if_root_serves", of_others),
];

fn same_directory(machine: &Machine) -> Result<()> {
    let work = machine.home.path().join("work");
    std::fs::create_dir_all(&work)?;
    std::fs::write(work.join("marker"), "")?;
    let mut command = machine.client.command(&[], &["sh", "-c", "pwd; ls"]);
    command.env("PWD", &work).current_dir(&work);
    let output = machine.client.output(command, b"")?;
    let want = format!("{}\nmarker\n", work.display());
    ensure!(output.stdout == want.as_bytes(), "{output:?}");
    ensure!(output.stderr.is_empty(), "{output:?}");
    Ok(())
}

fn outside_directory(machine: &Machine) -> Result<()> {
    let outside = tempfile::Builder::new()
        .prefix("cpu-e2e-")
        .tempdir_in("/srv")
        .or_else(|_| tempfile::tempdir_in("/var/tmp"))?;
    std::fs::write(outside.path().join("marker"), "")?;
    let mut command = machine.client.command(&[], &["sh", "-c", "pwd; ls"]);
    command
        .env("PWD", outside.path())
        .current_dir(outside.path());
    let output = machine.client.output(command, b"")?;
    let want = format!("/tmp/cpu{}\nmarker\n", outside.path().display());
    ensure!(output.stdout == want.as_bytes(), "{output:?}");
    let notice = String::from_utf8(output.stderr)?;
    ensure!(notice.lines().count() == 1, "{notice}");
    ensure!(notice.contains("/tmp/cpu"), "{notice}");
    Ok(())
}

fn made_there(machine: &Machine) -> Result<()> {
    let file = machine.home.path().join("made-there");
    let script = "umask 027; echo hello > ~/made-there && stat -c '%s %a %Y %u %g' ~/made-there";
    let there = machine.client.sh_ok(script)?;
    let here = std::fs::metadata(&file).context("the file made there is not here")?;
    ensure!(std::fs::read(&file)? == b"hello\n");
    ensure!(
        here.uid() == nix::unistd::getuid().as_raw(),
        "owner {}",
        here.uid()
    );
    let want = format!(
        "{} {:o} {} {} {}\n",
        here.len(),
        here.permissions().mode() & 0o7777,
        here.mtime(),
        here.uid(),
        here.gid()
    );
    ensure!(there == want, "there {there:?}, here {want:?}");
    ensure!(
        here.permissions().mode() & 0o7777 == 0o640,
        "{:o}",
        here.mode()
    );
    Ok(())
}

fn mounts(machine: &Machine) -> Result<()> {
    let before = machine.client.sh_ok("cat /proc/1/mounts")?;
    let mounts = machine.client.sh_ok("cat /proc/mounts")?;
    let has = |point: &str, kind: &str| {
        mounts.lines().any(|line| {
            let mut words = line.split(' ').skip(1);
            words.next() == Some(point) && words.next() == Some(kind)
        })
    };
    ensure!(has("/tmp", "tmpfs"), "{mounts}");
    for point in [
        "/tmp/cpu", "/lib", "/lib64", "/usr", "/bin", "/etc", "/home",
    ] {
        ensure!(has(point, "9p"), "no 9p on {point}:\n{mounts}");
    }
    // Two at the same time: each has its own /tmp.
    std::thread::scope(|scope| -> Result<()> {
        let first = scope.spawn(|| {
            machine.client.sh_ok(
                "echo mine > /tmp/mine; touch ~/first-is-there; \
                while ! test -e ~/second-has-looked; do sleep 0.2; done; cat /tmp/mine",
            )
        });
        let second = machine.client.sh_ok(
            "while ! test -e ~/first-is-there; do sleep 0.2; done; ls /tmp; touch ~/second-has-looked",
        )?;
        let first = first.join().ok().context("a thread panicked")??;
        ensure!(first == "mine\n", "{first}");
        ensure!(
            second == "cpu\nlocal\n",
            "the second session sees {second:?} in /tmp"
        );
        Ok(())
    })?;
    let after = machine.client.sh_ok("cat /proc/1/mounts")?;
    ensure!(before == after, "before:\n{before}\nafter:\n{after}");
    ensure!(!after.contains("9p"), "PID 1 sees 9p:\n{after}");
    Ok(())
}

fn all_operations(machine: &Machine) -> Result<()> {
    let script = r#"set -e
        mkdir ~/ops; cd ~/ops
        echo one > a; echo two >> a; test "$(cat a)" = "one
two"
        mv a b; test ! -e a; ln b c; test "$(stat -c %h b)" = 2
        ln -s b s; test "$(readlink s)" = b; test "$(cat s)" = "$(cat b)"
        mkdir -p d/e/f; mv d/e g; test -d g/f; rmdir g/f g d
        : > b; test ! -s c
        truncate -s 1M big; test "$(stat -c %s big)" = 1048576
        chmod 751 b; test "$(stat -c %a b)" = 751
        touch -d '2001-02-03 04:05:06.5 UTC' b; test "$(stat -c %Y b)" = 981173106
        mkfifo p; (echo through > p &) ; test "$(cat p)" = through
        exec 3<>c; rm c; echo still >&3; exec 3>&-
        df . > /dev/null
        rm -r ~/ops; test ! -e ~/ops"#;
    machine.client.sh_ok(script)?;
    Ok(())
}

fn of_others(machine: &Machine) -> Result<()> {
    let script = "mkdir -m 777 ~/others && cd ~/others && \
        setpriv --reuid 12345 --regid 12346 --clear-groups sh -c '> f; mkdir d' && stat -c '%u %g' f d";
    let mut command = machine.client.command(&[], &["sh", "-c", script]);
    command.env("USER", "root");
    let output = machine.client.output(command, b"")?;
    let (user, group) = (nix::unistd::getuid(), nix::unistd::getgid());
    let want = if user.is_root() {
        "12345 12346\n".repeat(2)
    } else {
        format!("{user} {group}\n").repeat(2)
    };
    ensure!(output.stdout == want.as_bytes(), "{output:?}");
    Ok(())
}
