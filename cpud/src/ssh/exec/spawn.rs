//! What the session process inherits: descriptors, and pipes or a terminal.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::termios::{SetArg, tcgetattr, tcsetattr};
use tokio::process::Child;

use super::TerminalRequest;
use crate::ssh::fd::Fd;

/// A pair of stream sockets, both closed on exec.
pub(super) fn pair() -> nix::Result<(OwnedFd, OwnedFd)> {
    let (family, kind) = (AddressFamily::Unix, SockType::Stream);
    socketpair(family, kind, None, SockFlag::SOCK_CLOEXEC)
}

/// Makes a descriptor survive the next exec. The result is its number.
pub(super) fn inherit(fd: &OwnedFd) -> Result<RawFd> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))
        .context("cannot pass a descriptor to a session")?;
    Ok(fd.as_raw_fd())
}

/// Opens a pseudo-terminal: master and slave, both closed on exec.
pub(super) fn open_terminal(request: &TerminalRequest) -> Result<(OwnedFd, OwnedFd)> {
    let pty = nix::pty::openpty(&request.size, None)
        .context("cannot make a terminal (is devpts mounted on /dev/pts?)")?;
    for end in [&pty.master, &pty.slave] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    let mut termios = tcgetattr(&pty.slave)?;
    cpu_ssh::modes::apply(&request.modes, &mut termios);
    tcsetattr(&pty.slave, SetArg::TCSANOW, &termios).context("cannot set the terminal's modes")?;
    Ok((pty.master, pty.slave))
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
