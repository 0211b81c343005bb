//! How the command runs: its status, environment, umask, working directory, shell, and sudo.

use super::*;

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
