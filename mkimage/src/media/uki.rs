//! A unified kernel image (uapi-group.org/specifications/specs/unified_kernel_image): one EFI program that
//! holds kernel, initramfs and command line, made by adding sections to systemd's stub. For kernels that
//! come without ours inside; UEFI firmware gives the file at its default path no arguments.

use std::path::{Path, PathBuf};

use object::read::pe::PeFile64;
use object::{Object as _, ObjectSection as _};

use crate::arch::Arch;

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "UEFI firmware starts a distribution's kernel through systemd's stub, and there is no {0}; \
         on Debian or Ubuntu: apt-get install systemd-boot-efi"
    )]
    NoStub(PathBuf),
    #[error("the stub {0} is no EFI program that can be added to")]
    Stub(&'static str),
    #[error("the kernel and the initramfs are too big for an EFI program")]
    TooBig,
    #[error("it is signed for Secure Boot: change it before it is signed")]
    Signed,
}

/// Put them together.
pub(crate) fn build(
    arch: Arch,
    stub: Option<Vec<u8>>,
    kernel: &[u8],
    initrd: &[u8],
    command_line: &str,
) -> Result<Vec<u8>, Error> {
    let stub = stub.ok_or_else(|| Error::NoStub(installed_stub(arch)))?;
    // The kernel comes last: it may unpack itself over what follows it in memory.
    let sections: [(&str, &[u8]); 3] = [
        (".cmdline", command_line.as_bytes()),
        (".initrd", initrd),
        (".linux", kernel),
    ];
    add_sections(stub, &sections)?.ok_or(Error::Stub(arch.facts().efi_stub))
}

/// The sections of a unified kernel image, by name; `None` when it is none.
pub(crate) fn sections(bytes: &[u8]) -> Option<Vec<(String, &[u8])>> {
    let file = PeFile64::parse(bytes).ok()?;
    let all: Vec<(String, &[u8])> = file
        .sections()
        .filter_map(|section| {
            let data = section.data().ok()?;
            let size = usize::try_from(section.size()).ok()?.min(data.len());
            Some((section.name().ok()?.to_owned(), &data[..size]))
        })
        .collect();
    all.iter().any(|(name, _)| name == ".linux").then_some(all)
}

/// The same image with another initramfs; `None` when its last sections are not those of [`build`].
pub(crate) fn with_initrd(program: &[u8], initrd: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    let (Some(headers), Some(sections)) = (Headers::find(program), sections(program)) else {
        return Ok(None);
    };
    let Some((_, [line, old, kernel])) = sections.split_last_chunk() else {
        return Ok(None);
    };
    let ours = [".cmdline", ".initrd", ".linux"];
    if [&line.0, &old.0, &kernel.0] != ours || headers.sections != sections.len() {
        return Ok(None);
    }
    // The directory of certificates, and how many directories there are.
    let directory = |at| number(program, headers.optional + at, 4).unwrap_or_default();
    if directory(108) > 4 && directory(112 + 4 * 8 + 4) > 0 {
        return Err(Error::Signed);
    }
    // The stub ends where the first of them begins.
    let table = headers.table_end - ours.len() * SECTION_HEADER;
    let Some(mut stub) = number(program, table + 20, 4)
        .and_then(|end| program.get(..end))
        .filter(|stub| stub.len() >= headers.table_end)
        .map(<[u8]>::to_vec)
    else {
        return Ok(None);
    };
    stub[table..headers.table_end].fill(0);
    let count = u16::try_from(headers.sections - ours.len()).map_err(|_| Error::TooBig)?;
    stub[headers.pe + 6..headers.pe + 8].copy_from_slice(&count.to_le_bytes());
    add_sections(
        stub,
        &[(ours[0], line.1), (ours[1], initrd), (ours[2], kernel.1)],
    )
}

/// Where systemd's stub is installed.
pub(crate) fn installed_stub(arch: Arch) -> PathBuf {
    Path::new("/usr/lib/systemd/boot/efi").join(arch.facts().efi_stub)
}

