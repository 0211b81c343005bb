//! Compression in formats that the kernel's own decompressors read.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};

use liblzma::stream::{Check, Filters, LzmaOptions, MtStreamBuilder, Stream};

use crate::arch::Arch;

/// A failure of the compressor.
#[derive(Debug, thiserror::Error)]
#[error("cannot compress the archive")]
pub(crate) struct Error(#[source] io::Error);

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Compression {
    Xz,
    Zstd,
    Gzip,
    None,
}

impl Compression {
    /// The one that a reader of it has this name for.
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        match name {
            "xz" => Some(Self::Xz),
            "zstd" => Some(Self::Zstd),
            "gzip" => Some(Self::Gzip),
            _ => None,
        }
    }

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
        .map_err(Error)
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
    // What helps programs of x86 and ARM most: 0.2 % of an initramfs with nothing but cpud.
    options.literal_context_bits(4).position_bits(0);
    if archive.len() <= LARGE {
        options.nice_len(273);
    }
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
    // The files on a stick are compressed already. Only a window that holds a whole kernel finds the second copy of it,
    // and a large kernel would need too large a window.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Vec<u8> {
        b"070701 and a program ".repeat(5000)
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
}
