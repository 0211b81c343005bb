//! Locks (flock(2)) that let one mkimage at a time work in a directory: the output directory, or a
//! directory of the cache.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::progress::Progress;

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
#[error("cannot lock {path}")]
pub(crate) struct Error {
    path: PathBuf,
    source: io::Error,
}

/// A lock, held until it is dropped. A child process that has the file as its standard input holds it as
/// well, so that nobody works beside what a killed mkimage has left running.
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Lock an existing directory, which mkimage writes into.
    pub(crate) fn directory(path: &Path, progress: Progress) -> Result<Self, Error> {
        Self::wait(File::open(path), path.to_owned(), progress)
    }

    /// Lock the file `PATH.lock`, which stands for the directory `path`: that one is created and renamed
    /// while the lock is held.
    pub(crate) fn beside(path: &Path, progress: Progress) -> Result<Self, Error> {
        let path = path.with_added_extension("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .read(true)
            .open(&path);
        Self::wait(file, path, progress)
    }

    /// Take the lock; when another process holds it, say so and wait.
    fn wait(file: io::Result<File>, path: PathBuf, progress: Progress) -> Result<Self, Error> {
        let lock = || {
            let file = file?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    progress.say(format!("waiting for another mkimage ({})", path.display()));
                    file.lock()?;
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            Ok(file)
        };
        match lock() {
            Ok(file) => Ok(Self { file, path }),
            Err(source) => Err(Error { path, source }),
        }
    }

    /// The standard input for a child process that shares the lock.
    pub(crate) fn for_child(&self) -> Result<File, Error> {
        self.file.try_clone().map_err(|source| Error {
            path: self.path.clone(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_child_keeps_the_lock_when_its_parent_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        let lock = Lock::beside(&tree, Progress::silent()).unwrap();
        let mut child = Command::new("sleep")
            .arg("60")
            .stdin(lock.for_child().unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        drop(lock);
        let file = File::open(tree.with_added_extension("lock")).unwrap();
        assert!(matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
        child.kill().unwrap();
        child.wait().unwrap();
        file.try_lock().unwrap();
    }
}
