//! What edk2's compressors made (Compress and TianoCompress of its BaseTools), and what nobody's did.

use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::*;

const BY_EFI: &str = "\
ed0000001c250000012350ae6cd9fe84da7cc33087ba78ba197a19acd00c6dd61219ccc518722240fb6d325861c4600f84eb2bc52a2c633cc5c9\
6d8181ce303db4fb0e6c0c1d86ee0f82f51511f69f262fddc83d48b9c81ba3b4ec21c392d18b43cec626bdf016967d1876c46b639db267f5bfef\
5bd83958eaaf0f780d44924924924924924924924924924924924924924924924924924bfa61219ccc1e1c88903edb4c9618711803e13acaf14a\
8b18cf31725b6060738c0f6d3ec39b030761bb83e0bd45447da7c98bf7720f522e7206e8ed3b0870e4b462d0f3b189af7c05a59f461db11ad8e7\
6c99fd6ffbd6f60e563aab8000";

const BY_TIANO: &str = "\
9c0000001c25000000a958adb29767fa13716d78a043de2f0b619760bbf047d7d00c6de0001a1495efd2f216f18927ed474cc2f6cb1ea5daea72\
ae3c9aa38d6e95598d25eadee13ed9b6959d8383a51cc1ed566a6b1de6d7717be642d362af20ee9ed39096de4b2e2f8f9d1c4cfdf00a4aff465c\
b159d2df2ca2df5bff7a9f60e547aaae2d5c28f042108421084210842108421084210842108421084217fafdf914c000";

/// Blocks of characters alone, all of whose codes have eight bits: the shortest compressor there is.
pub(in crate::rom) fn pack(bytes: &[u8], window: SlidingWindow) -> Vec<u8> {
    let mut bits = Vec::new();
    let mut put = |value: usize, count: u32| {
        bits.extend((0..count).rev().map(|bit| (value >> bit & 1) == 1));
    };
    for block in bytes.chunks(0xffff) {
        put(block.len(), 16);
        // The only length, with 2 added; so many characters; the only position.
        for (value, count) in [
            (0, 5),
            (10, 5),
            (256, 9),
            (0, window.bits),
            (0, window.bits),
        ] {
            put(value, count);
        }
        for byte in block {
            put(usize::from(*byte), 8);
        }
    }
    let body: Vec<u8> = bits
        .chunks(8)
        .map(|bits| {
            let bits = bits.iter().zip([128, 64, 32, 16, 8, 4, 2, 1]);
            bits.map(|(bit, value)| u8::from(*bit) * value).sum()
        })
        .chain([0])
        .collect();
    let sizes = [body.len(), bytes.len()].map(|size| u32::try_from(size).unwrap().to_le_bytes());
    [sizes.concat(), body].concat()
}

/// What both were made from: the same 200 letters twice, so far apart that only the larger window reaches the first.
fn original() -> Vec<u8> {
    let mut state = 1_u32;
    let letters: Vec<u8> = (0..200)
        .map(|_| {
            state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345) & 0x7fff_ffff;
            let [_, _, low, high] = state.to_le_bytes();
            b'a' + low % 16 * (high % 2)
        })
        .collect();
    [&letters[..], &b"mkimage".repeat(1300), &letters].concat()
}

fn made_by_edk2() -> [(Vec<u8>, SlidingWindow); 2] {
    [(BY_EFI, EFI), (BY_TIANO, TIANO)]
        .map(|(hex, window)| (HEXLOWER.decode(hex.as_bytes()).unwrap(), window))
}

#[test]
fn what_edk2_compressed_is_read() {
    for (packed, window) in made_by_edk2() {
        assert!(unpack(&packed, window, 1 << 20).unwrap() == original());
        // The other one reads something else, and knows.
        let other = if window.bits == 4 { TIANO } else { EFI };
        unpack(&packed, other, 1 << 20).unwrap_err();
    }
}

#[test]
fn several_blocks_and_all_bytes_are_read() {
    let bytes: Vec<u8> = (0..=255).cycle().take(200_000).collect();
    for window in [EFI, TIANO] {
        for length in [0, 1, 7, 255, 0xffff, 0x1_0000, bytes.len()] {
            let packed = pack(&bytes[..length], window);
            assert!(
                unpack(&packed, window, 1 << 20).unwrap() == bytes[..length],
                "{length}"
            );
        }
    }
}

#[test]
fn what_is_cut_short_or_larger_than_allowed_is_refused() {
    for (packed, window) in made_by_edk2() {
        let size = original().len() as u64;
        unpack(&packed, window, size).unwrap();
        let error = unpack(&packed, window, size - 1).unwrap_err();
        assert!(matches!(error, decompress::Error::Bomb { .. }), "{error}");
        for length in 0..packed.len() {
            let error = unpack(&packed[..length], window, size).unwrap_err();
            assert!(matches!(error, decompress::Error::Damaged(..)), "{error}");
            // And if the header says so. The last byte is not needed.
            let mut shorter = packed[..length].to_vec();
            if let Some(body) = length.checked_sub(8) {
                shorter[..4].copy_from_slice(&u32::try_from(body).unwrap().to_le_bytes());
                assert_eq!(
                    unpack(&shorter, window, size).is_ok(),
                    length == packed.len() - 1
                );
            }
        }
        for bytes in [size - 1, size + 1] {
            let mut other = packed.clone();
            other[4..8].copy_from_slice(&u32::try_from(bytes).unwrap().to_le_bytes());
            unpack(&other, window, 1 << 20).unwrap_err();
        }
    }
}

