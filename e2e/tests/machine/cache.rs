//! What the machine caches of the client's files in each mode, as cpu(1) says.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};

use anyhow::{Context, Result, ensure};
use e2e::client::TIMEOUT;

use crate::{Machine, Test};

pub(crate) const TESTS: &[Test] = &[
    ("cache_none_keeps_nothing", |machine| exact(machine, "none")),
    (
        "cache_mmap_is_the_default_and_keeps_mapped_pages_only",
        |machine| {
            exact(machine, "mmap")?;
            let mut there = Shell::start(machine, &[])?;
            let mounts = there.say("grep ' /tmp/cpu' /proc/mounts")?;
            ensure!(
                mounts.lines().count() == 1 && mounts.contains(MMAP),
                "{mounts}"
            );
            there.end()
        },
    ),
    (
        "cache_loose_keeps_names_and_sizes_but_reads_and_writes_here",
        loose,
    ),
    ("a_namespace_entry_has_a_cache_mode_of_its_own", one_entry),
    ("a_cache_mode_that_cannot_be_is_refused", refusals),
];

/// How the kernel shows the modes in its table of mounts (`fs/9p/v9fs.h`); none is not shown.
const MMAP: &str = "cache=0x5,";
const LOOSE: &str = "cache=0xf,";

/// A shell there that is told one line after the other.
struct Shell {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Shell {
    fn start(machine: &Machine, flags: &[&str]) -> Result<Self> {
        let script = "while read -r line; do eval \"$line\" 2>&1; echo .; done";
        let mut command = machine.client.command(flags, &["sh", "-c", script]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let stdin = child.stdin.take().context("no input")?;
        let stdout = BufReader::new(child.stdout.take().context("no output")?);
        let (told, lines) = channel();
        std::thread::spawn(move || {
            let mut all = stdout.lines().map_while(Result::ok);
            all.try_for_each(|line| told.send(line))
        });
        Ok(Self {
            child,
            stdin,
            lines,
        })
    }

    /// What the line prints, errors too.
    fn say(&mut self, line: &str) -> Result<String> {
        writeln!(self.stdin, "{line}")?;
        let mut said = String::new();
        loop {
            let more = self.lines.recv_timeout(TIMEOUT);
            match more.with_context(|| format!("no end of {line:?}: {said}"))? {
                end if end == "." => return Ok(said),
                more => said += &(more + "\n"),
            }
        }
    }

    fn end(self) -> Result<()> {
        let Self {
            mut child, stdin, ..
        } = self;
        drop(stdin);
        let status = child.wait()?;
        ensure!(status.success(), "{status}");
        Ok(())
    }
}

/// A file of 5 bytes that is rewritten, one that grows, one that goes, one that gets another name.
const LOOK: &str = "cat content; stat -c %s grows; cat grows; ls gone from to new 2>/dev/null";

fn prepare(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    for name in ["content", "grows", "gone", "from", "mapped"] {
        fs::write(directory.join(name), "old 1")?;
    }
    for name in ["to", "new"] {
        let _ = fs::remove_file(directory.join(name));
    }
    Ok(())
}

fn change(directory: &Path) -> Result<()> {
    fs::write(directory.join("content"), "new 2")?;
    fs::write(directory.join("grows"), "old 1, new 2")?;
    fs::write(directory.join("mapped"), "new 2")?;
    fs::remove_file(directory.join("gone"))?;
    fs::rename(directory.join("from"), directory.join("to"))?;
    fs::write(directory.join("new"), "new 2")?;
    Ok(())
}

/// Before, after, and what was written there.
fn seen(there: &mut Shell, directory: &Path) -> Result<[String; 2]> {
    let cd = format!("cd {}", directory.display());
    ensure!(there.say(&cd)?.is_empty());
    let before = there.say(LOOK)?;
    ensure!(before == "old 15\nold 1from\ngone\n", "{before}");
    let mapped = there.say(MAP)?;
    change(directory)?;
    let after = there.say(LOOK)?;
    let mapped = mapped + &there.say(MAP)?;
    // In every mode, what is written there is here when the command has ended.
    let written = there.say("echo there >content; echo there >>made; mv made named")?;
    ensure!(written.is_empty(), "{written}");
    ensure!(fs::read(directory.join("content"))? == b"there\n");
    ensure!(fs::read(directory.join("named"))? == b"there\n");
    Ok([after, mapped])
}

/// The file through a mapping that nobody writes.
const MAP: &str = "python3 -c 'import mmap; f = open(\"mapped\"); \
                   print(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)[:].decode())'";

/// Writes through a shared mapping.
const MAP_SHARED: &str = "python3 -c 'import mmap; f = open(\"shared\", \"r+b\"); \
                          m = mmap.mmap(f.fileno(), 0); m[0:3] = b\"NEW\"; m.flush()'";

/// The same through a file that is opened to append.
const MAP_APPENDED: &str = "python3 -c 'import mmap; f = open(\"appended\", \"a+b\", 0); \
                            m = mmap.mmap(f.fileno(), 0); m[0:3] = b\"NEW\"; m.flush(); f.write(b\", end\")'";

/// What is written through mappings is here, once and in its place.
fn mapped_writes(there: &mut Shell, directory: &Path) -> Result<()> {
    for (name, write, expected) in [
        ("shared", MAP_SHARED, "NEW 1"),
        ("appended", MAP_APPENDED, "NEW 1, end"),
    ] {
        fs::write(directory.join(name), "old 1")?;
        let said = there.say(write)?;
        let file = fs::read_to_string(directory.join(name))?;
        ensure!(said.is_empty() && file == expected, "{said}{file}");
    }
    Ok(())
}

/// What changes here is seen there by whoever looks next.
fn exact(machine: &Machine, mode: &str) -> Result<()> {
    let directory = machine.home.path().join(mode);
    prepare(&directory)?;
    let mut there = Shell::start(machine, &["-cache", mode])?;
    let [after, mapped] = seen(&mut there, &directory)?;
    ensure!(after == "new 212\nold 1, new 2new\nto\n", "{after}");
    ensure!(mapped == "old 1\nnew 2\n", "{mapped}");

    // Also through descriptors that are held open.
    fs::write(directory.join("held"), "old 1")?;
    let before = there.say("exec 3<held; dd bs=5 count=1 <&3 2>/dev/null; echo")?;
    fs::write(directory.join("held"), "old 1, new 2")?;
    let after = there.say("cat <&3; echo; exec 3<&-")?;
    ensure!(
        [&*before, &*after] == ["old 1\n", ", new 2\n"],
        "{before}{after}"
    );
    ensure!(there.say("exec 4>held; echo there >&4")?.is_empty());
    ensure!(fs::read(directory.join("held"))? == b"there\n");
    ensure!(there.say("exec 4>&-")?.is_empty());

    // A file that is open for appending there and meanwhile grew here; see cpu(1).
    let log = directory.join("log");
    fs::write(&log, "here 1\n")?;
    ensure!(there.say("exec 6>>log; cat log")? == "here 1\n");
    fs::write(&log, "here 1\nhere 2\n")?;
    if mode == "mmap" {
        // The program looks up where the end is.
        ensure!(there.say("stat -c %s log")? == "14\n");
    }
    ensure!(there.say("echo there >&6; exec 6>&-")?.is_empty());
    let log = fs::read_to_string(&log)?;
    ensure!(log == "here 1\nhere 2\nthere\n", "{log:?}");

    if mode == "none" {
        fs::write(directory.join("shared"), "old 1")?;
        let said = there.say(MAP_SHARED)?;
        let shared = fs::read_to_string(directory.join("shared"))?;
        ensure!(
            said.contains("Invalid argument") && shared == "old 1",
            "{said}{shared}"
        );
    } else {
        mapped_writes(&mut there, &directory)?;
    }
    there.end()
}

/// Names and sizes that were seen stay; content that is read, and what is new, is what is here.
fn loose(machine: &Machine) -> Result<()> {
    let directory = machine.home.path().join("loose");
    prepare(&directory)?;
    let mut there = Shell::start(machine, &["-cache=loose"])?;
    let mounts = there.say("grep ' /tmp/cpu' /proc/mounts")?;
    ensure!(
        mounts.lines().count() == 1 && mounts.contains(LOOSE),
        "{mounts}"
    );
    let [after, mapped] = seen(&mut there, &directory)?;
    ensure!(
        after == "new 25\nold 1, new 2from\ngone\nnew\nto\n",
        "{after}"
    );
    ensure!(mapped == "old 1\nold 1\n", "{mapped}");
    mapped_writes(&mut there, &directory)?;
    let appended = there.say("echo there >>grows")?;
    let grows = fs::read_to_string(directory.join("grows"))?;
    ensure!(
        appended.is_empty() && grows == "old 1there\n2",
        "{appended}{grows:?}"
    );
    there.end()?;
    // The next session starts with nothing cached.
    let again = machine.client.command(&["-cache=loose"], &["ls", "loose"]);
    let output = machine.client.output(again, b"")?;
    ensure!(
        output.stdout == b"appended\ncontent\ngrows\nmapped\nnamed\nnew\nshared\nto\n",
        "{output:?}"
    );
    Ok(())
}

/// One directory is kept, what is around it is not.
fn one_entry(machine: &Machine) -> Result<()> {
    let home = machine.home.path();
    let [exact, kept] = ["exact", "exact/kept"].map(|name| home.join(name));
    prepare(&exact)?;
    prepare(&kept)?;
    let namespace = format!(
        "/lib:/lib64:/usr,cache=loose:/bin:{}:{},cache=loose",
        home.display(),
        kept.display()
    );
    let mut there = Shell::start(machine, &["-namespace", &namespace])?;
    let mounts = there.say("cat /proc/mounts")?;
    for (place, mode) in [
        ("/tmp/cpu", MMAP),
        ("/tmp/cpu-loose", LOOSE),
        ("/usr", LOOSE),
        ("/bin", MMAP),
        (home.to_str().context("a strange directory")?, MMAP),
        (kept.to_str().context("a strange directory")?, LOOSE),
    ] {
        let line = format!(" {place} 9p ");
        let lines: Vec<_> = mounts.lines().filter(|l| l.contains(&line)).collect();
        ensure!(
            lines.len() == 1 && lines[0].contains(mode),
            "{place}: {mounts}"
        );
    }
    let look = |there: &mut Shell| there.say("ls gone kept/gone 2>/dev/null");
    ensure!(there.say(&format!("cd {}", exact.display()))?.is_empty());
    ensure!(look(&mut there)? == "gone\nkept/gone\n");
    change(&exact)?;
    change(&kept)?;
    let after = look(&mut there)?;
    ensure!(after == "kept/gone\n", "{after}");
    // Two mounts of the same files are two file systems: mv has to copy.
    let moved = there.say("mv new kept/moved && cat kept/moved; echo")?;
    ensure!(moved == "new 2\n", "{moved}");
    ensure!(fs::read(kept.join("moved"))? == b"new 2" && !exact.join("new").exists());
    let linked = there.say("ln content kept/linked; ls kept/linked")?;
    ensure!(
        linked.contains("cross-device link") && !kept.join("linked").exists(),
        "{linked}"
    );
    there.end()
}

fn refusals(machine: &Machine) -> Result<()> {
    for (flags, why) in [
        (&["-cache", "strange"][..], "write none, mmap or loose"),
        (
            &["-namespace", "/usr,cache=strange"],
            "element \"/usr,cache=strange\" has an unknown cache mode: write none, mmap or loose",
        ),
        (
            &["-9p=false", "-cache=loose"],
            "-9p=false serves no files, so there is nothing to cache; leave out -cache",
        ),
    ] {
        let command = machine.client.command(flags, &["true"]);
        let output = machine.client.output(command, b"")?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(255), "{output:?}");
        ensure!(
            stderr.lines().count() == 1 && stderr.contains(why),
            "{stderr}"
        );
    }
    Ok(())
}
