//! Binds cpud, which is its own sudo ([`crate::sudo`]), over the client's sudo, which could not read its configuration
//! here: that is readable only for root on the client.

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
use super::namespace::isolated::PROGRAM;
use super::shown;
use crate::console::say;

/// The most paths that are used; cpu sends two.
const MAX_PATHS: usize = 8;

/// cpud's file, and the paths to bind it on.
pub(super) struct Sudo {
    /// Opened with `O_PATH`.
    program: OwnedFd,
    paths: Vec<PathBuf>,
}

impl Sudo {
    /// Opens cpud's file, before a mount of the session may cover it. By its name, since /proc/self/exe leads into
    /// the namespace that this process has left, and that cannot be mounted from. An isolated session has another name for it.
    pub(super) fn open(paths: Option<OsString>, is_isolated: bool) -> Option<Self> {
        let paths = paths?;
        let paths = paths.as_bytes().split(|&byte| byte == b':');
        let paths = paths.map(|path| PathBuf::from(OsStr::from_bytes(path)));
        let paths: Vec<PathBuf> = paths
            .filter(|path| path.is_absolute())
            .take(MAX_PATHS)
            .collect();
        let program = if is_isolated {
            Ok(PROGRAM.into())
        } else {
            fs::read_link("/proc/self/exe")
        };
        let program = program
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
            .and_then(|name| open(&name, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()));
        match program {
            Ok(program) => Some(Self { program, paths }),
            Err(errno) => {
                say(format_args!(
                    "there is no sudo in this session: cannot open cpud: {}",
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

    /// Mounts it. The kernel need not ask the client for paths that were looked up before and are held.
    pub(super) fn mount(&self) {
        for path in &self.paths {
            self.mount_at(path);
        }
    }

    fn mount_at(&self, path: &Path) {
        let program = format!("/proc/self/fd/{}", self.program.as_raw_fd());
        match mount(Some(program.as_str()), path, NONE, MsFlags::MS_BIND, NONE) {
            // The session's namespace does not have that path.
            Ok(()) | Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(errno) => say(format_args!(
                "cannot bind sudo on {}: {}",
                shown(path.as_os_str()),
                errno.desc()
            )),
        }
    }
}
