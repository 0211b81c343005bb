//! Compression of sections: LZMA as edk2 has it (MdeModulePkg/Library/LzmaCustomDecompressLib), with and without the filter
//! for x86 programs. The bytes are an `.lzma` file whose header has the size. And what is only read: Brotli, EFI 1.1 and Tiano.

use std::io;

use liblzma::stream::{Action, Filters, LzmaOptions, Status, Stream};
use uuid::{Uuid, uuid};

use super::brotli;
use super::tiano::{self, EFI, TIANO};
use crate::archive::decompress;

/// How a section is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    Lzma,
    /// LZMA of what has passed the x86 filter.
    LzmaX86,
    /// That of sections of the type COMPRESSION (EFI_STANDARD_COMPRESSION).
    Standard,
    Tiano,
    Brotli,
}

const LZMA: Uuid = uuid!("ee4e5898-3914-4259-9d6e-dc7bd79403cf");
const LZMA_X86: Uuid = uuid!("d42ae6bd-1352-4bfb-909a-ca72a6eae889");
const TIANO_GUID: Uuid = uuid!("a31280ad-481e-41b6-95e8-127f4c984779");
const BROTLI: Uuid = uuid!("3d532050-5cda-4fd0-879e-0f7f630d5afb");

/// Bytes of the header: properties, the dictionary's size, the size of what is compressed.
const HEADER: usize = 13;

impl Codec {
    /// By the GUID of the section.
    pub(super) fn of(guid: Uuid) -> Option<Self> {
        match guid {
            LZMA => Some(Self::Lzma),
            LZMA_X86 => Some(Self::LzmaX86),
            TIANO_GUID => Some(Self::Tiano),
            BROTLI => Some(Self::Brotli),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Lzma => "LZMA",
            Self::LzmaX86 => "LZMA, x86 filter",
            Self::Standard => "EFI 1.1 compression",
            Self::Tiano => "Tiano compression",
            Self::Brotli => "Brotli compression",
        }
    }

    /// Whether it is only read.
    pub(super) fn is_only_read(self) -> bool {
        matches!(self, Self::Standard | Self::Tiano | Self::Brotli)
    }

    /// What the section contains, `limit` bytes or less.
    pub(super) fn unpack(self, packed: &[u8], limit: u64) -> Result<Vec<u8>, decompress::Error> {
        match self {
            Self::Lzma => decompress::lzma_alone(packed, limit),
            Self::LzmaX86 => {
                let bytes = decompress::lzma_alone(packed, limit)?;
                filter_x86(&bytes, Direction::Decode)
                    .map_err(|error| decompress::Error::Damaged("lzma", error))
            }
            // There is firmware with the other one in such sections, from before the specification.
            Self::Standard => tiano::unpack(packed, EFI, limit)
                .or_else(|error| tiano::unpack(packed, TIANO, limit).map_err(|_| error)),
            Self::Tiano => tiano::unpack(packed, TIANO, limit),
            Self::Brotli => brotli::unpack(packed, limit),
        }
    }

