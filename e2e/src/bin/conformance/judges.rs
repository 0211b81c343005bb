//! The judges: what each works on, the script in e2e/judges that it runs there, how it is read.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{root, wait_until};

use crate::way::{Place, there};

/// What it said in a line, and what failed: itself, or tests of it.
type Said = (String, BTreeSet<String>);

/// Somebody else's program that uses files hard.
pub(crate) struct Judge {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Place<'_>) -> Result<Said>,
}

/// The quick ones first.
pub(crate) const JUDGES: &[Judge] = &[
    Judge {
        name: "pjdfstest",
        run: pjdfstest,
    },
    Judge {
        name: "sqlite-kill",
        run: sqlite_kill,
    },
    Judge {
        name: "cargo",
        run: |place| {
            let toolchain = there(&place.sources.toolchain);
            script(
                place,
                include_str!("../../../judges/cargo.sh"),
                &[&toolchain],
            )
        },
    },
    Judge {
        name: "dbench",
        run: |place| script(place, include_str!("../../../judges/dbench.sh"), &["60"]),
    },
    Judge {
        name: "fsx",
        run: |place| {
            // Any seed will do; that it is always the same makes a failure one that can be had again.
            let mut arguments = vec!["100000", "20250217", "0"];
            // Without pages there are no shared mappings.
            if place.way.name != "none" {
                arguments.push("10");
            }
            script(place, include_str!("../../../judges/fsx.sh"), &arguments)
        },
    },
    Judge {
        name: "sqlite",
        run: |place| script(place, include_str!("../../../judges/sqlite.sh"), &["5000"]),
    },
    Judge {
        name: "git",
        run: |place| {
            let repository = format!("file://{}", place.sources.repository.display());
            script(
                place,
                include_str!("../../../judges/git.sh"),
                &[&repository],
            )
        },
    },
    Judge {
        name: "tar",
        run: |place| {
            let archive = place.sources.archive.display().to_string();
            let tree = there(&place.sources.tree);
            script(
                place,
                include_str!("../../../judges/tar.sh"),
                &[&archive, &tree],
            )
        },
    },
];

/// Under emulation, on a machine that is busy.
const LIMIT: Duration = Duration::from_hours(2);

/// Real files to work on.
pub(crate) struct Sources {
    /// Of over 2,000 files, each directory of them a commit.
    repository: PathBuf,
    /// Of over 5,000 files.
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
        let script = include_str!("../../../judges/repository.sh");
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
        // The one that rust-toolchain.toml names.
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

/// A judge that succeeds as a whole or not; its last line is what it says.
fn script(place: &Place<'_>, text: &str, arguments: &[&str]) -> Result<Said> {
    let (succeeded, said) = place.run(text, arguments, LIMIT)?;
    let failed = if succeeded {
        BTreeSet::new()
    } else {
        println!("{said}");
        BTreeSet::from([place.judge.to_owned()])
    };
    let line = said.lines().last().unwrap_or("nothing").trim();
    Ok((line.to_owned(), failed))
}

/// The suite of POSIX's file system calls: many tests, each with a name.
fn pjdfstest(place: &Place<'_>) -> Result<Said> {
    let settings = include_str!("../../../judges/pjdfstest.toml");
    std::fs::write(place.directory.join("pjdfstest.toml"), settings)?;
    let text = include_str!("../../../judges/pjdfstest.sh");
    let (_, said) = place.run(text, &[], LIMIT)?;
    let summary = said.lines().find(|line| line.starts_with("Summary: "));
    let summary = summary.with_context(|| format!("it came to no end:\n{said}"))?;
    let failed = said.lines().filter_map(|line| {
        let (name, result) = line.split_once(' ')?;
        (result.trim() == "FAILED").then(|| format!("{} {name}", place.judge))
    });
    Ok((summary["Summary: ".len()..].to_owned(), failed.collect()))
}

/// A database whose client is killed in the middle of a transaction: here it is whole, and has all that
/// the writer was told is in it.
fn sqlite_kill(place: &Place<'_>) -> Result<Said> {
    let text = include_str!("../../../judges/sqlite-writer.sh");
    let (mut told, mut kept) = (0, 0);
    for journal in ["delete", "wal"] {
        let (database, done) = (
            place.directory.join(journal).display().to_string(),
            place.directory.join(format!("{journal}.done")),
        );
        let mut child = place.start(text, &[journal], LIMIT)?;
        let lines = || std::fs::read_to_string(&done).unwrap_or_default();
        let under_way = wait_until("200 transactions", Duration::from_mins(10), || {
            Ok((lines().lines().count() >= 200).then_some(()))
        });
        child.kill()?;
        child.wait()?;
        under_way.with_context(|| place.said().unwrap_or_default())?;
        // The last line may be half of one.
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
