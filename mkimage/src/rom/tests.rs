//! Whole ROMs: those that Debian packages, and small ones made by hand, edited and damaged.

mod compression;
mod hostile;
mod insert;
mod mutations;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use uuid::{Uuid, uuid};

use super::codec::Codec;
use super::volume::FirmwareVolume;
use super::volume::file::FirmwareFile;
use super::volume::file::testing::{file, with_attributes};
use super::volume::section::testing::{
    crc32, leaf, name, packed, sections, volume as volume_section,
};
use super::volume::section::{PE32, Section, Sections};
use super::volume::testing::volume;
use super::*;

const LZMA: Uuid = uuid!("ee4e5898-3914-4259-9d6e-dc7bd79403cf");
const LZMA_X86: Uuid = uuid!("d42ae6bd-1352-4bfb-909a-ca72a6eae889");

/// A PE file for a machine, with some bytes that LZMA cannot shrink.
fn pe(machine: u16, length: usize) -> Vec<u8> {
    let mut bytes = b"MZ".to_vec();
    bytes.resize(0x3c, 0);
    bytes.extend(0x40_u32.to_le_bytes());
    bytes.extend(b"PE\0\0");
    bytes.extend(machine.to_le_bytes());
    let mut state = 1_u64;
    while bytes.len() < length {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        bytes.push(state.to_le_bytes()[7]);
    }
    bytes
}

fn driver(number: u8, kind: u8, called: &str, length: usize) -> FirmwareFile {
    let list = vec![
        leaf(0x13, &[number]),
        leaf(PE32, &pe(0x8664, length)),
        name(called),
    ];
    file(number, kind, sections(list))
}

/// The drivers of a small firmware.
fn inner() -> FirmwareVolume {
    let files = vec![
        driver(1, 0x05, "DxeCore", 900),
        driver(2, 0x07, "TcpDxe", 1000),
        driver(3, 0x09, "Shell", 2000),
        driver(4, 0x07, "XhciDxe", 500),
        driver(5, 0x07, "BdsDxe", 800),
    ];
    volume(32 << 10, files)
}

/// A ROM with LZMA, made once.
fn rom() -> Vec<u8> {
    static MADE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        rom_with(|section| {
            let first = leaf(0x19, &[0; 12]);
            packed(Codec::Lzma, LZMA, sections(vec![first, section]))
        })
    });
    MADE.clone()
}

/// A ROM: some bytes, a volume with a compressed volume of drivers, a volume with what runs in place, some bytes.
fn rom_with(pack: impl Fn(Section) -> Section) -> Vec<u8> {
    let inside = sections(vec![pack(volume_section(inner()))]);
    let outer = volume(16 << 10, vec![file(9, 0x0b, inside)]);
    let core = with_attributes(driver(8, 0x03, "SecMain", 300), 0x40);
    let boot = volume(4 << 10, vec![core]);
    let mut bytes = vec![0x5a; 0x1000];
    outer.write(&mut bytes);
    bytes.extend([0; 0x800]);
    boot.write(&mut bytes);
    bytes.extend([0xa5; 0x100]);
    bytes
}

fn is_understood(rom: &Rom) -> bool {
    rom.not_understood().is_none()
}

fn kernel(length: usize) -> Edit {
    Edit {
        replace: Some((None, pe(0x8664, length))),
        ..Edit::default()
    }
}

fn remove(words: &[&str]) -> Edit {
    Edit {
        remove: words.iter().map(|word| (*word).to_owned()).collect(),
        ..Edit::default()
    }
}

fn refusal(image: &[u8], edit: &Edit) -> String {
    let error = apply(image, edit).unwrap_err();
    let text = format!("{:#}", anyhow::Error::from(error));
    assert!(!text.contains('\n'), "{text}");
    text
}

