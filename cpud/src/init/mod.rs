//! The init role: PID 1 of the appliance, or `cpud -init` as an ordinary process, which then
//! neither mounts nor reboots anything. One thread, one loop, and it never ends by itself:
//!
//! 1. signals blocked, so that none is lost and none kills;
//! 2. a pipe for what is said ([`crate::console`]), the boot file systems ([`mounts`]), the host name;
//! 3. forever: reap whatever died, start what is due ([`children`]), sleep until a signal comes.
//!    There is a time-out only while a dead child waits for its restart.
//! 4. On a signal to end, everything is ended in order ([`power`]).

mod children;
mod mounts;
mod power;

use std::ffi::OsString;
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::cmdline;
use crate::console::{pipe_output, say};
use children::Children;
use power::Shutdown;

/// What a machine is called that nobody gives a name: as `CONFIG_DEFAULT_HOSTNAME` of our kernels.
pub(crate) const HOST_NAME: &str = "cpu";

/// Runs the role. `args` are for the server and the network; returns only if not PID 1.
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let is_pid_1 = nix::unistd::getpid().as_raw() == 1;
    // Blocked, not ignored: PID 1 gets no signal that it has no handler for, but a signalfd reads
    // any that is blocked.
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
    let mut children = Children::new(arguments(args, is_pid_1), is_pid_1);
    let signals = AllSignals::new();
    loop {
        let now = Instant::now();
        children.reap(now);
        children.start_due(now);
        let Some(signal) = signals.wait(children.next_start()) else {
            continue;
        };
        let Some(end) = Shutdown::from_signal(signal, is_pid_1) else {
            continue;
        };
        say(format_args!("{signal}: {end}"));
        power::kill_all(&mut children, &signals, is_pid_1);
        if !is_pid_1 {
            return ExitCode::SUCCESS;
        }
        // PID 1 can't end: if the machine goes on, so do the children.
        say(format_args!("cannot {end}: {}", end.reboot().desc()));
    }
}

/// What makes a machine of a kernel. Nothing here is fatal: a network and a server without one of
/// these are better than a kernel panic.
fn boot() {
    // Whatever is said from here on, the console role tells. Where there is no pipe there is nothing.
    let _ = pipe_output();
    std::panic::set_hook(Box::new(|panic| {
        // Nobody else is left to tell: the kernel panics when its init ends.
        let _ = std::fs::write("/dev/kmsg", format!("<2>cpud: {panic}"));
    }));
    mounts::mount_all();
    say(format_args!(
        "version {} is init",
        env!("CARGO_PKG_VERSION")
    ));
    let given = cmdline::values(&cmdline::read(), "hostname").pop();
    // What the kernel calls itself if nobody else does.
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

/// The flags for the server. The kernel hands PID 1 every word of its command line that it does
/// not know, so flags are what begins with the first dash.
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

/// All signals, by poll(2).
struct AllSignals(Option<SignalFd>);

impl AllSignals {
    fn new() -> Self {
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let fd = SignalFd::with_flags(&SigSet::all(), flags);
        Self(
            fd.inspect_err(|errno| say(format_args!("cannot make a signalfd: {}", errno.desc())))
                .ok(),
        )
    }

    /// Sleeps until a signal comes, or until `deadline`. Several of one kind may be one.
    fn wait(&self, deadline: Option<Instant>) -> Option<Signal> {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let Some(fd) = &self.0 else {
            // Only a kernel without CONFIG_SIGNALFD comes here; it can still be served.
            std::thread::sleep(left.unwrap_or(children::MAX_DELAY));
            return None;
        };
        // A millisecond more, since the rest is cut off and would make the loop spin.
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(Errno::EINTR) => None,
            Ok(_) => {
                let info = fd.read_signal().ok().flatten()?;
                Signal::try_from(info.ssi_signo.cast_signed()).ok()
            }
            Err(errno) => {
                say(format_args!("cannot poll: {}", errno.desc()));
                std::thread::sleep(children::MAX_DELAY);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_words_of_the_kernels_command_line_are_no_flags() {
        let args = ["splash", "3", "-port", "22"].map(OsString::from);
        assert_eq!(arguments(&args, true), ["-port", "22"]);
        assert_eq!(arguments(&args[..2], true), [""; 0]);
        assert_eq!(arguments(&args, false), args);
    }
}
