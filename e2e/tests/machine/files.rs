//! Files: the directory in which a session starts, changes made there, and its mounts.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use e2e::client::{ended, finish};

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
    ("extended_attributes_are_the_same_on_both_sides", attributes),
    ("locks_there_and_here_exclude_each_other", locks),
    ("a_file_that_became_shorter_ends_there", shortened),
    ("flock_is_a_record_lock_of_the_process", whole_file_locks),
    (
        "large_reads_are_one_message_and_files_are_as_many_as_allowed",
        limits,
    ),
];

pub(crate) const OF_ROOT: &[Test] = &[("a_file_of_another_user_is_his_if_root_serves", of_others)];

/// What cpu(1) says of flock(2): who is kept out, and by what.
fn whole_file_locks(machine: &Machine) -> Result<()> {
    let file = machine.home.path().join("whole");
    let name = file.display();
    let lockable = "python3 -c 'import fcntl; fcntl.lockf(open(\"whole\", \"w\"), fcntl.LOCK_EX | fcntl.LOCK_NB)'";
    let here = |command: &str| -> Result<bool> {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).current_dir(machine.home.path());
        Ok(shell.stderr(Stdio::null()).status()?.success())
    };
    for (script, same, others, records) in [
        // The command runs while flock(1) holds the lock.
        (
            format!("flock {name} sh -c 'echo held; cat'"),
            false,
            false,
            false,
        ),
        // flock(1) has ended.
        (
            format!(
                "exec 9>>{name}; flock 9; flock -n {name} true && echo not excluded; echo held; cat"
            ),
            false,
            true,
            true,
        ),
    ] {
        let mut command = machine.client.command(&[], &["sh", "-c", &script]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let first = lines.next().context("nothing was printed")??;
        ensure!((first != "held") == same, "{script}: {first}");
        let other = machine
            .client
            .run(&["flock", "-n", &name.to_string(), "true"])?;
        // flock(1) exits with 1 if somebody else has the lock.
        let status = i32::from(!others);
        ensure!(other.status.code() == Some(status), "{script}: {other:?}");
        ensure!(here(lockable)? == records, "{script}");
        ensure!(here("flock -n whole true")?, "{script}: flock(2) here");
        drop(child.stdin.take());
        ensure!(child.wait()?.success());
    }
    ensure!(here(lockable)?);
    Ok(())
}

