//! Finds machines on the same network by DNS service discovery (RFC 6762, 6763): whoever runs `cpud -dnssd`, or u-root's.
//!
//! Anybody on the network can answer anything. So what is heard is only a proposal where to connect: that it is the right
//! machine, its host key proves, under the name that it was found by.

mod browse;
mod heard;
mod machine;
mod query;
mod table;

use std::io::{IsTerminal as _, Write as _, stdout};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use browse::Browser;
pub(crate) use machine::FoundMachine;
pub(crate) use query::MachineQuery;

/// The time between questions.
const INTERVAL: Duration = Duration::from_millis(500);
/// The same if the first answer is enough.
const FIRST: Duration = Duration::from_millis(250);
/// How long all machines have time to answer, so that the best is known; and how long is waited for any.
const ANSWERS: Duration = Duration::from_secs(1);
const BROWSE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a table is gathered that is printed once.
const TABLE: Duration = Duration::from_secs(2);
/// The time between changes of a table on a terminal, and how long a machine stays in it that does not answer.
const REFRESH: Duration = Duration::from_secs(2);
const MEMORY: Duration = Duration::from_secs(7);

/// Finds the best machine.
pub(crate) fn find(query: &MachineQuery) -> Result<FoundMachine> {
    let mut browser = Browser::new()?;
    let start = Instant::now();
    loop {
        browser.ask();
        browser.listen(Instant::now() + INTERVAL)?;
        let machines = browser.machines();
        let count = machines.len();
        let mut suitable = query.select(machines);
        let waited = start.elapsed();
        if waited >= ANSWERS && !suitable.is_empty() {
            return Ok(suitable.swap_remove(0));
        }
        if waited >= BROWSE_TIMEOUT {
            return Err(none_is_suitable(count));
        }
    }
}

/// Why no machine is chosen, of so many that have answered.
fn none_is_suitable(count: usize) -> anyhow::Error {
    match count {
        0 => anyhow!("no machine on this network has answered: is one running, with cpud -dnssd?"),
        _ => anyhow!(
            "none of the {count} machine(s) that have answered is what was asked for (cpu -hosts lists them)"
        ),
    }
}

/// The addresses of the machine with a host name, if it is found.
pub(crate) fn find_host(name: &str) -> Result<Option<Vec<SocketAddr>>> {
    let query = MachineQuery::host(name);
    let mut browser = Browser::new()?;
    let start = Instant::now();
    while start.elapsed() < ANSWERS {
        browser.ask();
        browser.listen(Instant::now() + FIRST)?;
        if let Some(machine) = query.select(browser.machines()).pop() {
            return Ok(Some(machine.addresses));
        }
    }
    Ok(None)
}

/// Prints a table of the machines: once, or, on a terminal, until it is interrupted.
pub(crate) fn list(query: &MachineQuery) -> Result<()> {
    let mut browser = Browser::new()?;
    if !stdout().is_terminal() {
        let start = Instant::now();
        while start.elapsed() < TABLE {
            browser.ask();
            browser.listen(Instant::now() + INTERVAL)?;
        }
        let machines = browser.machines();
        let count = machines.len();
        let machines = query.select(machines);
        if machines.is_empty() {
            return Err(none_is_suitable(count));
        }
        // A failure is ignored: whoever closed the pipe wants no more.
        let _ = stdout().write_all(table::format(&machines).as_bytes());
        return Ok(());
    }
    let mut height = 0;
    loop {
        // They change while the table is looked at: a cable is plugged in, a laptop is carried elsewhere.
        browser.find_networks()?;
        browser.ask();
        browser.listen(Instant::now() + REFRESH)?;
        browser.forget(MEMORY);
        let machines = query.select(browser.machines());
        let (text, lines) = table::redraw(&machines, height);
        height = lines;
        if stdout()
            .write_all(text.as_bytes())
            .and_then(|()| stdout().flush())
            .is_err()
        {
            return Ok(());
        }
    }
}
