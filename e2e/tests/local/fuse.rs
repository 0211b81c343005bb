//! The client's files by FUSE, on this computer.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::client::ended;
use e2e::daemon::Daemon;
use e2e::delay::{Delay, waits};
use e2e::user::{User, board_of, works};
use e2e::wait_until;

use crate::Test;

/// For root, whose cpud has the right to mount.
pub(crate) const TESTS: &[Test] = &[
    ("fuse_files_are_as_they_are_here", files),
    ("fuse_keeps_pages_as_the_cache_mode_says", pages),
    (
        "fuse_shows_what_changes_here_before_what_was_typed_after",
        order,
    ),
    ("fuse_waits_for_a_lock_until_interrupted", interrupted),
    ("fuse_leaves_nothing_of_a_killed_client", killed),
    ("fuse_serves_more_files_than_the_client_may_open", many),
    (
        "learned_what_a_program_asked_for_is_not_waited_for_again",
        learned,
    ),
];

fn fuse_board() -> Result<(Daemon, User)> {
    board_of(Daemon::cpud_with("-mount=fuse")?)
}

/// What a script prints on the board, in the home directory.
fn script(user: &User, flags: &[&str], script: &str) -> Result<String> {
    let words = [flags, &["board", "sh", "-c", script]].concat();
    works(&ended(&mut user.cpu_in(user.home(), &words))?)
}

fn files() -> Result<()> {
    let (_daemon, user) = fuse_board()?;
    let printed = script(
        &user,
        &[],
        r#"set -e; exec 2>&1; umask 022
        awk '$2 == "/tmp/cpu" { print $3 }' /proc/mounts
        echo one >a; echo two >>a; cat a; cp a b; cmp a b; mv b c; ln c d; ln -s c e; readlink e; cat e
        [ $(stat -c %h c) = 2 ]; [ $(stat -c %i c) = $(stat -c %i d) ]; stat -c %i c
        touch -d '2001-02-03 04:05:06.789 UTC' a; TZ=UTC stat -c %y a; chmod 640 a; stat -c %a a
        truncate -s 100000 a; stat -c %s a; mkfifo p; stat -c %F p; mkdir -p x/y; rmdir x/y
        head -c 3000000 /dev/urandom >big; sha256sum big | cut -c1-64; cp big big2; cmp big big2
        mkdir many; i=0; while [ $i -lt 700 ]; do : >many/a-name-of-some-length-$i; i=$((i + 1)); done
        ls many | wc -l; find many -type f | wc -l; rm -r many
        ! mkdir x; ! rmdir none; ! cat none
        python3 -c 'if True:
            import os
            os.setxattr("a", "user.x", b"value"); print(os.listxattr("a"), os.getxattr("a", "user.x"))
            os.removexattr("a", "user.x"); print(os.listxattr("a"))
            fd = os.open("u", os.O_RDWR | os.O_CREAT); os.write(fd, b"gone"); os.unlink("u"); print(os.pread(fd, 9, 0))
            os.lseek(fd, 0, 0); os.ftruncate(fd, 2); print(os.fstat(fd).st_size)
            os.mkdir("gone"); fd = os.open("gone", 0); os.fstat(fd); os.rmdir("gone"); print(os.fstat(fd).st_nlink)
            import fcntl
            one, two = open("l2", "w"), open("l2", "w")
            fcntl.flock(one, fcntl.LOCK_EX)
            try: fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError: print("excluded")
            one.close(); fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)'
        exec 9>>l; flock 9; flock -n l true || echo locked"#,
    )?;
    let inode = {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(user.home().join("c"))?.ino().to_string()
    };
    let mut digest = Command::new("sha256sum");
    let digest = works(&ended(digest.arg(user.home().join("big")))?)?;
    let digest = digest.split(' ').next().unwrap_or_default();
    let expected = [
        "fuse",
        "one",
        "two",
        "c",
        "one",
        "two",
        &inode,
        "2001-02-03 04:05:06.789000000 +0000",
        "640",
        "100000",
        "fifo",
        digest,
        "700",
        "700",
        "mkdir: cannot create directory 'x': File exists",
        "rmdir: failed to remove 'none': No such file or directory",
        "cat: none: No such file or directory",
        "['user.x'] b'value'",
        "[]",
        "b'gone'",
        "2",
        "0",
        "excluded",
        "locked",
    ];
    // Some of these programs quote as the locale says.
    let printed = printed.replace(['‘', '’'], "'");
    let expected = expected.join("\n") + "\n";
    ensure!(printed == expected, "{printed}\ninstead of\n{expected}");
    let a = fs::read(user.home().join("a"))?;
    ensure!(a.starts_with(b"one\ntwo\n\0") && a.len() == 100_000);
    ensure!(fs::read_link(user.home().join("e"))?.as_os_str() == "c");
    Ok(())
}

