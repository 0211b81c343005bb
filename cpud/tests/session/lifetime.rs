//! How long a session lasts, what signals reach, and a terminal of its own.

use super::*;

/// Whether any process has `mark` in its command line.
fn is_running(mark: &str) -> bool {
    let me = std::process::id().to_string();
    fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        entry.file_name().to_str() != Some(&me)
            && fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(mark))
    })
}

#[test]
fn all_descendants_are_waited_for() {
    let begun = Instant::now();
    let output = run(
        &[],
        &[
            "sh",
            "-c",
            "(setsid sh -c 'sleep 0.7; echo last' &) ; exit 3",
        ],
    );
    assert_eq!(
        (output.status.code(), text(&output.stdout)),
        (Some(3), "last\n")
    );
    assert!(begun.elapsed() >= Duration::from_millis(700));
}

#[test]
fn closed_output_reaches_the_reader_before_the_command_ends() {
    let mut session = start(&[], &["sh", "-c", "exec >&- 2>&-; read line"], None);
    let mut nothing = Vec::new();
    session
        .child
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut nothing)
        .unwrap();
    assert!(session.child.try_wait().unwrap().is_none());
    drop(session.child.stdin.take());
    assert_eq!(session.child.wait().unwrap().code(), Some(1));
}

#[test]
fn signals_reach_the_commands_group_only() {
    // The input is sent only after the signal has arrived, since they travel independently.
    let script = "trap 'echo caught' TERM; \
        (trap 'echo inner; exit' TERM; echo ready; while :; do sleep 0.1; done); read wait; echo end";
    let mut session = start(&[], &["sh", "-c", script], None);
    let mut out = session.child.stdout.take().unwrap();
    read_until(&mut out, "ready\n");
    session.control.as_mut().unwrap().write_all(&[15]).unwrap();
    assert_eq!(read_until(&mut out, "caught\n"), "inner\ncaught\n");
    let mut input = session.child.stdin.take().unwrap();
    input.write_all(b"\n").unwrap();
    assert_eq!(read_until(&mut out, "end\n"), "end\n");
    assert_eq!(session.child.wait().unwrap().code(), Some(0));
}

#[test]
fn inherited_signal_settings_are_undone() {
    let program = format!(
        "trap '' HUP INT TERM; exec {} session \"$@\"",
        env!("CARGO_BIN_EXE_cpud")
    );
    let (theirs, _ours) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let fd = theirs.as_raw_fd().to_string();
    let output = Command::new("sh")
        .args([
            "-c",
            &program,
            "sh",
            "--control",
            &fd,
            "--",
            "grep",
            "-E",
            "Sig(Ign|Blk)",
            "/proc/self/status",
        ])
        .output()
        .unwrap();
    for line in text(&output.stdout).lines() {
        let set = u64::from_str_radix(line.rsplit('\t').next().unwrap(), 16).unwrap();
        // Signals 32 and 33 belong to the C library, which lets nobody change them.
        assert_eq!(set & !(0b11 << 31), 0, "{line}");
    }
    assert_eq!(text(&output.stdout).lines().count(), 2);
    let fds = sh(&[], "ls /proc/self/fd");
    assert_eq!(fds, "0\n1\n2\n3\n", "3 is the directory that ls reads");
}

#[test]
fn when_the_client_is_gone_nothing_is_left() {
    let mark = "86421.5";
    // In the foreground, in a session of its own, orphaned, ignoring SIGHUP, stopped, and forking all the time.
    let script = format!(
        "trap '' HUP TERM; (setsid sleep {mark} &); (sleep {mark} & sleep {mark} & kill -STOP $!);
         (while :; do sleep {mark} & sleep 0.05; done) & echo ready; sleep {mark}"
    );
    let mut session = start(&[], &["sh", "-c", &script], None);
    read_until(&mut session.child.stdout.take().unwrap(), "ready\n");
    assert!(is_running(mark));
    let begun = Instant::now();
    drop(session.control.take());
    assert_eq!(session.child.wait().unwrap().signal(), Some(9));
    assert!(!is_running(mark));
    let took = begun.elapsed();
    assert!(
        (Duration::from_secs(2)..Duration::from_secs(5)).contains(&took),
        "{took:?}"
    );
}

#[test]
fn when_the_client_is_gone_a_polite_command_may_clean_up() {
    let mut session = start(
        &[],
        &[
            "sh",
            "-c",
            "trap 'exit 7' HUP; echo ready; while :; do sleep 0.1; done",
        ],
        None,
    );
    read_until(&mut session.child.stdout.take().unwrap(), "ready\n");
    let begun = Instant::now();
    drop(session.control.take());
    assert_eq!(session.child.wait().unwrap().code(), Some(7));
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_terminal_is_the_sessions_own() {
    let pty = nix::pty::openpty(None, None).unwrap();
    fcntl(&pty.master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
    fcntl(&pty.slave, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
    let mut session = start(
        &[("PS1", "$ "), ("HISTFILE", "/dev/null")],
        &["bash", "--norc", "-i"],
        Some(&pty.slave),
    );
    drop(pty.slave);
    let mut terminal = File::from(pty.master);
    read_until(&mut terminal, "$ ");
    // Job control works: the foreground job has its own process group, and only that gets the signal. It has printed
    // something, so it is running when it is interrupted.
    terminal
        .write_all(b"sed -u s/here/seen-here/\nhere\n")
        .unwrap();
    read_until(&mut terminal, "\r\nseen-here\r\n");
    session.control.as_mut().unwrap().write_all(&[2]).unwrap();
    read_until(&mut terminal, "$ ");
    terminal.write_all(b"echo status $?\n").unwrap();
    read_until(&mut terminal, "\r\nstatus 130\r\n");
    terminal
        .write_all(b"sed -u s/again/seen-again/\nagain\n")
        .unwrap();
    read_until(&mut terminal, "\r\nseen-again\r\n");
    terminal.write_all(b"\x03").unwrap();
    read_until(&mut terminal, "$ ");
    terminal.write_all(b"echo status $?\n").unwrap();
    read_until(&mut terminal, "\r\nstatus 130\r\n");
    // What is left running is waited for.
    let begun = Instant::now();
    terminal
        .write_all(b"setsid sleep 2.5 & sleep 0.2; exit 5\n")
        .unwrap();
    assert_eq!(session.child.wait().unwrap().code(), Some(5));
    assert!(begun.elapsed() >= Duration::from_millis(2500));
}

#[test]
fn jobs_that_fork_are_hung_up_whole() {
    let mark = "86421.75";
    // The job forks while its session ends.
    let script = format!(
        "set -m; (n=0; while [ $n -lt 1000 ]; do sleep {mark} & n=$((n + 1)); done; wait) & sleep 0.2; exit 4"
    );
    let pty = nix::pty::openpty(None, None).unwrap();
    fcntl(&pty.master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
    fcntl(&pty.slave, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
    let mut session = start(&[], &["sh", "-c", &script], Some(&pty.slave));
    drop(pty.slave);
    let deadline = Instant::now() + Duration::from_secs(20);
    let status = loop {
        match session.child.try_wait().unwrap() {
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            status => break status,
        }
    };
    drop(session.control.take());
    session.child.wait().unwrap();
    assert_eq!(status.and_then(|status| status.code()), Some(4));
    assert!(!is_running(mark));
}
