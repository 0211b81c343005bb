//! With `-isolate` or the option `isolate`, nobody reaches another one's session, nor the machine. Each probe is also made without,
//! where it succeeds.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::user::works;
use e2e::wait_until;

use crate::Test;
use crate::options::KeysWithOptions;

pub(crate) const TESTS: &[Test] = &[
    ("isolated_sessions_are_out_of_reach", out_of_reach),
    ("isolated_sessions_of_one_key_see_each_other", one_key),
    ("isolation_is_an_option_of_a_key", option),
    ("isolation_ends_with_the_last_session", ends),
    ("isolated_sessions_work_as_others_do", works_as_others),
    ("isolation_that_cannot_be_is_no_session", impossible),
];

/// Two keys, which differ in an option that changes nothing.
const ALICE: &str = "pty";
const BOB: &str = "pty,pty";

/// How alice's session is found.
const MARK: &str = "mark-of-alice-7f3a";

/// A session that lasts until its input ends, and what it is running as outside.
struct LongSession {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl LongSession {
    /// Runs the script, which prints `ready` at its end, and then waits.
    fn start(keys: &KeysWithOptions, options: &str, script: &str) -> Result<Self> {
        let script = format!("'{script}; echo ready; read line; echo ended'");
        let mark = format!("MARK={MARK}");
        let mut child = keys
            .command(options, &[], &["env", &mark, "sh", "-c", &script])?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdout = BufReader::new(child.stdout.take().context("no output")?);
        let mut session = Self {
            stdin: child.stdin.take(),
            child,
            stdout,
        };
        session.expect("ready")?;
        Ok(session)
    }

    fn expect(&mut self, wanted: &str) -> Result<()> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        ensure!(line.trim_end() == wanted, "{line:?} instead of {wanted}");
        Ok(())
    }

    /// Ends it as its user would; that nothing had happened to it.
    fn end(mut self) -> Result<()> {
        let mut stdin = self.stdin.take().context("no input")?;
        stdin.write_all(b"\n")?;
        self.expect("ended")?;
        ensure!(self.child.wait()?.success());
        Ok(())
    }
}

impl Drop for LongSession {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The processes of this computer with these bytes in a file of /proc/PID.
fn processes_with(file: &str, text: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let has = std::fs::read(entry.path().join(file))
            .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text));
        let name = entry.file_name().to_string_lossy().into_owned();
        if has && name.parse::<u32>().is_ok() {
            found.push(name);
        }
    }
    Ok(found)
}

