//! Isolated sessions with the client's files: they are the user's own there, and nobody else's. A key of the default kind finds what is
//! refused to an isolated one.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::client::Client;
use e2e::daemon::keygen;
use e2e::{out, wait_until};

use crate::{Machine, Test};

pub(crate) const TESTS: &[Test] = &[
    ("isolated_files_are_the_users_own_there_and_here", files),
    ("isolated_files_are_out_of_everybody_elses_reach", reach),
];

/// How alice's session is found.
const MARK: &str = "MARK=of-alice-51b2";

/// A client with a new key of this name, which the machine isolates.
fn isolated(machine: &Machine, name: &str) -> Result<Client> {
    let file = machine.home.path().join(name);
    keygen(&file, &["-t", "ed25519", "-C", name], "")?;
    fs::copy(
        out().join("cpu_rsa.hostkey"),
        file.with_extension("hostkey"),
    )?;
    let line = format!(
        "isolate {}",
        fs::read_to_string(file.with_extension("pub"))?
    );
    let append = machine
        .client
        .command(&[], &["sh", "-c", "cat >>/tmp/local/key.pub"]);
    let output = machine.client.output(append, line.as_bytes())?;
    ensure!(output.status.success(), "{output:?}");
    Ok(machine.client.with_key(&file))
}

fn files(machine: &Machine) -> Result<()> {
    let client = isolated(machine, "key-of-files")?;
    // Other tests have files of the same names.
    let home = machine.home.path().join("isolated");
    fs::create_dir(&home)?;
    let here = (
        nix::unistd::geteuid().as_raw(),
        nix::unistd::getegid().as_raw(),
    );
    fs::write(home.join("old"), "old\n")?;
    // Files are made, changed, and made over again, as by programs that run as root. A repository is trusted, which shows that its
    // owner is the user. Lists of users are not translated, and are refused rather than wrong.
    let script = "cd isolated; id -u; stat -c %u:%g . old /usr /etc/passwd; cat old
        umask 027; echo new >made; mkdir dir; ln -s made link; chown 0:0 made; cp -a made dir/moved
        chmod 600 dir/moved; touch -d @1 dir/moved; stat -c %u:%g:%a made dir dir/moved
        git init -q repo && cd repo && touch a && git add a && git status -s; cd ..
        python3 -Sc 'import os\ntry: os.getxattr(\"old\", \"system.posix_acl_access\")\nexcept OSError as e: print(e.errno)'";
    let printed = client.sh_ok(script)?;
    let wanted = "0\n0:0\n0:0\n0:0\n0:0\nold\n0:0:640\n0:0:750\n0:0:600\nA  a\n95\n";
    ensure!(printed == wanted, "{printed}");
    for (name, mode) in [("made", 0o640), ("dir", 0o750), ("dir/moved", 0o600)] {
        let found = fs::metadata(home.join(name))?;
        ensure!((found.uid(), found.gid()) == here, "{name}");
        ensure!(found.mode() & 0o777 == mode, "{name}: {:o}", found.mode());
    }
    // As oneself, with the same numbers as here.
    let script = "cd isolated; id -u; stat -c %u old; sudo -n id -u";
    let himself = client.output(client.command(&["-user", "me"], &["sh", "-c", script]), b"")?;
    let printed = String::from_utf8_lossy(&himself.stdout);
    ensure!(printed == format!("{0}\n{0}\n0\n", here.0), "{himself:?}");
    // The whole tree as the root.
    let root = client.output(
        client.command(
            &["-namespace", "/"],
            &["sh", "-c", "id -u; ls /proc/1/comm /dev/null"],
        ),
        b"",
    )?;
    ensure!(root.stdout == b"0\n/dev/null\n/proc/1/comm\n", "{root:?}");
    Ok(())
}

struct AliceSession(Child);

impl Drop for AliceSession {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn reach(machine: &Machine) -> Result<()> {
    let [alice, bob] = ["key-of-alice", "key-of-bob"].map(|name| isolated(machine, name));
    let (alice, bob) = (alice?, bob?);
    let home = machine.home.path();
    fs::write(home.join("secret"), "hers\n")?;
    let script = "echo hers >/tmp/hers; echo ready; exec sleep 86427";
    let mut running = AliceSession(
        alice
            .command(&[], &["env", MARK, "sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let mut line = String::new();
    let stdout = running.0.stdout.take().context("no output")?;
    BufReader::new(stdout).read_line(&mut line)?;
    ensure!(line == "ready\n", "{line:?}");

    let find = format!("grep -ls {MARK} /proc/[0-9]*/environ | cut -d/ -f3");
    let pids = machine.client.sh_ok(&find)?;
    let pid = pids.lines().next().context("she is nowhere")?;
    // Her command is in a control group of its own, as everybody's.
    let group = machine.client.sh_ok(&format!("cat /proc/{pid}/cgroup"))?;
    ensure!(group.contains("/cpu-session-"), "{group}");

    let secret = home.join("secret");
    let secret = secret.display();
    let probes = [
        format!("cat /proc/{pid}/root/tmp/cpu{secret}"),
        "cat /proc/*/root/tmp/hers".to_owned(),
        format!("echo more >>/proc/{pid}/root/tmp/cpu{secret}"),
        format!("cat /proc/{pid}/environ"),
        format!("kill -WINCH {pid}"),
        "head -c0 /dev/mem".to_owned(),
        "cat /tmp/local/key.pub".to_owned(),
        // Where there is none, this would make one of bob's own.
        "[ -e /tmp/local/key.pub ] && echo '# bob' >>/tmp/local/key.pub".to_owned(),
        "cat /proc/1/root/key.pub".to_owned(),
        "ls /dev/ttyS0".to_owned(),
    ];
    let mut script = "exec 2>/dev/null".to_owned();
    for (number, probe) in probes.iter().enumerate() {
        write!(script, "\n({probe}) >/dev/null && echo {number}")?;
    }
    script += "\ntrue";
    let all: String = (0..probes.len())
        .map(|number| format!("{number}\n"))
        .collect::<Vec<_>>()
        .concat();
    let reached = bob.sh_ok(&script)?;
    ensure!(reached.is_empty(), "bob reaches {reached}");
    let reached = machine.client.sh_ok(&script)?;
    ensure!(reached == all, "without isolation only {reached}");
    ensure!(fs::read_to_string(home.join("secret"))? == "hers\nmore\n");
    // When she has gone, so has everything of hers.
    drop(running);
    wait_until("the end of her isolation", Duration::from_mins(1), || {
        let left = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '";
        let left = machine.client.sh_ok(left)?;
        let is_left = left.contains("sleep 86427") || left.contains("cpud isolation");
        Ok((!is_left).then_some(()))
    })
}
