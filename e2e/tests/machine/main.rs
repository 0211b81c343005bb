//! Tests of one booted machine. It boots once; the tests run one after the other, since some of them measure the machine:
//! first those of files, terminals and owners as ordinary users, then all as root.

mod cache;
mod commands;
mod etc;
mod files;
mod follow;
mod go;
mod isolation;
mod lifecycle;
mod load;
mod mounts;
mod numbers;
mod owners;
mod path;
mod refusals;
mod root;
mod sockets;
mod terminals;
mod visible;
mod withheld;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use e2e::client::{Client, Home};
use e2e::ordinary::{Ordinary, USERS, expected, run_as, test_name};
use e2e::vm::{Booted, Vm};
use libtest_mimic::{Arguments, Conclusion, Trial};

/// The machine under test and a client for it.
pub(crate) struct Machine {
    pub(crate) vm: Vm,
    pub(crate) home: Home,
    pub(crate) client: Client,
}

/// One sentence and its proof.
pub(crate) type Test = (&'static str, fn(&Machine) -> Result<()>);

/// What a user does; root, where there is none.
fn tests_of(user: Option<&Ordinary>) -> &'static [&'static [Test]] {
    match user.map(|user| user.name) {
        None => &[
            commands::TESTS,
            files::TESTS,
            files::OF_ROOT,
            follow::TESTS,
            numbers::TESTS,
            numbers::OF_ROOT,
            cache::TESTS,
            visible::TESTS,
            withheld::TESTS,
            mounts::TESTS,
            root::TESTS,
            etc::TESTS,
            terminals::TESTS,
            sockets::TESTS,
            go::TESTS,
            isolation::TESTS,
            refusals::TESTS,
            lifecycle::TESTS,
            load::TESTS,
            path::TESTS,
        ],
        Some("ann") => &[
            files::TESTS,
            follow::TESTS,
            numbers::TESTS,
            cache::TESTS,
            terminals::TESTS,
            owners::TESTS,
            withheld::TESTS,
            isolation::TESTS,
            path::OF_USERS,
        ],
        Some(_) => &[files::TESTS, owners::TESTS],
    }
}

fn main() -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if let Some(user) = expected()? {
        let of_parent = |name| std::env::var(name).with_context(|| format!("{name} is not set"));
        let vm = Vm::of(&Booted {
            port: of_parent(PORT)?.parse()?,
            console: of_parent(CONSOLE)?.into(),
        })?;
        user.become_user()?;
        return Ok(run(&arguments, Some(user), vm)?.exit_code());
    }
    if arguments.list {
        let users = USERS.iter().map(Some).chain([None]);
        let all = users.flat_map(|user| trials(user, |_| Ok(())));
        return Ok(libtest_mimic::run(&arguments, all.collect()).exit_code());
    }
    let vm = Vm::boot()?;
    let booted = vm.booted();
    let environment = [
        (PORT, booted.port.to_string()),
        (CONSOLE, booted.console.display().to_string()),
    ];
    let mut passed = true;
    for user in &USERS {
        passed &= run_as(user, &environment)?;
    }
    passed &= !run(&arguments, None, vm)?.has_failed();
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// From the process that booted the machine to those of the other users.
const PORT: &str = "E2E_PORT";
const CONSOLE: &str = "E2E_CONSOLE";

fn run(arguments: &Arguments, user: Option<&Ordinary>, vm: Vm) -> Result<Conclusion> {
    let home = Home::new()?;
    let client = Client::new(vm.port(), &home);
    let machine = Arc::new(Machine { vm, home, client });
    let trials = trials(user, {
        let machine = machine.clone();
        move |test| test(&machine)
    });
    let conclusion = libtest_mimic::run(arguments, trials);
    if conclusion.has_failed() {
        eprintln!("the machine's console:\n{}", machine.vm.console());
    }
    Ok(conclusion)
}

fn trials(
    user: Option<&Ordinary>,
    run: impl Fn(fn(&Machine) -> Result<()>) -> Result<()> + Clone + Send + 'static,
) -> Vec<Trial> {
    let trial = |&(name, test): &Test| {
        let run = run.clone();
        Trial::test(test_name(user, name), move || {
            run(test).map_err(|error| format!("{error:?}").into())
        })
    };
    tests_of(user)
        .iter()
        .copied()
        .flatten()
        .map(trial)
        .collect()
}
