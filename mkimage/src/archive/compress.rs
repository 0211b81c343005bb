//! Compression in formats that the kernel's own decompressors read, and decompression.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};

use liblzma::stream::{Action, Check, Filters, LzmaOptions, MtStreamBuilder, Status, Stream};

use crate::arch::Arch;

/// No initramfs of ours comes near; a small file that unpacks to more is a bomb.
pub(crate) const MAX_UNPACKED: usize = 1 << 30;

/// What the dictionary of an xz stream may take.
const MAX_MEMORY: u64 = 1 << 28;

/// Why something was not compressed or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A failure of the compressor.
    #[error("cannot compress the archive")]
    Compress(#[source] io::Error),
    /// By the name of the compression.
    #[error("its {0} data is damaged or truncated")]
    Damaged(&'static str, #[source] io::Error),
    /// By the name of the compression.
    #[error("it is compressed by {0}, which mkimage cannot read")]
    Unread(&'static str),
    /// Too small for what it unpacks to.
    #[error("it unpacks to more than {MAX_UNPACKED} bytes")]
    Bomb,
}

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Compression {
    Xz,
    Zstd,
    Gzip,
    None,
}

impl Compression {
    /// What is added to the archive's name.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Xz => ".xz",
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
            Self::None => "",
        }
    }

    /// xz as the kernel reads it (Documentation/staging/xz.rst): with a CRC32, and the filter for x86
    /// programs only for a machine whose kernel surely has it. Its dictionary is memory of the booting
    /// machine: not more than the archive needs.
    pub(crate) fn apply(self, archive: Vec<u8>, arch: Arch) -> Result<Vec<u8>, Error> {
        match self {
            Self::Xz => xz(&archive, arch),
            // The kernel's decoder takes windows of up to 128 MiB; 19 stays below.
            Self::Zstd => zstd::bulk::compress(&archive, 19),
            Self::Gzip => gzip(&archive),
            Self::None => Ok(archive),
        }
        .map_err(Error::Compress)
    }
}

fn gzip(archive: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(archive)?;
    encoder.finish()
}

fn xz(archive: &[u8], arch: Arch) -> io::Result<Vec<u8>> {
    // A distribution's modules take 14 s by preset 6, 5 s by preset 2, and become 9 % larger.
    let mut options = LzmaOptions::new_preset(if archive.len() > LARGE { 2 } else { 6 })?;
    let dictionary = archive.len().next_power_of_two().clamp(1 << 16, 1 << 23);
    options.dict_size(u32::try_from(dictionary).unwrap_or(1 << 23));
    let mut filters = Filters::new();
    if arch.facts().has_bcj_filter {
        filters.x86();
    }
    filters.lzma2(&options);
    let stream = if archive.len() > LARGE {
        MtStreamBuilder::new()
            .threads(threads())
            .block_size(LARGE as u64)
            .filters(filters)
            .check(Check::Crc32)
            .encoder()?
    } else {
        Stream::new_stream_encoder(&filters, Check::Crc32)?
    };
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(archive)?;
    encoder.finish()
}

/// Archives of more bytes are compressed in blocks of as many, side by side.
const LARGE: usize = 12 << 20;

/// How many blocks are compressed at the same time: each takes memory.
fn threads() -> u32 {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    if processors > 1 { 2 } else { 1 }
}

/// Bytes that [`xz_file`] compresses at a time, each by a thread of its own; the two copies of the kernel
/// on a stick lie in one of them.
const BLOCK: u64 = 8 << 20;

/// Compress a whole file, as xz does, on as many processors as the memory of a small machine allows.
/// `data` of its bytes are not holes. `step` is called for every MiB that was read.
pub(crate) fn xz_file(
    mut from: &File,
    data: u64,
    to: &File,
    mut step: impl FnMut(),
) -> io::Result<()> {
    // What is on a stick is compressed already: small kernels are worth finding twice, large ones cannot be.
    let large = data > LARGE as u64;
    let mut options = LzmaOptions::new_preset(if large { 0 } else { 3 })?;
    if !large {
        options.dict_size(4 << 20);
    }
    let mut filters = Filters::new();
    filters.lzma2(&options);
    let stream = MtStreamBuilder::new()
        .threads(threads())
        .block_size(BLOCK)
        .filters(filters)
        .check(Check::Crc64)
        .encoder()?;
    let mut encoder = liblzma::write::XzEncoder::new_stream(to, stream);
    from.rewind()?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match from.read(&mut buffer)? {
            0 => break,
            length => encoder.write_all(&buffer[..length])?,
        }
        step();
    }
    encoder.finish()?;
    Ok(())
}

/// How compressed data begins (the kernel's lib/decompress.c), and what it is called.
const MAGICS: [(&[u8], &str); 7] = [
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x1f\x8b", "gzip"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"\x5d\0\0", "lzma"),
    (b"BZh", "bzip2"),
    (b"\x89LZO", "lzo"),
];

/// Compressed data made whole.
pub(crate) struct Unpacked {
    /// Name of the compression.
    pub(crate) by: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// How long the compressed data was; more may follow it.
    pub(crate) consumed: usize,
}

