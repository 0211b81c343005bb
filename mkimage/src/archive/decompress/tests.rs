//! Tests of what unpacks, and what is refused.

use std::io::Write as _;

use proptest::prelude::*;

use super::super::compress::Compression;
use super::*;
use crate::arch::Arch;

fn archive() -> Vec<u8> {
    b"070701 and a program ".repeat(5000)
}

const ALL: [Compression; 3] = [Compression::Xz, Compression::Zstd, Compression::Gzip];

fn unpack(bytes: &[u8]) -> Result<Option<Unpacked>, Error> {
    unpack_first(bytes, MAX_UNPACKED)
}

#[test]
fn every_form_unpacks_to_the_archive_and_says_where_it_ends() {
    for compression in ALL {
        let mut packed = compression.apply(archive(), Arch::X86_64).unwrap();
        let length = packed.len();
        let mut found = Vec::new();
        let read = reader(&packed[..], length as u64, 1 << 20);
        read.unwrap().read_to_end(&mut found).unwrap();
        assert!(found == archive());
        packed.extend(b"070701");
        let unpacked = unpack(&packed).unwrap().unwrap();
        assert!(unpacked.bytes == archive(), "{}", unpacked.by);
        assert_eq!(unpacked.consumed, length, "{}", unpacked.by);
    }
    assert_eq!(
        Compression::None.apply(archive(), Arch::X86_64).unwrap(),
        archive()
    );
    assert!(unpack(&archive()).unwrap().is_none());
}

#[test]
fn old_lz4_frames_are_read() {
    let block = lz4_flex::block::compress(&archive());
    let length = u32::try_from(block.len()).unwrap().to_le_bytes();
    let frame = [b"\x02\x21\x4c\x18", &length[..], &block].concat();
    let unpacked = unpack(&frame).unwrap().unwrap();
    assert!(unpacked.bytes == archive());
    assert_eq!(unpacked.consumed, frame.len());
    assert!(unpack(&frame[..frame.len() - 1]).is_err());
}

#[test]
fn every_truncation_is_an_error() {
    for compression in ALL {
        let packed = compression.apply(archive(), Arch::X86_64).unwrap();
        for length in 6..packed.len() {
            assert!(
                unpack(&packed[..length]).is_err(),
                "{length} bytes were taken"
            );
        }
    }
}

#[test]
fn small_files_may_become_as_much_as_the_floor_and_large_ones_their_ratio() {
    assert_eq!(allowed(0, MAX_UNPACKED), FLOOR);
    assert_eq!(allowed(8 << 20, MAX_UNPACKED), 128 << 20);
    assert_eq!(allowed(u64::MAX, MAX_UNPACKED), MAX_UNPACKED);
    assert_eq!(allowed(1 << 20, 4096), 4096);
    for compression in ALL {
        let bytes = usize::try_from(FLOOR).unwrap();
        let most = compression.apply(vec![0; bytes], Arch::X86_64).unwrap();
        assert_eq!(unpack(&most).unwrap().unwrap().bytes.len(), bytes);
        let more = compression.apply(vec![0; bytes + 1], Arch::X86_64).unwrap();
        assert!(matches!(unpack(&more), Err(Error::Bomb { .. })));
        let mut reader = reader(&more[..], more.len() as u64, MAX_UNPACKED).unwrap();
        let error = io::copy(&mut reader, &mut io::sink()).unwrap_err();
        assert!(matches!(in_reader(error), Ok(Error::Bomb { .. })));
    }
}

#[test]
fn many_small_files_count_together() {
    let mut sum = Sum::default();
    for _ in 0..32 {
        sum.add(1000, 1 << 20).unwrap();
    }
    assert!(matches!(sum.add(1000, 1 << 20), Err(Error::Bomb { .. })));
    let mut sum = Sum::default();
    for _ in 0..100 {
        sum.add(1 << 20, 4 << 20).unwrap();
    }
}

#[test]
fn dictionaries_that_nobody_needs_are_refused() {
    let xz = |size: u32| {
        let mut options = liblzma::stream::LzmaOptions::new_preset(0).unwrap();
        options.dict_size(size);
        let mut filters = liblzma::stream::Filters::new();
        filters.lzma2(&options);
        let check = liblzma::stream::Check::Crc32;
        let stream = Stream::new_stream_encoder(&filters, check).unwrap();
        let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        encoder.write_all(&archive()).unwrap();
        encoder.finish().unwrap()
    };
    assert!(unpack(&xz(128 << 20)).is_ok());
    assert!(matches!(unpack(&xz(256 << 20)), Err(Error::Memory("xz"))));
    let zstd = |log: u32| {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        encoder.write_all(&archive()).unwrap();
        encoder.finish().unwrap()
    };
    assert!(unpack(&zstd(27)).is_ok());
    assert!(matches!(unpack(&zstd(28)), Err(Error::Memory("zstd"))));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>, which in 0..MAGICS.len()) {
        let _ = unpack(&[MAGICS[which].0, &bytes].concat());
    }
}
