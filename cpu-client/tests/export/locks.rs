//! Record locks between sessions, between processes of one session, and with a local program.

use std::io::{BufRead, BufReader, Read};

use super::*;

fn lock(
    raw: &mut RawClient,
    fid: u32,
    kind: u8,
    (start, length): (u64, u64),
    pid: u32,
) -> Result<u8, Errno> {
    let request = Request::Lock {
        fid,
        kind,
        flags: 0,
        start,
        length,
        proc_id: pid,
        client_id: text("there"),
    };
    match raw.ask(&request)?.reply() {
        Reply::Lock { status } => Ok(status),
        other => panic!("{other:?}"),
    }
}

#[test]
fn locks_exclude_others_and_not_oneself() {
    const OK: Result<u8, Errno> = Ok(0);
    const BLOCKED: Result<u8, Errno> = Ok(1);
    const ALL: (u64, u64) = (0, 0);
    let (served, mut raw) = served();
    let mut other = served.session();
    served.write("f", "0123456789");
    raw.open(1, "f", RDWR).unwrap();
    raw.open(2, "f", RDWR).unwrap();
    other.open(1, "f", RDWR).unwrap();
    let local = fs::File::options()
        .write(true)
        .open(served.path("f"))
        .unwrap();
    let locally = |start, l_type: i32| {
        let flock = libc::flock {
            l_type: l_type as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: start,
            l_len: 1,
            l_pid: 0,
        };
        nix::fcntl::fcntl(&local, nix::fcntl::FcntlArg::F_OFD_SETLK(&flock)).is_ok()
    };

    assert_eq!(lock(&mut raw, 1, Flock::WRITE, (0, 5), 100), OK);
    // Another process of the session, another session, a local program.
    assert_eq!(lock(&mut raw, 2, Flock::READ, (4, 2), 200), BLOCKED);
    assert_eq!(lock(&mut other, 1, Flock::WRITE, ALL, 300), BLOCKED);
    assert!(!locally(0, libc::F_WRLCK));
    assert!(locally(7, libc::F_WRLCK));
    assert_eq!(lock(&mut raw, 1, Flock::READ, (6, 3), 100), BLOCKED);
    assert!(locally(7, libc::F_UNLCK));
    // The same process through another descriptor, as SQLite does.
    assert_eq!(lock(&mut raw, 2, Flock::WRITE, (3, 5), 100), OK);
    // The conflicting lock.
    let ask = |raw: &mut RawClient, kind| {
        let lock = Flock {
            kind,
            start: 0,
            length: 0,
            proc_id: 200,
        };
        match raw
            .ask(&Request::Getlock {
                fid: 2,
                lock,
                client_id: text("there"),
            })
            .unwrap()
            .reply()
        {
            Reply::Getlock { lock, .. } => lock,
            other => panic!("{other:?}"),
        }
    };
    let found = Flock {
        kind: Flock::WRITE,
        start: 0,
        length: 8,
        proc_id: 0,
    };
    assert_eq!(ask(&mut raw, Flock::WRITE), found);
    assert_eq!(
        ask(&mut raw, Flock::UNLOCK),
        found,
        "as Linux's client asks"
    );
    // A child that closes its copy does not drop its parent's locks.
    assert_eq!(lock(&mut raw, 1, Flock::UNLOCK, ALL, 101), OK);
    assert_eq!(lock(&mut other, 1, Flock::WRITE, ALL, 300), BLOCKED);
    // First a part, then the rest when the last fid is clunked through which it was locked.
    assert_eq!(lock(&mut raw, 1, Flock::UNLOCK, (0, 3), 100), OK);
    assert_eq!(lock(&mut other, 1, Flock::WRITE, (0, 3), 300), OK);
    raw.clunk(1).unwrap();
    assert_eq!(lock(&mut other, 1, Flock::WRITE, (4, 1), 300), BLOCKED);
    raw.clunk(2).unwrap();
    assert_eq!(lock(&mut other, 1, Flock::WRITE, (4, 1), 300), OK);
    // The end of a session drops its locks.
    drop(other);
    let freed = Instant::now();
    while !locally(4, libc::F_WRLCK) {
        assert!(freed.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(5));
    }
    // Invalid requests.
    raw.open(1, "f", RDWR).unwrap();
    assert_eq!(lock(&mut raw, 1, 3, ALL, 1), Err(Errno::EINVAL));
    assert_eq!(
        lock(&mut raw, 1, Flock::READ, (u64::MAX, 2), 1),
        Err(Errno::EINVAL)
    );
    assert_eq!(lock(&mut raw, 0, Flock::READ, ALL, 1), Err(Errno::EBADF));
}

/// A local program that locks the file until its input ends.
fn holder(file: &std::path::Path) -> std::process::Child {
    let exe = std::env::current_exe().unwrap();
    let mut child = std::process::Command::new(exe)
        .args([
            "--exact",
            "locks::child_that_holds_a_lock",
            "--ignored",
            "--nocapture",
        ])
        .env("LOCK", file)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(
        lines
            .map_while(Result::ok)
            .any(|line| line.contains("locked"))
    );
    child
}

#[test]
#[ignore = "run by a_wait_for_a_lock_can_be_given_up, in a process of its own"]
fn child_that_holds_a_lock() {
    let path = std::env::var_os("LOCK").unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    let flock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETLK(&flock)).unwrap();
    println!("locked");
    let _ = std::io::stdin().read(&mut [0]);
    // Without a return, since nobody reads the output of the test runner.
    std::process::exit(0);
}

