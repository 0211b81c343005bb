//! The session role, with real processes in real mount namespaces, but without SSH and 9P. Needs root.
#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but not in their helpers"
)]

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::str::FromStr as _;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

/// A session, and this end of its control channel.
struct SessionFixture {
    child: Child,
    control: Option<File>,
}

/// Starts `cpud session` with these variables and this command, and perhaps a terminal.
fn start(
    environment: &[(&str, &str)],
    argv: &[&str],
    terminal: Option<&OwnedFd>,
) -> SessionFixture {
    assert!(
        nix::unistd::geteuid().is_root(),
        "sessions make mount namespaces: run this test as root, or by make check"
    );
    let (theirs, ours) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cpud"));
    command.args(["session", "--control", &theirs.as_raw_fd().to_string()]);
    let own = [("PATH", "/usr/bin:/bin")];
    let all = own.iter().chain(environment);
    // As the connection passes them.
    command
        .env_clear()
        .envs(all.map(|(name, value)| (format!("CLIENT_{name}"), value)));
    if let Some(slave) = terminal {
        command.arg("--tty");
        command
            .stdin(slave.try_clone().unwrap())
            .stdout(slave.try_clone().unwrap());
        command.stderr(slave.try_clone().unwrap());
    } else {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
    }
    let child = command.arg("--").args(argv).spawn().unwrap();
    SessionFixture {
        child,
        control: Some(ours.into()),
    }
}

/// Runs a session to its end.
fn run(environment: &[(&str, &str)], argv: &[&str]) -> Output {
    let SessionFixture { child, control } = start(environment, argv, None);
    let output = child.wait_with_output().unwrap();
    drop(control);
    output
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A script of `sh`, which must succeed and print nothing on standard error.
fn sh(environment: &[(&str, &str)], script: &str) -> String {
    let output = run(environment, &["sh", "-c", script]);
    assert_eq!(
        (text(&output.stderr), output.status.code()),
        ("", Some(0)),
        "{script}"
    );
    text(&output.stdout).to_owned()
}

/// Reads until `wanted` has appeared.
fn read_until(from: &mut impl std::io::Read, wanted: &str) -> String {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&seen).contains(wanted) {
        match from.read(&mut byte) {
            Ok(1..) => seen.push(byte[0]),
            end => panic!(
                "{end:?} before {wanted:?}, after {:?}",
                String::from_utf8_lossy(&seen)
            ),
        }
    }
    String::from_utf8(seen).unwrap()
}

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
fn ends_as_the_command_ended() {
    assert_eq!(run(&[], &["true"]).status.code(), Some(0));
    assert_eq!(run(&[], &["sh", "-c", "exit 42"]).status.code(), Some(42));
    for signal in ["KILL", "TERM", "INT", "SEGV"] {
        let number = nix::sys::signal::Signal::from_str(&format!("SIG{signal}")).unwrap();
        let status = run(&[], &["sh", "-c", &format!("kill -{signal} $$")]).status;
        assert_eq!(status.signal(), Some(number as i32));
    }
}

#[test]
fn what_cannot_run_is_named_in_one_line() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let file = |name: &str, content: &[u8], mode| {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let plain = file("plain", b"", 0o644);
    let orphan = file("orphan", b"#!/nosuch/python3 -u\n", 0o755);
    let foreign = file(
        "foreign",
        b"\x7fELF\x02\x01\x01 not for this machine",
        0o755,
    );
    for (program, status, message) in [
        ("nosuch", 127, "nosuch: command not found".to_owned()),
        ("/nosuch", 127, "/nosuch: no such file".to_owned()),
        (
            &plain,
            126,
            format!("{plain}: not executable (its mode has no x)"),
        ),
        (
            &orphan,
            126,
            format!(
                "{orphan}: cannot run: its interpreter /nosuch/python3 is not in this session's namespace"
            ),
        ),
        (
            &foreign,
            126,
            format!(
                "{foreign}: cannot run: a program for another kind of processor than this {}",
                std::env::consts::ARCH
            ),
        ),
    ] {
        let output = run(&[], &[program]);
        assert_eq!(
            (text(&output.stderr), output.status.code()),
            (format!("cpud: {message}\n").as_str(), Some(status))
        );
    }
    let script = file("script", b"echo without interpreter: $1\n", 0o755);
    assert_eq!(
        run(&[], &[&script, "x"]).stdout,
        b"without interpreter: x\n"
    );
}

