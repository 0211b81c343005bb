//! What forbids an edit: ROMs of other kinds, and parts that a processor checks before it starts them. And the regions of
//! an Intel flash descriptor, of which only the one with the firmware is edited.

use std::ops::Range;

use super::error::Error;
use super::reader::View;

/// Refuse an image that is of another kind, or is checked by the processor.
pub(super) fn check(image: &[u8]) -> Result<(), Error> {
    if contains(image, b"LARCHIVE") {
        let instead = "use coreboot's cbfstool";
        return Err(Error::Kind("ROM of coreboot", instead));
    }
    for (kind, name) in [
        (0x02, "an authenticated code module (ACM)"),
        (0x0b, "a Boot Guard key manifest"),
        (0x0c, "a Boot Guard policy"),
    ] {
        if firmware_interface_table(image).contains(&kind) {
            return Err(Error::Signed(format!(
                "its firmware interface table (FIT) lists {name}"
            )));
        }
    }
    // Where the processor looks for the embedded firmware structure: at some of these offsets from the end of its 16 MiB, and so
    // of the chip.
    for at in (0x2_0000..image.len()).step_by(0x8_0000) {
        if View::image(image).number(at, 4, "").ok() == Some(0x55aa_55aa) {
            return Err(Error::Signed(format!(
                "it has the tables of AMD's security processor (PSP) at {at:#x}"
            )));
        }
    }
    Ok(())
}

/// At a multiple of its length: coreboot's files are aligned to 64 bytes.
fn contains(image: &[u8], text: &[u8]) -> bool {
    image.chunks_exact(text.len()).any(|chunk| chunk == text)
}

/// The types of the entries of the table that is found 64 bytes before the end of the address space of 4 GiB.
fn firmware_interface_table(image: &[u8]) -> Vec<u8> {
    const END: u64 = 1 << 32;
    let view = View::image(image);
    let table = || {
        let pointer = view.number(image.len().checked_sub(0x40)?, 4, "").ok()?;
        let at = usize::try_from((image.len() as u64).checked_sub(END - pointer)?).ok()?;
        let rest = image.get(at..)?;
        if !rest.starts_with(b"_FIT_   ") {
            return None;
        }
        let count = view.number(at + 8, 3, "").ok()?;
        let entries = rest.chunks_exact(16);
        let entries = entries.take(usize::try_from(count).ok()?).skip(1);
        Some(entries.map(|entry| entry[14] & 0x7f).collect())
    };
    table().unwrap_or_default()
}

/// A region of a chip with an Intel flash descriptor.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ChipRegion {
    pub(super) name: &'static str,
    pub(super) range: Range<usize>,
}

/// The name of the region that the processor starts.
pub(super) const BIOS: &str = "BIOS";

/// The regions within the image, if it has a descriptor.
pub(super) fn regions(image: &[u8]) -> Option<Vec<ChipRegion>> {
    const NAMES: [&str; 5] = ["descriptor", BIOS, "ME", "GbE", "platform data"];
    let view = View::image(image);
    let number = |at| view.number(at, 4, "").ok();
    let has_signature = |at: &usize| number(*at) == Some(0x0ff0_a55a);
    let signature = [0x10, 0].into_iter().find(has_signature)?;
    let map = number(signature + 4).unwrap_or(0);
    let base = usize::try_from((map >> 16 & 0xff) << 4).unwrap_or(0);
    let mut regions = Vec::new();
    for (index, name) in NAMES.into_iter().enumerate() {
        let Some(register) = number(base + 4 * index) else {
            continue;
        };
        let page = |bits: u64| usize::try_from(bits & 0x7fff).unwrap_or(0) << 12;
        let (begin, end) = (page(register), page(register >> 16) + 0x1000);
        // One that is not there begins after its end.
        if begin < end && end <= image.len() {
            regions.push(ChipRegion {
                name,
                range: begin..end,
            });
        }
    }
    Some(regions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }

    #[test]
    fn roms_of_other_kinds_are_refused_with_the_reason() {
        let plain = vec![0xff; 1 << 20];
        check(&plain).unwrap();
        check(&[]).unwrap();
        let mut coreboot = plain.clone();
        put(&mut coreboot, 0x4000, b"LARCHIVE");
        assert!(
            check(&coreboot)
                .unwrap_err()
                .to_string()
                .contains("cbfstool")
        );
        let mut amd = plain.clone();
        put(&mut amd, 0x2_0000, &0x55aa_55aa_u32.to_le_bytes());
        assert!(check(&amd).unwrap_err().to_string().contains("0x20000"));
        // Where it can be in the address space, and the chips of this size end with that.
        for address in [
            0xfffa_0000_u32,
            0xfff2_0000,
            0xffe2_0000,
            0xffc2_0000,
            0xff82_0000,
            0xff02_0000,
        ] {
            for size in [1_usize << 20, 2 << 20, 4 << 20, 8 << 20, 16 << 20, 32 << 20] {
                let Some(at) = size.checked_sub((address.wrapping_neg()) as usize) else {
                    continue;
                };
                let mut amd = vec![0xff; size];
                put(&mut amd, at, &0x55aa_55aa_u32.to_le_bytes());
                assert!(
                    check(&amd)
                        .unwrap_err()
                        .to_string()
                        .contains(&format!("{at:#x}"))
                );
            }
        }
    }

    #[test]
    fn a_table_with_signed_code_is_refused_and_one_with_microcode_is_not() {
        for (kind, is_signed) in [
            (1, false),
            (2, true),
            (0x0b, true),
            (0x0c, true),
            (7, false),
        ] {
            let mut image = vec![0xff; 1 << 20];
            put(&mut image, 0xf_ffc0, &0xfff8_0000_u32.to_le_bytes());
            put(&mut image, 0x8_0000, b"_FIT_   \x02\0\0\0\0\x01\0\0");
            put(&mut image, 0x8_0010, &[0; 16]);
            image[0x8_001e] = kind;
            assert_eq!(check(&image).is_err(), is_signed, "{kind}");
        }
    }

    #[test]
    fn regions_are_those_of_the_descriptor() {
        let mut image = vec![0xff; 1 << 20];
        assert!(regions(&image).is_none());
        put(&mut image, 0x10, &0x0ff0_a55a_u32.to_le_bytes());
        put(&mut image, 0x14, &0x0004_0003_u32.to_le_bytes());
        // Descriptor, BIOS, ME; the others are not there.
        for (index, register) in [0_u32, 0x00ff_0080, 0x007f_0001, 0x0000_7fff, 0x0000_7fff]
            .into_iter()
            .enumerate()
        {
            put(&mut image, 0x40 + 4 * index, &register.to_le_bytes());
        }
        let found: Vec<_> = regions(&image)
            .unwrap()
            .into_iter()
            .map(|region| (region.name, region.range))
            .collect();
        assert_eq!(
            found,
            [
                ("descriptor", 0..0x1000),
                ("BIOS", 0x8_0000..0x10_0000),
                ("ME", 0x1000..0x8_0000)
            ]
        );
    }
}
