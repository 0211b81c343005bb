//! The programs for machines and desktops that mkimage has inside, so that it needs no compiler: with the feature `carry`,
//! the files of the directory `MKIMAGE_CARRY` when mkimage was compiled (make carry). Compressed with xz.

use crate::arch::Arch;

/// Names of the programs, as they are written beside the keys.
pub(crate) const PROGRAMS: [&str; 2] = ["cpud", "cpu"];

#[cfg(feature = "carry")]
macro_rules! carried {
    ($($arch:ident $directory:literal $program:literal),*) => {
        &[$((Arch::$arch, $program, include_bytes!(concat!(
            env!("MKIMAGE_CARRY", "the directory with ARCH/cpu.xz and ARCH/cpud.xz: run make carry"),
            "/", $directory, "/", $program, ".xz"
        )))),*]
    };
}

#[cfg(feature = "carry")]
const CARRIED: &[(Arch, &str, &[u8])] = carried!(
    X86_64 "x86_64" "cpud", X86_64 "x86_64" "cpu",
    Aarch64 "aarch64" "cpud", Aarch64 "aarch64" "cpu"
);
#[cfg(not(feature = "carry"))]
const CARRIED: &[(Arch, &str, &[u8])] = &[];

/// A program for an architecture, compressed.
pub(crate) fn find(arch: Arch, program: &str) -> Option<&'static [u8]> {
    let mut all = CARRIED.iter();
    all.find(|(of, name, _)| *of == arch && *name == program)
        .map(|(_, _, bytes)| *bytes)
}
