//! Decompression within limits, of the formats that the kernel's own decompressors read. The bytes may be a stranger's:
//! a small file must not become a large one, and no decoder may take more memory than honest data needs.

use std::io::{self, BufRead, Read};

use liblzma::stream::{Action, CONCATENATED, Status, Stream};

/// For one thing that is unpacked into memory: all modules of Debian's kernel are 512 MB.
pub(crate) const MAX_UNPACKED: u64 = 640 << 20;

/// How many times as long as its compressed form data may be. Kernels, packages and source code stay below 12.
const RATIO: u64 = 16;

/// What any file may become, however small it is: there is firmware that is mostly zeros.
const FLOOR: u64 = 32 << 20;

/// What a decoder of xz or lzma may take. The kernel's build has a dictionary of 128 MiB (scripts/xz_wrap.sh).
const MAX_MEMORY: u64 = 160 << 20;

/// The logarithm of a zstd decoder's largest window: 128 MiB, as `zstd --ultra -22` makes the kernel's.
const MAX_WINDOW: u32 = 27;

/// Why something was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// By the name of the compression.
    #[error("its {0} data is damaged or truncated")]
    Damaged(&'static str, #[source] io::Error),
    /// By the name of the compression.
    #[error("it is compressed by {0}, which mkimage cannot read: unpack it first")]
    Unread(&'static str),
    /// Too small for what it unpacks to.
    #[error(
        "{packed} bytes unpack to more than {limit}: it is damaged, or made to exhaust memory or disk; \
         if you trust it, unpack it yourself"
    )]
    Bomb {
        /// Bytes of what is compressed.
        packed: u64,
        /// Bytes that may come out of it.
        limit: u64,
    },
    /// Made with too large a dictionary, or made up.
    #[error(
        "unpacking its {0} data takes more than 160 MiB of memory: \
         compress it again with a smaller dictionary or window (xz -6, zstd -19)"
    )]
    Memory(&'static str),
}

/// How many bytes may come out of `packed` ones where there is room for `max`.
pub(crate) fn allowed(packed: u64, max: u64) -> u64 {
    packed.saturating_mul(RATIO).max(FLOOR).min(max)
}

/// What many files have come to together, each of which may be unremarkable.
#[derive(Default)]
pub(crate) struct Sum {
    packed: u64,
    unpacked: u64,
}

impl Sum {
    /// Count a file in; an error when they are too much for memory.
    pub(crate) fn add(&mut self, packed: usize, unpacked: usize) -> Result<(), Error> {
        self.packed += packed as u64;
        self.unpacked += unpacked as u64;
        let limit = allowed(self.packed, MAX_UNPACKED);
        if self.unpacked > limit {
            let packed = self.packed;
            return Err(Error::Bomb { packed, limit });
        }
        Ok(())
    }
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

/// The name of the compression that data which begins so has.
fn name(start: &[u8]) -> Option<&'static str> {
    let found = MAGICS.iter().find(|(magic, _)| start.starts_with(magic));
    found.map(|(_, name)| *name)
}

/// Whether data that begins so is compressed.
pub(crate) fn is_compressed(start: &[u8]) -> bool {
    name(start).is_some()
}

/// Compressed data made whole.
pub(crate) struct Unpacked {
    /// Name of the compression.
    pub(crate) by: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// How long the compressed data was; more may follow it.
    pub(crate) consumed: usize,
}

/// Unpack what is compressed at the beginning of `bytes`, to `max` bytes or less; `None` when nothing is.
pub(crate) fn unpack_first(bytes: &[u8], max: u64) -> Result<Option<Unpacked>, Error> {
    let Some(by) = name(bytes) else {
        return Ok(None);
    };
    let packed = bytes.len() as u64;
    let limit = allowed(packed, max);
    let mut rest = bytes;
    let unpacked = some(by, &mut rest, limit)?;
    if unpacked.len() as u64 > limit {
        return Err(Error::Bomb { packed, limit });
    }
    Ok(Some(Unpacked {
        by,
        bytes: unpacked,
        consumed: bytes.len() - rest.len(),
    }))
}

/// Unpack an `.lzma` file whatever its properties, to `limit` bytes or less; more may follow it.
pub(crate) fn lzma_alone(bytes: &[u8], limit: u64) -> Result<Vec<u8>, Error> {
    let mut rest = bytes;
    let unpacked = some("lzma", &mut rest, limit)?;
    if unpacked.len() as u64 > limit {
        let packed = bytes.len() as u64;
        return Err(Error::Bomb { packed, limit });
    }
    Ok(unpacked)
}

/// How the data begins that is compressed at the beginning of `bytes`: some `length` bytes of it, or none.
pub(crate) fn start(mut bytes: &[u8], length: u64) -> Vec<u8> {
    let by = name(bytes);
    by.and_then(|by| some(by, &mut bytes, length).ok())
        .unwrap_or_default()
}

/// All that is compressed at the beginning of `rest`, or a little more than `limit`.
fn some(by: &'static str, rest: &mut &[u8], limit: u64) -> Result<Vec<u8>, Error> {
    match by {
        "xz" => Stream::new_stream_decoder(MAX_MEMORY, 0)
            .map_err(io::Error::from)
            .and_then(|stream| lzma(rest, stream, limit)),
        "lzma" => Stream::new_lzma_decoder(MAX_MEMORY)
            .map_err(io::Error::from)
            .and_then(|stream| lzma(rest, stream, limit)),
        "gzip" => drain(flate2::bufread::GzDecoder::new(rest), limit),
        "zstd" => zstd(rest).and_then(|decoder| drain(decoder.single_frame(), limit)),
        "lz4" => lz4(rest, limit),
        other => return Err(Error::Unread(other)),
    }
    .map_err(|error| cause(by, error))
}

