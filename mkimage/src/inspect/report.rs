//! What is found in an image.

use std::io;

use cpu_proto::AuthorizedKeys;
use ssh_key::PublicKey;
use uuid::Uuid;

use crate::arch::Arch;
use crate::archive;
use crate::archive::decompress;
use crate::disk::table;

/// Why an image is not recognised.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "it is neither a disk image with a GUID partition table, nor a kernel, nor an initramfs"
    )]
    Unknown,
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    #[error(transparent)]
    Table(#[from] table::Error),
    #[error("its kernel is damaged")]
    Kernel(#[source] decompress::Error),
    #[error("the initramfs is damaged")]
    Archive(#[from] archive::Error),
    #[error(transparent)]
    Unpack(decompress::Error),
    #[error("its /key.pub has {0} bytes, which is no list of keys")]
    Keys(usize),
}

/// A file that was recognised.
pub(super) struct ImageReport {
    pub(super) size: u64,
    /// The compression of the whole file and the size without it.
    pub(super) compressed: Option<(&'static str, u64)>,
    pub(super) contents: ImageContents,
}

/// What is in a file.
pub(super) enum ImageContents {
    Disk(DiskReport),
    Kernel(KernelReport),
    Initramfs(Vec<PartReport>),
}

/// A disk image with a GUID partition table.
pub(super) struct DiskReport {
    pub(super) guid: Uuid,
    pub(super) has_boot_code: bool,
    pub(super) partitions: Vec<PartitionReport>,
}

/// A partition, and the files of its FAT file system.
pub(super) struct PartitionReport {
    pub(super) number: u32,
    pub(super) name: String,
    pub(super) kind: Uuid,
    pub(super) is_bootable: bool,
    pub(super) first_sector: u64,
    pub(super) bytes: u64,
    /// None when the table says nonsense about where it is.
    pub(super) files: Option<io::Result<Vec<VolumeEntry>>>,
}

/// Something in a FAT file system.
pub(super) enum VolumeEntry {
    File {
        path: String,
        bytes: u64,
        contents: FileContents,
    },
    /// A directory that cannot be read on.
    Damaged { path: String, error: io::Error },
}

/// What is in a file of a FAT file system.
pub(super) enum FileContents {
    Unreadable(io::Error),
    /// Only so many of its bytes are there.
    Short(usize),
    Kernel(Result<KernelReport, Error>),
    /// What the kernel beside it boots with.
    Initramfs(Result<Vec<PartReport>, Error>),
    Keys(KeyFile),
}

/// A kernel, by itself or in a unified kernel image.
pub(super) enum KernelReport {
    Unified(Vec<UkiSection>),
    Plain {
        arch: Arch,
        starts_under_efi: bool,
        version: Option<String>,
        command_line: Option<String>,
        initramfs: Option<PartReport>,
    },
}

/// A section of a unified kernel image that is known.
pub(super) enum UkiSection {
    Kernel(KernelReport),
    CommandLine(String),
    Initramfs {
        bytes: usize,
        parts: Vec<PartReport>,
    },
}

/// One archive of an initramfs.
pub(super) struct PartReport {
    /// The compression, and the size with it.
    pub(super) compressed: Option<(&'static str, usize)>,
    pub(super) files: usize,
    pub(super) bytes: usize,
    pub(super) notable: Vec<NotableFile>,
}

/// A file of an initramfs that matters.
pub(super) enum NotableFile {
    /// `/init`, with the version of cpud when it says that it is cpud.
    Init { cpud: Option<String>, bytes: usize },
    /// `/key.pub`: who may log in.
    Logins(AuthorizedKeys),
    HostKey {
        mode: u32,
        /// None if the machine makes it when it boots.
        key: Option<ssh_key::Result<PublicKey>>,
    },
    /// Something else that looks like a key.
    Other { name: String, keys: KeyFile },
}

/// The keys of a file.
pub(super) enum KeyFile {
    /// A private key, with its public half when that can be read.
    Private(Option<Box<PublicKey>>),
    /// Public ones, perhaps none.
    Public(Vec<PublicKey>),
}
