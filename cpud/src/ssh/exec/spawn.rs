//! What the session process inherits: descriptors, and pipes or a terminal.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl, openat};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::Mode;
use nix::sys::termios::{SetArg, tcgetattr, tcsetattr};
use tokio::process::Child;

use super::TerminalRequest;
use crate::isolation::Isolation;
use crate::session::IsolationSpec;
use crate::ssh::fd::Fd;
use crate::sys;

/// A pair of stream sockets, both closed on exec.
pub(in crate::ssh) fn pair() -> nix::Result<(OwnedFd, OwnedFd)> {
    let (family, kind) = (AddressFamily::Unix, SockType::Stream);
    socketpair(family, kind, None, SockFlag::SOCK_CLOEXEC)
}

/// Makes a descriptor survive the next exec. The result is its number.
pub(super) fn inherit(fd: &OwnedFd) -> Result<RawFd> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))
        .context("cannot pass a descriptor to a session")?;
    Ok(fd.as_raw_fd())
}

/// What a session process inherits to be in an isolation.
pub(super) struct InheritedIsolation {
    pub(super) holder: OwnedFd,
    pub(super) life: OwnedFd,
    /// A devpts of its own, which the session mounts.
    pub(super) devpts: OwnedFd,
}

/// The group of terminals, as in a machine's own devpts.
const TTY_GROUP: u32 = 5;

/// How many terminals an isolated session may have. The kernel has room for 4096 (`kernel.pty.max`), of all sessions.
const MAX_TERMINALS: u32 = 256;

/// Copies of an isolation's descriptors, and a devpts.
pub(super) fn isolate(isolation: &Isolation) -> io::Result<InheritedIsolation> {
    Ok(InheritedIsolation {
        holder: isolation.holder.try_clone()?,
        life: isolation.life.try_clone()?,
        devpts: sys::new_devpts(isolation.root, isolation.root + TTY_GROUP, MAX_TERMINALS)?,
    })
}

impl InheritedIsolation {
    /// Makes them survive the next exec.
    pub(super) fn spec(&self, root: u32) -> Result<IsolationSpec> {
        Ok(IsolationSpec {
            root,
            holder: inherit(&self.holder)?,
            life: inherit(&self.life)?,
            devpts: inherit(&self.devpts)?,
        })
    }
}

/// Opens a pseudo-terminal, in the machine's devpts or this one: master and slave, both closed on exec.
pub(super) fn open_terminal(
    request: &TerminalRequest,
    devpts: Option<&OwnedFd>,
) -> Result<(OwnedFd, OwnedFd)> {
    let (master, slave) = match devpts {
        None => {
            let pty = nix::pty::openpty(None, None)
                .context("cannot make a terminal (is devpts mounted on /dev/pts?)")?;
            for end in [&pty.master, &pty.slave] {
                fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
            }
            (pty.master, pty.slave)
        }
        Some(devpts) => {
            let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
            let master = openat(devpts, "ptmx", flags, Mode::empty());
            let master = master.context("cannot make a terminal")?;
            let slave = sys::open_slave(master.as_fd()).context("cannot open a terminal")?;
            (master, slave)
        }
    };
    sys::set_window_size(master.as_fd(), request.size)?;
    let mut termios = tcgetattr(&slave)?;
    cpu_ssh::modes::apply(&request.modes, &mut termios);
    tcsetattr(&slave, SetArg::TCSANOW, &termios).context("cannot set the terminal's modes")?;
    Ok((master, slave))
}

pub(super) fn take_pipes(child: &mut Child) -> Result<(Arc<Fd>, Arc<Fd>, Arc<Fd>)> {
    let missing = "a pipe of the session is missing";
    let stdin = child.stdin.take().context(missing)?.into_owned_fd()?;
    let stdout = child.stdout.take().context(missing)?.into_owned_fd()?;
    let stderr = child.stderr.take().context(missing)?.into_owned_fd()?;
    Ok((
        Arc::new(Fd::new(stdin)?),
        Arc::new(Fd::new(stdout)?),
        Arc::new(Fd::new(stderr)?),
    ))
}