/// The program with more sections of data after its own (PE format: Microsoft's "PE Format", headers and
/// section table); `None` when it is none, or has no room in its headers.
fn add_sections(
    mut program: Vec<u8>,
    sections: &[(&str, &[u8])],
) -> Result<Option<Vec<u8>>, Error> {
    let Some(headers) = Headers::find(&program) else {
        return Ok(None);
    };
    let table_end = headers.table_end + sections.len() * SECTION_HEADER;
    if table_end > headers.size {
        return Ok(None);
    }
    let small = |number: usize| u32::try_from(number).map_err(|_| Error::TooBig);
    let mut address = headers.image_end;
    let mut table = Vec::new();
    for (name, bytes) in sections {
        program.resize(program.len().next_multiple_of(headers.file_alignment), 0);
        let mut padded = [0; 8];
        padded[..name.len()].copy_from_slice(name.as_bytes());
        table.extend(padded);
        for number in [
            small(bytes.len())?,
            small(address)?,
            small(bytes.len().next_multiple_of(headers.file_alignment))?,
            small(program.len())?,
            // Neither relocations nor line numbers.
            0,
            0,
            0,
            INITIALIZED_DATA | READABLE,
        ] {
            table.extend(number.to_le_bytes());
        }
        program.extend_from_slice(bytes);
        address = (address + bytes.len()).next_multiple_of(headers.section_alignment);
    }
    program.resize(program.len().next_multiple_of(headers.file_alignment), 0);
    let count = headers.sections + sections.len();
    let count = u16::try_from(count).map_err(|_| Error::TooBig)?;
    let image_size = small(address)?;
    for (at, bytes) in [
        (headers.table_end, table.as_slice()),
        (headers.pe + 6, &count.to_le_bytes()),
        (headers.optional + 56, &image_size.to_le_bytes()),
    ] {
        program[at..at + bytes.len()].copy_from_slice(bytes);
    }
    Ok(Some(program))
}

/// Bytes of a section header, and its characteristics here.
const SECTION_HEADER: usize = 40;
const INITIALIZED_DATA: u32 = 0x40;
const READABLE: u32 = 0x4000_0000;

/// What of a program's headers matters here; every offset in it is within the program.
struct Headers {
    pe: usize,
    optional: usize,
    sections: usize,
    table_end: usize,
    section_alignment: usize,
    file_alignment: usize,
    size: usize,
    image_end: usize,
}

