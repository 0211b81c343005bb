//! What keeps the machine up when a session takes all there is: cpud is the last to be killed for memory and the first to run,
//! the root file system leaves memory for the rest, and the control groups of sessions may have limits.

use std::fs;

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::statfs;

use crate::console::say;
use crate::memory;
use crate::sys;

/// `oom_score_adj` of cpud's own processes (proc_pid_oom_score_adj(5)). Commands get 0 again. Not -1000: a cpud that leaks can
/// be restarted, and a machine without memory cannot.
const OOM_SCORE_ADJ: &str = "-900";

/// The nice value with which cpud accepts connections, and starts and ends sessions, so that it ends one that runs as many
/// processes as it can.
const NICE: i32 = -20;

/// The part of memory that sessions may add to the root file system.
const ROOT_PERCENT: u64 = 10;

/// Controllers of the sessions' groups. Those that the kernel lacks have no effect.
const CONTROLLERS: [&str; 3] = ["+pids", "+cpu", "+memory"];

/// Sets the limits. To be called when the file systems are mounted. A limit that the kernel does not have is not an error.
pub(super) fn set() {
    if let Err(error) = fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ) {
        say(format_args!("cannot set oom_score_adj: {error}"));
    }
    if let Err(errno) = sys::set_nice(NICE) {
        say(format_args!("cannot set the nice value: {}", errno.desc()));
    }
    for controller in CONTROLLERS {
        let _ = fs::write("/sys/fs/cgroup/cgroup.subtree_control", controller);
    }
    limit_root();
}

/// Takes back what [`set`] has set for this process, for a command. A daemon that somebody else has started stays as it is.
pub(crate) fn reset() {
    stop_preferring();
    reset_oom_score();
}

/// Takes back `oom_score_adj` only.
pub(crate) fn reset_oom_score() {
    let own = fs::read_to_string("/proc/self/oom_score_adj");
    if own.is_ok_and(|own| own.trim() == OOM_SCORE_ADJ) {
        let _ = fs::write("/proc/self/oom_score_adj", "0");
    }
}

/// Takes back the nice value only.
pub(crate) fn stop_preferring() {
    if sys::nice() == NICE {
        let _ = sys::set_nice(0);
    }
}

/// Limits the root file system, if it is the tmpfs that the kernel has unpacked the initramfs to: half of memory by default.
fn limit_root() {
    let (Ok(root), Some(total)) = (statfs("/"), memory::total()) else {
        return;
    };
    let block = u64::try_from(root.block_size()).unwrap_or(4096);
    let used = root.blocks().saturating_sub(root.blocks_free()) * block;
    let size = format!("size={}", used + total / 100 * ROOT_PERCENT);
    // A ramfs ignores this, and any other file system has its own size.
    let none = None::<&str>;
    let _ = mount(none, "/", none, MsFlags::MS_REMOUNT, Some(size.as_str()));
}
