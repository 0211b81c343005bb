//! Settings of a process that serves files, made once for all its threads.

use nix::sys::signal::{SigSet, Signal};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit};

/// The limits of the process.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The number of descriptors. A fid takes one for its file, one for each directory that it was walked through, unless
    /// another fid has that already, and one more when it is open. An owner of locks takes one.
    pub descriptors: usize,
}

/// Raises the limit of open files to the hard limit. Clears the umask, since the peer's kernel has applied that of its
/// process already; files that this process creates for itself need explicit modes from then on. Blocks `SIGXFSZ` in this
/// thread and those that it starts later, so that a write beyond the limit of file sizes fails with `EFBIG` instead of
/// killing the process.
///
/// Programs that are started later would inherit all this.
pub fn prepare_process() -> Limits {
    rustix::process::umask(Mode::empty());
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGXFSZ);
    // Cannot fail for this signal.
    let _ = blocked.thread_block();
    let limit = rustix::process::getrlimit(Resource::Nofile);
    // If that fails, the old limit stays.
    let _ = rustix::process::setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
    let current = rustix::process::getrlimit(Resource::Nofile).current;
    Limits {
        descriptors: current.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX)),
    }
}
