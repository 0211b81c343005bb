//! Opens paths as if a directory were the root: `..` and absolute symbolic links stay beneath it (openat2(2)).

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How often a path is tried again while others change it.
const RETRIES: usize = 64;

/// Opens `path` beneath `root` with these flags.
///
/// # Errors
///
/// Those of openat2(2).
pub fn open_in_root(root: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let (flags, inside) = (flags | OFlags::CLOEXEC, ResolveFlags::IN_ROOT);
    let open = || rustix::fs::openat2(&root, path, flags, Mode::empty(), inside);
    // While somebody mounts or renames, the kernel cannot tell where `..` leads.
    let mut tries = std::iter::repeat_with(open).take(RETRIES);
    let file = tries.find(|file| !matches!(file, Err(Errno::AGAIN)));
    file.unwrap_or(Err(Errno::AGAIN))
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
        let root = fs::File::open(directory.path()).unwrap();
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    for (from, to) in [("a", "b"), ("b", "a")] {
                        fs::rename(directory.path().join(from), directory.path().join(to)).unwrap();
                    }
                }
            });
            let path = Path::new("d/../../d/..");
            let failed = (0..50_000).find_map(|_| open_in_root(&root, path, OFlags::PATH).err());
            is_done.store(true, Ordering::Relaxed);
            assert_eq!(failed, None);
        });
        let absent = open_in_root(&root, Path::new("d/../c"), OFlags::PATH);
        assert_eq!(absent.err(), Some(Errno::NOENT));
    }
}
