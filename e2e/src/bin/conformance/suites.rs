//! The suites: the directory each works on, the script in e2e/suites that runs it on the machine, and how its output is
//! parsed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{root, wait_until};

use crate::transport::{SuiteRun, there};

/// A suite's summary in a line, and what failed: the suite, or some of its tests.
type SuiteOutcome = (String, BTreeSet<String>);

/// A program by others that exercises a file system.
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&SuiteRun<'_>) -> Result<SuiteOutcome>,
}

/// The quick ones first.
pub(crate) const SUITES: &[Suite] = &[
    Suite {
        name: "pjdfstest",
        run: pjdfstest,
    },
    Suite {
        name: "sqlite-kill",
        run: sqlite_kill,
    },
    Suite {
        name: "cargo",
        run: |run| {
            let toolchain = there(&run.sources.toolchain);
            script(run, include_str!("../../../suites/cargo.sh"), &[&toolchain])
        },
    },
    Suite {
        name: "dbench",
        run: |run| script(run, include_str!("../../../suites/dbench.sh"), &["60"]),
    },
    Suite {
        name: "fsx",
        run: |run| {
            // Any seed will do; a fixed one makes failures reproducible.
            let mut arguments = vec!["100000", "20250217", "0"];
            // Without pages there are no shared mappings.
            if run.transport.name != "none" {
                arguments.push("10");
            }
            script(run, include_str!("../../../suites/fsx.sh"), &arguments)
        },
    },
    Suite {
        name: "sqlite",
        run: |run| script(run, include_str!("../../../suites/sqlite.sh"), &["5000"]),
    },
    Suite {
        name: "git",
        run: |run| {
            let repository = format!("file://{}", run.sources.repository.display());
            script(run, include_str!("../../../suites/git.sh"), &[&repository])
        },
    },
    Suite {
        name: "tar",
        run: |run| {
            let archive = run.sources.archive.display().to_string();
            let tree = there(&run.sources.tree);
            script(
                run,
                include_str!("../../../suites/tar.sh"),
                &[&archive, &tree],
            )
        },
    },
];

/// For an emulated machine on a busy host.
const LIMIT: Duration = Duration::from_hours(2);

/// Real files to work on.
pub(crate) struct Sources {
    /// A git repository of over 2,000 files, one commit a directory.
    repository: PathBuf,
    /// A directory of over 5,000 files.
    tree: PathBuf,
    archive: PathBuf,
    toolchain: PathBuf,
}

impl Sources {
    /// Of the kernel's source, which mkimage has unpacked in the cache.
    pub(crate) fn new(home: &Path) -> Result<Self> {
        let cache = e2e::cache()?.join("source");
        let entries = std::fs::read_dir(&cache).into_iter().flatten().flatten();
        let mut trees = entries.map(|entry| entry.path());
        let kernel = trees.find(|tree| tree.join("fs").is_dir());
        let kernel = kernel
            .with_context(|| format!("no kernel source in {}: make cpukernel", cache.display()))?;
        let repository = home.join("repository");
        let script = include_str!("../../../suites/repository.sh");
        local(
            "bash",
            &[
                "-euc",
                script,
                "repository",
                &kernel.join("include/linux").to_string_lossy(),
                &repository.to_string_lossy(),
            ],
        )?;
        let archive = home.join("bindings.tar");
        let parent = kernel.join("Documentation/devicetree");
        local(
            "tar",
            &[
                "cf",
                &archive.to_string_lossy(),
                "-C",
                &parent.to_string_lossy(),
                "bindings",
            ],
        )?;
        // The toolchain that rust-toolchain.toml names.
        let mut rustc = Command::new("rustc");
        let output = rustc
            .args(["--print", "sysroot"])
            .current_dir(root())
            .output()?;
        let toolchain = String::from_utf8(output.stdout)?;
        Ok(Self {
            repository,
            tree: parent.join("bindings").canonicalize()?,
            archive,
            toolchain: PathBuf::from(toolchain.trim()),
        })
    }
}

/// Run a program of this machine.
fn local(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Run a suite that succeeds or fails as a whole; the last line of its output is the summary.
fn script(run: &SuiteRun<'_>, text: &str, arguments: &[&str]) -> Result<SuiteOutcome> {
    let (succeeded, said) = run.run(text, arguments, LIMIT)?;
    let failed = if succeeded {
        BTreeSet::new()
    } else {
        println!("{said}");
        BTreeSet::from([run.suite.to_owned()])
    };
    let line = said.lines().last().unwrap_or("nothing").trim();
    Ok((line.to_owned(), failed))
}

/// The suite of POSIX's file system calls: many tests, each with a name.
fn pjdfstest(run: &SuiteRun<'_>) -> Result<SuiteOutcome> {
    let settings = include_str!("../../../suites/pjdfstest.toml");
    std::fs::write(run.directory.join("pjdfstest.toml"), settings)?;
    let text = include_str!("../../../suites/pjdfstest.sh");
    let (_, said) = run.run(text, &[], LIMIT)?;
    let summary = said.lines().find(|line| line.starts_with("Summary: "));
    let summary = summary.with_context(|| format!("it came to no end:\n{said}"))?;
    let failed = said.lines().filter_map(|line| {
        let (name, result) = line.split_once(' ')?;
        (result.trim() == "FAILED").then(|| format!("{} {name}", run.suite))
    });
    Ok((summary["Summary: ".len()..].to_owned(), failed.collect()))
}

/// A database whose client is killed in the middle of a transaction: here it is whole, and has all that
/// the writer was told is in it.
fn sqlite_kill(run: &SuiteRun<'_>) -> Result<SuiteOutcome> {
    let text = include_str!("../../../suites/sqlite-writer.sh");
    let (mut told, mut kept) = (0, 0);
    for journal in ["delete", "wal"] {
        let (database, done) = (
            run.directory.join(journal).display().to_string(),
            run.directory.join(format!("{journal}.done")),
        );
        let mut child = run.start(text, &[journal], LIMIT)?;
        let lines = || std::fs::read_to_string(&done).unwrap_or_default();
        let under_way = wait_until("200 transactions", Duration::from_mins(10), || {
            Ok((lines().lines().count() >= 200).then_some(()))
        });
        child.kill()?;
        child.wait()?;
        under_way.with_context(|| run.said().unwrap_or_default())?;
        // The last line may be incomplete.
        let done = lines();
        let done = done.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let last: u64 = done.lines().last().context("no lines")?.parse()?;
        let check = local("sqlite3", &[&database, "PRAGMA integrity_check"])?;
        ensure!(check == "ok\n", "{journal}: {check}");
        let rows = local("sqlite3", &[&database, "SELECT count(*) FROM t"])?;
        let rows: u64 = rows.trim().parse()?;
        ensure!(rows >= last, "{journal}: {rows} rows of {last}");
        (told, kept) = (told + last, kept + rows);
    }
    let said = format!(
        "killed twice: integrity_check ok, {kept} transactions kept, {told} had been confirmed"
    );
    Ok((said, BTreeSet::new()))
}
