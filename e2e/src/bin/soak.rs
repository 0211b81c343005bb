//! `make soak`: 30 minutes, or so many as `SOAK_MINUTES` says, of what a machine has to outlive, on a server of this computer
//! and on a small machine, or on one of them (`SOAK_ONLY=server`, `SOAK_ONLY=guest`). Prints a table (docs/reliability.md), and
//! fails if a figure is above its limit.

use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::soak::{Guest, SoakServer, Table, run};

/// What a login may take longer beside strangers of another address (SECURITY.md).
const DELAY: Duration = Duration::from_millis(500);
/// MiB of the machine.
const MEMORY: u32 = 256;

fn main() -> Result<()> {
    let minutes = std::env::var("SOAK_MINUTES").unwrap_or_else(|_| "30".to_owned());
    let minutes = minutes.parse().context("SOAK_MINUTES is no number")?;
    let only = std::env::var("SOAK_ONLY").unwrap_or_default();
    let server = (only != "guest").then(|| SoakServer::start(DELAY));
    let server = server.transpose()?;
    let guest = (only != "server").then(|| Guest::boot(MEMORY));
    let guest = guest.transpose()?;
    let before = server.as_ref().map(SoakServer::resources).transpose()?;
    let mut table = Table::default();
    let time = Duration::from_mins(minutes);
    run(&mut table, server.as_ref(), guest.as_ref(), time);
    println!("{}", table.text());
    let after = server.as_ref().map(SoakServer::resources).transpose()?;
    if let (Some(before), Some(after)) = (before, after) {
        for (what, before, after) in [
            ("descriptors of the server", before.0, after.0),
            ("its memory in KiB", before.1, after.1),
        ] {
            println!("{what:<56} {before} before, {after} after");
        }
    }
    guest.map_or(Ok(()), Guest::end)?;
    table.check()
}
