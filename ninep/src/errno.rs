//! Error numbers as `Rlerror` carries them: those of Linux on x86.

use std::fmt;
use std::io;

use crate::wire::Malformed;

/// Why a request failed. Never zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(u32);

macro_rules! errnos {
    ($($name:ident = $number:literal, $meaning:literal;)*) => {
        impl Errno {
            $(#[doc = concat!($meaning, ".")] pub const $name: Self = Self($number);)*

            /// The symbol from `errno(3)`, if it is one of those above.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

// include/uapi/asm-generic/errno-base.h and errno.h: the same on every architecture cpu runs on.
errnos! {
    EPERM = 1, "Operation not permitted";
    ENOENT = 2, "No such file or directory";
    EINTR = 4, "Interrupted";
    EIO = 5, "Input or output error";
    ENXIO = 6, "No such device or address";
    E2BIG = 7, "Too big";
    EBADF = 9, "Bad fid, or a fid in the wrong state";
    EAGAIN = 11, "Try again";
    ENOMEM = 12, "Out of memory";
    EACCES = 13, "Permission denied";
    EBUSY = 16, "Busy";
    EEXIST = 17, "File exists";
    EXDEV = 18, "Link across devices";
    ENODEV = 19, "No such device";
    ENOTDIR = 20, "Not a directory";
    EISDIR = 21, "Is a directory";
    EINVAL = 22, "Invalid argument";
    ENFILE = 23, "Too many open files in the system";
    EMFILE = 24, "Too many open files";
    ETXTBSY = 26, "Text file busy";
    EFBIG = 27, "File too large";
    ENOSPC = 28, "No space left on device";
    ESPIPE = 29, "Illegal seek";
    EROFS = 30, "Read-only file system";
    EMLINK = 31, "Too many links";
    ERANGE = 34, "Out of range";
    EDEADLK = 35, "Deadlock";
    ENAMETOOLONG = 36, "Name too long";
    ENOLCK = 37, "No locks available";
    ENOSYS = 38, "Not implemented";
    ENOTEMPTY = 39, "Directory not empty";
    ELOOP = 40, "Too many symbolic links";
    ENODATA = 61, "No such attribute";
    EPROTO = 71, "Protocol error";
    EOVERFLOW = 75, "Value too large";
    EOPNOTSUPP = 95, "Not supported";
    ETIMEDOUT = 110, "Timed out";
    ESTALE = 116, "Stale: the name now belongs to another file";
    EDQUOT = 122, "Quota exceeded";
}

impl Errno {
    /// From a number of errno(3). Numbers that are not positive become `EIO`.
    pub fn from_raw(number: i32) -> Self {
        u32::try_from(number)
            .ok()
            .filter(|n| *n != 0)
            .map_or(Self::EIO, Self)
    }

    /// The number on the wire.
    pub fn raw(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Errno {}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        error.raw_os_error().map_or(Self::EIO, Self::from_raw)
    }
}

impl From<Malformed> for Errno {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Unknown(_) => Self::EOPNOTSUPP,
            Malformed::Name | Malformed::TooMany(_) => Self::EINVAL,
            Malformed::Short | Malformed::Long(_) => Self::EPROTO,
        }
    }
}
