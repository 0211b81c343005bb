//! Brotli as edk2 has it (MdeModulePkg/Library/BrotliCustomDecompressLib): the size of what is compressed, that of the memory
//! which edk2's decoder takes, and the stream. Only reading. The bytes may come from anybody.

use std::io;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};

use crate::archive::decompress;

/// What the bytes unpack to, `limit` bytes or less.
pub(super) fn unpack(packed: &[u8], limit: u64) -> Result<Vec<u8>, decompress::Error> {
    let damaged = || decompress::Error::Damaged("Brotli", io::ErrorKind::InvalidData.into());
    let (size, rest) = packed.split_first_chunk::<8>().ok_or_else(damaged)?;
    let size = u64::from_le_bytes(*size);
    let stream = rest.get(8..).ok_or_else(damaged)?;
    if size > limit {
        let packed = packed.len() as u64;
        return Err(decompress::Error::Bomb { packed, limit });
    }
    let mut output = vec![0; usize::try_from(size).map_err(|_| damaged())?];
    let allocator = StandardAlloc::default;
    // Strict: with windows of at most 16 MiB, not of 1 GiB.
    let mut state = BrotliState::new_strict(allocator(), allocator(), allocator());
    let (mut unread, mut read) = (stream.len(), 0);
    let (mut room, mut written, mut total) = (output.len(), 0, 0);
    let result = BrotliDecompressStream(
        &mut unread,
        &mut read,
        stream,
        &mut room,
        &mut written,
        &mut output,
        &mut total,
        &mut state,
    );
    match result {
        BrotliResult::ResultSuccess if room == 0 => Ok(output),
        _ => Err(damaged()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    use super::*;

    /// Made by Google's compressor, with edk2's header before it.
    const BY_GOOGLE: &str = "\
8c2400000000000000000200000000001b8b24e89d0976ac2f406d81d706ce094803cfcac7e0bc92f34e71609e298ff059ba1e1b1b6b1b8888589986\
dca65c2558f567030060128540d9793b796770ef002004232886132445332cc70ba2242baaa61ba6653baee7076114276996176555376dd70fe3342f\
ebb61fe775bb3f9eafb736161c7a0a1c25e5525b1f73ed73dfff7c7f7f10821114c30992a21996e30551921555d30dd3b21dd7f383308a9334cb8bb2\
aa9bb6eb87719a9775db8ff3ba9ff7f3fdfd0104232886132445332cc70ba2242baaa61ba6653baee7076114276996176555376dd70fe3342febb61f\
e7753feff703";

    fn original() -> Vec<u8> {
        let bytes: Vec<u8> = (0..=255).collect();
        [b"mkimage".repeat(1300), bytes].concat()
    }

    /// One block without compression, of 64 KiB or less (RFC 7932).
    pub(in crate::rom) fn pack(bytes: &[u8]) -> Vec<u8> {
        let size = bytes.len() as u64;
        // A window of 64 KiB, not the last block, a length of 16 bits, no compression.
        let block = ((size - 1) << 4 | 1 << 20).to_le_bytes();
        // The last block is empty.
        [&size.to_le_bytes()[..], &[0; 8], &block[..3], bytes, &[3]].concat()
    }

    #[test]
    fn what_the_compressor_makes_is_read_and_nothing_that_is_cut_short() {
        let packed = HEXLOWER.decode(BY_GOOGLE.as_bytes()).unwrap();
        let size = original().len() as u64;
        assert!(unpack(&packed, size).unwrap() == original());
        let error = unpack(&packed, size - 1).unwrap_err();
        assert!(matches!(error, decompress::Error::Bomb { .. }), "{error}");
        for length in 0..packed.len() {
            unpack(&packed[..length], size).unwrap_err();
        }
        for size in [size - 1, size + 1] {
            let mut other = packed.clone();
            other[..8].copy_from_slice(&size.to_le_bytes());
            unpack(&other, 1 << 20).unwrap_err();
        }
        assert!(unpack(&pack(&original()), 1 << 20).unwrap() == original());
    }

    #[test]
    fn a_window_that_takes_a_gigabyte_is_refused() {
        // What RFC 7932 does not have: 30 bits for the window. Then an empty last block.
        let packed = [&[0; 16][..], &[0x11, 0xde]].concat();
        unpack(&packed, 1 << 20).unwrap_err();
        let packed = [&[0; 16][..], &[0x06]].concat();
        assert_eq!(unpack(&packed, 1 << 20).unwrap(), b"");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn whatever_the_bytes_nothing_takes_more_than_the_size_that_they_state(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        ) {
            let mut packed = HEXLOWER.decode(BY_GOOGLE.as_bytes()).unwrap();
            for (at, value) in changes {
                let at = at.index(packed.len());
                packed[at] = value;
            }
            let stated = u64::from_le_bytes(packed[..8].try_into().unwrap());
            if let Ok(bytes) = unpack(&packed, 50_000) {
                prop_assert!(bytes.len() as u64 == stated && stated <= 50_000);
            }
        }
    }
}
