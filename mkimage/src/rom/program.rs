//! The programs in files: PE32 sections, and the machines that they run on.

use super::error::Error;
use super::names;
use super::volume::file::{FREEFORM, FirmwareFile};
use super::volume::section::{Content, PE32, Sections, TE};

/// Put a program in place of the one in a file.
pub(super) fn replace(file: &mut FirmwareFile, program: &[u8]) -> Result<(), Error> {
    fn inside(sections: &mut Sections, program: &[u8]) -> Result<bool, Error> {
        for section in &mut sections.list {
            let is_done = match &mut section.content {
                Content::Bytes(bytes) if section.kind == PE32 => {
                    *bytes = program.to_vec();
                    true
                }
                Content::Sections(sections) => inside(sections, program)?,
                Content::Packed(packed) => inside(&mut packed.sections, program)?,
                _ => false,
            };
            if is_done {
                section.pack()?;
                return Ok(true);
            }
        }
        Ok(false)
    }
    let is_done = match &mut file.sections {
        Some(sections) => inside(sections, program)?,
        None => false,
    };
    if is_done {
        Ok(())
    } else {
        Err(Error::NoProgram(file.title()))
    }
}

/// The program of a file.
pub(super) fn of(sections: &Sections) -> Option<&[u8]> {
    sections
        .list
        .iter()
        .find_map(|section| match &section.content {
            Content::Bytes(bytes) if section.kind == PE32 => Some(bytes.as_slice()),
            Content::Sections(sections) => of(sections),
            Content::Packed(packed) => of(&packed.sections),
            _ => None,
        })
}

/// The firmware starts programs for its own machine only, that of a file in it. `what` is what the new program is called.
pub(super) fn check_machine(file: &FirmwareFile, what: &str, new: &[u8]) -> Result<(), Error> {
    let old = file.sections.as_ref().and_then(of);
    let old = old.ok_or_else(|| Error::NoProgram(file.title()))?;
    let new = machine(new).ok_or_else(|| {
        Error::Machine(format!(
            "{what} is no EFI program (of a kernel: CONFIG_EFI_STUB)"
        ))
    })?;
    match machine(old) {
        Some(old) if old == new => Ok(()),
        old => Err(Error::Machine(format!(
            "{what} is a program for {}, and {} in the ROM is one for {}",
            machine_name(Some(new)),
            file.title(),
            machine_name(old)
        ))),
    }
}

/// What is inserted has a program if it is of a type with one, and all are for the machine of the drivers' core.
pub(super) fn check_driver(core: &FirmwareFile, file: &FirmwareFile) -> Result<(), Error> {
    let mut programs = Vec::new();
    if let Some(sections) = &file.sections {
        programs_of(sections, &mut programs);
    }
    if programs.is_empty() && file.kind != FREEFORM {
        return Err(Error::NoProgram(file.title()));
    }
    let mut programs = programs.into_iter();
    programs.try_for_each(|program| check_machine(core, "it", program))
}

/// All programs, those with a short header (TE) too.
fn programs_of<'a>(sections: &'a Sections, programs: &mut Vec<&'a [u8]>) {
    for section in &sections.list {
        match &section.content {
            Content::Bytes(bytes) if matches!(section.kind, PE32 | TE) => programs.push(bytes),
            Content::Sections(sections) => programs_of(sections, programs),
            Content::Packed(packed) => programs_of(&packed.sections, programs),
            _ => {}
        }
    }
}

/// An application, such as a kernel, is started by the boot manager. In place of a driver it would be started in its turn
/// among the drivers, and what drivers provide would be missing.
pub(super) fn check_place(file: &FirmwareFile, new: &[u8]) -> Result<(), Error> {
    const APPLICATION: u16 = 10;
    if names::is_dispatched(file.kind) && field(new, 92) == Some(APPLICATION) {
        return Err(Error::Place(file.title(), names::kind(file.kind)));
    }
    Ok(())
}

/// The machine of a PE file or a TE image (IMAGE_FILE_MACHINE_*).
fn machine(program: &[u8]) -> Option<u16> {
    if let [b'V', b'Z', low, high, ..] = program {
        return Some(u16::from_le_bytes([*low, *high]));
    }
    field(program, 4)
}

/// A number of a PE file, so many bytes after its signature: 4 is the machine, 92 the subsystem.
fn field(program: &[u8], offset: usize) -> Option<u16> {
    let at = program.get(0x3c..0x40)?;
    let at = usize::try_from(u32::from_le_bytes(at.try_into().ok()?)).ok()?;
    let header = program.get(at..)?;
    let is_pe = program.starts_with(b"MZ") && header.starts_with(b"PE\0\0");
    let bytes = header.get(offset..offset + 2).filter(|_| is_pe)?;
    Some(u16::from_le_bytes(bytes.try_into().ok()?))
}

fn machine_name(machine: Option<u16>) -> String {
    match machine {
        Some(0x8664) => "x86_64".to_owned(),
        Some(0x014c) => "32-bit x86".to_owned(),
        Some(0xaa64) => "aarch64".to_owned(),
        Some(0x01c2 | 0x01c4) => "32-bit ARM".to_owned(),
        Some(0x5064) => "riscv64".to_owned(),
        Some(other) => format!("machine {other:#x}"),
        None => "an unknown machine".to_owned(),
    }
}
