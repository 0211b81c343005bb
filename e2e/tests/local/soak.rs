//! Two minutes of `make soak`, without a guest.

use std::time::Duration;

use anyhow::Result;
use e2e::soak::{SoakServer, Table, run};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[("soak_of_two_minutes", soak)];

/// Four times what `make soak` allows, since other tests run beside this one.
const DELAY: Duration = Duration::from_secs(2);

fn soak() -> Result<()> {
    let server = SoakServer::start(DELAY)?;
    let mut table = Table::default();
    run(&mut table, Some(&server), None, Duration::from_mins(2));
    table.check()
}
