//! Finds or downloads the kernel's source, checks it, and unpacks it into the cache.

use std::fs::{self, File};
use std::io::{self, BufReader, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use super::patches;
use crate::archive::decompress;
use crate::cache::{self, CacheDirectory};
use crate::lock::{self, Lock};
use crate::progress::Progress;
use crate::tools::{self, Tool};

/// Debian's and Ubuntu's package.
const PACKAGED: &str = "/usr/src/linux-source-6.12.tar.xz";

/// What is fetched when nothing else is there. The hash is the one of kernel.org's sha256sums.asc,
/// as distributions that build from the same tarball have it too.
const PINNED_URL: &str = "https://cdn.kernel.org/pub/linux/kernel/v6.x/linux-6.12.80.tar.xz";
const PINNED_SHA256: &str = "c92591d896e79ecddbc3319136f0c2f855e832b397de7593f013ad7590a43e53";

/// What a tarball may unpack to: Linux 6.12 comes to 1.5 GB.
const MAX_SOURCE: u64 = 4 << 30;

/// Why there is no source.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("KERNEL_SRC is {0}, which is not there")]
    NoKernelSrc(PathBuf),
    #[error("cannot read the kernel source {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{url} came with SHA-256 {got}, not {PINNED_SHA256}: it is not used; \
         try again, or set KERNEL_SRC to a source that you trust", url = PINNED_URL
    )]
    WrongHash { got: String },
    #[error(
        "cannot fetch the kernel source {PINNED_URL}; \
         install linux-source-6.12, or set KERNEL_SRC to a directory or tarball"
    )]
    Fetch(#[source] tools::Error),
    #[error("cannot unpack the kernel source {path}")]
    Unpack { path: PathBuf, source: tools::Error },
    #[error("cannot unpack the kernel source {path}")]
    Packed {
        path: PathBuf,
        source: decompress::Error,
    },
    #[error("cannot patch the kernel source {path}")]
    Patch { path: PathBuf, source: tools::Error },
    #[error("cannot put the kernel source into {path}")]
    Place { path: PathBuf, source: io::Error },
    #[error("{0} has no kernel in it: its top directory lacks Makefile or Kconfig")]
    NotAKernel(PathBuf),
    #[error(transparent)]
    Tools(#[from] tools::Error),
    #[error(transparent)]
    Cache(#[from] cache::Error),
    #[error(transparent)]
    Lock(#[from] lock::Error),
}

/// A kernel source that exists on this machine.
#[derive(Debug)]
pub(crate) enum KernelSource {
    /// Used where it is; may change at any time.
    Directory(PathBuf),
    /// Known by the SHA-256 of the tarball, in lower-case hex.
    Tarball { path: PathBuf, sha256: String },
}

impl std::fmt::Display for KernelSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) | Self::Tarball { path, .. } => path.display().fmt(f),
        }
    }
}

impl KernelSource {
    /// The first that there is: `KERNEL_SRC`, Debian's package, the pinned tarball, which is fetched
    /// when the cache does not have it yet.
    pub(crate) fn find(cache: &CacheDirectory, progress: Progress) -> Result<Self, Error> {
        if let Some(given) = std::env::var_os("KERNEL_SRC").filter(|given| !given.is_empty()) {
            let path = fs::canonicalize(&given).map_err(|_| Error::NoKernelSrc(given.into()))?;
            return if path.is_dir() {
                Ok(Self::Directory(path))
            } else {
                Self::tarball(path)
            };
        }
        let packaged = Path::new(PACKAGED);
        if packaged.exists() {
            return Self::tarball(packaged.to_owned());
        }
        fetch_pinned(cache, progress)
    }

    fn tarball(path: PathBuf) -> Result<Self, Error> {
        let sha256 = hash(&path)?;
        Ok(Self::Tarball { path, sha256 })
    }

    /// What tells this source from others; for a directory only its place, since it may change.
    pub(crate) fn identity(&self) -> String {
        match self {
            Self::Directory(path) => format!("directory {}", path.display()),
            Self::Tarball { sha256, .. } => {
                format!("tarball {sha256} patched {}", patches::identity())
            }
        }
    }

    /// The source's directory; a tarball is unpacked into the cache, once, and patched there. A directory is
    /// taken as it is.
    pub(crate) fn unpack(
        &self,
        cache: &CacheDirectory,
        progress: Progress,
    ) -> Result<PathBuf, Error> {
        let (path, sha256) = match self {
            Self::Directory(path) => return check_source(path).map(|()| path.clone()),
            Self::Tarball { path, sha256 } => (path, sha256),
        };
        let sha256 = sha256.get(..16).unwrap_or(sha256);
        let tree = cache.directory("source")?;
        let tree = tree.join(format!("{sha256}-{}", patches::identity()));
        let _lock = Lock::beside(&tree, progress)?;
        if tree.exists() {
            return Ok(tree);
        }
        let tar = Tool {
            program: "tar",
            package: "tar",
        };
        tools::require(&[tar, patches::PATCH])?;
        let task = progress.task("unpacking", None);
        let part = tree.with_extension("part");
        let place = |source| Error::Place {
            path: part.clone(),
            source,
        };
        // What an interrupted run left.
        if part.exists() {
            fs::remove_dir_all(&part).map_err(place)?;
        }
        fs::create_dir(&part).map_err(place)?;
        if let Err(error) = untar(path, &part, progress) {
            let _ = fs::remove_dir_all(&part);
            return Err(error);
        }
        check_source(&part).map_err(|_| Error::NotAKernel(path.clone()))?;
        patches::apply(&part, progress).map_err(|source| Error::Patch {
            path: path.clone(),
            source,
        })?;
        fs::rename(&part, &tree).map_err(place)?;
        drop(task);
        Ok(tree)
    }
}