#[test]
fn every_form_of_section_is_read_and_written_as_it_was() {
    let forms: [fn(Section) -> Section; 5] = [
        |section| section,
        |section| packed(Codec::Lzma, LZMA, sections(vec![section])),
        |section| packed(Codec::LzmaX86, LZMA_X86, sections(vec![section])),
        |section| crc32(sections(vec![section])),
        |section| {
            packed(
                Codec::Lzma,
                LZMA,
                sections(vec![crc32(sections(vec![section]))]),
            )
        },
    ];
    for (number, form) in forms.into_iter().enumerate() {
        // Without compression the drivers do not fit into the small volume.
        if number == 0 || number == 3 {
            let inside = sections(vec![form(volume_section(inner()))]);
            let mut bytes = Vec::new();
            // What is written has the right CRC32, which the hand-made tree has not.
            volume(64 << 10, vec![file(9, 0x0b, inside)]).write(&mut bytes);
            let rom = Rom::parse(&bytes);
            assert!(is_understood(&rom), "{number}: {}", tree(&rom, &bytes));
            assert!(rom.write() == bytes, "{number}");
            assert!(tree(&rom, &bytes).contains("TcpDxe"));
            let edited = apply(&bytes, &kernel(3000)).unwrap();
            assert!(tree(&Rom::parse(&edited), &edited).contains("Shell"));
            continue;
        }
        let bytes = rom_with(form);
        let rom = Rom::parse(&bytes);
        assert!(is_understood(&rom), "{number}: {}", tree(&rom, &bytes));
        assert!(rom.write() == bytes, "{number}");
        assert!(tree(&rom, &bytes).contains("TcpDxe"), "{number}");
        let edited = apply(&bytes, &kernel(3000)).unwrap();
        assert!(edited.len() == bytes.len() && edited != bytes);
    }
}

#[test]
fn a_kernel_takes_the_place_of_the_shell_and_only_its_volume_changes() {
    let before = rom();
    let edit = Edit {
        remove: vec!["network".to_owned(), "xhci*".to_owned()],
        ..kernel(4000)
    };
    let after = apply(&before, &edit).unwrap();
    assert_eq!(after.len(), before.len());
    assert!(after[..0x1000] == before[..0x1000]);
    assert!(after[0x5000..] == before[0x5000..]);
    let text = tree(&Rom::parse(&after), &after);
    for (gone, word) in [
        (true, "TcpDxe"),
        (true, "XhciDxe"),
        (false, "Shell"),
        (false, "BdsDxe"),
    ] {
        assert_eq!(!text.contains(word), gone, "{text}");
    }
}

#[test]
fn a_result_with_any_other_change_is_not_given_away() {
    let before = rom();
    let after = apply(&before, &remove(&["usb"])).unwrap();
    let changes = |names: &[u8], replace| Changes {
        within: 0..before.len(),
        remove: names
            .iter()
            .map(|name| Uuid::from_bytes([*name; 16]))
            .collect(),
        replace,
        insert: Vec::new(),
    };
    let check = |after: &[u8], changes| verify::result(&before, after, &changes);
    check(&after, changes(&[4], None)).unwrap();
    check(&before, changes(&[], None)).unwrap();
    // Too little and too much is removed.
    assert!(check(&before, changes(&[4], None)).is_err());
    assert!(check(&after, changes(&[], None)).is_err());
    let more = apply(&before, &remove(&["usb", "network"])).unwrap();
    assert!(check(&more, changes(&[4], None)).is_err());
    for offset in [0x10, 0x4fff, 0x5010, 0x5900, after.len() - 1] {
        let mut damaged = after.clone();
        damaged[offset] ^= 1;
        assert!(check(&damaged, changes(&[4], None)).is_err(), "{offset:#x}");
    }
    assert!(check(&after[..after.len() - 1], changes(&[4], None)).is_err());
    // Another kernel than the one that was given.
    let [one, other] = [3000, 3001].map(|length| pe(0x8664, length));
    let shell = Uuid::from_bytes([3; 16]);
    let after = apply(&before, &kernel(3000)).unwrap();
    check(&after, changes(&[], Some((shell, &one)))).unwrap();
    assert!(check(&after, changes(&[], Some((shell, &other)))).is_err());
}

