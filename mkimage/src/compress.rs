//! Archives made small in a form that the kernel's own decompressor reads, and made whole again.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};

use xz2::stream::{Check, Filters, LzmaOptions, MtStreamBuilder, Stream};

/// No initramfs of ours comes near; a small file that unpacks to more is a bomb.
const MAX_ARCHIVE: u64 = 1 << 30;

/// How every newc archive, and every xz stream, begins.
const NEWC: &[u8] = b"070701";
const XZ: &[u8] = b"\xfd7zXZ\0";

/// Why an archive was not compressed or unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot compress the archive")]
    Compress(#[source] io::Error),
    #[error("the xz data is damaged or truncated")]
    Damaged(#[source] io::Error),
    #[error("neither a newc archive nor one compressed by xz")]
    Format,
    #[error("it unpacks to more than {MAX_ARCHIVE} bytes")]
    Bomb,
}

/// How an archive is compressed.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Compression {
    Xz,
    None,
}

impl Compression {
    /// What is added to the archive's name.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Xz => ".xz",
            Self::None => "",
        }
    }

    /// xz as the kernel reads it (Documentation/staging/xz.rst): with a CRC32 and the x86 filter. Its
    /// dictionary is memory of the booting machine: not more than the archive needs.
    pub(crate) fn apply(self, archive: Vec<u8>) -> Result<Vec<u8>, Error> {
        match self {
            Self::Xz => xz(&archive).map_err(Error::Compress),
            Self::None => Ok(archive),
        }
    }
}

fn xz(archive: &[u8]) -> io::Result<Vec<u8>> {
    let mut options = LzmaOptions::new_preset(9)?;
    let dictionary = archive.len().next_power_of_two().clamp(1 << 16, 1 << 26);
    options.dict_size(u32::try_from(dictionary).unwrap_or(1 << 26));
    let mut filters = Filters::new();
    filters.x86().lzma2(&options);
    let stream = Stream::new_stream_encoder(&filters, Check::Crc32)?;
    let mut encoder = xz2::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(archive)?;
    encoder.finish()
}

/// Bytes that [`xz_file`] compresses at a time, each by a thread of its own; the two copies of the kernel
/// on a stick lie in one of them.
const BLOCK: u64 = 8 << 20;

/// Compress a whole file, as xz does, on as many processors as the memory of a small machine allows.
/// `step` is called for every MiB that was read.
pub(crate) fn xz_file(mut from: &File, to: &File, mut step: impl FnMut()) -> io::Result<()> {
    // Preset 3: 32 MiB of memory a thread; what is on a stick is compressed already.
    let mut options = LzmaOptions::new_preset(3)?;
    options.dict_size(4 << 20);
    let mut filters = Filters::new();
    filters.lzma2(&options);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let stream = MtStreamBuilder::new()
        .threads(u32::try_from(threads.min(2)).unwrap_or(1))
        .block_size(BLOCK)
        .filters(filters)
        .check(Check::Crc64)
        .encoder()?;
    let mut encoder = xz2::write::XzEncoder::new_stream(to, stream);
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

/// The bare archive of an initramfs. What is in it is not looked at.
pub(crate) fn unpack(bytes: Vec<u8>) -> Result<Vec<u8>, Error> {
    if bytes.starts_with(NEWC) {
        return Ok(bytes);
    }
    if !bytes.starts_with(XZ) {
        return Err(Error::Format);
    }
    let mut archive = Vec::new();
    xz2::read::XzDecoder::new(bytes.as_slice())
        .take(MAX_ARCHIVE + 1)
        .read_to_end(&mut archive)
        .map_err(Error::Damaged)?;
    match archive {
        archive if archive.len() as u64 > MAX_ARCHIVE => Err(Error::Bomb),
        archive if archive.starts_with(NEWC) => Ok(archive),
        _ => Err(Error::Format),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn archive() -> Vec<u8> {
        [NEWC, &b"and a program ".repeat(5000)].concat()
    }

    #[test]
    fn both_forms_unpack_to_the_archive() {
        for compression in [Compression::Xz, Compression::None] {
            assert_eq!(
                unpack(compression.apply(archive()).unwrap()).unwrap(),
                archive()
            );
        }
    }

    #[test]
    fn the_kernel_can_read_the_check() {
        // The stream header's second flag byte, section 2.1.1.2 of the .xz format: 1 is CRC32.
        assert_eq!(
            Compression::Xz.apply(archive()).unwrap()[..8],
            *b"\xfd7zXZ\0\0\x01"
        );
    }

    #[test]
    fn every_truncation_is_an_error() {
        let packed = Compression::Xz.apply(archive()).unwrap();
        for length in 0..packed.len() {
            assert!(
                unpack(packed[..length].to_vec()).is_err(),
                "{length} bytes were taken"
            );
        }
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        let zeros = Compression::Xz.apply(vec![0; 99]).unwrap();
        for bytes in [zeros, b"\x1f\x8b\x08\0".to_vec(), Vec::new()] {
            assert!(matches!(unpack(bytes), Err(Error::Format)));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = unpack([XZ, &bytes].concat());
        }
    }
}