/// Linux's client retries by itself. A process that gives up flushes its request.
#[test]
fn a_wait_for_a_lock_can_be_given_up() {
    const BLOCK: u32 = 1;
    let (served, mut raw) = served();
    served.write("f", "");
    let mut holder = holder(&served.path("f"));
    raw.open(1, "f", RDWR).unwrap();
    let wait = Request::Lock {
        fid: 1,
        kind: Flock::WRITE,
        flags: BLOCK,
        start: 0,
        length: 0,
        proc_id: 100,
        client_id: text("there"),
    };
    // The holder is a process of this machine.
    let lock = Flock {
        kind: Flock::WRITE,
        start: 0,
        length: 0,
        proc_id: 100,
    };
    let client_id = text("there");
    let asked = raw
        .ask(&Request::Getlock {
            fid: 1,
            lock,
            client_id,
        })
        .unwrap();
    let found = Flock {
        proc_id: holder.id(),
        ..lock
    };
    assert_eq!(
        asked.reply(),
        Reply::Getlock {
            lock: found,
            client_id
        }
    );
    // More waiting requests than there are threads, and a flush of each.
    for tag in 0..20 {
        raw.send(100 + tag, &wait);
        raw.send(200 + tag, &Request::Flush { oldtag: 100 + tag });
    }
    let mut seen = HashSet::new();
    for _ in 0..40 {
        let message = raw.receive();
        match message.reply() {
            Reply::Lock { status } => assert_eq!(status, 1),
            Reply::Flush {} => assert!(seen.contains(&(message.tag - 100)), "not before its lock"),
            other => panic!("{other:?}"),
        }
        assert!(seen.insert(message.tag));
    }
    // None of them gets the lock when the holder is gone.
    drop(holder.stdin.take());
    holder.wait().unwrap();
    let mut other = served.session();
    other.open(1, "f", RDWR).unwrap();
    assert_eq!(lock_all(&mut other, 300), Ok(0));
    assert_eq!(raw.ask(&wait).unwrap().reply(), Reply::Lock { status: 1 });
    other.clunk(1).unwrap();
    assert_eq!(raw.ask(&wait).unwrap().reply(), Reply::Lock { status: 0 });
}

fn lock_all(raw: &mut RawClient, pid: u32) -> Result<u8, Errno> {
    lock(raw, 1, Flock::WRITE, (0, 0), pid)
}

/// A file that has become unreadable or read-only is locked through the open fid.
#[test]
fn a_lock_needs_no_second_open() {
    let (served, _) = served();
    fs::set_permissions(served.path(""), PermissionsExt::from_mode(0o777)).unwrap();
    fs::set_permissions(served.path(".."), PermissionsExt::from_mode(0o755)).unwrap();
    as_nobody(|| {
        for (mode, file) in [(0o444, "read-only"), (0, "nothing")] {
            let mut raw = served.session();
            create(&mut raw, 1, "", file, RDWR, mode).unwrap();
            for kind in [Flock::READ, Flock::WRITE] {
                assert_eq!(lock(&mut raw, 1, kind, (0, 0), 100), Ok(0), "{file}");
            }
            // A child of that process, through its copy of the descriptor, and a local program.
            let others = lock(&mut raw, 1, Flock::WRITE, (0, 0), 200);
            assert!(matches!(others, Ok(1) | Err(Errno::ENOLCK)), "{others:?}");
            assert_eq!(lock(&mut raw, 1, Flock::UNLOCK, (0, 0), 100), Ok(0));
            assert_eq!(lock(&mut raw, 1, Flock::WRITE, (0, 0), 200), Ok(0));
        }
    });
}

#[test]
fn a_machine_has_no_endless_name() {
    let (served, mut raw) = served();
    served.write("f", "");
    raw.open(1, "f", RDWR).unwrap();
    let name = "x".repeat(257);
    let request = Request::Lock {
        fid: 1,
        kind: Flock::READ,
        flags: 0,
        start: 0,
        length: 0,
        proc_id: 1,
        client_id: text(&name),
    };
    assert_eq!(errno(raw.ask(&request)), Some(Errno::EINVAL));
}

/// Locks through one fid and unlocks through another, as a process does that has the file open twice.
#[test]
fn locking_and_unlocking_uses_up_no_descriptors() {
    let (served, mut raw) = served();
    served.write("f", "x");
    raw.open(1, "f", RDWR).unwrap();
    raw.open(2, "f", RDWR).unwrap();
    let path = served.path("f");
    let open = || {
        let fds = fs::read_dir("/proc/self/fd").unwrap();
        fds.filter(|fd| fs::read_link(fd.as_ref().unwrap().path()).is_ok_and(|to| to == path))
            .count()
    };
    assert_eq!(lock(&mut raw, 1, Flock::WRITE, (0, 0), 7), Ok(0));
    let before = open();
    for turn in 0..50 {
        // First another process each time, as with flock(1), then always the same one.
        let pid = 8 + turn.min(19);
        assert_eq!(lock(&mut raw, 2, Flock::UNLOCK, (0, 0), pid - 1), Ok(0));
        assert_eq!(lock(&mut raw, 1, Flock::WRITE, (0, 0), pid), Ok(0));
    }
    // One descriptor for each owner that locked through fid 1.
    assert!(open() <= before + 20, "{} of {before}", open());
    raw.clunk(1).unwrap();
    assert!(open() < before, "{} of {before}", open());
}
