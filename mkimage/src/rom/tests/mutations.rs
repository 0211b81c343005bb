//! A ROM with bytes changed at random, and its checksums put right, so that what is behind them is reached too.

use super::*;
use crate::rom::tiano::EFI;
use crate::rom::volume::section::testing::standard;

/// With a volume inside that is not compressed, and drivers that are.
fn mixed_rom() -> Vec<u8> {
    let inside = vec![name("volumes"), volume_section(inner())];
    let holder = file(9, 0x0b, sections(vec![standard(EFI, sections(inside))]));
    let mut bytes = Vec::new();
    let tiano = || sections(vec![leaf(PE32, &pe(0x8664, 200)), name("UsbKbDxe")]);
    let files = vec![
        file(10, 0x07, sections(vec![standard(EFI, tiano())])),
        driver(11, 0x07, "FixedDxe", 100),
        FirmwareFile::pad(0, 200, 0xff),
        with_attributes(driver(12, 0x02, "Data", 100), 0x40),
        holder,
    ];
    volume(80 << 10, files).write(&mut bytes);
    // An edit writes what was compressed without compression, and so the volume inside can be changed at random.
    let plain = apply(&bytes, &remove(&["TcpDxe"])).unwrap();
    [&plain[..], &[0xff; 64]].concat()
}

/// A generator of numbers (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ mixed >> 31) >> 1).unwrap() % limit
    }
}

/// Set the checksums of what looks like a volume or a file in one.
fn repair(bytes: &mut [u8]) {
    let sum = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
    let starts: Vec<_> = (0..bytes.len().saturating_sub(72))
        .step_by(4)
        .filter(|at| bytes[at + 40..].starts_with(b"_FVH"))
        .collect();
    for start in starts.into_iter().rev() {
        let header = usize::from(u16::from_le_bytes([bytes[start + 48], bytes[start + 49]]));
        if let Some(header) = bytes.get_mut(start..start + header.max(56)) {
            header[50..52].fill(0);
            let sum = super::super::checksum::checksum16(header);
            header[50..52].copy_from_slice(&sum.to_le_bytes());
        }
        let mut at = start + header.next_multiple_of(8);
        while let Some(file) = bytes.get_mut(at..at + 24) {
            let size =
                usize::from(file[20]) | usize::from(file[21]) << 8 | usize::from(file[22]) << 16;
            if size < 24 || file.iter().all(|byte| *byte == 0xff) {
                break;
            }
            file[16] = sum(&file[..16]).wrapping_add(sum(&file[18..23]));
            let has_sum = file[19] & 0x40 != 0;
            let Some(file) = bytes.get_mut(at..at + size) else {
                break;
            };
            file[17] = if has_sum { sum(&file[24..]) } else { 0xaa };
            at += size.next_multiple_of(8);
        }
    }
}

#[test]
fn whatever_is_changed_the_rom_is_kept_and_an_edit_is_whole_or_refused() {
    const RUNS: u64 = 1000;
    let whole = mixed_rom();
    let new = written_driver();
    let edits = [
        remove(&["*usb*", "Fixed*"]),
        kernel(2500),
        Edit {
            insert: vec![("new.ffs".to_owned(), new)],
            ..remove(&["Xhci*"])
        },
    ];
    // Most bytes are programs and free space, so most changes are made in headers.
    let headers: Vec<_> = (0..whole.len() - 256)
        .filter(|at| {
            let near = |text: &[u8]| whole[*at..at + 64].windows(text.len()).any(|it| it == text);
            near(b"_FVH") || near(b"MZ\0") || near(b"D\0x\0e")
        })
        .collect();
    let mut done = 0;
    for seed in 0..RUNS {
        let mut random = Random(seed);
        let mut bytes = whole.clone();
        for _ in 0..=random.below(3) {
            let at = match random.below(4) {
                0 => random.below(bytes.len()),
                _ => headers[random.below(headers.len())],
            };
            bytes[at] = match random.below(4) {
                0 => 0xff,
                1 => bytes[at] ^ 1 << random.below(8),
                _ => random.below(256).to_le_bytes()[0],
            };
        }
        if random.below(8) > 0 {
            repair(&mut bytes);
        }
        assert!(is_kept(&bytes), "{seed}");
        for edit in &edits {
            match apply(&bytes, edit) {
                Ok(after) => {
                    assert!(after.len() == bytes.len() && is_kept(&after), "{seed}");
                    done += 1;
                }
                Err(Error::ReadBack(what)) => panic!("{seed}: {what}"),
                Err(_) => {}
            }
        }
    }
    assert!(done > RUNS / 2, "{done}");
}

fn written_driver() -> Vec<u8> {
    let mut bytes = Vec::new();
    driver(7, 0x07, "NvmExpressDxe", 500).write(&mut bytes);
    bytes
}
