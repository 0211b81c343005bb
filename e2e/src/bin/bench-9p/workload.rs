//! The workloads that are measured. Each runs in the directory that [`prepare`] has filled.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// What programs such as cat and cp read and write at once.
const CHUNK: usize = 128 * 1024;
const BULK: usize = 256 << 20;
const READS: usize = 4096;
const FILES: usize = 5000;
const ENTRIES: usize = 10_000;
const PAGE: usize = 4096;

/// Which of the two goals holds.
pub(crate) enum Goal {
    Metadata,
    Bulk,
}

pub(crate) struct Workload {
    /// `{}` is how much of it.
    pub(crate) name: &'static str,
    amount: usize,
    pub(crate) goal: Goal,
    /// In the working directory, so many times smaller.
    pub(crate) run: fn(usize) -> Result<Duration>,
}

impl Workload {
    pub(crate) fn title(&self, smaller: usize) -> String {
        self.name
            .replace("{}", &(self.amount / smaller).to_string())
    }
}

pub(crate) const WORKLOADS: &[Workload] = &[
    Workload {
        name: "read {} MiB",
        amount: BULK >> 20,
        goal: Goal::Bulk,
        run: read,
    },
    Workload {
        name: "write {} MiB",
        amount: BULK >> 20,
        goal: Goal::Bulk,
        run: write,
    },
    Workload {
        name: "{} random reads of 4 KiB",
        amount: READS,
        goal: Goal::Metadata,
        run: random_reads,
    },
    Workload {
        name: "create, write, remove {} files",
        amount: FILES,
        goal: Goal::Metadata,
        run: small_files,
    },
    Workload {
        name: "find, {} entries",
        amount: ENTRIES,
        goal: Goal::Metadata,
        run: find,
    },
    Workload {
        name: "python3 import",
        amount: 0,
        goal: Goal::Metadata,
        run: python,
    },
    Workload {
        name: "git status, {} files",
        amount: FILES,
        goal: Goal::Metadata,
        run: git_status,
    },
];

/// Fills a directory of this machine.
pub(crate) fn prepare(directory: &Path, smaller: usize) -> Result<()> {
    let mut bulk = File::create(directory.join("bulk"))?;
    for n in 0..BULK / smaller / CHUNK {
        bulk.write_all(&vec![u8::try_from(n % 251)?; CHUNK])?;
    }
    // One hundred entries each: a directory and its 99 files.
    for n in 0..ENTRIES / smaller / 100 {
        let sub = directory.join("tree").join(format!("directory{n}"));
        fs::create_dir_all(&sub)?;
        for n in 1..100 {
            fs::write(sub.join(format!("file{n}")), "")?;
        }
    }
    let repository = directory.join("repository");
    for n in 0..FILES / smaller {
        let sub = repository.join(format!("directory{}", n / 100));
        fs::create_dir_all(&sub)?;
        fs::write(sub.join(format!("file{n}.c")), format!("int f{n}(void);\n"))?;
    }
    // git reads a file again each time if it is as young as the index.
    std::thread::sleep(Duration::from_millis(1100));
    for words in [
        &["init", "-q"][..],
        &["add", "."],
        &[
            "-c",
            "user.name=n",
            "-c",
            "user.email=e",
            "commit",
            "-q",
            "-m",
            "all",
        ],
    ] {
        let status = git(&repository).args(words).status()?;
        ensure!(status.success(), "git {words:?}: {status}");
    }
    // This machine's own caches are full from the first run on.
    python(smaller)?;
    git(&repository).arg("status").output()?;
    Ok(())
}

/// git without anyone's settings, that writes nothing unless told to. The machine's root sees through diod the owner that the
/// repository has here, and git then trusts it if it is that of SUDO_UID.
fn git(repository: &Path) -> Command {
    let mut command = Command::new("/usr/bin/git");
    command
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .args(["-c", "gc.auto=0", "-C"])
        .arg(repository);
    if let Ok(found) = repository.metadata() {
        command.env("SUDO_UID", found.uid().to_string());
    }
    command
}

fn read(smaller: usize) -> Result<Duration> {
    let mut chunk = vec![0; CHUNK];
    let start = Instant::now();
    let mut file = File::open("bulk")?;
    let mut sum = 0;
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            n => sum += n,
        }
    }
    drop(file);
    let time = start.elapsed();
    ensure!(
        sum == BULK / smaller / CHUNK * CHUNK,
        "{sum} bytes were read"
    );
    Ok(time)
}

/// Closing waits for what is not written yet, since the inode goes with the last who uses it.
fn write(smaller: usize) -> Result<Duration> {
    let chunk = vec![1; CHUNK];
    let start = Instant::now();
    let mut file = File::create("written")?;
    for _ in 0..BULK / smaller / CHUNK {
        file.write_all(&chunk)?;
    }
    drop(file);
    let time = start.elapsed();
    fs::remove_file("written")?;
    Ok(time)
}

fn random_reads(smaller: usize) -> Result<Duration> {
    let pages = BULK / smaller / CHUNK * (CHUNK / PAGE);
    let mut page = vec![0; PAGE];
    let start = Instant::now();
    let file = File::open("bulk")?;
    // The same offsets in each run (Knuth's linear congruential generator).
    let mut at: usize = 1;
    for _ in 0..READS / smaller {
        at = at
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        file.read_exact_at(&mut page, ((at >> 33) % pages * PAGE) as u64)?;
    }
    drop(file);
    Ok(start.elapsed())
}

fn small_files(smaller: usize) -> Result<Duration> {
    let start = Instant::now();
    fs::create_dir("small")?;
    for n in 0..FILES / smaller {
        File::create(format!("small/file{n}"))?.write_all(b"some words to be kept\n")?;
    }
    for n in 0..FILES / smaller {
        fs::remove_file(format!("small/file{n}"))?;
    }
    fs::remove_dir("small")?;
    Ok(start.elapsed())
}

fn find(smaller: usize) -> Result<Duration> {
    let mut command = Command::new("/usr/bin/find");
    let (time, output) = timed(command.arg("tree"))?;
    let lines = output.lines().count();
    ensure!(
        lines == ENTRIES / smaller / 100 * 100 + 1,
        "find: {lines} lines"
    );
    Ok(time)
}

fn python(_: usize) -> Result<Duration> {
    let mut command = Command::new("/usr/bin/python3");
    let (time, _) = timed(command.args(["-c", "import json, email, http.client, asyncio"]))?;
    Ok(time)
}

fn git_status(_: usize) -> Result<Duration> {
    let (time, output) = timed(git(Path::new("repository")).args(["status", "--porcelain"]))?;
    ensure!(output.is_empty(), "git status is not clean: {output}");
    Ok(time)
}

fn timed(command: &mut Command) -> Result<(Duration, String)> {
    let start = Instant::now();
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    let time = start.elapsed();
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    Ok((time, String::from_utf8_lossy(&output.stdout).into_owned()))
}
