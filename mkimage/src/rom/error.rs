//! Why a ROM was not read or not edited, and where.

use std::fmt;

use uuid::Uuid;

use crate::archive::decompress;

/// A position in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spot {
    /// Bytes from the beginning of the image, or of what was unpacked.
    pub(crate) offset: usize,
    /// Where what was unpacked lies in the image.
    pub(crate) packed: Option<usize>,
}

impl fmt::Display for Spot {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:#x}", self.offset)?;
        match self.packed {
            Some(packed) => write!(to, " of what is compressed at {packed:#x}"),
            None => Ok(()),
        }
    }
}

/// Why a ROM was not read or not edited.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Damaged, or truncated, or of a kind that is not known.
    #[error("at {1}: {0}")]
    Format(&'static str, Spot),
    #[error("at {at}: {what} says that it has {length} bytes, and {room} are there")]
    Truncated {
        what: &'static str,
        length: u64,
        room: usize,
        at: Spot,
    },
    #[error("cannot unpack the section at {0}: {1}")]
    Unpack(Spot, decompress::Error),
    #[error("cannot compress the section again")]
    Pack(#[source] std::io::Error),
    #[error(
        "what is edited is in a section with {0}, which mkimage reads and does not write. Nothing was written"
    )]
    OnlyRead(&'static str),
    #[error("it is a {0}, which mkimage flash does not edit: {1}")]
    Kind(&'static str, &'static str),
    #[error(
        "{0}: the processor may refuse to start a ROM in which that was changed. Nothing was written"
    )]
    Signed(String),
    #[error("something in it is not understood ({0}), so nothing in it is changed")]
    Unknown(String),
    #[error("it is a {0}, and what can be inserted are drivers, applications and data")]
    NoDriver(&'static str),
    #[error("a file with its GUID, {0}, is there already (--remove takes it out)")]
    There(Uuid),
    #[error(
        "cannot insert {0}: it must lie at a multiple of {1} bytes, and the volume for it only at one of {2}"
    )]
    Alignment(String, usize, usize),
    #[error("the ROM has no volume of drivers, or several (with a file of the type DXE core)")]
    NoCore,
    #[error(
        "it is no whole file of a firmware volume (FFS), as UEFITool, utk and GenFfs write them: {0}"
    )]
    NoFile(Box<Error>),
    /// The file, and what is wrong with it.
    #[error("cannot insert {0}: {1}")]
    Insert(String, String),
    #[error(
        "its flash descriptor has no BIOS region within the image: is it all of the chip? (flashrom -r reads all)"
    )]
    NoBios,
    #[error("{0} cannot be both removed and replaced")]
    Both(String),
    #[error("it has no firmware volume with programs: it is no ROM of UEFI firmware")]
    NoVolume,
    #[error("there is no {0:?} in it: see mkimage flash --rom ROM --list")]
    NotFound(String),
    #[error("{0} stands for {1} files: name one by its GUID ({2})")]
    Ambiguous(String, usize, String),
    #[error("{0} ({1}, {2}) cannot be removed: the firmware does not start without it")]
    Needed(String, Uuid, &'static str),
    #[error("{0} contains no program (PE32 section)")]
    NoProgram(String),
    #[error("{0}")]
    Machine(String),
    #[error(
        "the kernel is an EFI application, and {0} is a {1}, which the firmware starts while devices and tables are not there yet: \
         put it in the place of an application, such as the UEFI Shell"
    )]
    Place(String, &'static str),
    #[error("{0}")]
    Room(String),
    #[error(
        "the result does not read back as it should ({0}); nothing was written: please report this"
    )]
    ReadBack(String),
}
