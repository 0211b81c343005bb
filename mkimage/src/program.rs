//! Whether a program can run where there is nothing else: of the right architecture, and static
//! (elf(5)). Pure.

use clap::ValueEnum as _;
use object::LittleEndian;
use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader as _, ProgramHeader as _};

use crate::arch::Arch;

/// Why it cannot.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotRunnable {
    #[error("it is no 64-bit little-endian ELF program")]
    NotElf,
    #[error("it is a program for {got}, and the machine is {wanted} (--arch)")]
    Machine { got: String, wanted: Arch },
    #[error("it is not static but wants {0}; build it for the target *-unknown-linux-musl")]
    Dynamic(String),
}

/// Look at a program's bytes.
pub(crate) fn check(bytes: &[u8], wanted: Arch) -> Result<(), NotRunnable> {
    let header = FileHeader64::<LittleEndian>::parse(bytes).map_err(|_| NotRunnable::NotElf)?;
    let endian = header.endian().map_err(|_| NotRunnable::NotElf)?;
    let machine = header.e_machine.get(endian);
    if machine != wanted.facts().elf_machine {
        let got = match machine {
            elf::EM_X86_64 => "x86_64".to_owned(),
            elf::EM_AARCH64 => "aarch64".to_owned(),
            elf::EM_RISCV => "riscv64".to_owned(),
            other => format!("ELF machine {other}"),
        };
        return Err(NotRunnable::Machine { got, wanted });
    }
    let segments = header
        .program_headers(endian, bytes)
        .map_err(|_| NotRunnable::NotElf)?;
    for segment in segments {
        if let Some(interpreter) = segment
            .interpreter(endian, bytes)
            .map_err(|_| NotRunnable::NotElf)?
        {
            return Err(NotRunnable::Dynamic(
                String::from_utf8_lossy(interpreter).into_owned(),
            ));
        }
    }
    Ok(())
}

/// The architecture that a program is for, if it is one of ours.
pub(crate) fn arch(bytes: &[u8]) -> Option<Arch> {
    let arches = Arch::value_variants().iter().copied();
    let is_for = |arch: &Arch| {
        !matches!(
            check(bytes, *arch),
            Err(NotRunnable::Machine { .. } | NotRunnable::NotElf)
        )
    };
    { arches }.find(is_for)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The smallest program that passes for one: a header, and perhaps an interpreter (elf(5)).
    pub(crate) fn elf(arch: Arch, interpreter: Option<&str>) -> Vec<u8> {
        let machine = arch.facts().elf_machine.0;
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(64, 0);
        let mut put = |offset: usize, value: &[u8]| {
            bytes[offset..offset + value.len()].copy_from_slice(value);
        };
        put(16, &2_u16.to_le_bytes()); // e_type: ET_EXEC
        put(18, &machine.to_le_bytes());
        put(20, &1_u32.to_le_bytes());
        put(32, &64_u64.to_le_bytes()); // e_phoff
        put(52, &64_u16.to_le_bytes()); // e_ehsize
        put(54, &56_u16.to_le_bytes()); // e_phentsize
        if let Some(path) = interpreter {
            put(56, &1_u16.to_le_bytes()); // e_phnum
            let length = path.len() as u64 + 1;
            let words = [3_u64 | 4 << 32, 120, 120, 120, length, length, 1];
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            bytes.extend(path.as_bytes());
            bytes.push(0);
        }
        bytes
    }

    #[test]
    fn a_static_program_of_the_architecture_passes() {
        for arch in [Arch::X86_64, Arch::Aarch64] {
            assert_eq!(check(&elf(arch, None), arch), Ok(()));
            assert_eq!(super::arch(&elf(arch, Some("/lib/ld.so"))), Some(arch));
        }
    }

    #[test]
    fn another_architecture_is_named() {
        let error = check(&elf(Arch::Aarch64, None), Arch::X86_64).unwrap_err();
        assert_eq!(
            error.to_string(),
            "it is a program for aarch64, and the machine is x86_64 (--arch)"
        );
    }

    #[test]
    fn a_dynamic_program_is_refused() {
        let program = elf(Arch::X86_64, Some("/lib64/ld-linux-x86-64.so.2"));
        let error = check(&program, Arch::X86_64).unwrap_err();
        assert_eq!(
            error,
            NotRunnable::Dynamic("/lib64/ld-linux-x86-64.so.2".to_owned())
        );
        // This test is itself an ELF file made by the compiler.
        let real = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        if cfg!(target_env = "gnu") {
            assert!(matches!(
                check(&real, Arch::HERE),
                Err(NotRunnable::Dynamic(_))
            ));
        }
    }

    #[test]
    fn what_is_cut_short_is_refused_or_taken_without_harm() {
        let program = elf(Arch::X86_64, Some("/lib/ld.so"));
        for length in 0..program.len() {
            assert!(check(&program[..length], Arch::X86_64).is_err(), "{length}");
        }
        assert_eq!(
            check(b"#!/bin/sh\n", Arch::X86_64),
            Err(NotRunnable::NotElf)
        );
        assert_eq!(arch(b"#!/bin/sh\n"), None);
    }
}