/// Unpack what is compressed at the beginning of `bytes`; `None` when nothing is.
pub(crate) fn unpack_first(bytes: &[u8]) -> Result<Option<Unpacked>, Error> {
    let Some((_, by)) = MAGICS.iter().find(|(magic, _)| bytes.starts_with(magic)) else {
        return Ok(None);
    };
    let mut rest = bytes;
    let unpacked = match *by {
        "xz" => Stream::new_stream_decoder(MAX_MEMORY, 0)
            .map_err(io::Error::from)
            .and_then(|stream| lzma(&mut rest, stream)),
        "lzma" => Stream::new_lzma_decoder(MAX_MEMORY)
            .map_err(io::Error::from)
            .and_then(|stream| lzma(&mut rest, stream)),
        "gzip" => drain(flate2::bufread::GzDecoder::new(&mut rest)),
        "zstd" => zstd::stream::read::Decoder::with_buffer(&mut rest)
            .and_then(|decoder| drain(decoder.single_frame())),
        "lz4" => lz4(&mut rest),
        other => return Err(Error::Unread(other)),
    };
    let unpacked = unpacked.map_err(|error| Error::Damaged(by, error))?;
    if unpacked.len() > MAX_UNPACKED {
        return Err(Error::Bomb);
    }
    Ok(Some(Unpacked {
        by,
        bytes: unpacked,
        consumed: bytes.len() - rest.len(),
    }))
}

/// All that a decoder gives, or a little more than is allowed.
fn drain(decoder: impl io::Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    decoder
        .take(MAX_UNPACKED as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The crate's own readers take what follows the end for damage.
fn lzma(rest: &mut &[u8], mut stream: Stream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        if bytes.len() == bytes.capacity() {
            bytes.reserve(bytes.len().max(1 << 16));
        }
        let before = (stream.total_in(), bytes.len());
        let status = stream.process_vec(rest, &mut bytes, Action::Run)?;
        let consumed = stream.total_in() - before.0;
        *rest = &rest[usize::try_from(consumed).unwrap_or(rest.len())..];
        if status == Status::StreamEnd || bytes.len() > MAX_UNPACKED {
            return Ok(bytes);
        }
        if consumed == 0 && bytes.len() == before.1 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The old frames of lz4, which the kernel uses (lib/decompress_unlz4.c): blocks of at most 8 MiB, each
/// after its length, up to the end or to what is no length.
fn lz4(rest: &mut &[u8]) -> io::Result<Vec<u8>> {
    const BLOCK: usize = 8 << 20;
    let mut bytes = Vec::new();
    let mut at = 4;
    while let Some(length) = rest.get(at..at + 4) {
        let length = length
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        // The longest that a block can be, when nothing could be made shorter.
        if length == 0 || length > BLOCK + BLOCK / 255 + 16 {
            break;
        }
        let block = rest
            .get(at + 4..at + 4 + length)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let block = lz4_flex::block::decompress(block, BLOCK).map_err(io::Error::other)?;
        bytes.extend(block);
        at += 4 + length;
        if bytes.len() > MAX_UNPACKED {
            break;
        }
    }
    *rest = rest.get(at..).unwrap_or_default();
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn archive() -> Vec<u8> {
        b"070701 and a program ".repeat(5000)
    }

    const ALL: [Compression; 3] = [Compression::Xz, Compression::Zstd, Compression::Gzip];

    #[test]
    fn every_form_unpacks_to_the_archive_and_says_where_it_ends() {
        for compression in ALL {
            let mut packed = compression.apply(archive(), Arch::X86_64).unwrap();
            let length = packed.len();
            packed.extend(b"070701");
            let unpacked = unpack_first(&packed).unwrap().unwrap();
            assert!(unpacked.bytes == archive(), "{}", unpacked.by);
            assert_eq!(unpacked.consumed, length, "{}", unpacked.by);
        }
        assert_eq!(
            Compression::None.apply(archive(), Arch::X86_64).unwrap(),
            archive()
        );
        assert!(unpack_first(&archive()).unwrap().is_none());
    }

    #[test]
    fn old_lz4_frames_are_read() {
        let block = lz4_flex::block::compress(&archive());
        let length = u32::try_from(block.len()).unwrap().to_le_bytes();
        let frame = [b"\x02\x21\x4c\x18", &length[..], &block].concat();
        let unpacked = unpack_first(&frame).unwrap().unwrap();
        assert!(unpacked.bytes == archive());
        assert_eq!(unpacked.consumed, frame.len());
        assert!(unpack_first(&frame[..frame.len() - 1]).is_err());
    }

    #[test]
    fn the_kernel_can_read_the_check() {
        // The stream header's second flag byte, section 2.1.1.2 of the .xz format: 1 is CRC32.
        assert_eq!(
            Compression::Xz.apply(archive(), Arch::X86_64).unwrap()[..8],
            *b"\xfd7zXZ\0\0\x01"
        );
    }

    #[test]
    fn every_truncation_is_an_error() {
        for compression in ALL {
            let packed = compression.apply(archive(), Arch::X86_64).unwrap();
            for length in 6..packed.len() {
                assert!(
                    unpack_first(&packed[..length]).is_err(),
                    "{length} bytes were taken"
                );
            }
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let packed = Compression::Zstd
            .apply(vec![0; MAX_UNPACKED + 1], Arch::X86_64)
            .unwrap();
        assert!(matches!(unpack_first(&packed), Err(Error::Bomb)));
    }

    #[test]
    fn a_file_of_many_blocks_is_compressed_as_others_read_it() {
        let (from, mut to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let bytes = b"some text of a file ".repeat(1_000_000);
        (&from).write_all(&bytes).unwrap();
        let mut steps = 0;
        xz_file(&from, bytes.len() as u64, &to, || steps += 1).unwrap();
        assert_eq!(steps, bytes.len().div_ceil(1 << 20));
        to.rewind().unwrap();
        let mut found = Vec::new();
        liblzma::read::XzDecoder::new(to)
            .read_to_end(&mut found)
            .unwrap();
        assert!(found == bytes);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>, which in 0..MAGICS.len()) {
            let _ = unpack_first(&[MAGICS[which].0, &bytes].concat());
        }
    }
}
