//! The isolation role, started by the server as
//!
//! ```text
//! cpud isolation FINGERPRINT ROOT
//! ```
//!
//! with a socket as standard input. It makes the namespaces and their first process, sends what sessions need to enter them
//! ([`super::Isolation`]), and ends. The first process stays: it reaps orphans, and ends when all sessions have ended, upon which
//! the kernel kills whatever is left in the PID namespace.
//!
//! No session can reach into that process, or signal it: it is not dumpable (`PR_SET_DUMPABLE`), and it has been executed
//! outside the user namespace, so that no capability inside overrides that.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Gid, Uid, seteuid, setgroups, setresgid, setresuid};

use super::{IDS, Isolation, NAMESPACES};
use crate::console::say;
use crate::sys;

/// Runs the role. `args` are those after its name.
pub(crate) fn hold(args: impl Iterator<Item = OsString>) -> ExitCode {
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("cannot isolate sessions: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: impl Iterator<Item = OsString>) -> Result<()> {
    let root: u32 = args
        .last()
        .and_then(|root| root.to_str()?.parse().ok())
        .context("a number is missing")?;
    let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe");
    let (start, go) = pipe()?;
    let (alive, life) = pipe()?;
    // The namespaces are this user's, so that what the kernel counts for the owner of namespaces, such as those in them and
    // their inotify instances, is not counted for the machine's root, whose limit all isolations would share.
    sys::keep_capabilities();
    let owner = Uid::from_raw(root);
    seteuid(owner).map_err(|errno| match errno {
        Errno::EINVAL => {
            anyhow!("there is no user {root}: cpud is in a user namespace with fewer users")
        }
        _ => anyhow!("cannot become user {root}: {}", errno.desc()),
    })?;
    let forked = sys::fork_into_namespaces(NAMESPACES).map_err(|errno| match errno {
        Errno::EINVAL => {
            anyhow!("the kernel lacks namespaces (CONFIG_USER_NS, CONFIG_PID_NS, CONFIG_IPC_NS)")
        }
        Errno::ENOSPC => {
            anyhow!("there are too many namespaces (sysctl user.max_user_namespaces)")
        }
        _ => anyhow!("cannot make namespaces: {}", errno.desc()),
    })?;
    let Some((pid, holder)) = forked else {
        drop((go, life));
        return be_first(start, &alive);
    };
    seteuid(Uid::from_raw(0)).context("cannot become root again")?;
    for map in ["uid_map", "gid_map"] {
        let map = format!("/proc/{pid}/{map}");
        fs::write(&map, format!("0 {root} {IDS}"))
            .with_context(|| format!("cannot write {map}"))?;
    }
    drop(start);
    let mut go = File::from(go);
    go.write_all(b"g")?;
    // It closes its end when no session can reach into it any more.
    let mut closed = [PollFd::new(go.as_fd(), PollFlags::empty())];
    poll(&mut closed, PollTimeout::NONE).context("cannot poll")?;
    let isolation = Isolation { root, holder, life };
    isolation
        .send(io::stdin().as_fd())
        .context("the server has gone")
}

/// The first process of the PID namespace. Returns when all sessions have ended.
fn be_first(start: OwnedFd, alive: &OwnedFd) -> Result<()> {
    nix::sys::prctl::set_dumpable(false).context("cannot hide this process")?;
    // The parent writes when the users are mapped. If they cannot be, it says so.
    let mut start = File::from(start);
    if start.read(&mut [0])? == 0 {
        return Ok(());
    }
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.context("cannot open /dev/null")?;
    let become_root = || -> nix::Result<()> {
        nix::unistd::dup2_stdin(&null)?;
        nix::unistd::dup2_stdout(&null)?;
        nix::unistd::chdir("/")?;
        setgroups(&[])?;
        let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)
    };
    become_root().context("cannot become root in the namespaces")?;
    // A change of the user has put fs.suid_dumpable in its place, which may be 1 (proc_sys_fs(5)).
    nix::sys::prctl::set_dumpable(false).context("cannot hide this process")?;
    drop(start);
    SigSet::all().thread_set_mask()?;
    let ended = SignalFd::with_flags(
        &SigSet::from(Signal::SIGCHLD),
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?;
    loop {
        while let Ok(Some(_)) = ended.read_signal() {}
        while matches!(sys::reap(), Ok(Some(_))) {}
        let mut fds = [
            PollFd::new(alive.as_fd(), PollFlags::empty()),
            PollFd::new(ended.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("cannot poll"),
        }
        // Nobody writes; what is reported is the end.
        if fds[0].revents().is_some_and(|events| !events.is_empty()) {
            return Ok(());
        }
    }
}
