//! ROMs with sections in EFI 1.1, Tiano and Brotli compression, which are read and not written.

use super::*;
use crate::rom::tiano::{EFI, TIANO};
use crate::rom::volume::section::testing::standard;

const TIANO_GUID: Uuid = uuid!("a31280ad-481e-41b6-95e8-127f4c984779");
const BROTLI: Uuid = uuid!("3d532050-5cda-4fd0-879e-0f7f630d5afb");

/// A ROM whose volume of drivers is in a section that is made so. The compressor of the tests does not make it smaller.
fn rom_in(pack: fn(Section) -> Section) -> Vec<u8> {
    let mut bytes = vec![0x5a; 0x1000];
    let inside = sections(vec![pack(volume_section(inner()))]);
    volume(64 << 10, vec![file(9, 0x0b, inside)]).write(&mut bytes);
    bytes
}

fn listed(bytes: &[u8]) -> String {
    let rom = Rom::parse(bytes);
    let text = tree(&rom, bytes);
    assert!(is_understood(&rom), "{text}");
    assert!(rom.write() == bytes, "{text}");
    text
}

#[test]
fn what_is_in_sections_is_listed_and_they_are_written_as_they_were() {
    let forms: [fn(Section) -> Section; 4] = [
        |section| standard(EFI, sections(vec![section])),
        |section| standard(TIANO, sections(vec![section])),
        |section| packed(Codec::Tiano, TIANO_GUID, sections(vec![section])),
        |section| packed(Codec::Brotli, BROTLI, sections(vec![section])),
    ];
    let names = ["EFI 1.1", "EFI 1.1", "Tiano", "Brotli"];
    for (form, name) in forms.into_iter().zip(names) {
        let said = format!("{name} compression, 32");
        let text = listed(&rom_in(form));
        assert!(text.contains("TcpDxe") && text.contains(&said), "{text}");
    }
}

#[test]
fn a_section_that_is_edited_is_written_without_compression_or_the_edit_is_refused() {
    let before = rom_in(|section| standard(EFI, sections(vec![section])));
    let edit = Edit {
        remove: vec!["network".to_owned()],
        ..kernel(3000)
    };
    let after = apply(&before, &edit).unwrap();
    assert!(after[..0x1000] == before[..0x1000]);
    let text = listed(&after);
    assert!(text.contains("not compressed"), "{text}");
    assert!(
        !text.contains("EFI 1.1") && !text.contains("TcpDxe"),
        "{text}"
    );
    assert!(text.contains("BdsDxe"), "{text}");

    for (name, pack) in [
        (
            "Tiano",
            (|section| packed(Codec::Tiano, TIANO_GUID, sections(vec![section])))
                as fn(Section) -> Section,
        ),
        ("Brotli", |section| {
            packed(Codec::Brotli, BROTLI, sections(vec![section]))
        }),
    ] {
        for edit in [kernel(3000), remove(&["network"])] {
            let told = refusal(&rom_in(pack), &edit);
            let said = format!("with {name} compression, which mkimage reads");
            assert!(told.contains(&said), "{told}");
        }
    }
}

/// As older firmware has them: each driver compressed by itself.
fn drivers(pack: fn(Sections) -> Section) -> Vec<u8> {
    let files = [
        driver(2, 0x07, "TcpDxe", 1000),
        driver(3, 0x09, "Shell", 2000),
    ];
    let files = files.map(|mut driver| {
        driver.sections = driver.sections.map(|list| sections(vec![pack(list)]));
        driver
    });
    let mut bytes = Vec::new();
    volume(16 << 10, files.to_vec()).write(&mut bytes);
    bytes
}

#[test]
fn drivers_that_are_compressed_each_by_itself_have_names_and_can_be_removed() {
    for (pack, is_written) in [
        // Made so that the smaller window reads something too.
        (
            (|list| standard(TIANO, list)) as fn(Sections) -> Section,
            true,
        ),
        (
            (|list| standard(EFI, list)) as fn(Sections) -> Section,
            true,
        ),
        (|list| packed(Codec::Tiano, TIANO_GUID, list), false),
    ] {
        let before = drivers(pack);
        let after = apply(&before, &remove(&["network"])).unwrap();
        let text = listed(&after);
        assert!(text.contains("Shell") && !text.contains("TcpDxe"), "{text}");
        assert_eq!(apply(&before, &kernel(4000)).is_ok(), is_written);
    }
    let text = listed(&apply(&drivers(|list| standard(EFI, list)), &kernel(4000)).unwrap());
    let shell = text
        .lines()
        .position(|line| line.ends_with("Shell"))
        .unwrap();
    assert!(
        text.lines()
            .nth(shell + 1)
            .unwrap()
            .ends_with("not compressed"),
        "{text}"
    );
    assert!(text.contains("EFI 1.1 compression, 1"), "{text}");
}

#[test]
fn a_section_that_cannot_be_unpacked_is_kept_and_all_else_can_be_edited() {
    let standard = drivers(|list| standard(EFI, list));
    let tiano = drivers(|list| packed(Codec::Tiano, TIANO_GUID, list));
    let section = 72 + 24;
    for (before, offset, said) in [
        // In the compressed data, and in the size that the section states.
        (
            &standard,
            section + 4 + 5 + 10,
            "compressed (not looked into)",
        ),
        (&standard, section + 4, "compressed (not looked into)"),
        (
            &tiano,
            section + 4 + 20 + 10,
            "GUID-defined (not looked into)",
        ),
    ] {
        let mut damaged = before.clone();
        damaged[offset] ^= 0x40;
        assert!(listed(before).contains("TcpDxe"));
        let text = listed(&damaged);
        assert!(text.contains(said) && !text.contains("TcpDxe"), "{text}");
        let told = refusal(&damaged, &remove(&["network"]));
        assert!(told.contains("there is no \"network\""), "{told}");
        let shell = apply(&damaged, &remove(&["Shell"])).unwrap();
        assert!(!listed(&shell).contains("Shell"));
    }
}
