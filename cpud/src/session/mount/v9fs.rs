//! Mounts the client's files with the kernel's 9P client (v9fs).

use std::ffi::OsStr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Result, anyhow};
use cpu_proto::{CacheMode, MAX_MSIZE};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::mount_error;
use crate::sys;

/// Mounts one connection to the client's file server. The kernel keeps the connection.
/// With u-root's server the messages are as large as with its own cpud, and extended attributes, which it lacks, are
/// not asked for.
pub(in super::super) fn mount_9p(
    connection: &OwnedFd,
    cache: CacheMode,
    point: &str,
    user: Option<&OsStr>,
    u_root: bool,
) -> Result<()> {
    let fd = connection.as_raw_fd();
    // access=any: one attach serves every user, since the rights of the user who runs cpu decide in any case. Only
    // if that is root can a new file belong to the user who makes it, so then each user attaches (access=user).
    // locktimeout: the seconds after which the kernel asks again for a lock that somebody else holds.
    let (msize, more) = if u_root {
        (64 * 1024, ",noxattr")
    } else {
        (MAX_MSIZE, "")
    };
    let access = match user {
        Some(user) if user == "root" => "user",
        _ => "any",
    };
    let mut options = format!(
        "version=9p2000.L,trans=fd,rfdno={fd},wfdno={fd},msize={msize}{more},cache={cache},\
         access={access},locktimeout=1"
    );
    if let Some(user) = user.filter(|user| !user.is_empty()) {
        options.push_str(",uname=");
        options.push_str(&plain_name(user));
    }
    mount(
        Some("cpu"),
        Path::new(point),
        Some("9p"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(options.as_str()),
    )
    .map_err(|errno| match errno {
        Errno::ENODEV => no_9p(point, sys::has_file_system(c"fuse")),
        _ => mount_error("9p", Path::new(point), errno),
    })
}

/// Explains that the kernel has no 9P, and what to do. If it has FUSE, that was not to be used: by -mount, or with u-root's server.
fn no_9p(point: &str, has_fuse: bool) -> anyhow::Error {
    let or_fuse = if has_fuse { "" } else { ", or CONFIG_FUSE_FS" };
    anyhow!(
        "cannot mount 9p on {point}: the kernel has no 9p; use one with CONFIG_9P_FS and CONFIG_NET_9P_FD{or_fuse}, \
         or -9p=false"
    )
}

/// A user name that cannot add mount options: characters that portable names do not have become `_`.
fn plain_name(user: &OsStr) -> String {
    let portable = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
    let plain = |&b: &u8| if portable(b) { char::from(b) } else { '_' };
    user.as_bytes().iter().take(255).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_with_neither_9p_nor_fuse_is_told_both() {
        let text = |has_fuse| no_9p("/tmp/cpu", has_fuse).to_string();
        assert_eq!(
            text(false),
            "cannot mount 9p on /tmp/cpu: the kernel has no 9p; use one with CONFIG_9P_FS and CONFIG_NET_9P_FD, \
             or CONFIG_FUSE_FS, or -9p=false"
        );
        assert!(!text(true).contains("FUSE"), "{}", text(true));
    }

    #[test]
    fn names_add_no_mount_options() {
        assert_eq!(plain_name(OsStr::new("ann.b-c")), "ann.b-c");
        assert_eq!(
            plain_name(OsStr::from_bytes(b"a,cache=loose\xff\n")),
            "a_cache_loose__"
        );
        assert_eq!(plain_name(OsStr::new(&"x".repeat(1000))).len(), 255);
    }
}