/// A program there that has it open, and does not ask again how long it is.
fn shortened(machine: &Machine) -> Result<()> {
    let script = "import os, sys\n\
        fd = os.open(sys.argv[1], os.O_RDONLY)\n\
        print(len(os.pread(fd, 9000, 0)), flush=True)\n\
        sys.stdin.readline()\n\
        print(len(os.pread(fd, 9000, 0)), len(os.pread(fd, 100, 50)))\n";
    let file = machine.home.path().join("shortened");
    for mode in ["none", "mmap", "loose"] {
        std::fs::write(&file, [1; 8192])?;
        let words = ["python3", "-c", script, &file.display().to_string()];
        let mut command = machine.client.command(&["-cache", mode], &words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut to = child.stdin.take().context("no input")?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let first = lines.next().context("nothing was printed")??;
        ensure!(first == "8192", "{mode}: {first}");
        std::fs::OpenOptions::new()
            .write(true)
            .open(&file)?
            .set_len(4)?;
        to.write_all(b"\n")?;
        let second = lines.next().context("nothing more was printed")??;
        ensure!(second == "4 0", "{mode}: {second}");
        ensure!(child.wait()?.success());
    }
    Ok(())
}

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

    // A PWD that a program left behind when it changed its directory is not believed, and cpu says so.
    let mut command = machine.client.command(&[], &["sh", "-c", "pwd; ls"]);
    command.env("PWD", "/usr").current_dir(&work);
    let output = machine.client.output(command, b"")?;
    ensure!(output.stdout == want.as_bytes(), "{output:?}");
    let notice = String::from_utf8(output.stderr)?;
    ensure!(
        notice.contains("PWD=\"/usr\" is not the working directory"),
        "{notice}"
    );
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

    // The session has a /tmp of its own, but what a command leaves in its working directory must not be lost.
    let made = tempfile::Builder::new().tempfile_in("/tmp")?;
    let name = made.path().file_name().context("no name")?;
    let name = name.to_str().context("an odd name")?;
    let words = ["sh", "-c", "pwd; echo data >$0", name];
    let mut command = machine.client.command(&[], &words);
    command.env("PWD", "/tmp").current_dir("/tmp");
    let output = machine.client.output(command, b"")?;
    ensure!(output.stdout == b"/tmp/cpu/tmp\n", "{output:?}");
    ensure!(std::fs::read(made.path())? == b"data\n");
    let notice = String::from_utf8(output.stderr)?;
    ensure!(notice.contains("starting in /tmp/cpu/tmp"), "{notice}");

    // The same for a program: the message names the path by which it can be run.
    let program = outside.path().join("program");
    std::fs::write(&program, "#!/bin/sh\necho ran\n")?;
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755))?;
    let program = program.to_str().context("an odd name")?;
    let command = machine.client.command(&[], &[program]);
    let output = machine.client.output(command, b"")?;
    let stderr = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(127), "{stderr}");
    let real = format!("/tmp/cpu{program}");
    ensure!(
        stderr.contains(&format!("not in this session's namespace; run {real},")),
        "{stderr}"
    );
    let command = machine.client.command(&[], &[&real]);
    let output = machine.client.output(command, b"")?;
    ensure!(output.stdout == b"ran\n", "{output:?}");
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
    // Whoever serves is root there.
    let want = format!(
        "{} {:o} {} 0 0\n",
        here.len(),
        here.permissions().mode() & 0o7777,
        here.mtime(),
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

/// What Python says of a file's attributes; the second half runs there alone.
fn attributes(machine: &Machine) -> Result<()> {
    const LOOK: &str = "import os, sys; f = sys.argv[1]; \
                        print(sorted((n, os.getxattr(f, n)) for n in os.listxattr(f)))";
    let file = machine.home.path().join("attributes");
    std::fs::write(&file, "")?;
    let path = file.to_str().context("a strange directory")?;
    let here = || -> Result<String> {
        let output = ended(Command::new("/usr/bin/python3").args(["-c", LOOK, path]))?;
        ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    // The privileged one where that is possible: the user is the one who serves.
    let security = if nix::unistd::getuid().is_root() {
        "os.setxattr(f, 'security.cpu', b'2');"
    } else {
        ""
    };
    let script = format!(
        "import os, sys; f = sys.argv[1]; os.setxattr(f, 'user.one', b'1'); {security} \
         os.setxattr(f, 'user.gone', b'3'); os.removexattr(f, 'user.gone')\n\
         try: os.setxattr(f, 'user.none', b'4', os.XATTR_REPLACE)\n\
         except OSError as error: print(error.errno)\n\
         {}",
        LOOK.replace("import os, sys; f = sys.argv[1]; ", "")
    );
    let output = machine
        .client
        .run(&["/usr/bin/python3", "-c", &script, path])?;
    let here = here()?;
    let want = format!("{}\n{here}", nix::errno::Errno::ENODATA as i32);
    ensure!(output.stdout == want.as_bytes(), "{output:?}, here {here}");
    ensure!(
        here.contains("('user.one', b'1')") && !here.contains("gone"),
        "{here}"
    );
    ensure!(
        security.is_empty() || here.contains("('security.cpu', b'2')"),
        "{here}"
    );
    Ok(())
}

/// Takes the whole file, says so, and lets go when its input ends.
const HOLD: &str = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); \
                    print('locked', flush=True); sys.stdin.read()";

/// Without waiting; then until an alarm, which Linux's client sometimes calls EAGAIN; then for as long as it takes.
const WANT: &str = "import fcntl, signal, sys, time\n\
    f = open(sys.argv[1], 'r+')\n\
    def ring(*_): raise TimeoutError\n\
    signal.signal(signal.SIGALRM, ring)\n\
    try: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB); print('taken twice')\n\
    except BlockingIOError: print('blocked', flush=True)\n\
    signal.setitimer(signal.ITIMER_REAL, 2)\n\
    try:\n\
    \x20try: fcntl.lockf(f, fcntl.LOCK_EX); print('taken twice')\n\
    \x20except BlockingIOError: time.sleep(9)\n\
    except TimeoutError: print('interrupted', flush=True)\n\
    signal.setitimer(signal.ITIMER_REAL, 0)\n\
    fcntl.lockf(f, fcntl.LOCK_EX); print('locked', flush=True); sys.stdin.read()";

fn locks(machine: &Machine) -> Result<()> {
    let file = machine.home.path().join("locked");
    std::fs::write(&file, "x")?;
    let path = file.to_str().context("a strange directory")?;
    let start = |mut command: Command| -> Result<_> {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        Ok((child, lines))
    };
    let mut here = Command::new("/usr/bin/python3");
    here.args(["-c", HOLD, path]);
    let (mut holder, mut said) = start(here)?;
    ensure!(said.next().context("no line")?? == "locked");
    let there = machine
        .client
        .command(&[], &["/usr/bin/python3", "-c", WANT, path]);
    let (mut wanting, mut said) = start(there)?;
    for want in ["blocked", "interrupted"] {
        let got = said
            .next()
            .with_context(|| format!("it never was {want}"))??;
        ensure!(got == want, "{got}, not {want}");
    }
    drop(holder.stdin.take());
    holder.wait()?;
    ensure!(said.next().context("it never got the lock")?? == "locked");
    let mut again = Command::new("/usr/bin/python3");
    again.args([
        "-c",
        &HOLD.replace("LOCK_EX", "LOCK_EX | fcntl.LOCK_NB"),
        path,
    ]);
    let refused = ended(&mut again)?;
    ensure!(!refused.status.success(), "locked there, and here too");
    drop(wanting.stdin.take());
    ensure!(wanting.wait()?.success());
    Ok(())
}

fn limits(machine: &Machine) -> Result<()> {
    std::fs::write(machine.home.path().join("large"), vec![7; 4 << 20])?;
    let script = "grep ' /tmp/cpu ' /proc/mounts >&2; dd if=large of=/dev/null bs=4M 2>/dev/null; \
                  echo ready; read -r end";
    let mut command = machine
        .client
        .command(&["-dbg9p=read"], &["sh", "-c", script]);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    ensure!(lines.next().context("no line")?? == "ready");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id()))?;
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let words: Vec<_> = files.context("no limit")?.split_whitespace().collect();
    ensure!(words.get(3) == words.get(4), "{words:?}");
    drop(child.stdin.take());
    let output = finish(child)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(stderr.contains("msize=1048576"), "{stderr}");
    let most = stderr.lines().filter(|line| line.contains("/large "));
    let most = most.filter_map(|line| line.split(" → ").nth(1)?.split(' ').next()?.parse().ok());
    ensure!(most.max() > Some(1_000_000_u32), "{stderr}");
    Ok(())
}
