//! The private mount namespace of a session, with its own `/tmp` and the machine's root on `/tmp/local`.

pub(super) mod isolated;
pub(super) mod root;

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use cpu_proto::{LOCAL_POINT, MOUNT_POINT};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::mount::{NONE, mount_error};
use crate::memory;

/// Leaves the machine's mount namespace. What is mounted from here on is not seen outside, and goes with the last
/// process of the session.
pub(super) fn make_private() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| match errno {
        Errno::EPERM => anyhow!("cannot make a private mount namespace: cpud must run as root"),
        _ => anyhow!("cannot make a private mount namespace: {}", errno.desc()),
    })?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).map_err(|errno| match errno
    {
        Errno::EINVAL => anyhow!(
            "cannot make the mounts beneath / private: / is not a mount point, as in a chroot; \
             run cpud in a container or bind the directory on itself first"
        ),
        _ => anyhow!("cannot make the mounts beneath / private: {}", errno.desc()),
    })
}

/// The part of the available memory that the /tmp of a session may take. Two sessions that start at the same time and fill theirs
/// leave half of it for others.
const TMP_PERCENT: u64 = 25;

/// Mounts a new tmpfs on /tmp, and on /tmp/local the machine's root without the mounts beneath it; for an isolated session, of
/// the user and group `owner`, the root that it has.
pub(super) fn make_tmp(owner: u32) -> Result<()> {
    let tmp = Path::new("/tmp");
    if !tmp.is_dir() {
        fs::create_dir(tmp)
            .context("cannot make /tmp, on which the session's files are mounted")?;
    }
    mount_tmpfs(tmp, "mode=1777", TMP_PERCENT, owner)?;
    for point in [MOUNT_POINT, LOCAL_POINT] {
        fs::create_dir(point)
            .and_then(|()| chown(point, Some(owner), Some(owner)))
            .with_context(|| format!("cannot make {point}"))?;
    }
    mount(Some("/"), LOCAL_POINT, NONE, MsFlags::MS_BIND, NONE)
        .map_err(|errno| anyhow!("cannot bind / on {LOCAL_POINT}: {}", errno.desc()))
}

/// Mounts a new tmpfs that belongs to the user and group `owner` and may take this part of the available memory.
fn mount_tmpfs(at: &Path, mode: &str, percent: u64, owner: u32) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let mut options = format!("{mode},uid={owner},gid={owner}");
    if let Some(available) = memory::available() {
        let size = available / 100 * percent;
        // A file takes about a kilobyte besides its contents. (0 would mean no limit.)
        let files = (size / 4096).max(1024);
        options = format!("{options},size={},nr_inodes={files}", size.max(4096));
    }
    let options = Some(options.as_str());
    mount(Some("cpu"), at, Some("tmpfs"), flags, options)
        .map_err(|errno| mount_error("tmpfs", at, errno))
}