#[test]
fn environment_is_the_clients_and_no_more() {
    let output = run(
        &[
            ("A", "b c"),
            ("CPU_FSTAB", ""),
            ("LC_GLENDA_CPU_FSTAB", ""),
            ("CPUNONCE", "0"),
            ("CPU_SUDO", ""),
            ("CPU_UMASK", "077"),
            ("PWD", "/usr"),
        ],
        &["env"],
    );
    let mut lines: Vec<_> = text(&output.stdout).lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A=b c", "PATH=/usr/bin:/bin", "PWD=/usr"]);
}

#[test]
fn the_umask_is_the_clients_for_the_command_alone() {
    let look = "umask; stat -c %a /tmp/cpu";
    assert_eq!(sh(&[], look), "0022\n755\n");
    for (umask, seen) in [
        ("0077", "0077"),
        ("2", "0002"),
        ("0", "0000"),
        ("x", "0022"),
        ("", "0022"),
    ] {
        assert_eq!(sh(&[("CPU_UMASK", umask)], look), format!("{seen}\n755\n"));
    }
}

#[test]
fn sudo_simply_runs_the_command_wherever_the_client_has_one() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let sudo = directory.path().join("sudo");
    fs::write(&sudo, "the client's").unwrap();
    let (path, sudo) = (directory.path().display(), sudo.display());
    let environment = [
        ("CPU_SUDO", &*format!("{sudo}:/nosuch/sudo:relative")),
        ("PATH", &*format!("{path}:/usr/bin:/bin")),
        ("A", "kept"),
    ];
    let script = format!(
        "{sudo} -n id -u; sudo B=2 sh -c 'echo $A $B'; sudo -D / pwd; sudo sh -c 'exit 42'; echo $?"
    );
    assert_eq!(sh(&environment, &script), "0\nkept 2\n/\n42\n");
    for (line, status, said) in [
        ("sudo -u nobody id", 1, "sudo: -u nobody: "),
        ("sudo nosuch", 1, "sudo: nosuch: command not found\n"),
    ] {
        let output = run(&environment, &["sh", "-c", line]);
        assert_eq!(output.status.code(), Some(status), "{line}");
        assert!(
            text(&output.stderr).starts_with(said),
            "{}",
            text(&output.stderr)
        );
    }
    // It is bound only in this session, and only where CPU_SUDO names it.
    assert_eq!(
        fs::read(directory.path().join("sudo")).unwrap(),
        b"the client's"
    );
    assert_eq!(
        sh(&environment[1..], &format!("cat {sudo}")),
        "the client's"
    );
}

#[test]
fn without_words_the_shell_reads_standard_input() {
    let mut session = start(&[("SHELL", "/bin/bash")], &[], None);
    session
        .child
        .stdin
        .take()
        .unwrap()
        .write_all(b"echo $0 $((6*7))\n")
        .unwrap();
    assert_eq!(
        session.child.wait_with_output().unwrap().stdout,
        b"bash 42\n"
    );
}

#[test]
fn working_directory_is_kept_or_its_loss_told() {
    assert_eq!(
        sh(&[("PWD", "/var/tmp")], "pwd; echo $PWD"),
        "/var/tmp\n/var/tmp\n"
    );
    assert_eq!(sh(&[], "pwd"), "/\n");
    let output = run(&[("PWD", "/nosuch")], &["pwd"]);
    assert_eq!(output.stdout, b"/\n");
    assert_eq!(
        text(&output.stderr),
        "cpud: there is no directory /nosuch in this session; starting in /\n"
    );
}

#[test]
fn tmp_is_private_and_the_machines_mounts_stay_as_they_are() {
    let mark = tempfile::tempdir_in("/tmp").unwrap();
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let listing = sh(
        &[],
        "ls /tmp; touch /tmp/cpud-private; stat -c %a /tmp; ls -d /tmp/local/usr; stat -fc %T /tmp",
    );
    assert_eq!(listing, "cpu\nlocal\n1777\n/tmp/local/usr\ntmpfs\n");
    assert!(!fs::exists("/tmp/cpud-private").unwrap() && mark.path().is_dir());
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
}

