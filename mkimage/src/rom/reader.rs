//! What all readers of a ROM share: little-endian fields, where they are in the image, and the limits of an image as a whole.

use uuid::Uuid;

use super::error::{Error, Spot};
use crate::archive::decompress;

/// Of volumes and sections inside each other: vendors have three levels of volumes in compressed sections.
const MAX_DEPTH: usize = 16;

/// Files and sections. Of a section there are as few as four bytes in the image, and much more in memory.
const MAX_ITEMS: usize = 1 << 16;

/// The limits of an image, and how much of them is used up.
pub(super) struct Reader {
    depth: usize,
    items: usize,
    packed: u64,
    unpacked: u64,
}

impl Reader {
    /// For an image of so many bytes.
    pub(super) fn new(image: usize) -> Self {
        Self {
            depth: 0,
            items: 0,
            packed: image as u64,
            unpacked: 0,
        }
    }

    /// One file or section more.
    pub(super) fn count(&mut self, at: Spot) -> Result<(), Error> {
        self.items += 1;
        if self.items > MAX_ITEMS {
            return Err(Error::Format("too many files and sections", at));
        }
        Ok(())
    }

    /// Read what lies inside something.
    pub(super) fn inside<T>(
        &mut self,
        at: Spot,
        read: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if self.depth == MAX_DEPTH {
            return Err(Error::Format("sections inside each other, too deep", at));
        }
        self.depth += 1;
        let done = read(self);
        self.depth -= 1;
        done
    }

    /// How much may still be unpacked: all sections of an image count together.
    pub(super) fn limit(&self) -> u64 {
        decompress::allowed(self.packed, decompress::MAX_UNPACKED) - self.unpacked
    }

    /// So much was unpacked, at most the limit.
    pub(super) fn unpacked(&mut self, bytes: usize) {
        self.unpacked += bytes as u64;
    }
}

/// Bytes of an image, or of what was unpacked from it, that know where they are.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) bytes: &'a [u8],
    start: Spot,
}

impl<'a> View<'a> {
    /// A whole image.
    pub(super) fn image(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            start: Spot {
                offset: 0,
                packed: None,
            },
        }
    }

    /// What was unpacked from a section.
    pub(super) fn unpacked(bytes: &'a [u8], section: Spot) -> Self {
        Self {
            bytes,
            start: Spot {
                offset: 0,
                packed: Some(section.packed.unwrap_or(section.offset)),
            },
        }
    }

    /// Where an offset is.
    pub(super) fn at(&self, offset: usize) -> Spot {
        Spot {
            offset: self.start.offset + offset,
            ..self.start
        }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes from one offset to another, both of which must be inside.
    pub(super) fn slice(&self, from: usize, to: usize) -> Self {
        Self {
            bytes: &self.bytes[from..to],
            start: self.at(from),
        }
    }

    /// A number of up to eight bytes, or an error that says of what there are too few.
    pub(super) fn number(
        &self,
        offset: usize,
        size: usize,
        what: &'static str,
    ) -> Result<u64, Error> {
        let bytes = offset
            .checked_add(size)
            .and_then(|end| self.bytes.get(offset..end))
            .ok_or(Error::Format(what, self.at(offset)))?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    /// A GUID, or an error that says what is too short.
    pub(super) fn guid(&self, offset: usize, what: &'static str) -> Result<Uuid, Error> {
        offset
            .checked_add(16)
            .and_then(|end| self.bytes.get(offset..end))
            .and_then(|bytes| <[u8; 16]>::try_from(bytes).ok())
            .map(Uuid::from_bytes_le)
            .ok_or(Error::Format(what, self.at(offset)))
    }
}
