//! Writes an image to a stick. First it checks, in /sys and /proc, that this cannot be the wrong disk;
//! afterwards it reads the stick back and compares. The disk is opened once, before it is checked: its name may mean
//! another one later, and its number too, but not while it is open.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, OFlags, fadvise, major, minor};

use crate::progress::Progress;

/// Bytes between two steps of the progress bar.
const CHUNK: usize = 1 << 20;

/// Why a device was not written to. Unless it is `Io` or `Differs`, nothing on it was touched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "{0} is no disk: give the device of a whole stick, such as /dev/sdX (lsblk lists them)"
    )]
    NoDisk(PathBuf),
    #[error("{0} is a partition: give the device of the whole stick")]
    Partition(PathBuf),
    #[error("{path} is in use ({by}): unmount it first")]
    InUse { path: PathBuf, by: String },
    #[error("{path} ({model}) is not removable; if it is the right disk all the same, add --force")]
    Fixed { path: PathBuf, model: String },
    #[error(
        "{path} has {size} bytes, and the image {need}: use a bigger stick, or a smaller --size"
    )]
    TooSmall { path: PathBuf, size: u64, need: u64 },
    #[error("cannot {what} {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "{path} does not hold what was written to it, from byte {offset} on: the stick is broken, or smaller than it says"
    )]
    Differs { path: PathBuf, offset: u64 },
}

/// Where the kernel tells of its devices.
pub(crate) struct PseudoFileSystems {
    sys: PathBuf,
    proc: PathBuf,
}

impl Default for PseudoFileSystems {
    fn default() -> Self {
        Self {
            sys: "/sys".into(),
            proc: "/proc".into(),
        }
    }
}

/// A disk that may be written to.
pub(crate) struct Device {
    disk: File,
    path: PathBuf,
    model: String,
    size: u64,
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&described(&self.path, &self.model, self.size))
    }
}

/// The disks that an image of `need` bytes could be written to, each as a person knows it, with its partitions.
pub(crate) fn candidates(need: u64) -> Vec<String> {
    PseudoFileSystems::default().candidates(need)
}

/// As a person knows a disk.
fn described(path: &Path, model: &str, size: u64) -> String {
    let tenths = size / 100_000_000;
    format!(
        "{} ({model}, {}.{} GB)",
        path.display(),
        tenths / 10,
        tenths % 10
    )
}

impl Device {
    /// Open a disk that shall take `need` bytes, and look at it.
    pub(crate) fn open(path: &Path, need: u64, force: bool) -> Result<Self, Error> {
        let failed = |what| {
            move |source| Error::Io {
                what,
                path: path.to_owned(),
                source,
            }
        };
        let flags = |flags: OFlags| i32::try_from(flags.bits()).unwrap_or(0);
        // O_PATH does not open the device, which would already affect a tape or a terminal.
        let name = File::options()
            .read(true)
            .custom_flags(flags(OFlags::PATH))
            .open(path);
        let name = name.map_err(failed("look at"))?;
        let data = name.metadata().map_err(failed("look at"))?;
        if !data.file_type().is_block_device() {
            return Err(Error::NoDisk(path.to_owned()));
        }
        // With O_EXCL the kernel refuses a disk that is mounted, and mounts none that is open so (open(2)).
        let disk = File::options()
            .read(true)
            .write(true)
            .custom_flags(flags(OFlags::EXCL))
            .open(format!("/proc/self/fd/{}", name.as_raw_fd()));
        let number = format!("{}:{}", major(data.rdev()), minor(data.rdev()));
        // The reason why a disk cannot be opened is better known here than to the kernel.
        let (model, size) = PseudoFileSystems::default().check(path, &number, need, force)?;
        Ok(Self {
            disk: disk.map_err(failed("open"))?,
            path: path.to_owned(),
            model,
            size,
        })
    }

    /// Write the image, wait until it is on the disk, and compare.
    pub(crate) fn write(&self, image: &File, progress: Progress) -> Result<(), Error> {
        let mut disk = &self.disk;
        disk.rewind().map_err(self.failed("write"))?;
        self.each_chunk(image, "writing", progress, |chunk, _| {
            disk.write_all(chunk).map_err(self.failed("write"))
        })?;
        disk.sync_all().map_err(self.failed("write"))?;
        self.compare(image, progress)
    }

    fn compare(&self, image: &File, progress: Progress) -> Result<(), Error> {
        // What is compared must come from the disk, not from memory.
        let mut disk = &self.disk;
        fadvise(disk, 0, None, Advice::DontNeed)
            .map_err(|error| self.failed("read back")(error.into()))?;
        disk.rewind().map_err(self.failed("read back"))?;
        let mut buffer = vec![0; CHUNK];
        self.each_chunk(image, "verifying", progress, |chunk, offset| {
            let read = &mut buffer[..chunk.len()];
            disk.read_exact(read).map_err(self.failed("read back"))?;
            match read.iter().zip(chunk).position(|(got, wrote)| got != wrote) {
                None => Ok(()),
                Some(at) => Err(Error::Differs {
                    path: self.path.clone(),
                    offset: offset + at as u64,
                }),
            }
        })
    }

    fn failed(&self, what: &'static str) -> impl Fn(io::Error) -> Error {
        move |source| Error::Io {
            what,
            path: self.path.clone(),
            source,
        }
    }

