//! The init: PID 1 of a machine, or `cpud -init` as an ordinary process, which neither mounts nor reboots anything.
//! One thread, one loop, which never ends by itself:
//!
//! 1. block all signals, so that none is lost and none kills this process;
//! 2. make the pipe of the log ([`crate::console`]), mount the boot file systems ([`mounts`]), set limits
//!    ([`limits`]) and the host name;
//! 3. for ever: reap dead processes, start the children that are due ([`children`]), sleep until something happens
//!    ([`events`]). The sleep has a time-out only while a dead child waits for its restart.
//! 4. On a signal or a request to end, end all processes in order ([`power`]).

mod children;
mod events;
mod initctl;
pub(crate) mod limits;
mod mounts;
mod power;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Instant;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::SigSet;

use crate::cmdline;
use crate::console::{pipe_output, say};
use crate::flags;
use crate::ssh::host_key::{self, PrivateHostKey};
use children::Children;
use events::Events;
use power::Shutdown;

/// The host name of a machine that nobody has named, as in `CONFIG_DEFAULT_HOSTNAME` of our kernels.
pub(crate) const HOST_NAME: &str = "cpu";

/// Runs the init. `args` are the flags for its children. Returns only if it is not PID 1.
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let is_pid_1 = nix::unistd::getpid().as_raw() == 1;
    // Blocked, not ignored: the kernel discards signals to PID 1 that have no handler, but a signalfd reads
    // those that are blocked.
    if let Err(errno) = SigSet::all().thread_set_mask() {
        say(format_args!("cannot block signals: {}", errno.desc()));
    }
    if is_pid_1 {
        boot();
    } else if let Err(errno) = nix::sys::prctl::set_child_subreaper(true) {
        say(format_args!(
            "cannot become child subreaper: {}",
            errno.desc()
        ));
    }
    let flags = arguments(args, is_pid_1);
    let host_key = if is_pid_1 {
        take_host_key(&flags)
    } else {
        None
    };
    let mut children = Children::new(flags, host_key, is_pid_1);
    let events = Events::new(is_pid_1);
    loop {
        let now = Instant::now();
        children.reap(now);
        children.start_due(now);
        let Some(event) = events.wait(children.next_start()) else {
            continue;
        };
        let Some(end) = Shutdown::from_event(event, is_pid_1) else {
            continue;
        };
        say(format_args!("{event}: {end}"));
        power::kill_all(&mut children, &events, is_pid_1);
        if !is_pid_1 {
            return ExitCode::SUCCESS;
        }
        // PID 1 can't end. If the machine runs on, so do the children.
        say(format_args!("cannot {end}: {}", end.reboot().desc()));
    }
}

/// Sets up the machine. No failure here is fatal: a network and a server without one of these things are better than
/// a kernel panic.
fn boot() {
    // From here on the console role writes what is logged. Without a pipe it cannot be helped.
    let _ = pipe_output();
    std::panic::set_hook(Box::new(|panic| {
        // The kernel panics when its init ends, so only its own log will be seen.
        let _ = std::fs::write("/dev/kmsg", format!("<2>cpud: {panic}"));
    }));
    mounts::restrict_root();
    mounts::mount_all();
    limits::set();
    say(format_args!(
        "version {} is init",
        env!("CARGO_PKG_VERSION")
    ));
    let given = cmdline::values(&cmdline::read(), "hostname").pop();
    // The kernel's default, if it has been configured with none.
    let is_nameless = nix::unistd::gethostname().is_ok_and(|name| name == "(none)");
    if let Some(name) = given.or_else(|| is_nameless.then(|| HOST_NAME.to_owned()))
        && let Err(errno) = nix::unistd::sethostname(&name)
    {
        say(format_args!(
            "cannot set the host name {name:?}: {}",
            errno.desc()
        ));
    }
    // The kernel's hard limit for its first process, 4096, is too low for a file server's clients.
    if let Err(errno) = setrlimit(Resource::RLIMIT_NOFILE, 1024, 1 << 19) {
        say(format_args!(
            "cannot raise the limit of open files: {}",
            errno.desc()
        ));
    }
    if let Err(errno) = nix::sys::reboot::set_cad_enabled(false) {
        say(format_args!(
            "cannot take over Ctrl-Alt-Del: {}",
            errno.desc()
        ));
    }
}

/// The flags for the children. The kernel passes to PID 1 every parameter of its command line that it does not know,
/// so the flags begin with the first one that has a dash.
fn arguments(args: &[OsString], is_pid_1: bool) -> Vec<OsString> {
    let is_flag = |arg: &&OsString| arg.as_encoded_bytes().starts_with(b"-");
    let begin = if is_pid_1 {
        args.iter()
            .position(|arg| is_flag(&arg))
            .unwrap_or(args.len())
    } else {
        0
    };
    args.iter().skip(begin).cloned().collect()
}

/// Takes the host key out of the initramfs. The server gets it from here each time that it is started.
fn take_host_key(flags: &[OsString]) -> Option<PrivateHostKey> {
    host_key::take(&flags::parse_os(flags).ok()?.host_key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_parameters_of_the_kernel_are_no_flags() {
        let args = ["splash", "3", "-port", "22"].map(OsString::from);
        assert_eq!(arguments(&args, true), ["-port", "22"]);
        assert_eq!(arguments(&args[..2], true), [""; 0]);
        assert_eq!(arguments(&args, false), args);
    }
}
