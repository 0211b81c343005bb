//! Tests that need no virtual machine: the client with a cpud, a stock sshd or a stand-in of u-root's on this computer. They
//! run side by side, and the users' tests at the same time.

mod agent;
mod audit;
mod certificates;
mod confinement;
mod discovery;
mod edges;
mod fuse;
mod go;
mod interop;
mod isolation;
mod keys;
mod known_hosts;
mod limits;
mod login;
mod me;
mod options;
mod sessions;
mod sharing;
mod soak;
mod ssh;
mod strangers;
mod tty;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use e2e::ordinary::{Ordinary, USERS, expected, run_as, test_name};
use libtest_mimic::{Arguments, Trial};

/// One sentence and its proof.
pub(crate) type Test = (&'static str, fn() -> Result<()>);

/// What a user does; root, where there is none.
fn tests_of(user: Option<&Ordinary>) -> &'static [&'static [Test]] {
    match user.map(|user| user.name) {
        None => &[
            ssh::TESTS,
            keys::TESTS,
            known_hosts::TESTS,
            agent::TESTS,
            login::TESTS,
            interop::TESTS,
            sharing::TESTS,
            go::TESTS,
            tty::TESTS,
            edges::TESTS,
            fuse::TESTS,
            sessions::TESTS,
            strangers::TESTS,
            soak::TESTS,
            limits::TESTS,
            options::TESTS,
            isolation::TESTS,
            confinement::TESTS,
            discovery::TESTS,
            audit::TESTS,
            certificates::TESTS,
            me::TESTS,
        ],
        Some("ann") => &[
            ssh::TESTS,
            keys::TESTS,
            known_hosts::TESTS,
            agent::TESTS,
            login::TESTS,
            tty::TESTS,
            edges::TESTS,
            me::TESTS,
        ],
        // OpenSSH's programs refuse a user without an entry in passwd(5).
        Some(_) => &[],
    }
}

fn main() -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    // The tests wait most of the time.
    arguments.test_threads.get_or_insert(8);
    if let Some(user) = expected()? {
        user.become_user()?;
        return Ok(libtest_mimic::run(&arguments, trials(Some(user))).exit_code());
    }
    if arguments.list {
        let users = USERS.iter().map(Some).chain([None]);
        let all = users.flat_map(trials).collect();
        return Ok(libtest_mimic::run(&arguments, all).exit_code());
    }
    let passed = std::thread::scope(|scope| -> Result<bool> {
        let ordinary = USERS
            .iter()
            .filter(|&user| !tests_of(Some(user)).is_empty())
            .map(|user| scope.spawn(|| run_as(user, &[])))
            .collect::<Vec<_>>();
        let mut passed = !libtest_mimic::run(&arguments, trials(None)).has_failed();
        for user in ordinary {
            passed &= user.join().ok().context("a thread panicked")??;
        }
        Ok(passed)
    })?;
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn trials(user: Option<&Ordinary>) -> Vec<Trial> {
    let trial = |&(name, test): &Test| {
        Trial::test(test_name(user, name), move || {
            test().map_err(|error| format!("{error:?}").into())
        })
    };
    tests_of(user)
        .iter()
        .copied()
        .flatten()
        .map(trial)
        .collect()
}
