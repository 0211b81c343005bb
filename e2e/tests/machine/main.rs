//! What a user does with one booted machine. The machine boots once; the tests then run one after
//! the other, since some of them measure it.

mod cache;
mod commands;
mod files;
mod go;
mod lifecycle;
mod load;
mod mounts;
mod path;
mod refusals;
mod sockets;
mod terminals;
mod visible;

use std::sync::Arc;

use anyhow::Result;
use e2e::client::{Client, Home};
use e2e::vm::Vm;
use libtest_mimic::{Arguments, Trial};

/// The machine under test and a client for it.
pub(crate) struct Machine {
    pub(crate) vm: Vm,
    pub(crate) home: Home,
    pub(crate) client: Client,
}

/// One sentence and its proof.
pub(crate) type Test = (&'static str, fn(&Machine) -> Result<()>);

fn main() -> Result<()> {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let tests: Vec<Test> = [
        commands::TESTS,
        files::TESTS,
        cache::TESTS,
        visible::TESTS,
        mounts::TESTS,
        terminals::TESTS,
        sockets::TESTS,
        go::TESTS,
        refusals::TESTS,
        lifecycle::TESTS,
        load::TESTS,
        path::TESTS,
    ]
    .concat();
    if arguments.list {
        let trials = tests.iter().map(|&(name, _)| Trial::test(name, || Ok(())));
        libtest_mimic::run(&arguments, trials.collect()).exit();
    }
    let vm = Vm::boot()?;
    let home = Home::new()?;
    let client = Client::new(vm.port(), &home);
    let machine = Arc::new(Machine { vm, home, client });
    let trials = tests
        .into_iter()
        .map(|(name, test)| {
            let machine = machine.clone();
            Trial::test(name, move || {
                test(&machine).map_err(|error| format!("{error:?}").into())
            })
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if conclusion.has_failed() {
        eprintln!("the machine's console:\n{}", machine.vm.console());
    }
    drop(machine);
    conclusion.exit()
}
