//! What a process that serves files sets once, for all its threads.

use nix::sys::signal::{SigSet, Signal};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit};

/// What the process may now do.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Descriptors at once. A fid on a file of its own takes one, and one for each directory that it was walked
    /// through and that no other fid has; an open one takes one more, and so does an owner of locks.
    pub descriptors: usize,
}

/// Raises the limit of open files to the hard limit, and clears the umask: the peer's kernel has
/// applied its process's umask already, and ours would take bits that were asked for. Files that
/// the process makes for itself need explicit modes from here on. A write beyond the limit of a file's size
/// is an error (`EFBIG`) and not the end of the process: threads that are started from here on block `SIGXFSZ`.
///
/// Programs that are started later would inherit all this.
pub fn prepare_process() -> Limits {
    rustix::process::umask(Mode::empty());
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGXFSZ);
    // It is a signal, so it can be blocked.
    let _ = blocked.thread_block();
    let limit = rustix::process::getrlimit(Resource::Nofile);
    // Where it can't be raised, the old one holds.
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
