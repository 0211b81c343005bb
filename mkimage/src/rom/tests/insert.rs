//! Files that are inserted into a ROM.

use proptest::prelude::*;

use super::*;

/// A driver as tools extract it.
fn extracted(number: u8, length: usize) -> Vec<u8> {
    written(&driver(number, 0x07, "NvmExpressDxe", length))
}

fn written(file: &FirmwareFile) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.write(&mut bytes);
    bytes
}

fn insert(files: &[&[u8]]) -> Edit {
    let called = |bytes: &&[u8]| ("new.ffs".to_owned(), bytes.to_vec());
    Edit {
        insert: files.iter().map(called).collect(),
        ..Edit::default()
    }
}

fn listed(bytes: &[u8]) -> String {
    tree(&Rom::parse(bytes), bytes)
}

#[test]
fn a_driver_is_inserted_where_the_drivers_are() {
    let before = rom();
    let new = extracted(7, 1000);
    // With the state that edk2's GenFfs writes, and one that says that it must not move.
    let mut made = new.clone();
    made[23] = 0x07;
    let fixed = written(&with_attributes(
        driver(7, 0x07, "NvmExpressDxe", 1000),
        0x44,
    ));
    for file in [new, made, fixed] {
        let after = apply(&before, &insert(&[&file])).unwrap();
        let (old, new) = (listed(&before), listed(&after));
        let gone: Vec<_> = old.lines().filter(|line| !new.contains(line)).collect();
        // All else is listed as before, but for what the volumes, their file and their section have left.
        assert!(gone.len() <= 4, "{gone:?}");
        assert!(!gone.iter().any(|line| line.ends_with("Dxe")), "{gone:?}");
        let place = |name| new.lines().position(|line| line.ends_with(name)).unwrap();
        assert!(place("BdsDxe") < place("NvmExpressDxe"), "{new}");
        assert!(place("NvmExpressDxe") < place("SecMain"), "{new}");
    }
}

#[test]
fn several_are_inserted_with_a_kernel_and_one_takes_the_place_of_another() {
    let (one, other) = (extracted(6, 500), extracted(2, 700));
    let edit = Edit {
        remove: vec!["TcpDxe".to_owned()],
        insert: insert(&[&one, &other]).insert,
        ..kernel(3000)
    };
    let text = listed(&apply(&rom(), &edit).unwrap());
    assert_eq!(text.matches("NvmExpressDxe").count(), 2, "{text}");
    assert!(!text.contains("TcpDxe"), "{text}");
}

#[test]
fn what_is_no_whole_driver_is_refused() {
    let good = extracted(7, 500);
    let with = |change: fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        bytes
    };
    let start = written(&driver(7, 0x05, "DxeCore", 500));
    let module = written(&driver(7, 0x06, "Pei", 500));
    let list = vec![leaf(PE32, &pe(0xaa64, 500))];
    let arm = written(&file(7, 0x07, sections(list)));
    let list = vec![leaf(PE32, b"MZ")];
    let none = written(&file(7, 0x07, sections(list)));
    let sum = written(&with_attributes(driver(7, 0x07, "Nvm", 500), 0x40));
    let sum = [&sum[..60], &[!sum[60]], &sum[61..]].concat();
    for (bytes, why) in [
        (with(|file| file[3] ^= 1), "header is wrong"),
        (sum, "checksum of a file is wrong"),
        (with(|file| file.push(0)), "more bytes than"),
        (with(|file| file.truncate(file.len() - 1)), "are there"),
        (with(|file| file[23] = 0xfa), "completely"),
        (with(|file| file[24] = 0xff), "a section says"),
        (b"MZ".to_vec(), "truncated"),
        (Vec::new(), "truncated"),
        (pe(0x8664, 500), "at 0x"),
        (good.repeat(2), "no whole file of a firmware volume (FFS)"),
        (start, "it is a DXE core"),
        (module, "it is a PEI module"),
        (arm, "for aarch64, and DxeCore"),
        (none, "no EFI program"),
        (extracted(2, 500), "is there already"),
        (extracted(9, 500), "is there already"),
    ] {
        let told = refusal(&rom(), &insert(&[&bytes]));
        assert!(
            told.contains("cannot insert new.ffs: ") && told.contains(why),
            "{why}: {told}"
        );
    }
    let told = refusal(&rom(), &insert(&[&good, &good]));
    assert!(told.contains("is there already"), "{told}");
    apply(&rom(), &insert(&[&good])).unwrap();
}

