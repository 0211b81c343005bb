//! What needs no guest: the client and a cpud, a stock sshd or a stand-in of u-root's on this very machine.
//! The tests run side by side.

mod edges;
mod go;
mod interop;
mod ssh;
mod tty;

use anyhow::Result;
use libtest_mimic::{Arguments, Trial};

/// One sentence and its proof.
pub(crate) type Test = (&'static str, fn() -> Result<()>);

fn main() {
    let tests = [
        ssh::TESTS,
        interop::TESTS,
        go::TESTS,
        tty::TESTS,
        edges::TESTS,
    ];
    let trials = tests.concat().into_iter().map(|(name, test)| {
        Trial::test(name, move || {
            test().map_err(|error| format!("{error:?}").into())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}