    fn each_chunk(
        &self,
        mut image: &File,
        doing: &'static str,
        progress: Progress,
        mut each: impl FnMut(&[u8], u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let failed = self.failed("read the image for");
        let size = image.metadata().map_err(&failed)?.len();
        let mut task = progress.task(doing, Some(size.div_ceil(CHUNK as u64)));
        image.rewind().map_err(&failed)?;
        let (mut buffer, mut offset) = (Vec::with_capacity(CHUNK), 0);
        loop {
            buffer.clear();
            let length = image
                .take(CHUNK as u64)
                .read_to_end(&mut buffer)
                .map_err(&failed)?;
            if length == 0 {
                return Ok(());
            }
            each(&buffer, offset)?;
            offset += length as u64;
            task.step();
        }
    }
}

impl PseudoFileSystems {
    fn candidates(&self, need: u64) -> Vec<String> {
        let disks = fs::read_dir(self.sys.join("dev/block"))
            .into_iter()
            .flatten();
        let mut found: Vec<String> = disks
            .flatten()
            .filter_map(|disk| {
                let name = device_name(&disk.path())?;
                let path = Path::new("/dev").join(&name);
                let number = disk.file_name().to_string_lossy().into_owned();
                let (model, size) = self.check(&path, &number, need, false).ok()?;
                let parts = fs::read_dir(disk.path()).into_iter().flatten().flatten();
                let mut parts: Vec<String> = parts
                    .map(|part| part.file_name().to_string_lossy().into_owned())
                    .filter(|part| part.starts_with(&name))
                    .collect();
                parts.sort();
                let parts = match parts.as_slice() {
                    [] => "no partitions".to_owned(),
                    parts => parts.join(" "),
                };
                Some(format!("{} with {parts}", described(&path, &model, size)))
            })
            .collect();
        found.sort();
        found
    }

    /// The model and the size of a disk that may be written to.
    fn check(
        &self,
        path: &Path,
        number: &str,
        need: u64,
        force: bool,
    ) -> Result<(String, u64), Error> {
        let directory = self.sys.join("dev/block").join(number);
        let read = |name: &str| {
            let text = fs::read_to_string(directory.join(name)).unwrap_or_default();
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        if directory.join("partition").exists() {
            return Err(Error::Partition(path.to_owned()));
        }
        let sectors: u64 = read("size")
            .parse()
            .map_err(|_| Error::NoDisk(path.to_owned()))?;
        if let Some(by) = self.user_of(&directory, number) {
            return Err(Error::InUse {
                path: path.to_owned(),
                by,
            });
        }
        let model = [read("device/vendor"), read("device/model")].join(" ");
        let model = match model.trim() {
            "" => "no model".to_owned(),
            model => model.to_owned(),
        };
        // Disks in a USB case say that they are not removable, and yet are.
        let bus = fs::canonicalize(&directory).unwrap_or_else(|_| directory.clone());
        let usb = bus
            .iter()
            .any(|part| part.to_string_lossy().starts_with("usb"));
        if !(read("removable") == "1" || usb || force) {
            return Err(Error::Fixed {
                path: path.to_owned(),
                model,
            });
        }
        let size = sectors * super::SECTOR;
        if size < need {
            return Err(Error::TooSmall {
                path: path.to_owned(),
                size,
                need,
            });
        }
        Ok((model, size))
    }

    /// Who uses the disk or one of its partitions: a mount, a swap area, another device on top.
    fn user_of(&self, directory: &Path, number: &str) -> Option<String> {
        let mut parts = vec![(directory.to_owned(), number.to_owned())];
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if let Ok(number) = fs::read_to_string(entry.path().join("dev")) {
                parts.push((entry.path(), number.trim().to_owned()));
            }
        }
        // The third field is the device, the fifth where it is mounted (proc_pid_mountinfo(5)).
        let mounts = fs::read_to_string(self.proc.join("self/mountinfo")).unwrap_or_default();
        let mounted = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ');
            let number = fields.nth(2)?;
            let place = fields.nth(1)?;
            parts
                .iter()
                .any(|(_, part)| part == number)
                .then(|| format!("mounted on {place}"))
        });
        let swaps = fs::read_to_string(self.proc.join("swaps")).unwrap_or_default();
        let swap = parts.iter().find_map(|(directory, _)| {
            let device = format!("/dev/{}", device_name(directory)?);
            swaps
                .lines()
                .any(|line| line.split_whitespace().next() == Some(&device))
                .then(|| format!("{device} is swap"))
        });
        let holder = parts.iter().find_map(|(directory, _)| {
            let holder = fs::read_dir(directory.join("holders"))
                .ok()?
                .flatten()
                .next()?;
            Some(format!("by {}", holder.file_name().to_string_lossy()))
        });
        mounted.or(swap).or(holder)
    }
}

/// The name in /dev of a device with a directory in /sys.
fn device_name(directory: &Path) -> Option<String> {
    let event = fs::read_to_string(directory.join("uevent")).ok()?;
    let name = event
        .lines()
        .find_map(|line| line.strip_prefix("DEVNAME="))?;
    Some(name.to_owned())
}

#[cfg(test)]
mod tests;