#[test]
fn fstab_lines_are_mounted_in_order_and_faults_are_told() {
    let outside = tempfile::tempdir_in("/var/tmp").unwrap();
    let name = outside.path().join("a b");
    fs::create_dir(&name).unwrap();
    fs::write(name.join("file"), "content").unwrap();
    let missing = outside.path().join("missing");
    let fstab = format!(
        "# comment\n\
         {dir}/a\\040b /tmp/made/here none defaults,bind 0 0\n\
         /tmp/made/here /tmp/ro none bind,ro\n\
         too few\n\
         a /b none bind 0 0 c /d none bind 0 0\n\
         /tmp/made {missing} none bind 0 0\n\
         /nosuch /mnt none bind 0 0\n\
         /tmp/cpu/bin /bin none bind 0 0\n\
         none /mnt nosuchfs rw 0 0\n\
         none / tmpfs rw 0 0\n\
         /etc/hostname /tmp/hostname none bind 0 0\n\
         mine /tmp/t tmpfs size=1m,noexec 0 0\n",
        dir = outside.path().display(),
        missing = missing.display(),
    );
    let script = "cat /tmp/made/here/file; touch /tmp/made/here/new; touch /tmp/ro/new 2>/dev/null || echo ' ro';
                  cmp /etc/hostname /tmp/hostname; grep ' /tmp/t ' /proc/mounts";
    let output = run(&[("CPU_FSTAB", &fstab)], &["sh", "-c", script]);
    let seen = text(&output.stdout);
    assert!(
        seen.starts_with("content ro\nmine /tmp/t tmpfs rw,noexec,relatime,size=1024k"),
        "{seen}"
    );
    assert!(name.join("new").exists() && !missing.exists());
    let reported: Vec<_> = text(&output.stderr).lines().collect();
    let expected = [
        "fstab line 4 \"too few\": it has 2 of at least 4 fields".to_owned(),
        "fstab line 5 \"a /b none bind 0 0 c /d none bind 0 0\": it has 12 fields, but at most 6 are allowed"
            .to_owned(),
        format!(
            "cannot bind /tmp/made on {}: the machine has no such directory",
            missing.display()
        ),
        "cannot bind /nosuch on /mnt: No such file or directory".to_owned(),
        "cannot bind /tmp/cpu/bin on /bin: the client's files are not mounted, 9P is off"
            .to_owned(),
        "cannot mount nosuchfs none on /mnt: the kernel has no nosuchfs".to_owned(),
        "cannot mount tmpfs none on /: ".to_owned(),
    ];
    for (line, expected) in reported.iter().zip(&expected) {
        assert!(
            line.starts_with(&format!("cpud: {expected}")),
            "{line}\nis not\n{expected}"
        );
    }
    assert_eq!(reported.len(), expected.len(), "{reported:#?}");
}

/// A tree with these directories and `etc/hostname`, and the fstab lines that put the machine's programs in it and make it the root.
fn tree(directories: &[&str]) -> (tempfile::TempDir, String) {
    let tree = tempfile::tempdir_in("/var/tmp").unwrap();
    for directory in directories {
        fs::create_dir_all(tree.path().join(directory)).unwrap();
    }
    let programs = ["usr", "bin", "lib", "lib64"].map(|name| {
        let inside = tree.path().join(name);
        fs::create_dir(&inside).unwrap();
        format!("/{name} {} none bind 0 0\n", inside.display())
    });
    fs::write(tree.path().join("etc/hostname"), "theirs\n").unwrap();
    let root = format!("{} / none rbind 0 0\n", tree.path().display());
    let fstab = programs.concat() + &root;
    (tree, fstab)
}

