//! The cache: unpacked sources, compiled objects and finished kernels, kept between runs in
//! `$XDG_CACHE_HOME/cpu-appliance`. While no mkimage runs, any of it may be deleted.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot place the cache: neither XDG_CACHE_HOME nor HOME is an absolute path")]
    NoPlace,
    #[error("cannot {what} {path} of the cache")]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// The cache's directory.
pub(crate) struct CacheDirectory {
    root: PathBuf,
}

impl CacheDirectory {
    /// Where the XDG Base Directory Specification says.
    pub(crate) fn from_environment() -> Result<Self, Error> {
        let absolute = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let base = absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
            .ok_or(Error::NoPlace)?;
        Ok(Self::at(base.join("cpu-appliance")))
    }

    fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// A directory of the cache, made when missing. It is the user's alone: finished kernels have the
    /// machine's host key in them.
    pub(crate) fn directory(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.root.join(name);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|source| Error::Io {
                what: "make",
                path: path.clone(),
                source,
            })?;
        Ok(path)
    }

    /// Remove all but the `keep` entries of `directory` that were made last.
    pub(crate) fn keep_newest(directory: &Path, keep: usize) -> Result<(), Error> {
        let failed = |what| {
            move |source| Error::Io {
                what,
                path: directory.to_owned(),
                source,
            }
        };
        let mut entries: Vec<(SystemTime, PathBuf)> = fs::read_dir(directory)
            .and_then(|entries| {
                entries
                    .map(|entry| entry.and_then(|e| Ok((e.metadata()?.modified()?, e.path()))))
                    .collect()
            })
            .map_err(failed("list"))?;
        entries.sort_unstable();
        let surplus = entries.len().saturating_sub(keep);
        for (_, path) in entries.into_iter().take(surplus) {
            fs::remove_dir_all(&path).map_err(failed("clean"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_newest_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        for (name, age) in [("old", 300), ("middle", 200), ("new", 100)] {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            let time = SystemTime::now() - Duration::from_secs(age);
            File::open(&path).unwrap().set_modified(time).unwrap();
        }
        CacheDirectory::keep_newest(dir.path(), 2).unwrap();
        assert!(!dir.path().join("old").exists());
        assert!(dir.path().join("middle").exists() && dir.path().join("new").exists());
    }
}
