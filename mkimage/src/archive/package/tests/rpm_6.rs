//! Packages in version 6 of rpm's format (docs/manual/format_v6.md of rpm).

use super::super::rpm::{
    TAG_ARCH, TAG_BASE_NAMES, TAG_DIRECTORY_INDEXES, TAG_DIRECTORY_NAMES, TAG_FILE_DEVICES,
    TAG_FILE_INODES, TAG_FILE_MODES, TAG_LONG_FILE_SIZES,
};
use super::*;

/// A header of rpm with the values of tags, each with its type and their number.
fn rpm_tags(tags: &[(u32, u32, u32, Vec<u8>)]) -> Vec<u8> {
    let (mut index, mut store) = (Vec::new(), Vec::new());
    for (tag, kind, count, value) in tags {
        store.resize(store.len().next_multiple_of(8), 0);
        let offset = u32::try_from(store.len()).unwrap();
        for number in [*tag, *kind, offset, *count] {
            index.extend(number.to_be_bytes());
        }
        store.extend(value);
    }
    let mut header = b"\x8e\xad\xe8\x01\0\0\0\0".to_vec();
    for length in [tags.len(), store.len()] {
        header.extend(u32::try_from(length).unwrap().to_be_bytes());
    }
    [header, index, store].concat()
}

/// A package of version 6, whose payload has numbers for names: a directory, two names of one file, a link, and a file.
fn package(numbers: [u32; 5], sizes: [u64; 5]) -> Vec<u8> {
    let words = |words: &[u32]| words.iter().flat_map(|it| it.to_be_bytes()).collect();
    let modes = [0o040_755_u16, 0o100_644, 0o100_644, 0o120_777, 0o100_644];
    let sizes = sizes.iter().flat_map(|it| it.to_be_bytes()).collect();
    let modes = modes.iter().flat_map(|it| it.to_be_bytes()).collect();
    let header = rpm_tags(&[
        (TAG_ARCH, 6, 1, b"x86_64\0".to_vec()),
        (TAG_FILE_MODES, 3, 5, modes),
        (TAG_FILE_DEVICES, 4, 5, words(&[1; 5])),
        (TAG_FILE_INODES, 4, 5, words(&[1, 2, 2, 3, 4])),
        (TAG_DIRECTORY_INDEXES, 4, 5, words(&[0, 1, 1, 1, 1])),
        (TAG_BASE_NAMES, 8, 5, b"boot\0a\0b\0link\0x\0".to_vec()),
        (TAG_DIRECTORY_NAMES, 8, 2, b"/\0/boot/\0".to_vec()),
        (TAG_LONG_FILE_SIZES, 5, 5, sizes),
    ]);
    let contents = [&b""[..], b"", b"two\0", b"to\0\0", b"y\0\0\0"];
    let entry = |(number, contents): (u32, &[u8])| {
        let header = format!("07070X{number:08x}\0\0");
        [header.as_bytes(), contents].concat()
    };
    let payload: Vec<u8> = numbers.into_iter().zip(contents).flat_map(entry).collect();
    let payload = packed(
        Compression::Zstd,
        [payload, newc::pack(FileTree::new(), 7).unwrap()].concat(),
    );
    let start = rpm("x86_64", &[]);
    let signatures = &start[..96 + 16 + 16 + 8];
    [signatures, &header, &payload].concat()
}

#[test]
fn packages_of_version_6_of_rpm_have_the_names_in_their_header() {
    const SIZES: [u64; 5] = [4096, 3, 3, 2, 1];
    let found = unpacked(&package([0, 1, 2, 3, 4], SIZES)).unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|(name, it)| (&name[..], &it[..]))
        .collect();
    let expected: [(&str, &[u8]); 3] = [("boot/a", b""), ("boot/b", b"two"), ("boot/x", b"y")];
    assert_eq!(found, expected);
    for (numbers, sizes) in [
        ([0, 1, 2, 3, 5], SIZES),
        ([0, 1, 2, 3, u32::MAX], SIZES),
        ([0, 1, 2, 3, 4], [4096, 3, 3, 2, u64::MAX]),
    ] {
        let refused = unpacked(&package(numbers, sizes));
        assert!(matches!(refused, Err(Error::Damaged(_))), "{refused:?}");
    }
    let whole = package([0, 1, 2, 3, 4], SIZES);
    for length in 0..whole.len() {
        assert!(unpacked(&whole[..length]).is_err(), "{length}");
    }
}

proptest! {
    #[test]
    fn any_change_of_its_header_is_read_or_refused(at in 136..600_usize, value: u8) {
        let mut bytes = package([0, 1, 2, 3, 4], [4096, 3, 3, 2, 1]);
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        let _ = unpacked(&bytes);
    }
}