#[test]
fn a_tree_may_be_the_whole_root_with_the_machines_processes_devices_and_run() {
    let (tree, fstab) = tree(&["etc", "proc", "sys", "dev", "var/run", "tmp", "home/ann"]);
    std::os::unix::fs::symlink("/var/run", tree.path().join("run")).unwrap();
    let environment = [("CPU_FSTAB", fstab.as_str()), ("PWD", "/home/ann")];
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let seen = sh(
        &environment,
        "pwd; cat /etc/hostname; echo made >/etc/made; test -c /dev/null && test -d /sys/class && echo machine;
         readlink /proc/self/root; ls -A /tmp; stat -fc %T /tmp; stat -c %d:%i /run/",
    );
    let run = fs::metadata("/run").unwrap();
    assert_eq!(
        seen,
        format!(
            "/home/ann\ntheirs\nmachine\n/\ncpu\nlocal\ntmpfs\n{}:{}\n",
            run.dev(),
            run.ino()
        )
    );
    assert!(tree.path().join("etc/made").exists());
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    // As containers do it.
    let pivot = "unshare -m sh -ec 'mount --bind /tmp /tmp; cd /tmp; mkdir old; /usr/sbin/pivot_root . old; test -d old/usr'";
    sh(&environment, pivot);
    sh(&[], pivot);
}

#[test]
fn what_a_root_lacks_is_told_and_what_is_no_tree_is_none() {
    let (_tree, fstab) = tree(&["etc", "proc", "dev", "tmp"]);
    let output = run(&[("CPU_FSTAB", &fstab)], &["cat", "/etc/hostname"]);
    assert_eq!(
        (text(&output.stdout), text(&output.stderr)),
        (
            "theirs\n",
            "cpud: the tree that is / in this session has no /sys and no /run: make it there, or name the \
             directories you need in the namespace\n"
        )
    );
    let output = run(
        &[("CPU_FSTAB", "/etc/hostname / none bind 0 0")],
        &["sh", "-c", "test -d /proc/self && ls -d /usr/bin"],
    );
    assert_eq!(
        (text(&output.stdout), text(&output.stderr)),
        (
            "/usr/bin\n",
            "cpud: cannot bind /etc/hostname on /: Not a directory\n"
        )
    );
}

#[test]
fn name_servers_are_the_machines_whatever_etc_says() {
    let machines = fs::read_to_string("/etc/resolv.conf").unwrap();
    let tree = tempfile::tempdir_in("/var/tmp").unwrap();
    let (etc, file) = (tree.path().join("etc"), tree.path().join("etc/resolv.conf"));
    fs::create_dir(&etc).unwrap();
    let fstab = format!("{} /etc none bind 0 0\n", etc.display());
    let named = format!("{fstab}/proc/version /etc/resolv.conf none bind 0 0\n");
    let seen = |fstab: &str| sh(&[("CPU_FSTAB", fstab)], "cat /etc/resolv.conf 2>&1");

    fs::write(&file, "nameserver 127.0.0.53\n").unwrap();
    assert_eq!(seen(&fstab), machines);
    assert_eq!(seen(""), machines);
    assert_eq!(seen(&named), fs::read_to_string("/proc/version").unwrap());
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        "nameserver 127.0.0.53\n"
    );

    // As systemd-resolved, NetworkManager and resolvconf make it.
    for link in [
        "../run/systemd/resolve/stub-resolv.conf",
        "/run/NetworkManager/resolv.conf",
        "/etc/resolvconf/run/resolv.conf",
    ] {
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(link, &file).unwrap();
        assert_eq!(seen(&fstab), machines);
        assert_eq!(fs::read_link(&file).unwrap(), std::path::Path::new(link));
    }
    // An /etc without the file is left alone.
    fs::remove_file(&file).unwrap();
    let output = run(&[("CPU_FSTAB", &fstab)], &["ls", "-A", "/etc"]);
    assert!(
        output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}"
    );
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
fn a_wrong_invocation_is_no_session() {
    for (args, message) in [
        (&["session"][..], "the -- before the command is missing"),
        (&["session", "--", "true"], "--control is missing"),
        (
            &["session", "--control", "97", "--", "true"],
            "--control 97: Bad file descriptor",
        ),
        (
            &["session", "--control", "1", "--", "true"],
            "--control 1: Bad file descriptor",
        ),
        (&["session", "--what"], "unknown argument --what"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_cpud"))
            .args(args)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(255));
        assert!(
            text(&output.stderr).starts_with(&format!("cpud: no session: {message}")),
            "{}",
            text(&output.stderr)
        );
    }
}
