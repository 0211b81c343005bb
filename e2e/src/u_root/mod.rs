//! Stand-ins for u-root's two programs. They send what the Go programs were observed to send, in the same order, and parse
//! what those parse. Our own 9P server serves the files.

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
