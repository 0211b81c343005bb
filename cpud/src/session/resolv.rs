//! Name servers in a session whose /etc is the client's.
//!
//! What that says of them holds for the client's place: `127.0.0.53`, or a link to what systemd-resolved, NetworkManager or
//! resolvconf has written in /run, which is the machine's here. So the machine's file is bound over it. A link can be
//! mounted on like a file, so nothing is made for it to lead to, and nothing changes at the client.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;

use super::mount::NONE;
use crate::console::say;

const FILE: &str = "/etc/resolv.conf";

/// The machine's file.
pub(super) struct ResolvConfBind(Option<OwnedFd>);

impl ResolvConfBind {
    /// Opens it before the session mounts anything; a machine that knows no name servers has none.
    pub(super) fn open() -> Self {
        Self(open(FILE, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok())
    }

    /// Where it is to be mounted, if there is one.
    pub(super) fn point(&self) -> Option<&'static Path> {
        self.0.is_some().then(|| Path::new(FILE))
    }

    /// Mounts it if one of the mounts on `mounted` has put another /etc in its place. One that names the file itself is
    /// what somebody wants. The kernel knows the point by then, if it was looked up and is held.
    pub(super) fn mount(&self, mounted: &[PathBuf]) {
        let is_on = |place: &str| mounted.iter().any(|target| target == Path::new(place));
        if let Some(machines) = &self.0
            && (is_on("/etc") || is_on("/"))
            && !is_on(FILE)
        {
            mount_over(machines);
        }
    }
}

fn mount_over(machines: &OwnedFd) {
    // Not followed: the link itself is what is mounted on.
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let path = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mounted = open(FILE, flags, Mode::empty()).and_then(|theirs| {
        let (machines, theirs) = (path(machines), path(&theirs));
        mount(
            Some(machines.as_str()),
            theirs.as_str(),
            NONE,
            MsFlags::MS_BIND,
            NONE,
        )
    });
    match mounted {
        // An /etc without one.
        Ok(()) | Err(Errno::ENOENT | Errno::ENOTDIR) => {}
        Err(errno) => say(format_args!(
            "cannot bind the machine's {FILE} over the client's: {}",
            errno.desc()
        )),
    }
}
