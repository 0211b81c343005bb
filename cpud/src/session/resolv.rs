//! Name servers in a session whose /etc is the client's: the machine's resolv.conf is bound over the client's.
//!
//! The client's file is right only at the client: it names `127.0.0.53`, or is a link to a file of systemd-resolved,
//! NetworkManager or resolvconf in /run, which is the machine's here. A symlink can be mounted on like a file, so a
//! target for it is not needed, and nothing is changed at the client.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;

use super::mount::NONE;
use crate::console::say;

const FILE: &str = "/etc/resolv.conf";

/// The machine's resolv.conf, if it has one.
pub(super) struct ResolvConfBind(Option<OwnedFd>);

impl ResolvConfBind {
    /// Opens the file before the session mounts anything.
    pub(super) fn open() -> Self {
        Self(open(FILE, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok())
    }

    /// Where it is to be mounted, if there is one.
    pub(super) fn point(&self) -> Option<&'static Path> {
        self.0.is_some().then(|| Path::new(FILE))
    }

    /// Mounts it, if one of the mount points `mounted` covers /etc and none is the file itself, which would be the
    /// user's wish. The kernel need not ask the client for the mount point if it was looked up before and is held.
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
    // A link is not followed, since it is mounted on itself.
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
        // The client has no such file.
        Ok(()) | Err(Errno::ENOENT | Errno::ENOTDIR) => {}
        Err(errno) => say(format_args!(
            "cannot bind the machine's {FILE} over the client's: {}",
            errno.desc()
        )),
    }
}