#[test]
fn files_are_named_by_guid_name_and_pattern() {
    let before = rom();
    let text = |edit: &Edit| {
        let after = apply(&before, edit).unwrap();
        tree(&Rom::parse(&after), &after)
    };
    assert!(!text(&remove(&["02020202-0202-0202-0202-020202020202"])).contains("TcpDxe"));
    assert!(!text(&remove(&["tcpdxe"])).contains("TcpDxe"));
    assert!(!text(&remove(&["usb"])).contains("XhciDxe"));
    assert!(text(&remove(&["usb"])).contains("TcpDxe"));
    for word in [
        "Tcp",
        "disks",
        "[",
        "",
        "03030303-0202-0202-0202-020202020202",
    ] {
        let told = refusal(&before, &remove(&[word]));
        assert!(told.contains("there is no"), "{told}");
    }
}

#[test]
fn what_the_firmware_needs_is_not_removed() {
    let before = rom();
    for word in [
        "DxeCore",
        "BdsDxe",
        "SecMain",
        "*",
        "09090909-0909-0909-0909-090909090909",
    ] {
        let told = refusal(&before, &remove(&[word]));
        assert!(told.contains("does not start without"), "{told}");
    }
    let edit = Edit {
        remove: vec!["Shell".to_owned()],
        ..kernel(100)
    };
    assert!(refusal(&before, &edit).contains("both"));
}

#[test]
fn what_does_not_fit_is_refused_with_what_is_missing_and_what_could_go() {
    let before = rom();
    let told = refusal(&before, &kernel(20_000));
    assert!(
        told.contains("bytes are missing in the largest gap, compressed; the largest"),
        "{told}"
    );
    assert!(told.contains("TcpDxe 10"), "{told}");
    assert!(!told.contains("DxeCore"), "{told}");
    let told = refusal(&before, &kernel(40_000));
    assert!(
        told.contains("into a volume inside the volume at 0x1000"),
        "{told}"
    );
    // The number is right: with so many bytes less it fits.
    let told = refusal(&before, &kernel(20_000));
    let missing = told.split(": ").nth(1).unwrap().split(' ').next().unwrap();
    let missing: usize = missing.parse().unwrap();
    apply(&before, &kernel(20_000 - missing - 100)).unwrap();
    assert!(apply(&before, &kernel(20_000 - missing + 500)).is_err());
}

#[test]
fn a_kernel_for_another_machine_is_refused() {
    let before = rom();
    for (bytes, why) in [
        (pe(0xaa64, 100), "aarch64"),
        (pe(0x014c, 100), "32-bit x86"),
        (b"MZ".to_vec(), "no EFI program"),
        (Vec::new(), "no EFI program"),
    ] {
        let edit = Edit {
            replace: Some((None, bytes)),
            ..Edit::default()
        };
        let told = refusal(&before, &edit);
        assert!(told.contains(why), "{told}");
    }
    let edit = Edit {
        replace: Some((Some("Nobody".to_owned()), pe(0x8664, 100))),
        ..Edit::default()
    };
    assert!(refusal(&before, &edit).contains("there is no \"Nobody\""));
}

#[test]
fn a_kernel_does_not_take_the_place_of_a_driver_and_a_driver_does() {
    // Subsystems: EFI application, boot service driver.
    for (subsystem, is_refused) in [(10, true), (11, false)] {
        let mut program = pe(0x8664, 500);
        program[0x40 + 92] = subsystem;
        program[0x40 + 93] = 0;
        for (name, is_driver) in [("BdsDxe", true), ("Shell", false)] {
            let edit = Edit {
                replace: Some((Some(name.to_owned()), program.clone())),
                ..Edit::default()
            };
            if is_refused && is_driver {
                let told = refusal(&rom(), &edit);
                assert!(told.contains("BdsDxe is a driver, which"), "{told}");
            } else {
                apply(&rom(), &edit).unwrap();
            }
        }
    }
}

