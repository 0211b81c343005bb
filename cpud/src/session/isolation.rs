//! The way of a session process into the isolation of its key ([`crate::isolation`]), in two steps: [`go_on_inside`] while it
//! may still mount what the machine's root may, and [`leave_privileges`] before it does anything that the client asks for.
//!
//! Only a child can be in a PID namespace, so the session goes on in one. Its parent waits outside, and keeps the isolation
//! alive.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd, RawFd};

use anyhow::{Context as _, Result, anyhow, ensure};
use cpu_proto::Credentials;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{ForkResult, Gid, Pid, Uid, fchown, setgroups, setresgid, setresuid};

use super::inherit;
use super::mount::NONE;
use super::spec::IsolationSpec;
use crate::init::limits;
use crate::isolation::{Isolation, NAMESPACES};
use crate::sys::{self, Ended};

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

/// Waits for the child. SIGCHLD is blocked.
pub(super) fn wait_for(child: Pid) -> Result<Ended> {
    loop {
        match sys::reap().context("cannot wait for the session")? {
            Some((pid, ended)) if pid == child => return Ok(ended),
            Some(_) => {}
            None => drop(SigSet::from(Signal::SIGCHLD).wait()),
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
        unshare(CloneFlags::CLONE_NEWNS)?;
        // It has descriptors that are the machine's, such as those of its control group.
        nix::sys::prctl::set_dumpable(false)
    };
    leave().map_err(|errno| anyhow!("cannot enter the user namespace: {}", errno.desc()))
}
