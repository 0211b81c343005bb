//! ROMs that are damaged, or made to exhaust memory.

use proptest::prelude::*;

use super::*;

/// The nested volume is compressed, so most damage would end there.
fn plain_rom() -> Vec<u8> {
    let mut bytes = vec![0; 0x100];
    let inside = sections(vec![crc32(sections(vec![
        name("volumes"),
        volume_section(inner()),
    ]))]);
    volume(40 << 10, vec![file(9, 0x0b, inside)]).write(&mut bytes);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn whatever_the_bytes_they_are_kept(
        which in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        length in any::<prop::sample::Index>(),
        truncated in any::<bool>(),
    ) {
        let mut bytes = if which { rom() } else { plain_rom() };
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if truncated {
            bytes.truncate(length.index(bytes.len()));
        }
        let rom = Rom::parse(&bytes);
        prop_assert!(rom.write() == bytes);
        let _ = tree(&rom, &bytes);
        // Done as it should be, or refused.
        let _ = apply(&bytes, &remove(&["network"]));
    }

    #[test]
    fn headers_of_volumes_files_and_sections_may_say_anything(
        header in prop::collection::vec(any::<u8>(), 24),
        section in prop::collection::vec(any::<u8>(), 32),
        kind in 0_u8..4,
    ) {
        let mut bytes = plain_rom();
        // The header of the file, with what would be refused at once put right.
        let at = 0x100 + 72;
        bytes[at + 24..at + 56].copy_from_slice(&section);
        bytes[at + 27] = if kind == 0 { section[3] } else { kind };
        bytes[at + 16..at + 20].copy_from_slice(&header[..4]);
        bytes[at + 18] = 0x07;
        bytes[at + 19] &= 0x3e;
        bytes[at + 17] = 0xaa;
        let sum: u8 = [&bytes[at..at + 16], &bytes[at + 18..at + 23]]
            .concat()
            .iter()
            .fold(0, |sum: u8, byte| sum.wrapping_add(*byte));
        bytes[at + 16] = sum.wrapping_neg();
        let rom = Rom::parse(&bytes);
        prop_assert!(rom.write() == bytes);
        let _ = tree(&rom, &bytes);
    }
}

#[test]
fn sections_inside_each_other_and_of_no_size_are_limited() {
    // A megabyte of empty sections, each of four bytes.
    let empty = leaf(0x19, &[]);
    let many = sections(vec![empty; 1 << 17]);
    let mut bytes = Vec::new();
    volume(1 << 20, vec![file(1, 0x07, many)]).write(&mut bytes);
    let rom = Rom::parse(&bytes);
    assert!(
        rom.not_understood()
            .unwrap()
            .to_string()
            .contains("too many")
    );
    let mut deep = leaf(0x19, &[1]);
    for _ in 0..20 {
        deep = crc32(sections(vec![deep]));
    }
    let mut bytes = Vec::new();
    volume(4096, vec![file(1, 0x07, sections(vec![deep]))]).write(&mut bytes);
    let rom = Rom::parse(&bytes);
    assert!(
        rom.not_understood()
            .unwrap()
            .to_string()
            .contains("too deep")
    );
}

#[test]
fn a_section_that_unpacks_to_too_much_is_refused() {
    let zeros = sections(vec![leaf(0x19, &vec![0; 33 << 20])]);
    let large = packed(Codec::Lzma, LZMA, zeros);
    let mut bytes = Vec::new();
    volume(64 << 10, vec![file(1, 0x07, sections(vec![large]))]).write(&mut bytes);
    let rom = Rom::parse(&bytes);
    let told = format!("{:?}", rom.not_understood().unwrap());
    assert!(told.contains("Bomb"), "{told}");
}

#[test]
fn a_file_with_the_guid_of_another_is_not_changed_with_it() {
    // What is named is a driver; what has its GUID starts the firmware.
    let named = driver(2, 0x07, "TcpDxe", 300);
    let start = driver(2, 0x03, "SecMain", 300);
    let mut bytes = Vec::new();
    volume(4096, vec![named.clone()]).write(&mut bytes);
    let alone = bytes.len();
    volume(4096, vec![start]).write(&mut bytes);
    let told = refusal(&bytes, &remove(&["TcpDxe"]));
    assert!(told.contains("does not start without it"), "{told}");
    let edit = Edit {
        replace: Some((Some("TcpDxe".to_owned()), pe(0x8664, 400))),
        ..Edit::default()
    };
    let told = refusal(&bytes, &edit);
    assert!(told.contains("stands for 2 files"), "{told}");
    // Without it, both are done.
    apply(&bytes[..alone], &remove(&["TcpDxe"])).unwrap();
    apply(&bytes[..alone], &edit).unwrap();
}

#[test]
fn whatever_is_missing_at_the_end_what_is_there_is_kept() {
    let whole = plain_rom();
    for length in 0..whole.len().min(2048) {
        assert!(is_kept(&whole[..length]), "{length}");
    }
    assert!(is_kept(&whole));
}

#[test]
fn what_is_in_a_file_is_not_removed_with_it_if_the_firmware_needs_it() {
    let holder = file(9, 0x02, sections(vec![volume_section(inner())]));
    let order =
        Uuid::from_bytes_le(*b"\xe7\x0e\x51\xfc\xdc\xff\xd4\x11\xbd\x41\x00\x80\xc7\x3c\x88\x81");
    let mut apriori = file(2, 0x02, sections(vec![leaf(0x19, &[2; 16])]));
    apriori.name = order;
    let mut bytes = Vec::new();
    volume(64 << 10, vec![holder, apriori]).write(&mut bytes);
    for name in [Uuid::from_bytes([9; 16]), order] {
        let told = refusal(&bytes, &remove(&[&name.to_string()]));
        assert!(told.contains("does not start without it"), "{told}");
    }
}

#[test]
fn names_show_no_character_that_a_terminal_acts_on() {
    let mut bytes = Vec::new();
    let text = "Shell\u{202e}exD\x1b[2J\u{2028}";
    volume(4096, vec![driver(2, 0x07, text, 300)]).write(&mut bytes);
    let text = tree(&Rom::parse(&bytes), &bytes);
    assert!(
        text.contains("Shell\u{fffd}exD\u{fffd}[2J\u{fffd}\n"),
        "{text}"
    );
}