fn pages() -> Result<()> {
    let (_daemon, user) = fuse_board()?;
    fs::write(user.home().join("m"), [b'x'; 9000])?;
    let map = "python3 -c 'if True:
        import mmap
        f = open(\"m\", \"r+b\")
        try:
            m = mmap.mmap(f.fileno(), 0)
            m[5:8] = b\"abc\"; m.flush(); print(open(\"m\", \"rb\").read()[4:9])
        except OSError as e: print(e.errno)'";
    // ENODEV: no pages, no shared mapping.
    ensure!(script(&user, &["-cache=none"], map)? == "19\n");
    for cache in ["-cache=mmap", "-cache=loose"] {
        fs::write(user.home().join("m"), [b'x'; 9000])?;
        let printed = script(&user, &[cache], map)?;
        ensure!(printed == "b'xabcx'\n", "{cache}: {printed}");
        ensure!(
            fs::read(user.home().join("m"))?[4..9] == *b"xabcx",
            "{cache}"
        );
    }
    Ok(())
}

/// Names, sizes and contents, each looked at there a moment before it changes here.
fn order() -> Result<()> {
    const ROUNDS: usize = 150;
    let (_daemon, user) = fuse_board()?;
    let looks = "import os, sys
for i, line in enumerate(sys.stdin):
    seen = [os.path.exists(f'n{i}'), os.stat('f').st_size, len(open('f').read())]
    # For the next round.
    os.path.exists(f'n{i + 1}'), os.stat('f')
    print(*seen, flush=True)
    os.path.exists(f'n{i + 1}'), os.stat('f')";
    fs::write(user.home().join("f"), "")?;
    let mut child = user
        .cpu_in(user.home(), &["board", "python3", "-c", looks])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("no input")?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    for round in 0..ROUNDS {
        fs::write(user.home().join(format!("n{round}")), "")?;
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(user.home().join("f"))?;
        file.write_all(b"x")?;
        input.write_all(b"\n")?;
        let line = lines.next().context("no line")??;
        let size = round + 1;
        ensure!(
            line == format!("True {size} {size}"),
            "round {round}: {line}"
        );
    }
    drop(input);
    ensure!(child.wait()?.success());
    Ok(())
}

fn interrupted() -> Result<()> {
    let (_daemon, user) = fuse_board()?;
    let lock = "import fcntl, sys; f = open('l', 'w'); fcntl.lockf(f, fcntl.LOCK_EX)";
    let mut holder = user
        .cpu_in(
            user.home(),
            &[
                "board",
                "python3",
                "-c",
                &format!("{lock}; print('held', flush=True); sys.stdin.read()"),
            ],
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(holder.stdout.take().context("no output")?).lines();
    ensure!(lines.next().context("no line")?? == "held");
    let start = Instant::now();
    let words = [
        "board",
        "timeout",
        "-s",
        "INT",
        "2",
        "python3",
        "-c",
        "import fcntl; f = open('l', 'w'); fcntl.lockf(f, fcntl.LOCK_EX)",
    ];
    let output = ended(&mut user.cpu_in(user.home(), &words))?;
    ensure!(output.status.code() == Some(124), "{output:?}");
    ensure!(
        start.elapsed() < Duration::from_secs(15),
        "{:?}",
        start.elapsed()
    );
    drop(holder.stdin.take());
    ensure!(holder.wait()?.success());
    // It is free now.
    script(&user, &[], &format!("timeout 9 python3 -c \"{lock}\""))?;
    Ok(())
}

/// Looks at more files than the client may have descriptors, and again at one of the first.
fn many() -> Result<()> {
    const FILES: usize = 9000;
    let (_daemon, user) = fuse_board()?;
    let many = user.home().join("many");
    fs::create_dir(&many)?;
    for number in 0..FILES {
        fs::write(many.join(number.to_string()), "")?;
    }
    let looks = format!(
        "import os; input()
for i in range({FILES}): os.stat(f'many/{{i}}')
os.rename('many/5', 'many/moved'); print(os.listdir('.') != [], open('many/moved').read() == open('many/6').read())"
    );
    let mut child = user
        .cpu_in(user.home(), &["board", "python3", "-c", &looks])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut prlimit = Command::new("prlimit");
    prlimit.args(["--nofile=4096", "--pid", &child.id().to_string()]);
    works(&ended(&mut prlimit)?)?;
    child.stdin.take().context("no input")?.write_all(b"\n")?;
    let output = child.wait_with_output()?;
    ensure!(works(&output)? == "True True\n", "{output:?}");
    Ok(())
}

/// Waits are counted on a path of 20 ms.
fn learned() -> Result<()> {
    let (daemon, user) = fuse_board()?;
    let proxy = Delay::start(daemon.port, Duration::from_millis(10))?;
    let port = proxy.port.to_string();
    for dir in 0..12 {
        let dir = user.home().join(format!("tree/{dir}"));
        fs::create_dir_all(&dir)?;
        for (name, size) in [("one.a", 100), ("two.b", 40_000), ("three.c", 300_000)] {
            fs::write(dir.join(name), vec![b'x'; size])?;
        }
    }
    let script = "import glob, os
names = sorted(glob.glob('tree/*/*'))
print(sum(len(open(name, 'rb').read()) for name in names), open('changed').read(), os.path.exists('none'))";
    let traces = user.home().join(".cache/cpu/traces");
    let run = |flag: &str| -> Result<(String, usize)> {
        let words = [
            flag,
            "-q",
            "-sp",
            &port,
            "board",
            "/usr/bin/python3",
            "-c",
            script,
        ];
        let mut command = user.cpu_in(user.home(), &words);
        command.env_remove("XDG_CACHE_HOME");
        let printed = works(&ended(&mut command)?)?;
        Ok((printed, waits(&proxy.passed())))
    };
    fs::write(user.home().join("changed"), "first")?;
    // So that the host key is known.
    run("-learn=false")?;
    let (printed, without) = run("-learn=false")?;
    ensure!(printed == "4081200 first False\n", "{printed}");
    ensure!(!traces.exists());
    run("-learn=true")?;
    ensure!(fs::read_dir(&traces)?.count() == 1);
    fs::write(user.home().join("changed"), "second")?;
    fs::write(user.home().join("none"), "there")?;
    let (printed, with) = run("-learn=true")?;
    ensure!(printed == "4081200 second True\n", "{printed}");
    // On a busy computer the program may overtake what is sent ahead.
    let with = with.min(run("-learn=true")?.1);
    ensure!(with * 2 < without, "{with} waits instead of {without}");
    // Whatever is in the traces.
    for entry in fs::read_dir(&traces)? {
        fs::write(entry?.path(), "cpu trace 2\n\x02\0\x09\x00../secret")?;
    }
    ensure!(run("-learn=true")?.0 == printed);
    Ok(())
}

fn killed() -> Result<()> {
    let (_daemon, user) = fuse_board()?;
    let mark = format!("86429.{}", std::process::id());
    let script =
        format!("sleep {mark} & while :; do cat /usr/bin/* /usr/lib/*/*.so* >/dev/null 2>&1; done");
    let mut client = user
        .cpu_in(user.home(), &["board", "sh", "-c", &script])
        .spawn()?;
    let runs = || -> Result<bool> {
        let all = fs::read_dir("/proc")?.flatten();
        let mut lines = all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        Ok(lines.any(|line| line == format!("sleep\0{mark}\0").as_bytes()))
    };
    let patience = Duration::from_mins(1);
    wait_until("the command runs", patience, || Ok(runs()?.then_some(())))?;
    std::thread::sleep(Duration::from_millis(500));
    client.kill()?;
    client.wait()?;
    wait_until("everything is gone", patience, || {
        Ok((!runs()?).then_some(()))
    })?;
    Ok(())
}
