//! What mkimage makes is booted as a user boots it: the stick, the network, the download, three machines
//! at once, other kernels. One after the other, since each boots a machine.

mod kernels;
mod network;
mod stick;

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use e2e::client::{Client, Home};
use e2e::out;
use e2e::vm::Vm;
use libtest_mimic::{Arguments, Trial};

/// One sentence and its proof.
pub(crate) type Test = (&'static str, fn() -> Result<()>);

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let trials = [stick::TESTS, network::TESTS, kernels::TESTS]
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

/// Run mkimage on what make has built, with its output in `directory`.
pub(crate) fn mkimage(command: &str, directory: &Path, more: &[&str]) -> Result<()> {
    let out = out();
    let mut mkimage = Command::new(out.join("mkimage"));
    mkimage
        .args(["-q", command, "-o"])
        .arg(directory)
        .arg("--kernel")
        .arg(out.join("cpukernel"))
        .args(more);
    let output = mkimage.output().context("cannot run mkimage")?;
    ensure!(output.status.success(), "{mkimage:?}: {output:?}");
    Ok(())
}

/// That a machine runs this machine's programs.
pub(crate) fn runs_date(vm: &Vm) -> Result<()> {
    let home = Home::new()?;
    let said = Client::new(vm.port(), &home).sh_ok("date +%s; uname -n")?;
    let mut lines = said.lines();
    let seconds: i64 = lines.next().context("no date")?.parse()?;
    ensure!(seconds > 1_700_000_000, "{said}");
    ensure!(lines.next() == Some("cpu"), "{said}");
    Ok(())
}
