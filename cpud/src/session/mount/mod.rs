//! What a session mounts: the client's files, by [`v9fs`] or FUSE, on `/tmp/cpu`, and in further cache modes on `/tmp/cpu-MODE`;
//! and the lines of `CPU_FSTAB` ([`fstab`]).

pub(super) mod fstab;
pub(super) mod v9fs;

use std::path::Path;

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result, anyhow, bail};
use cpu_proto::{CacheMode, MAX_MSIZE, MOUNT_POINT};
use nix::errno::Errno;
use nix::sys::stat::{major, minor, stat};

use super::client_tree::ClientTree;
use crate::sys;

/// No source, type or data for mount(2), with the type that nix needs.
pub(super) const NONE: Option<&str> = None;

/// Mounts the client's files once in each mode, the first on [`MOUNT_POINT`].
pub(super) fn mount_files(
    files: Vec<(CacheMode, OwnedFd)>,
    mount: impl Fn(OwnedFd, CacheMode, &str) -> Result<()>,
) -> Result<Vec<ClientTree>> {
    let first = files.first().map(|(cache, _)| *cache);
    let mut clients: Vec<ClientTree> = Vec::new();
    for (cache, files) in files {
        let point = cache.mount_point(first.unwrap_or_default());
        if clients.iter().any(|client| client.point == point) {
            bail!("the client asks for two mounts of its files in the same mode, cache={cache}");
        }
        if point != MOUNT_POINT {
            fs::create_dir(&point).with_context(|| format!("cannot make {point}"))?;
        }
        mount(files, cache, &point)?;
        clients.push(ClientTree::at(point)?);
    }
    Ok(clients)
}

/// Mounts what the connection has made of /dev/fuse.
pub(super) fn attach_fuse(mount: &OwnedFd, point: &str) -> Result<()> {
    sys::attach_mount(mount.as_fd(), &CString::new(point)?)
        .map_err(|errno| mount_error("fuse", Path::new(point), errno))?;
    // Waits for the client's file server.
    let device = stat(point).map_err(|errno| mount_error("fuse", Path::new(point), errno))?;
    let (major, minor) = (major(device.st_dev), minor(device.st_dev));
    // As much as the kernel's 9P client reads ahead. It reads 128 KiB otherwise; an isolated session may not change it.
    let control = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    let _ = fs::write(control, (MAX_MSIZE / 1024).to_string());
    Ok(())
}

/// Explains why a mount(2) of `fstype` on `target` failed, and what to do.
pub(super) fn mount_error(fstype: &str, target: &Path, errno: Errno) -> anyhow::Error {
    let at = target.display();
    match errno {
        Errno::ENODEV => anyhow!("cannot mount {fstype} on {at}: the kernel has no {fstype}"),
        Errno::EPROTONOSUPPORT
        | Errno::EIO
        | Errno::EREMOTEIO
        | Errno::ECONNRESET
        | Errno::EPIPE
        | Errno::ENOTCONN
        | Errno::ECONNABORTED
            if matches!(fstype, "9p" | "fuse") =>
        {
            anyhow!(
                "cannot mount {fstype} on {at}: the client's file server does not answer ({})",
                errno.desc()
            )
        }
        _ => anyhow!("cannot mount {fstype} on {at}: {}", errno.desc()),
    }
}
