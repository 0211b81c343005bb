//! Stand-ins for u-root's two programs: they send, in the same order, what the Go programs were seen to send, and read what those read.
//! Files are served by our own 9P server.

mod client;
mod nine;
mod server;

pub use client::{Cpu, Ran};
pub use server::{Cpud, Habit};

use anyhow::Result;

fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.worker_threads(2).enable_all().build()?)
}
