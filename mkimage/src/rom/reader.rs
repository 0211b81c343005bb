//! What all readers of a ROM share: little-endian fields, where they are in the image, and the limits of an image as a whole.

use uuid::Uuid;

use super::error::{Error, Spot};
use crate::archive::decompress;

/// Of volumes and sections inside each other: vendors have three levels of volumes in compressed sections.
const MAX_DEPTH: usize = 16;

/// Files and sections. Of a section there are as few as four bytes in the image, and much more in memory.
const MAX_ITEMS: usize = 1 << 16;

/// How many times as long as the image all that is unpacked may be, which an edit needs several times in memory.
const RATIO: u64 = 4;

/// And how much it may be in any case.
const FLOOR: u64 = 32 << 20;

/// And how much at most, in spite of that.
const CEILING: u64 = 128 << 20;

/// Sections that could not be unpacked, which is no error in a file with data. Each may have taken as long as all that may be
/// unpacked.
const MAX_FAILURES: usize = 8;

/// The limits of an image, and how much of them is used up.
pub(super) struct Reader {
    depth: usize,
    items: usize,
    packed: u64,
    unpacked: u64,
    failures: usize,
}

impl Reader {
    /// For an image of so many bytes.
    pub(super) fn new(image: usize) -> Self {
        Self {
            depth: 0,
            items: 0,
            packed: image as u64,
            unpacked: 0,
            failures: 0,
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

    /// Unpack a section to as much as is still allowed: all sections of an image count together.
    pub(super) fn unpack(
        &mut self,
        at: Spot,
        unpack: impl FnOnce(u64) -> Result<Vec<u8>, decompress::Error>,
    ) -> Result<Vec<u8>, Error> {
        if self.failures == MAX_FAILURES {
            let what = "too many sections that cannot be unpacked";
            return Err(Error::Format(what, at));
        }
        let max = self.packed.saturating_mul(RATIO).clamp(FLOOR, CEILING);
        let limit = decompress::allowed(self.packed, max) - self.unpacked;
        match unpack(limit) {
            Ok(bytes) => {
                self.unpacked += bytes.len() as u64;
                Ok(bytes)
            }
            Err(error) => {
                self.failures += 1;
                Err(Error::Unpack(at, error))
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unpacked_is_bounded_for_the_image_and_so_is_the_time_for_what_is_not() {
        let at = View::image(&[]).at(0);
        let mut reader = Reader::new(16 << 20);
        let half = |limit: u64| {
            assert_eq!(limit, 64 << 20);
            Ok(vec![0; 32 << 20])
        };
        reader.unpack(at, half).unwrap();
        let rest = |limit: u64| {
            assert_eq!(limit, 32 << 20);
            Ok(Vec::new())
        };
        reader.unpack(at, rest).unwrap();
        let mut tried = 0;
        for _ in 0..1000 {
            let result = reader.unpack(at, |_| {
                tried += 1;
                Err(decompress::Error::Unread("lzma"))
            });
            result.unwrap_err();
        }
        assert_eq!(tried, MAX_FAILURES);
        assert!(reader.unpack(at, |_| Ok(Vec::new())).is_err());
        let mut reader = Reader::new(128 << 20);
        let most = |limit: u64| {
            assert_eq!(limit, CEILING);
            Ok(Vec::new())
        };
        reader.unpack(at, most).unwrap();
    }
}
