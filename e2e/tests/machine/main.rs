//! Tests of booted machines: those of files, terminals and owners as ordinary users on one, all as root on another beside it.
//! On each they run one after the other. Those that measure come last, when nothing else runs.

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

/// The tests that may run beside those of another user, or those that measure.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TestPhase {
    Shared,
    Measuring,
}

/// What a user does; root, where there is none.
fn tests_of(user: Option<&Ordinary>, phase: TestPhase) -> &'static [&'static [Test]] {
    match (user.map(|user| user.name), phase) {
        (None, TestPhase::Shared) => &[
            commands::TESTS,
            files::TESTS,
            files::OF_ROOT,
            follow::TESTS,
            numbers::TESTS,
            numbers::OF_ROOT,
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
        ],
        (None, TestPhase::Measuring) => &[load::TESTS, lifecycle::MEASURING, path::TESTS],
        (Some("ann"), TestPhase::Shared) => &[
            files::TESTS,
            follow::TESTS,
            numbers::TESTS,
            cache::TESTS,
            terminals::TESTS,
            owners::TESTS,
            withheld::TESTS,
            isolation::TESTS,
        ],
        (Some("ann"), TestPhase::Measuring) => &[path::OF_USERS],
        (Some(_), TestPhase::Shared) => &[files::TESTS, owners::TESTS],
        (Some(_), TestPhase::Measuring) => &[],
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
        let phase = match of_parent(MEASURES)?.as_str() {
            "true" => TestPhase::Measuring,
            _ => TestPhase::Shared,
        };
        user.become_user()?;
        let machine = Arc::new(Machine::new(vm)?);
        return Ok(run(&arguments, Some(user), phase, &machine).exit_code());
    }
    if arguments.list {
        let users = USERS.iter().map(Some).chain([None]);
        let parts =
            users.flat_map(|user| [(user, TestPhase::Shared), (user, TestPhase::Measuring)]);
        let all = parts.flat_map(|(user, phase)| trials(user, phase, |_| Ok(())));
        return Ok(libtest_mimic::run(&arguments, all.collect()).exit_code());
    }
    let of_root = Arc::new(Machine::new(Vm::boot()?)?);
    let of_users = Vm::boot_uniprocessor()?;
    let as_root = |phase| !run(&arguments, None, phase, &of_root).has_failed();
    let as_users = |phase| -> Result<bool> {
        let booted = of_users.booted();
        let environment = [
            (PORT, booted.port.to_string()),
            (CONSOLE, booted.console.display().to_string()),
            (MEASURES, (phase == TestPhase::Measuring).to_string()),
        ];
        let mut passed = true;
        for user in &USERS {
            passed &= tests_of(Some(user), phase).is_empty() || run_as(user, &environment)?;
        }
        Ok(passed)
    };
    let mut passed = std::thread::scope(|scope| -> Result<bool> {
        let users = scope.spawn(|| as_users(TestPhase::Shared));
        let passed = as_root(TestPhase::Shared);
        Ok(users.join().ok().context("a thread panicked")?? && passed)
    })?;
    passed &= as_users(TestPhase::Measuring)?;
    passed &= as_root(TestPhase::Measuring);
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// From the process that booted the machine to those of the other users.
const PORT: &str = "E2E_PORT";
const CONSOLE: &str = "E2E_CONSOLE";
const MEASURES: &str = "E2E_MEASURES";

impl Machine {
    fn new(vm: Vm) -> Result<Self> {
        let home = Home::new()?;
        let client = Client::new(vm.port(), &home);
        Ok(Self { vm, home, client })
    }
}

fn run(
    arguments: &Arguments,
    user: Option<&Ordinary>,
    phase: TestPhase,
    machine: &Arc<Machine>,
) -> Conclusion {
    let trials = trials(user, phase, {
        let machine = machine.clone();
        move |test| test(&machine)
    });
    let conclusion = libtest_mimic::run(arguments, trials);
    if conclusion.has_failed() {
        // All of it would not fit into a pipe that a program of a test has made non-blocking, as ssh does.
        let console = machine.vm.console();
        let lines: Vec<&str> = console.lines().collect();
        let last = &lines[lines.len().saturating_sub(100)..];
        eprintln!("the end of the machine's console:\n{}", last.join("\n"));
    }
    conclusion
}

fn trials(
    user: Option<&Ordinary>,
    phase: TestPhase,
    run: impl Fn(fn(&Machine) -> Result<()>) -> Result<()> + Clone + Send + 'static,
) -> Vec<Trial> {
    let trial = |&(name, test): &Test| {
        let run = run.clone();
        Trial::test(test_name(user, name), move || {
            run(test).map_err(|error| format!("{error:?}").into())
        })
    };
    tests_of(user, phase)
        .iter()
        .copied()
        .flatten()
        .map(trial)
        .collect()
}
