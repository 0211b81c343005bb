//! Opens paths as if a directory were the root: `..` and absolute symbolic links stay beneath it (openat2(2)).

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// How often a path is tried again while others change it.
const RETRIES: usize = 64;

/// Opens `path` beneath `root` with `O_PATH` and these flags.
pub(super) fn open_in_root(root: &OwnedFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | flags)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    let open = || openat2(root, path, how);
    // While somebody mounts or renames, the kernel cannot tell where `..` leads.
    let mut tries = std::iter::repeat_with(open).take(RETRIES);
    let file = tries.find(|file| !matches!(file, Err(Errno::EAGAIN)));
    file.unwrap_or(Err(Errno::EAGAIN))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_path_through_the_parent_is_found_while_others_rename() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["d", "a"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let root = fs::File::open(directory.path()).unwrap().into();
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    for (from, to) in [("a", "b"), ("b", "a")] {
                        fs::rename(directory.path().join(from), directory.path().join(to)).unwrap();
                    }
                }
            });
            let failed = (0..50_000).find_map(|_| {
                open_in_root(&root, Path::new("d/../../d/.."), OFlag::O_DIRECTORY).err()
            });
            is_done.store(true, Ordering::Relaxed);
            assert_eq!(failed, None);
        });
        let absent = open_in_root(&root, Path::new("d/../c"), OFlag::empty());
        assert_eq!(absent.err(), Some(Errno::ENOENT));
    }
}