/// Bits, as text with spaces, after a header.
fn stream(original: u32, bits: &str) -> Vec<u8> {
    let bits: Vec<u8> = bits.bytes().filter(|bit| *bit != b' ').collect();
    let body: Vec<u8> = bits
        .chunks(8)
        .map(|bits| {
            let text = format!("{:0<8}", std::str::from_utf8(bits).unwrap());
            u8::from_str_radix(&text, 2).unwrap()
        })
        .collect();
    let size = u32::try_from(body.len()).unwrap();
    [&size.to_le_bytes()[..], &original.to_le_bytes(), &body].concat()
}

#[test]
fn codes_that_are_none_and_strings_from_before_the_beginning_are_refused() {
    let a = "001100001";
    let single = "00000 00000";
    // Count, lengths, characters, positions, body.
    for (size, bits, expected) in [
        // One character, again and again, takes no bits.
        (
            3,
            format!("{:016b} {single} 000000000 {a} 0000 0000", 3),
            Some(&b"aaa"[..]),
        ),
        // No character at all.
        (
            3,
            format!("{:016b} {single} 000000000 {a} 0000 0000", 0),
            None,
        ),
        // More characters than there is room for.
        (
            3,
            format!("{:016b} {single} 000000000 {a} 0000 0000", 4),
            None,
        ),
        // Another block.
        (
            2,
            format!(
                "{0:016b} {single} 000000000 {a} 0000 0000 {0:016b} {single} 000000000 {a} 0000 0000",
                1
            ),
            Some(b"aa"),
        ),
        // A block of no characters before one of three.
        (
            3,
            format!(
                "{:016b} {single} 000000000 {a} 0000 0000 {:016b} {single} 000000000 {a} 0000 0000",
                0, 3
            ),
            None,
        ),
        // A string where nothing is yet.
        (
            3,
            format!("{:016b} {single} 000000000 100000000 0000 0000", 1),
            None,
        ),
        // Characters that there are not, positions that there are not, lengths that there are not.
        (
            3,
            format!("{:016b} {single} 000000000 111111110 0000 0000", 3),
            None,
        ),
        (
            3,
            format!("{:016b} {single} 000000000 {a} 0000 1110", 3),
            None,
        ),
        (
            3,
            format!("{:016b} 00000 10011 000000000 {a} 0000 0000", 3),
            None,
        ),
        // More lengths of positions than there are positions.
        (
            3,
            format!(
                "{:016b} {single} 000000000 {a} 1111 {}",
                3,
                "001".repeat(15)
            ),
            None,
        ),
        // Lengths of positions: 1 and 1; 1 alone; 1, 1 and 1; 1, 2 and 2.
        (
            3,
            format!("{:016b} {single} 000000000 {a} 0010 001 001", 3),
            Some(b"aaa"),
        ),
        (
            3,
            format!("{:016b} {single} 000000000 {a} 0001 001", 3),
            None,
        ),
        (
            3,
            format!("{:016b} {single} 000000000 {a} 0011 001 001 001", 3),
            None,
        ),
        (
            3,
            format!("{:016b} {single} 000000000 {a} 0011 001 010 010", 3),
            Some(b"aaa"),
        ),
        // Lengths of 7, which have one bit more than those of 6.
        (
            3,
            format!(
                "{:016b} {single} 000000000 {a} 1000 001 010 011 100 101 110 1110 1110",
                3
            ),
            Some(b"aaa"),
        ),
        // A length of 17.
        (
            3,
            format!(
                "{:016b} {single} 000000000 {a} 0001 111 {} 0",
                3,
                "1".repeat(10)
            ),
            None,
        ),
        // Ones after the end.
        (
            3,
            format!("{:016b} {single} 000000000 {a} 0000 0000 1", 3),
            None,
        ),
        (
            3,
            format!("{:016b} {single} 000000000 {a} 0000 0000 {:064b} 1", 3, 0),
            None,
        ),
    ] {
        let unpacked = unpack(&stream(size, &bits), EFI, 1 << 20);
        assert_eq!(unpacked.ok().as_deref(), expected, "{bits}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn whatever_the_bytes_nothing_takes_more_than_the_size_that_they_state(
        tiano in any::<bool>(),
        made_up in prop::collection::vec(any::<u8>(), 0..200),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        original in 0_u32..100_000,
        mutate in any::<bool>(),
    ) {
        let (mut packed, window) = made_by_edk2()[usize::from(tiano)].clone();
        if !mutate {
            packed.truncate(8);
            packed.extend(made_up);
            let body = u32::try_from(packed.len() - 8).unwrap();
            packed[..4].copy_from_slice(&body.to_le_bytes());
            packed[4..8].copy_from_slice(&original.to_le_bytes());
        }
        for (at, value) in changes {
            let at = at.index(packed.len());
            packed[at] = value;
        }
        let stated = u32::from_le_bytes([packed[4], packed[5], packed[6], packed[7]]) as usize;
        match unpack(&packed, window, 50_000) {
            Ok(bytes) => prop_assert!(bytes.len() == stated && bytes.capacity() == stated && stated <= 50_000),
            Err(decompress::Error::Bomb { .. }) => prop_assert!(stated > 50_000),
            Err(_) => {}
        }
    }
}
