//! What end-to-end tests use: booted machines, the real client, terminals.
//!
//! No test is skipped because a tool is missing: a test that cannot run has failed.

pub mod client;
pub mod daemon;
pub mod delay;
pub mod flood;
pub mod image;
pub mod lan;
pub mod monitor;
pub mod ordinary;
pub mod port;
pub mod screen;
pub mod soak;
pub mod terminal;
pub mod tree;
pub mod u_root;
pub mod user;
pub mod vm;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// The repository's root.
pub fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Where `make` puts what it builds, or the directory that `E2E_OUT` names.
pub fn out() -> PathBuf {
    std::env::var_os("E2E_OUT").map_or_else(|| root().join("out/x86_64"), PathBuf::from)
}

/// Where `scripts/deps` keeps what is in no package.
pub fn cache() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(std::env::home_dir()?.join(".cache")));
    Ok(cache.context("no home directory")?.join("cpu-appliance"))
}

/// Ask again and again until there is an answer; the last thing asked about is in the error.
pub fn wait_until<T>(
    what: &str,
    patience: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("waited {patience:?} in vain: {what}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Whether a process of this computer has this in its arguments.
pub fn is_running(mark: &str) -> Result<bool> {
    for entry in std::fs::read_dir("/proc")? {
        // It may just have ended.
        let line = std::fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        // Not a shell, whose script has the mark too.
        let mut arguments = line.split(|byte| *byte == 0);
        if arguments.any(|argument| argument == mark.as_bytes()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Waits until what counts up has begun, and has then stood still for a second.
pub fn stands_still(count: &AtomicUsize) {
    let (mut before, mut quiet) = (0, 0);
    while quiet < 20 {
        std::thread::sleep(Duration::from_millis(50));
        let now = count.load(Ordering::Relaxed);
        quiet = if now > 0 && now == before {
            quiet + 1
        } else {
            0
        };
        before = now;
    }
}
