//! What a session mounts: the client's files ([`v9fs`]), and the lines of `CPU_FSTAB` ([`fstab`]).

pub(super) mod fstab;
pub(super) mod v9fs;

use std::path::Path;

use anyhow::anyhow;
use nix::errno::Errno;

/// No source, type or data for mount(2), with the type that nix needs.
pub(super) const NONE: Option<&str> = None;

/// Explains why a mount(2) of `fstype` on `target` failed, and what to do.
pub(super) fn mount_error(fstype: &str, target: &Path, errno: Errno) -> anyhow::Error {
    let at = target.display();
    match errno {
        Errno::ENODEV if fstype == "9p" => anyhow!(
            "cannot mount 9p on {at}: the kernel has no 9p (CONFIG_NET_9P_FD, CONFIG_9P_FS); \
             use a kernel that has, or -9p=false"
        ),
        Errno::ENODEV => anyhow!("cannot mount {fstype} on {at}: the kernel has no {fstype}"),
        Errno::EPROTONOSUPPORT
        | Errno::EIO
        | Errno::EREMOTEIO
        | Errno::ECONNRESET
        | Errno::EPIPE
            if fstype == "9p" =>
        {
            anyhow!(
                "cannot mount 9p on {at}: the client's file server does not answer ({})",
                errno.desc()
            )
        }
        _ => anyhow!("cannot mount {fstype} on {at}: {}", errno.desc()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_9p_is_named() {
        let text = mount_error("9p", Path::new("/tmp/cpu"), Errno::ENODEV).to_string();
        assert!(
            text.starts_with("cannot mount 9p on /tmp/cpu: the kernel has no 9p"),
            "{text}"
        );
    }
}
