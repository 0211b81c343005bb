//! In the guest: runs the workload that a line of standard input names, in the tree that it names, and
//! prints the nanoseconds. The tree is this process's root meanwhile, so that programs, libraries and
//! what they read come from the server under test.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use nix::unistd::fchdir;

use crate::workload::WORKLOADS;

pub(crate) fn serve(directory: &Path, smaller: usize) -> Result<()> {
    let outside = File::open("/")?;
    let mut out = std::io::stdout();
    writeln!(out, "ready")?;
    for line in std::io::stdin().lines() {
        let line = line?;
        let (root, number) = line.split_once(' ').context("no such line")?;
        let workload = WORKLOADS
            .get(number.parse::<usize>()?)
            .context("no such workload")?;
        std::os::unix::fs::chroot(root)?;
        std::env::set_current_dir(directory).context("cannot enter the directory")?;
        let time = (workload.run)(smaller).with_context(|| workload.name)?;
        fchdir(&outside)?;
        std::os::unix::fs::chroot(".")?;
        writeln!(out, "{}", time.as_nanos())?;
    }
    Ok(())
}