/// A reader of a file in its uncompressed form, `max` bytes or less, whatever its compression is. An error of the reader
/// has one of [`Error`] inside ([`in_reader`]). `packed` is the length of the file.
pub(crate) fn reader<'a>(
    mut file: impl BufRead + 'a,
    packed: u64,
    max: u64,
) -> Result<Box<dyn Read + 'a>, Error> {
    let start = file.fill_buf();
    let is_plain = name(start.map_err(|error| Error::Damaged("compressed", error))?).is_none();
    let (inner, limit): (Box<dyn Read + 'a>, _) = if is_plain {
        (Box::new(file), max)
    } else {
        (decoder(file)?.1, allowed(packed, max))
    };
    let left = limit;
    Ok(Box::new(Limited {
        inner,
        packed,
        limit,
        left,
    }))
}

/// A reader of what a compressed file unpacks to, however much that is, and the name of its compression.
pub(crate) fn decoder<'a>(
    mut file: impl BufRead + 'a,
) -> Result<(&'static str, Box<dyn Read + 'a>), Error> {
    let start = file.fill_buf();
    let by = name(start.map_err(|error| Error::Damaged("compressed", error))?);
    let by = by.unwrap_or("nothing");
    let failed = |error| cause(by, error);
    let inner: Box<dyn Read + 'a> = match by {
        "xz" => {
            let stream = Stream::new_stream_decoder(MAX_MEMORY, CONCATENATED);
            let stream = stream.map_err(|error| failed(error.into()))?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(file, stream))
        }
        "gzip" => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        "zstd" => Box::new(zstd(file).map_err(failed)?),
        other => return Err(Error::Unread(other)),
    };
    Ok((by, Box::new(Decoder { by, inner })))
}

/// A decoder that says why it fails.
struct Decoder<'a> {
    by: &'static str,
    inner: Box<dyn Read + 'a>,
}

impl Read for Decoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer);
        read.map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            _ => io::Error::other(cause(self.by, error)),
        })
    }
}

/// A reader that fails when more comes than is allowed.
struct Limited<'a> {
    inner: Box<dyn Read + 'a>,
    packed: u64,
    limit: u64,
    left: u64,
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => self.left = left,
            None => {
                let (packed, limit) = (self.packed, self.limit);
                return Err(io::Error::other(Error::Bomb { packed, limit }));
            }
        }
        Ok(count)
    }
}

/// The error of a [`reader`], whoever has passed it on.
pub(crate) fn in_reader(error: io::Error) -> Result<Error, io::Error> {
    error.downcast::<Error>()
}

fn zstd<R: BufRead>(from: R) -> io::Result<zstd::stream::read::Decoder<'static, R>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(from)?;
    decoder.window_log_max(MAX_WINDOW)?;
    Ok(decoder)
}

/// What a decoder's failure means.
fn cause(by: &'static str, error: io::Error) -> Error {
    let inner = error.get_ref();
    let lzma = inner.and_then(|inner| inner.downcast_ref::<liblzma::stream::Error>());
    // The text of ZSTD_error_frameParameter_windowTooLarge.
    if matches!(lzma, Some(liblzma::stream::Error::MemLimit))
        || error.to_string().contains("requires too much memory")
    {
        return Error::Memory(by);
    }
    Error::Damaged(by, error)
}

/// All that a decoder gives, or a little more than is allowed.
fn drain(decoder: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    decoder.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The crate's own readers take what follows the end for damage.
fn lzma(rest: &mut &[u8], mut stream: Stream, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        if bytes.len() == bytes.capacity() {
            bytes.reserve(bytes.len().max(1 << 16));
        }
        let before = (stream.total_in(), bytes.len());
        let status = stream.process_vec(rest, &mut bytes, Action::Run)?;
        let consumed = stream.total_in() - before.0;
        *rest = &rest[usize::try_from(consumed).unwrap_or(rest.len())..];
        if status == Status::StreamEnd || bytes.len() as u64 > limit {
            return Ok(bytes);
        }
        if consumed == 0 && bytes.len() == before.1 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The old frames of lz4, which the kernel uses (lib/decompress_unlz4.c): blocks of at most 8 MiB, each
/// after its length, up to the end or to what is no length.
fn lz4(rest: &mut &[u8], limit: u64) -> io::Result<Vec<u8>> {
    const BLOCK: usize = 8 << 20;
    let mut bytes = Vec::new();
    let mut at = 4;
    while let Some(length) = rest.get(at..at + 4) {
        let length = length
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        // The largest size of a block, reached when nothing in it can be compressed.
        if length == 0 || length > BLOCK + BLOCK / 255 + 16 {
            break;
        }
        let block = rest
            .get(at + 4..at + 4 + length)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let block = lz4_flex::block::decompress(block, BLOCK).map_err(io::Error::other)?;
        bytes.extend(block);
        at += 4 + length;
        if bytes.len() as u64 > limit {
            break;
        }
    }
    *rest = rest.get(at..).unwrap_or_default();
    Ok(bytes)
}

#[cfg(test)]
mod tests;