/// A number of so many bytes.
fn number(program: &[u8], at: usize, length: usize) -> Option<usize> {
    let bytes = program.get(at..at.checked_add(length)?)?;
    let number = bytes.iter().rev();
    Some(number.fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
}

impl Headers {
    fn find(program: &[u8]) -> Option<Self> {
        let number = |at, length| number(program, at, length);
        let pe = number(0x3c, 4)?;
        if !program.starts_with(b"MZ") || program.get(pe..pe.checked_add(4)?)? != b"PE\0\0" {
            return None;
        }
        let sections = number(pe + 6, 2)?;
        let optional = pe + 24;
        // PE32+, which 64-bit programs are.
        if number(optional, 2)? != 0x20b {
            return None;
        }
        let table = optional + number(pe + 20, 2)?;
        let table_end = table + sections * SECTION_HEADER;
        let section_alignment = number(optional + 32, 4)?.max(0x1000);
        let file_alignment = number(optional + 36, 4)?;
        let size = number(optional + 60, 4)?;
        let mut image_end = size;
        for section in 0..sections {
            let at = table + section * SECTION_HEADER;
            image_end = image_end.max(number(at + 12, 4)? + number(at + 8, 4)?);
        }
        let alignments = [section_alignment, file_alignment];
        if !alignments
            .iter()
            .all(|alignment| alignment.is_power_of_two())
            || size > program.len()
        {
            return None;
        }
        Some(Self {
            pe,
            optional,
            sections,
            table_end,
            section_alignment,
            file_alignment,
            size,
            image_end: image_end.next_multiple_of(section_alignment),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A program without sections, and room for `room` of them.
    pub(crate) fn stub(room: usize) -> Vec<u8> {
        let mut bytes = vec![0; 0x400];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, b"MZ");
        put(0x3c, &0x40_u32.to_le_bytes());
        put(0x40, b"PE\0\0");
        put(0x44, &0x8664_u16.to_le_bytes());
        put(0x54, &0x70_u16.to_le_bytes());
        put(0x58, &0x20b_u16.to_le_bytes());
        put(0x58 + 32, &0x1000_u32.to_le_bytes());
        put(0x58 + 36, &0x200_u32.to_le_bytes());
        let headers = u32::try_from(0x58 + 0x70 + room * SECTION_HEADER).unwrap();
        put(0x58 + 60, &headers.to_le_bytes());
        bytes
    }

    #[test]
    fn another_reader_finds_the_sections() {
        let big = vec![7; 5000];
        let sections: [(&str, &[u8]); 2] = [(".cmdline", b"quiet"), (".initrd", &big)];
        let program = add_sections(stub(2), &sections).unwrap().unwrap();
        let file = PeFile64::parse(program.as_slice()).unwrap();
        let found: Vec<_> = file
            .sections()
            .map(|section| {
                let data = section.data().unwrap();
                (
                    section.name().unwrap().to_owned(),
                    data.to_vec(),
                    section.address(),
                )
            })
            .collect();
        assert_eq!(found.len(), 2);
        assert!(found[0].0 == ".cmdline" && found[0].1.starts_with(b"quiet"));
        assert!(found[1].0 == ".initrd" && found[1].1.starts_with(&big));
        assert!(found[1].2 >= found[0].2 + 0x1000);
    }

    #[test]
    fn what_has_no_room_is_refused() {
        assert!(
            add_sections(stub(1), &[(".a", b""), (".b", b"")])
                .unwrap()
                .is_none()
        );
        for length in 0..0xf0 {
            let cut = stub(1)[..length].to_vec();
            assert!(
                add_sections(cut, &[(".a", b"")]).unwrap().is_none(),
                "{length}"
            );
        }
        assert!(add_sections(b"MZ".to_vec(), &[]).unwrap().is_none());
    }

    fn image(initrd: &[u8]) -> Vec<u8> {
        build(Arch::X86_64, Some(stub(3)), b"a kernel", initrd, "quiet").unwrap()
    }

    #[test]
    fn another_initramfs_gives_the_image_that_would_have_been_made_with_it() {
        for initrd in [&b"short"[..], &[7; 9000], b""] {
            let made = with_initrd(&image(b"the first one"), initrd).unwrap();
            assert!(made == Some(image(initrd)), "{} bytes", initrd.len());
        }
        let sections: [(&str, &[u8]); 2] = [(".linux", b"kernel"), (".initrd", b"x")];
        let other = add_sections(stub(2), &sections).unwrap().unwrap();
        assert_eq!(with_initrd(&other, b"x").unwrap(), None);
        assert_eq!(with_initrd(b"MZ", b"x").unwrap(), None);
        // With data directories in the optional header, as real programs have them.
        let mut wide = stub(7);
        wide[0x54] = 0xf0;
        let mut signed = build(Arch::X86_64, Some(wide), b"kernel", b"x", "quiet").unwrap();
        let optional = Headers::find(&signed).unwrap().optional;
        signed[optional + 108] = 16;
        assert!(with_initrd(&signed, b"x").unwrap().is_some());
        signed[optional + 112 + 4 * 8 + 4] = 8;
        assert!(matches!(with_initrd(&signed, b"x"), Err(Error::Signed)));
    }

    proptest! {
        #[test]
        fn any_change_of_its_headers_is_taken_or_refused(at in 0..0x180_usize, value: u8) {
            let mut bytes = image(b"x");
            bytes[at] = value;
            let _ = with_initrd(&bytes, b"other");
        }
    }
}
