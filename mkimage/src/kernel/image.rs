//! Parses the header of a kernel image. No I/O. The bytes may come from anybody.

use crate::arch::Arch;

/// A kernel image's header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct KernelHeader {
    pub(crate) arch: Arch,
    /// `6.12.1 (who@where) #1 ...`, where the format has it.
    pub(crate) version: Option<String>,
    /// Whether UEFI firmware can start it.
    pub(crate) efi: bool,
}

impl KernelHeader {
    /// What `uname -r` says, where the format has it.
    pub(crate) fn release(&self) -> Option<&str> {
        self.version.as_deref()?.split(' ').next()
    }
}

/// Why an image cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("it is no kernel: neither a bzImage of x86_64 nor an Image of aarch64")]
    NotAKernel,
    #[error("it is a kernel for {got}, and the machine is {wanted} (--arch)")]
    Machine { got: Arch, wanted: Arch },
}

/// Read the header, as Documentation/arch/x86/boot.rst and arch/arm64/booting.rst of the kernel
/// describe it.
pub(crate) fn header(bytes: &[u8]) -> Result<KernelHeader, Error> {
    let at = |offset: usize, length| bytes.get(offset..offset + length);
    let efi = bytes.starts_with(b"MZ") && at(0x3c, 4).is_some_and(|offset| is_pe(bytes, offset));
    if at(0x1fe, 2) == Some(&[0x55, 0xaa]) && at(0x202, 4) == Some(b"HdrS") {
        let version = at(0x20e, 2)
            .map(|low| usize::from(u16::from_le_bytes([low[0], low[1]])) + 0x200)
            .filter(|offset| *offset > 0x200)
            .and_then(|offset| bytes.get(offset..))
            .and_then(|text| text.split(|byte| *byte == 0).next())
            .filter(|text| text.len() < 512)
            .map(|text| String::from_utf8_lossy(text).into_owned());
        return Ok(KernelHeader {
            arch: Arch::X86_64,
            version,
            efi,
        });
    }
    if at(0x38, 4) == Some(b"ARM\x64") {
        return Ok(KernelHeader {
            arch: Arch::Aarch64,
            version: None,
            efi,
        });
    }
    Err(Error::NotAKernel)
}

fn is_pe(bytes: &[u8], offset: &[u8]) -> bool {
    let offset = offset
        .iter()
        .rev()
        .fold(0, |sum: usize, byte| sum << 8 | usize::from(*byte));
    offset
        .checked_add(4)
        .and_then(|end| bytes.get(offset..end))
        .is_some_and(|signature| signature == b"PE\0\0")
}

/// The header of a kernel for this architecture.
pub(crate) fn header_for(bytes: &[u8], wanted: Arch) -> Result<KernelHeader, Error> {
    let header = header(bytes)?;
    if header.arch == wanted {
        Ok(header)
    } else {
        Err(Error::Machine {
            got: header.arch,
            wanted,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The least that passes for a kernel that UEFI can start.
    pub(crate) fn kernel(arch: Arch) -> Vec<u8> {
        let mut bytes = vec![0; 0x400];
        let mut put = |offset: usize, value: &[u8]| {
            bytes[offset..offset + value.len()].copy_from_slice(value);
        };
        put(0, b"MZ");
        put(0x3c, &0x80_u32.to_le_bytes());
        put(0x80, b"PE\0\0");
        match arch {
            Arch::X86_64 => {
                put(0x1fe, &[0x55, 0xaa]);
                put(0x202, b"HdrS");
                put(0x20e, &0x100_u16.to_le_bytes());
                put(0x300, b"6.12.1 (cpu@appliance) #1\0");
            }
            Arch::Aarch64 => put(0x38, b"ARM\x64"),
        }
        bytes
    }

    #[test]
    fn kernels_are_known_by_their_headers() {
        let header = header_for(&kernel(Arch::X86_64), Arch::X86_64).unwrap();
        assert_eq!(header.version.as_deref(), Some("6.12.1 (cpu@appliance) #1"));
        assert!(header.efi);
        let mut bytes = kernel(Arch::Aarch64);
        assert!(header_for(&bytes, Arch::Aarch64).unwrap().efi);
        bytes[0] = 0;
        assert!(!header_for(&bytes, Arch::Aarch64).unwrap().efi);
    }

    #[test]
    fn another_architecture_and_no_kernel_are_refused() {
        let error = header_for(&kernel(Arch::Aarch64), Arch::X86_64).unwrap_err();
        assert!(matches!(
            error,
            Error::Machine {
                got: Arch::Aarch64,
                ..
            }
        ));
        assert_eq!(header(b"\x7fELF"), Err(Error::NotAKernel));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..2000), x86: bool) {
            let arch = if x86 { Arch::X86_64 } else { Arch::Aarch64 };
            let _ = header(&bytes);
            let whole = kernel(arch);
            bytes.extend_from_slice(&whole[bytes.len().min(whole.len())..]);
            let _ = header(&bytes);
            let _ = header(&whole[..bytes.len().min(whole.len())]);
        }
    }
}
