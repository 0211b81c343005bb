//! Trees of Debian packages, like those of a container or another machine. `scripts/deps trees` downloads them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::cache;

/// bash, coreutils, busybox and what they need, unpacked for `amd64` or `arm64`.
pub fn debian(arch: &str, into: &Path) -> Result<()> {
    let debs = cache()?.join("debs").join(arch);
    ensure!(
        debs.join("complete").exists(),
        "no packages in {}: scripts/deps trees",
        debs.display()
    );
    let mut packages: Vec<_> = std::fs::read_dir(&debs)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    packages.retain(|package| package.extension().is_some_and(|kind| kind == "deb"));
    // base-files comes first: files of other packages are unpacked through its links.
    packages.sort();
    for package in packages {
        let mut dpkg = Command::new("dpkg-deb");
        let status = dpkg.arg("-x").arg(&package).arg(into).status();
        let status = status.context("cannot run dpkg-deb (package dpkg)")?;
        ensure!(status.success(), "{}: {status}", package.display());
    }
    Ok(())
}

/// A directory of busybox's commands, of a tree of [`debian`].
pub fn busybox(tree: &Path, bin: &Path, commands: &[&str]) -> Result<()> {
    let places = ["bin/busybox", "usr/bin/busybox"];
    let program = places.iter().map(|place| tree.join(place));
    let program = program.into_iter().find(|place| place.exists());
    std::fs::copy(
        program.context("no busybox in the tree")?,
        bin.join("busybox"),
    )?;
    for command in commands {
        std::os::unix::fs::symlink("busybox", bin.join(command))?;
    }
    Ok(())
}
