//! Archive formats. Each file writes or parses one.

pub(crate) mod compress;
pub(crate) mod decompress;
mod initramfs;
pub(crate) mod newc;
pub(crate) mod package;
pub(crate) mod tar;

pub(crate) use initramfs::replace;
pub use initramfs::{Error, NewcEntry, Part, first_newc, list, read, unpack};