#[test]
fn without_a_volume_of_drivers_or_room_in_it_nothing_is_inserted() {
    let new = extracted(7, 500);
    let mut bytes = Vec::new();
    volume(8 << 10, vec![driver(8, 0x03, "SecMain", 300)]).write(&mut bytes);
    let told = refusal(&bytes, &insert(&[&new]));
    assert!(told.contains("no volume of drivers"), "{told}");

    let told = refusal(&rom(), &insert(&[&extracted(7, 40_000)]));
    assert!(
        told.contains("what is inserted does not fit into a volume inside the volume at 0x1000"),
        "{told}"
    );
    assert!(
        told.contains("bytes are missing in the largest gap; the largest"),
        "{told}"
    );
    assert!(told.contains("TcpDxe 10"), "{told}");
}

#[test]
fn a_result_without_the_file_or_with_another_is_not_given_away() {
    let before = rom();
    let [one, other] = [500, 501].map(|length| driver(7, 0x07, "NvmExpressDxe", length));
    let changes = |insert: &[&FirmwareFile]| Changes {
        within: 0..before.len(),
        remove: BTreeSet::new(),
        replace: None,
        insert: insert.iter().map(|file| (*file).clone()).collect(),
    };
    let check = |after: &[u8], plan| verify::result(&before, after, &plan);
    let after = apply(&before, &insert(&[&written(&one)])).unwrap();
    check(&after, changes(&[&one])).unwrap();
    assert!(check(&after, changes(&[])).is_err());
    assert!(check(&after, changes(&[&other])).is_err());
    assert!(check(&before, changes(&[&one])).is_err());
}

proptest! {
    #[test]
    fn whatever_the_bytes_a_file_is_what_they_say_or_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        length in any::<prop::sample::Index>(),
        truncated in any::<bool>(),
    ) {
        let mut bytes = extracted(7, 100);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if truncated {
            bytes.truncate(length.index(bytes.len()));
        }
        if let Ok(file) = FirmwareFile::parse_alone(&bytes) {
            prop_assert!(written(&file) == bytes);
        }
    }
}

/// A file of these sections, as a tool extracts it.
fn of_sections(kind: u8, list: Vec<Section>) -> Vec<u8> {
    written(&file(7, kind, sections(list)))
}

#[test]
fn a_file_with_a_volume_inside_is_refused() {
    // The volume has a DXE core, so that the file would go into it too, and so on.
    let core = || volume_section(volume(2048, vec![driver(6, 0x05, "DxeCore", 500)]));
    for section in [core(), packed(Codec::Lzma, LZMA, sections(vec![core()]))] {
        let told = refusal(&rom(), &insert(&[&of_sections(0x02, vec![section])]));
        assert!(
            told.contains("it is a file that contains a firmware volume"),
            "{told}"
        );
    }
}

#[test]
fn an_alignment_that_the_volume_has_not_itself_is_refused() {
    // The volume of the drivers is aligned to 16 bytes.
    let aligned = |attributes| {
        let driver = driver(7, 0x07, "NvmExpressDxe", 500);
        written(&with_attributes(driver, attributes))
    };
    apply(&rom(), &insert(&[&aligned(0x08)])).unwrap();
    let told = refusal(&rom(), &insert(&[&aligned(0x10)]));
    assert!(
        told.contains("NvmExpressDxe") && told.contains("multiple of 128 bytes"),
        "{told}"
    );
    assert!(told.contains("only at one of 16"), "{told}");
}

/// A program with a short header (TE image) for a machine.
fn te(machine: u16) -> Vec<u8> {
    [b"VZ", &machine.to_le_bytes()[..], &[0; 100]].concat()
}

#[test]
fn every_driver_has_a_program_and_each_is_for_the_machine() {
    let te = |machine| leaf(0x12, &te(machine));
    let pe = |machine| leaf(PE32, &pe(machine, 500));
    for (list, why) in [
        (vec![te(0xaa64)], "for aarch64, and DxeCore"),
        (vec![pe(0x8664), te(0xaa64)], "for aarch64, and DxeCore"),
        (vec![name("NoProgram")], "contains no program"),
    ] {
        let told = refusal(&rom(), &insert(&[&of_sections(0x07, list)]));
        assert!(told.contains(why), "{told}");
    }
    for (kind, list) in [
        (0x07, vec![te(0x8664)]),
        (0x07, vec![leaf(0x13, &[8]), pe(0x8664)]),
        (0x02, vec![leaf(0x19, b"data")]),
    ] {
        apply(&rom(), &insert(&[&of_sections(kind, list)])).unwrap();
    }
}

#[test]
fn a_file_that_must_not_move_keeps_its_place_beside_one_that_is_inserted() {
    let fixed = with_attributes(driver(3, 0x09, "Shell", 2000), 0x04);
    let files = vec![driver(1, 0x05, "DxeCore", 900), fixed];
    let mut bytes = Vec::new();
    volume(16 << 10, files).write(&mut bytes);
    let edit = Edit {
        insert: insert(&[&extracted(7, 500)]).insert,
        ..kernel(2000)
    };
    apply(&bytes, &edit).unwrap();
}
