//! The way of a session process into the isolation of its key ([`crate::isolation`]), in two steps: [`go_on_inside`] while it
//! may still mount what the machine's root may, and [`leave_privileges`] before it does anything that the client asks for.
//!
//! Only a child can be in a PID namespace, so the session goes on in one. Its parent waits outside, and keeps the isolation
//! alive.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use cpu_proto::Credentials;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{ForkResult, Gid, Pid, Uid, fchown, setgroups, setresgid, setresuid};

use super::cgroup::Cgroup;
use super::inherit;
use super::mount::NONE;
use super::spec::IsolationSpec;
use crate::init::limits;
use crate::isolation::{Isolation, NAMESPACES};
use crate::poll::timeout;
use crate::sys::{self, Ended};

/// How long a session may take to end when its client has gone: longer than it gives its commands.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Takes over the descriptors that the arguments name: the isolation, and the devpts for the session.
pub(super) fn take_over(spec: &IsolationSpec) -> Result<(Isolation, OwnedFd)> {
    let descriptor = |fd: RawFd| inherit("--isolate", fd);
    let isolation = Isolation {
        root: spec.root,
        holder: descriptor(spec.holder)?,
        life: descriptor(spec.life)?,
    };
    Ok((isolation, descriptor(spec.devpts)?))
}

/// Checks that a user whom the client names is in the namespace.
pub(super) fn check_user(user: &Credentials) -> Result<()> {
    let all = [user.uid, user.gid]
        .into_iter()
        .chain(user.groups.iter().copied());
    let count = Isolation::ids(0).count;
    let beyond = all.filter(|id| *id >= count).max();
    ensure!(
        beyond.is_none(),
        "-user me: this session is isolated, and has no user or group {} (only those below {count})",
        beyond.unwrap_or_default()
    );
    Ok(())
}

/// Goes on in a child that is in the PID namespace and has a /proc of its own. In the parent, the result is the child.
pub(super) fn go_on_inside(isolation: &Isolation) -> Result<Option<Pid>> {
    setns(&isolation.holder, CloneFlags::CLONE_NEWPID)
        .map_err(|errno| anyhow!("cannot enter the PID namespace: {}", errno.desc()))?;
    let forked = sys::fork().map_err(|errno| anyhow!("cannot fork: {}", errno.desc()))?;
    if let ForkResult::Parent { child } = forked {
        return Ok(Some(child));
    }
    nix::sys::prctl::set_child_subreaper(true).context("cannot become child subreaper")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, NONE)
        .map_err(|errno| anyhow!("cannot mount /proc: {}", errno.desc()))?;
    Ok(None)
}

/// Waits for the child. When the client has gone, which is the end of the control socket, the child ends by itself, unless the
/// session's root has stopped it (SIGSTOP). Then it is killed, with what is in its control group. SIGCHLD is blocked.
pub(super) fn wait_for(child: Pid, control: &OwnedFd, cgroup: Option<&Cgroup>) -> Result<Ended> {
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&SigSet::from(Signal::SIGCHLD), flags)
        .context("cannot make a signalfd")?;
    let mut kill_at: Option<Instant> = None;
    loop {
        while let Ok(Some(_)) = signals.read_signal() {}
        while let Some((pid, ended)) = sys::reap().context("cannot wait for the session")? {
            if pid == child {
                return Ok(ended);
            }
        }
        if kill_at.is_some_and(|at| at <= Instant::now()) {
            if let Some(cgroup) = cgroup {
                cgroup.kill();
            }
            let _ = kill(child, Signal::SIGKILL);
            kill_at = Some(Instant::now() + END_TIMEOUT);
        }
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if kill_at.is_none() {
            // The end alone: what is to be read is for the child.
            fds.push(PollFd::new(control.as_fd(), PollFlags::empty()));
        }
        match poll(&mut fds, timeout(kill_at)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("cannot poll"),
        }
        let events = fds.get(1).and_then(PollFd::revents);
        if events.is_some_and(|events| !events.is_empty()) {
            kill_at = Some(Instant::now() + END_TIMEOUT);
        }
    }
}

/// Becomes root in the user namespace, and nobody outside. The mounts that there are can be seen and not undone from here on
/// (mount_namespaces(7), "Restrictions on mount namespaces"); others can be made.
pub(super) fn leave_privileges(isolation: &Isolation) -> Result<()> {
    limits::reset_oom_score();
    // So that /dev/stdout and the like can be opened.
    for stream in [
        io::stdin().as_fd(),
        io::stdout().as_fd(),
        io::stderr().as_fd(),
    ] {
        fchown(stream, Some(Uid::from_raw(isolation.root)), None)
            .context("cannot give the standard streams to the session's root")?;
    }
    let leave = || -> nix::Result<()> {
        sys::leave_keyring()?;
        setns(&isolation.holder, NAMESPACES - CloneFlags::CLONE_NEWPID)?;
        setgroups(&[])?;
        let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
        // It has descriptors that are the machine's, such as those of its control group. A change of the user undoes this.
        nix::sys::prctl::set_dumpable(false)?;
        unshare(CloneFlags::CLONE_NEWNS)
    };
    leave().map_err(|errno| anyhow!("cannot enter the user namespace: {}", errno.desc()))
}
