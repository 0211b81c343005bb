//! Archive formats: each is written or read in a file of its own, from bytes to bytes.

pub(crate) mod compress;
pub(crate) mod deb;
mod initramfs;
pub(crate) mod newc;
pub(crate) mod tar;

pub use initramfs::{Error, NewcEntry, Part, first_newc, list, read, unpack};