#[test]
fn damage_is_refused_with_its_place() {
    let before = rom();
    for (offset, why) in [
        // A volume's header, a file's header, compressed data, a file's content that has a checksum.
        (0x1000 + 60, "at 0x1032: the checksum of a volume"),
        (0x1000 + 72, "at 0x1058: the checksum of a file's header"),
        (0x1000 + 200, "at 0x1078"),
        (0x5800 + 200, "at 0x5859: the checksum of a file is wrong"),
    ] {
        let mut damaged = before.clone();
        damaged[offset] ^= 0x40;
        assert!(Rom::parse(&damaged).write() == damaged);
        let told = refusal(&damaged, &kernel(100));
        assert!(
            told.contains("is not understood") && told.contains(why),
            "{told}"
        );
        assert!(tree(&Rom::parse(&damaged), &damaged).contains("not understood"));
    }
    let told = refusal(&before[..0x4fff], &kernel(100));
    assert!(
        told.contains("at 0x1000: a volume says that it has 16384 bytes"),
        "{told}"
    );
    assert!(refusal(b"no ROM", &kernel(100)).contains("no ROM of UEFI firmware"));
}

#[test]
fn regions_but_the_bios_are_left_alone() {
    let mut image = rom();
    image.resize(0x8000, 0xff);
    image[0x10..0x14].copy_from_slice(&0x0ff0_a55a_u32.to_le_bytes());
    image[0x14..0x18].copy_from_slice(&0x0004_0000_u32.to_le_bytes());
    for (register, fits) in [(0x0007_0001_u32, true), (0x0007_0002, false)] {
        image[0x40..0x54].copy_from_slice(&[0; 20]);
        image[0x44..0x48].copy_from_slice(&register.to_le_bytes());
        assert_eq!(apply(&image, &kernel(100)).is_ok(), fits);
    }
    assert!(tree(&Rom::parse(&image), &image).contains("region BIOS at 0x2000"));
    // One that ends after the image, and none.
    for register in [0x0008_0001_u32, 0x0000_7fff] {
        image[0x44..0x48].copy_from_slice(&register.to_le_bytes());
        let told = refusal(&image, &kernel(100));
        assert!(told.contains("no BIOS region within the image"), "{told}");
    }
}

/// Every ROM of Debian's packages ovmf, ovmf-ia32, qemu-efi-aarch64, qemu-efi-arm that is installed.
fn packaged() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for directory in [
        "/usr/share/OVMF",
        "/usr/share/ovmf",
        "/usr/share/AAVMF",
        "/usr/share/qemu-efi-aarch64",
        "/usr/share/qemu-efi-arm",
        "/usr/share/qemu-efi-riscv64",
    ] {
        let Ok(entries) = fs::read_dir(directory) else {
            continue;
        };
        let files = entries.map(|entry| entry.unwrap().path());
        found.extend(files.filter(|path| path.extension().is_some_and(|end| end == "fd")));
    }
    found.retain(|path| !path.is_symlink());
    found.sort();
    found
}

#[test]
fn packaged_roms_are_understood_and_written_as_they_were() {
    let found = packaged();
    assert!(
        found.iter().any(|path| path.ends_with("OVMF_CODE_4M.fd")),
        "no UEFI firmware: scripts/deps check"
    );
    for path in found {
        let image = fs::read(&path).unwrap();
        let rom = Rom::parse(&image);
        let text = tree(&rom, &image);
        let path = path.display();
        assert!(is_understood(&rom), "{path}: {text}");
        assert!(rom.write() == image, "{path}");
        guard::check(&image).unwrap();
        let has_programs = !path.to_string().contains("VARS");
        assert_eq!(text.contains("DxeCore"), has_programs, "{path}: {text}");
        println!("{path}: {} lines", text.lines().count());
    }
}

#[test]
fn a_packaged_rom_takes_a_kernel_where_the_shell_was() {
    let path = Path::new("/usr/share/OVMF/OVMF_CODE_4M.fd");
    let image = fs::read(path).expect("no UEFI firmware: scripts/deps check");
    let words = ["network", "usb", "disks", "setup", "screen"];
    let edit = Edit {
        remove: words.map(str::to_owned).to_vec(),
        ..kernel(2_500_000)
    };
    let edited = apply(&image, &edit).unwrap();
    // The second volume has what the processor starts.
    assert!(edited[0x34_8000..] == image[0x34_8000..]);
    let told = refusal(&image, &kernel(2_900_000));
    assert!(told.contains("TlsDxe 644670"), "{told}");
    assert!(!told.contains("VariableRuntimeDxe"), "{told}");
}
