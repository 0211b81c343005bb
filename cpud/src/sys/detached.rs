//! Mounts that are made in one process and attached in another (fsopen(2), move_mount(2)), which nix does not wrap.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;

/// A new devpts, mounted nowhere, whose terminals, this many at most, belong to this user and group and have mode 0620.
pub(crate) fn new_devpts(uid: u32, gid: u32, max: u32) -> io::Result<OwnedFd> {
    let [uid, gid, max] = [uid, gid, max].map(|number| CString::new(number.to_string()));
    let options = [
        (c"uid", Some(uid?)),
        (c"gid", Some(gid?)),
        (c"max", Some(max?)),
        (c"mode", Some(c"620".into())),
        (c"ptmxmode", Some(c"666".into())),
    ];
    let attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
    Ok(new_mount(c"devpts", &options, attributes)?)
}

/// A file system of this descriptor of /dev/fuse, mounted nowhere. All users may use it, and the kernel checks permissions.
pub(crate) fn new_fuse(device: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let options = [
        (c"source", Some(c"cpu".into())),
        (c"fd", Some(CString::new(device.as_raw_fd().to_string())?)),
        (c"rootmode", Some(c"40000".into())),
        (c"user_id", Some(c"0".into())),
        (c"group_id", Some(c"0".into())),
        (c"allow_other", None),
        (c"default_permissions", None),
    ];
    let attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
    Ok(new_mount(c"fuse", &options, attributes)?)
}

/// Whether the kernel has a file system, perhaps as a module, which is loaded.
pub(crate) fn has_file_system(name: &CStr) -> bool {
    open_context(name).is_ok()
}

/// Mounts what has been made here.
pub(crate) fn attach_mount(mount: BorrowedFd<'_>, at: &CStr) -> nix::Result<()> {
    let (from, here) = (mount.as_raw_fd(), libc::AT_FDCWD);
    let (empty, flags) = (c"".as_ptr(), MOVE_MOUNT_F_EMPTY_PATH);
    // SAFETY: the kernel reads two strings that end with a NUL.
    let done =
        unsafe { libc::syscall(libc::SYS_move_mount, from, empty, here, at.as_ptr(), flags) };
    Errno::result(done).map(drop)
}

fn new_mount(
    name: &CStr,
    options: &[(&CStr, Option<CString>)],
    attributes: libc::c_uint,
) -> nix::Result<OwnedFd> {
    let context = open_context(name)?;
    let configure = |command: libc::c_uint, key: Option<&CStr>, value: Option<&CStr>| {
        let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
        let context = context.as_raw_fd();
        let (key, value) = (pointer(key), pointer(value));
        // SAFETY: the kernel reads strings that end with a NUL and live until the call returns, or gets null.
        let done = unsafe { libc::syscall(libc::SYS_fsconfig, context, command, key, value, 0) };
        Errno::result(done).map(drop)
    };
    for (key, value) in options {
        let command = match value {
            Some(_) => FSCONFIG_SET_STRING,
            None => FSCONFIG_SET_FLAG,
        };
        configure(command, Some(key), value.as_deref())?;
    }
    configure(FSCONFIG_CMD_CREATE, None, None)?;
    let (context, flags) = (context.as_raw_fd(), FSMOUNT_CLOEXEC);
    // SAFETY: takes numbers only.
    descriptor(unsafe { libc::syscall(libc::SYS_fsmount, context, flags, attributes) })
}

fn open_context(name: &CStr) -> nix::Result<OwnedFd> {
    // SAFETY: the kernel reads a string that ends with a NUL.
    descriptor(unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), FSOPEN_CLOEXEC) })
}

fn descriptor(result: libc::c_long) -> nix::Result<OwnedFd> {
    let fd = Errno::result(result)?;
    // SAFETY: the kernel has just made this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

// Of linux/mount.h.
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
const MOUNT_ATTR_NOSUID: libc::c_uint = 2;
const MOUNT_ATTR_NODEV: libc::c_uint = 4;
const MOUNT_ATTR_NOEXEC: libc::c_uint = 8;