    /// Compress it, for the decoder that read `before`: with its dictionary, and with the numbers of bits that edk2's
    /// tool sets, since its decoder has little working memory.
    pub(super) fn pack(self, bytes: &[u8], before: &[u8]) -> io::Result<Vec<u8>> {
        let filtered;
        let bytes = match self {
            Self::Lzma => bytes,
            Self::LzmaX86 => {
                filtered = filter_x86(bytes, Direction::Encode)?;
                &filtered
            }
            Self::Standard | Self::Tiano | Self::Brotli => {
                return Err(io::ErrorKind::Unsupported.into());
            }
        };
        let dictionary = before.get(1..5).map_or(1 << 24, |size| {
            u32::from_le_bytes([size[0], size[1], size[2], size[3]])
        });
        // A larger one than there are bytes would only take memory here.
        let needed = u32::try_from(bytes.len().next_power_of_two()).unwrap_or(u32::MAX);
        // 9e: the slowest and best preset.
        let mut options = LzmaOptions::new_preset(9 | 1 << 31)?;
        options
            .dict_size(dictionary.min(needed).clamp(1 << 12, 1 << 26))
            .literal_context_bits(3)
            .literal_position_bits(0)
            .position_bits(2);
        let mut packed = run(Stream::new_lzma_encoder(&options)?, bytes)?;
        let header = packed
            .get_mut(..HEADER)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        header[1..5].copy_from_slice(&dictionary.max(1 << 12).to_le_bytes());
        header[5..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        Ok(packed)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Encode,
    Decode,
}

/// The x86 filter alone. liblzma has it only in front of LZMA2, so that goes around it: quick, and undone at once.
fn filter_x86(bytes: &[u8], direction: Direction) -> io::Result<Vec<u8>> {
    let options = LzmaOptions::new_preset(0)?;
    let mut plain = Filters::new();
    plain.lzma2(&options);
    let mut filtered = Filters::new();
    filtered.x86().lzma2(&options);
    let (write, read) = match direction {
        Direction::Encode => (&filtered, &plain),
        Direction::Decode => (&plain, &filtered),
    };
    let between = run(Stream::new_raw_encoder(write)?, bytes)?;
    run(Stream::new_raw_decoder(read)?, &between)
}

/// All that a coder makes of the bytes.
fn run(mut stream: Stream, mut bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut output = Vec::new();
    loop {
        output.reserve(output.len().max(1 << 16));
        let before = (stream.total_in(), output.len());
        let status = stream.process_vec(bytes, &mut output, Action::Finish)?;
        let consumed = usize::try_from(stream.total_in() - before.0).unwrap_or(bytes.len());
        bytes = &bytes[consumed..];
        if status == Status::StreamEnd {
            return Ok(output);
        }
        if consumed == 0 && output.len() == before.1 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `call` of one place over and over, which the filter turns into equal bytes.
    fn program() -> Vec<u8> {
        let mut bytes = Vec::new();
        for at in (0_u32..60_000).step_by(6) {
            bytes.push(0xe8);
            bytes.extend(0x0001_0000_u32.wrapping_sub(at + 5).to_le_bytes());
            bytes.push(0x90);
        }
        bytes
    }

    #[test]
    fn what_is_packed_has_its_size_in_the_header_and_unpacks() {
        for codec in [Codec::Lzma, Codec::LzmaX86] {
            for bytes in [program(), Vec::new(), vec![7; 3]] {
                let packed = codec.pack(&bytes, b"\x5d\0\0\x80\0").unwrap();
                assert_eq!(packed[..5], *b"\x5d\0\0\x80\0");
                assert_eq!(packed[5..13], (bytes.len() as u64).to_le_bytes());
                assert!(codec.unpack(&packed, 1 << 20).unwrap() == bytes);
            }
        }
    }

    #[test]
    fn the_filter_makes_addresses_absolute() {
        let filtered = filter_x86(&program(), Direction::Encode).unwrap();
        assert_eq!(filtered[..12], *b"\xe8\0\0\x01\0\x90\xe8\0\0\x01\0\x90");
        assert!(filter_x86(&filtered, Direction::Decode).unwrap() == program());
        let [lzma, x86] =
            [Codec::Lzma, Codec::LzmaX86].map(|codec| codec.pack(&program(), &[]).unwrap().len());
        assert!(x86 * 2 < lzma, "{x86} and {lzma}");
    }

    #[test]
    fn truncated_and_larger_than_allowed_is_refused() {
        let packed = Codec::Lzma.pack(&program(), &[]).unwrap();
        for length in 0..packed.len() - 8 {
            assert!(
                Codec::Lzma.unpack(&packed[..length], 1 << 20).is_err(),
                "{length}"
            );
        }
        let error = Codec::Lzma.unpack(&packed, 59_999).unwrap_err();
        assert!(matches!(error, decompress::Error::Bomb { .. }), "{error}");
        Codec::Lzma.unpack(&packed, 60_000).unwrap();
    }
}