/// Alice's processes as bob finds them, and as they are outside.
const FIND: &str = r#"
pids=$PIDS
for p in /proc/[0-9]*; do
    case ${p#/proc/} in $$) continue;; esac
    grep -qs MARK=$MARK $p/environ && pids="$pids ${p#/proc/}"
done
each() { for pid in $pids; do (eval "$1") 2>/dev/null && return 0; done; return 1; }
"#;

/// What bob tries, and the script that succeeds if he can.
const PROBES: &[(&str, &str)] = &[
    (
        "read her files",
        "each 'grep -q hers /proc/$pid/root/tmp/cpu/secret'",
    ),
    (
        "write her files",
        "each 'echo evil >>/proc/$pid/root/tmp/cpu/bashrc'",
    ),
    (
        "read her environment",
        "each 'grep -q MARK=$MARK /proc/$pid/environ'",
    ),
    (
        "read her memory",
        r#"each 'range=$(sed -n "s/ .*\[stack\]//p" /proc/$pid/maps)
            begin=$((0x${range%-*} / 4096)) end=$((0x${range#*-} / 4096))
            dd if=/proc/$pid/mem bs=4096 skip=$begin count=$((end - begin)) | grep -q MARK=$MARK'"#,
    ),
    ("list her /tmp", "each 'test -e /proc/$pid/root/tmp/hers'"),
    (
        "read the host key",
        "grep -q PRIVATE $HOST_KEY || grep -qs PRIVATE /proc/$SERVER/root$HOST_KEY",
    ),
    (
        "append to the file of keys",
        "echo '# bob' >>$KEYS || echo '# bob' >>/proc/$SERVER/root$KEYS",
    ),
    ("signal her process", "each 'kill -WINCH $pid'"),
    (
        "open a device of the machine",
        "head -c0 /dev/kmsg || { mknod /tmp/kmsg c 1 11 && head -c0 /tmp/kmsg; }",
    ),
    (
        "mount in her session",
        "each 'nsenter -t $pid -m mount -t tmpfs none /mnt'",
    ),
    // And more.
    (
        "unmount in her session",
        "each 'nsenter -t $pid -m umount /tmp/local'",
    ),
    ("signal the server", "kill -CONT $SERVER"),
    (
        "see what holds the namespaces",
        "ls /proc/1/root/ /proc/1/fd/",
    ),
    (
        "see what supervises his own session",
        "ls /proc/$PPID/root/ /proc/$PPID/fd/",
    ),
    (
        "change a setting of the kernel",
        ">>/proc/sys/kernel/core_pattern",
    ),
    (
        "change a device's setting",
        "test -w /sys/kernel/uevent_helper -o -w /sys/power/state || >>/sys/kernel/mm/transparent_hugepage/enabled",
    ),
    (
        "make a raw socket",
        "perl -MSocket -e 'socket(S, PF_INET, SOCK_RAW, 1) or exit 1'",
    ),
    ("press SysRq", ">>/proc/sysrq-trigger"),
    (
        "change the machine's programs",
        "mount -o remount,rw,bind /usr && touch /usr/bin",
    ),
    ("unmount what was mounted for him", "umount /tmp/local"),
    ("set the host name", "hostname $(hostname)"),
];

fn out_of_reach() -> Result<()> {
    for (flag, wanted) in [(Some("-isolate"), false), (None, true)] {
        let keys = KeysWithOptions::new(&[ALICE, BOB], flag)?;
        let hers = "echo hers >/tmp/cpu/secret; echo >/tmp/cpu/bashrc; touch /tmp/hers";
        let alice = LongSession::start(&keys, ALICE, hers)?;
        let pids = processes_with("environ", &format!("MARK={MARK}"))?;
        ensure!(!pids.is_empty());
        let variables = [
            format!("PIDS={}", pids.join(" ")),
            format!("MARK={MARK}"),
            format!("SERVER={}", keys.daemon.pid()),
            format!(
                "HOST_KEY={}",
                keys.daemon.host_key().with_extension("").display()
            ),
            format!(
                "KEYS={}",
                keys.daemon.host_key().with_file_name("keys").display()
            ),
        ];
        let mut wrong = Vec::new();
        for (what, probe) in PROBES {
            let export = format!("export '{}'", variables.join("' '"));
            let script = format!("{export}\n{FIND}\nexec 2>/dev/null\n({probe})");
            let mut child = keys
                .command(BOB, &[], &["sh"])?
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            let mut stdin = child.stdin.take().context("no input")?;
            stdin.write_all(script.as_bytes())?;
            drop(stdin);
            let status = child.wait()?;
            ensure!(status.code() != Some(255), "{what}: no session");
            if status.success() != wanted {
                wrong.push(*what);
            }
        }
        // There may be no such setting, and the host name of a container is not its own.
        wrong.retain(|what| !(wanted && MAY_FAIL.contains(what)));
        ensure!(wrong.is_empty(), "{flag:?}: {wrong:?}");
        alice.end()?;
    }
    Ok(())
}

/// Probes that depend on the machine: they may fail without isolation too.
const MAY_FAIL: &[&str] = &[
    "see what holds the namespaces",
    "change a device's setting",
    "press SysRq",
    "change the machine's programs",
    "set the host name",
];

fn one_key() -> Result<()> {
    let keys = KeysWithOptions::new(&[ALICE, BOB], Some("-isolate"))?;
    let session = LongSession::start(&keys, ALICE, "echo hers >/tmp/hers")?;
    let look = format!(
        "'grep -ls MARK={MARK} /proc/[0-9]*/environ | grep -q . && cat /proc/[0-9]*/root/tmp/hers 2>/dev/null; true'"
    );
    let other = |options: &str| works(&keys.ssh(options, &[], &["sh", "-c", &look])?);
    ensure!(other(ALICE)?.starts_with("hers\n"));
    ensure!(other(BOB)? == "");
    // Nothing but the holder, and for each session its own process and what the command has started.
    let all = "'for p in /proc/[0-9]*; do cat $p/comm; done'";
    let seen = works(&keys.ssh(BOB, &[], &["sh", "-c", all])?)?;
    ensure!(
        seen.starts_with("cpud\ncpud\nsh\n") && seen.lines().count() <= 4,
        "{seen}"
    );
    let killed = format!(
        "'kill -KILL $(grep -ls MARK={MARK} /proc/[0-9]*/environ | cut -d/ -f3 | head -1)'"
    );
    works(&keys.ssh(ALICE, &[], &["sh", "-c", &killed])?)?;
    let mut session = session;
    session.stdin = None;
    ensure!(!session.child.wait()?.success());
    Ok(())
}

fn option() -> Result<()> {
    let keys = KeysWithOptions::new(&["isolate", "pty"], None)?;
    for (options, isolated) in [("isolate", true), ("pty", false)] {
        let map = works(&keys.ssh(options, &[], &["cat", "/proc/self/uid_map"])?)?;
        let numbers: Vec<&str> = map.split_whitespace().collect();
        ensure!(
            (numbers[1..] != ["0", "4294967295"]) == isolated,
            "{options}: {map}"
        );
        let id = works(&keys.ssh(options, &[], &["id", "-u"])?)?;
        ensure!(id == "0\n", "{options}: {id}");
    }
    Ok(())
}

fn ends() -> Result<()> {
    let keys = KeysWithOptions::new(&[ALICE], Some("-isolate"))?;
    let is_held = |wanted: bool| {
        wait_until("the isolation", Duration::from_secs(20), || {
            let holders = processes_with(
                "cmdline",
                &format!("isolation\0{}", keys.fingerprint(ALICE)?),
            )?;
            Ok((holders.is_empty() != wanted).then_some(()))
        })
    };
    let first = LongSession::start(&keys, ALICE, "true")?;
    is_held(true)?;
    let map =
        |keys: &KeysWithOptions| works(&keys.ssh(ALICE, &[], &["cat", "/proc/self/uid_map"])?);
    let range = map(&keys)?;
    ensure!(map(&keys)? == range, "another range for the same key");
    first.end()?;
    is_held(false)?;
    ensure!(map(&keys)? != range, "the range is used again at once");
    // A client that is killed leaves nothing, not even what is deaf to SIGHUP.
    let mut second = LongSession::start(
        &keys,
        ALICE,
        "trap \"\" HUP; setsid -f sleep 98765.4 >/dev/null 2>&1 </dev/null",
    )?;
    second.child.kill()?;
    is_held(false)?;
    ensure!(processes_with("cmdline", "sleep\098765.4")?.is_empty());
    Ok(())
}

fn works_as_others() -> Result<()> {
    let keys = KeysWithOptions::new(&[ALICE], Some("-isolate"))?;
    let sh = |flags: &[&str], script: &str| {
        keys.ssh(ALICE, flags, &["sh", "-c", &format!("'{script}'")])
    };
    let prints = |flags: &[&str], script: &str, wanted: &str| -> Result<()> {
        let printed = works(&sh(flags, script)?)?;
        ensure!(printed == wanted, "{script}: {printed:?}");
        Ok(())
    };
    prints(&[], "echo out >/dev/stdout; echo err >/dev/stderr", "out\n")?;
    prints(
        &["-tt"],
        "tty; stat -c %U:%G:%a $(tty); test -w /dev/tty; echo $?",
        "/dev/pts/0\r\nroot:tty:620\r\n0\r\n",
    )?;
    // A terminal of its own, as of tmux.
    prints(
        &[],
        "script -qec \"tty; exit 3\" /dev/null </dev/null; echo $?",
        "/dev/pts/0\r\n3\n",
    )?;
    prints(
        &[],
        "touch /root/a /tmp/b /run/c /var/tmp/d /dev/shm/e; stat -c %U /root/a /tmp/b /dev/shm/e",
        "root\nroot\nroot\n",
    )?;
    prints(
        &[],
        "mount -t tmpfs none /mnt && touch /mnt/x && umount /mnt && ls -A /mnt",
        "",
    )?;
    prints(
        &[],
        "cd /dev && ls",
        "fd\nfull\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n",
    )?;
    prints(
        &[],
        "chown 1000:1000 /tmp && setpriv --reuid 1000 --clear-groups touch /tmp/f && stat -c %u /tmp/f",
        "1000\n",
    )?;
    prints(&[], "cat /proc/self/oom_score_adj", "0\n")?;
    prints(
        &[],
        "unshare -Urpf --mount-proc ps -o pid= | tr -d \" \"",
        "1\n",
    )?;
    for (script, status) in [("exit 42", 42), ("kill -TERM $$", 255)] {
        let output = sh(&[], script)?;
        ensure!(output.status.code() == Some(status), "{script}: {output:?}");
    }
    Ok(())
}

/// The server is root of a user namespace that has no other users, so none can be given to an isolation.
fn impossible() -> Result<()> {
    let keys = KeysWithOptions::in_namespace(&["isolate"])?;
    let output = keys.ssh("isolate", &[], &["true"])?;
    ensure!(output.status.code() == Some(255), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains("this machine cannot isolate it"), "{said}");
    ensure!(
        keys.daemon.log().contains("cannot isolate sessions: "),
        "{}",
        keys.daemon.log()
    );
    Ok(())
}