/// Unpack a tarball into a directory. What comes out of it is limited, so mkimage itself decompresses for tar.
fn untar(path: &Path, into: &Path, progress: Progress) -> Result<(), Error> {
    let unread = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let packed = |source| Error::Packed {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(unread)?;
    let length = file.metadata().map_err(unread)?.len();
    let mut archive =
        decompress::reader(BufReader::new(file), length, MAX_SOURCE).map_err(packed)?;
    let (end, mut input) = io::pipe().map_err(unread)?;
    let mut tar = tools::command("tar");
    tar.args([
        "-x",
        "--strip-components=1",
        "--no-same-owner",
        "-f",
        "-",
        "-C",
    ])
    .arg(into)
    .stdin(end);
    let log = into.with_extension("log");
    let (unpacked, copied) = std::thread::scope(|scope| {
        let tar = scope.spawn(|| tools::run(tar, &log, progress, |_| ()));
        let copied = io::copy(&mut archive, &mut input);
        drop(input);
        (tar.join(), copied)
    });
    // tar reads to the end of the archive, or says why not.
    if let Err(error) = copied
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        return Err(decompress::in_reader(error).map_or_else(unread, packed));
    }
    match unpacked {
        Ok(done) => done.map_err(|source| Error::Unpack {
            path: path.to_owned(),
            source,
        }),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn check_source(tree: &Path) -> Result<(), Error> {
    if tree.join("Makefile").is_file() && tree.join("Kconfig").is_file() {
        Ok(())
    } else {
        Err(Error::NotAKernel(tree.to_owned()))
    }
}

fn fetch_pinned(cache: &CacheDirectory, progress: Progress) -> Result<KernelSource, Error> {
    let name = PINNED_URL.rsplit('/').next().unwrap_or(PINNED_URL);
    let path = cache.directory("source")?.join(name);
    let lock = Lock::beside(&path, progress)?;
    if !path.exists() {
        tools::require(&[Tool {
            program: "curl",
            package: "curl",
        }])?;
        let task = progress.task("fetching", None);
        let part = path.with_added_extension("part");
        let mut curl = curl(PINNED_URL, &part, MAX_FETCHED);
        curl.stdin(lock.for_child()?);
        tools::pass_proxies(&mut curl);
        download(curl, &part, MAX_FETCHED, progress)?;
        accept(&part, &path, PINNED_SHA256)?;
        drop(task);
    }
    KernelSource::tarball(path)
}

/// What a tarball that is fetched may have; that of Linux 6.12 has 148 MB.
const MAX_FETCHED: u64 = 400_000_000;

/// curl, as it fetches a file: by HTTPS alone, wherever it is sent to; not for ever, neither from a server that sends nothing
/// (5,000 bytes a second, over a minute) nor from one that never ends; and nothing from ~/.curlrc.
fn curl(url: &str, to: &Path, max: u64) -> Command {
    let mut curl = tools::command("curl");
    curl.args(["--disable", "--fail", "--silent", "--show-error"])
        .args([
            "--proto",
            "=https",
            "--location",
            "--proto-redir",
            "=https",
            "--max-redirs",
            "5",
        ])
        .args([
            "--connect-timeout",
            "30",
            "--speed-limit",
            "5000",
            "--speed-time",
            "60",
        ])
        .args(["--max-time", "7200", "--max-filesize"])
        .arg(max.to_string())
        .args(["--retry", "3", "--retry-max-time", "7200", "--output"])
        .arg(to)
        .arg(url);
    curl
}

/// Run curl. Before version 8.4 it cannot limit what comes without its length; the kernel does.
fn download(curl: Command, part: &Path, max: u64, progress: Progress) -> Result<(), Error> {
    tools::run_limited(curl, max, progress).map_err(|mut error| {
        let _ = fs::remove_file(part);
        if let tools::Error::Refused { status, said, .. } = &mut error {
            *said = match (status.signal(), said.lines().last()) {
                (Some(_), _) => format!("it was sent more than {max} bytes"),
                // The earlier lines belong to earlier attempts.
                (None, last) => last.unwrap_or_default().to_owned(),
            };
        }
        Error::Fetch(error)
    })
}

/// Give what was fetched its name when it is what was expected, else remove it.
fn accept(part: &Path, path: &Path, expected: &str) -> Result<(), Error> {
    let got = hash(part)?;
    let place = |source| Error::Place {
        path: path.to_owned(),
        source,
    };
    if got == expected {
        fs::rename(part, path).map_err(place)
    } else {
        fs::remove_file(part).map_err(place)?;
        Err(Error::WrongHash { got })
    }
}

fn hash(path: &Path) -> Result<String, Error> {
    let read = || {
        let mut file = File::open(path)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(HEXLOWER.encode(&hash.finalize())),
                length => hash.update(&buffer[..length]),
            }
        }
    };
    read().map_err(|source: io::Error| Error::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
