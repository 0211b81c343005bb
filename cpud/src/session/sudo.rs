//! cpud's own sudo ([`crate::sudo`]) in the paths of the client's: that one could not read its configuration,
//! which belongs to the root of the client's machine.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;

use super::mount::NONE;
use super::shown;
use crate::console::say;

/// Places at most; a client names two.
const MAX_PATHS: usize = 8;

/// What is to be mounted where.
pub(super) struct Sudo {
    /// cpud's file, opened with `O_PATH`.
    program: OwnedFd,
    paths: Vec<PathBuf>,
}

impl Sudo {
    /// Opens cpud's file while it has its name, before the session mounts anything. By name, since what
    /// /proc/self/exe itself leads to is in the namespace that this process has left.
    pub(super) fn open(paths: Option<OsString>) -> Option<Self> {
        let paths = paths?;
        let paths = paths.as_bytes().split(|&byte| byte == b':');
        let paths = paths.map(|path| PathBuf::from(OsStr::from_bytes(path)));
        let paths: Vec<PathBuf> = paths
            .filter(|path| path.is_absolute())
            .take(MAX_PATHS)
            .collect();
        let program = fs::read_link("/proc/self/exe")
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
            .and_then(|name| open(&name, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()));
        match program {
            Ok(program) => Some(Self { program, paths }),
            Err(errno) => {
                say(format_args!(
                    "no sudo in this session: cannot open cpud: {}",
                    errno.desc()
                ));
                None
            }
        }
    }

    /// Where it is to be mounted.
    pub(super) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Mounts it. The kernel knows the paths by then, if they were looked up and are held.
    pub(super) fn mount(&self) {
        for path in &self.paths {
            self.mount_at(path);
        }
    }

    fn mount_at(&self, path: &Path) {
        let program = format!("/proc/self/fd/{}", self.program.as_raw_fd());
        match mount(Some(program.as_str()), path, NONE, MsFlags::MS_BIND, NONE) {
            // A namespace without it.
            Ok(()) | Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(errno) => say(format_args!(
                "cannot bind sudo on {}: {}",
                shown(path.as_os_str()),
                errno.desc()
            )),
        }
    }
}
