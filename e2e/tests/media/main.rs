//! Boots what mkimage makes as a user does: the stick, the network, the download, three machines at once, Debian's kernels.
//! Two tests run at a time, since most of a boot is waiting for firmware and DHCP.

mod distributions;
mod flash;
mod limits;
mod network;
mod power;
mod screen;
mod small;
mod stick;

use std::path::Path;

use anyhow::{Context as _, Result};
use e2e::image::mkimage;
use e2e::out;
use libtest_mimic::{Arguments, Trial};

/// One sentence and its proof.
pub(crate) type Test = (&'static str, fn() -> Result<()>);

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(2);
    let trials = [
        stick::TESTS,
        screen::TESTS,
        small::TESTS,
        flash::TESTS,
        power::TESTS,
        limits::TESTS,
        network::TESTS,
        distributions::TESTS,
    ]
    .concat()
    .into_iter()
    .map(|(name, test)| {
        Trial::test(name, move || {
            test().map_err(|error| format!("{error:?}").into())
        })
    })
    .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// Run mkimage on the kernel that make has built, with its output in `directory`.
pub(crate) fn make(command: &str, directory: &Path, more: &[&str]) -> Result<()> {
    let kernel = out().join("cpukernel");
    let kernel = kernel.to_str().context("a path that is not UTF-8")?;
    mkimage(
        directory,
        &[&["-q", command, "--kernel", kernel], more].concat(),
    )
}
