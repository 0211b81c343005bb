//! Kernels for ARM that distributions have compressed: by gzip, as Ubuntu's, or into an EFI program that unpacks itself, as Fedora's
//! (drivers/firmware/efi/libstub/zboot-header.S). Boot loaders and QEMU want them plain.

use crate::archive::decompress;
use crate::read::MAX_FILE;

/// The image inside; `None` if it is plain.
pub(crate) fn unpacked(image: &[u8]) -> Result<Option<Vec<u8>>, decompress::Error> {
    let number = |at: usize| {
        let bytes = image.get(at..at + 4).unwrap_or_default();
        bytes.try_into().map_or(0, u32::from_le_bytes) as usize
    };
    let is_zboot = image.starts_with(b"MZ") && image.get(4..8) == Some(b"zimg");
    let packed = if is_zboot {
        let rest = image.get(number(8)..).unwrap_or_default();
        rest.get(..number(12)).unwrap_or(rest)
    } else {
        image
    };
    let unpacked = decompress::unpack_first(packed, MAX_FILE)?;
    Ok(unpacked.map(|unpacked| unpacked.bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::image::tests::kernel;
    use super::*;
    use crate::arch::Arch;
    use crate::archive::compress::Compression;

    fn zboot(payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap();
        let mut program = b"MZ\0\0zimg".to_vec();
        program.extend(64_u32.to_le_bytes());
        program.extend(length.to_le_bytes());
        program.resize(64, 0);
        [&program, payload, b"more"].concat()
    }

    #[test]
    fn the_image_is_taken_out_of_what_it_is_packed_in() {
        let image = kernel(Arch::Aarch64);
        for by in [Compression::Gzip, Compression::Zstd] {
            let packed = by.apply(image.clone(), Arch::Aarch64).unwrap();
            assert_eq!(unpacked(&zboot(&packed)).unwrap().as_ref(), Some(&image));
            assert_eq!(unpacked(&packed).unwrap().as_ref(), Some(&image));
        }
        for plain in [image, kernel(Arch::X86_64), zboot(b"none")] {
            assert_eq!(unpacked(&plain).unwrap(), None);
        }
        let cut = Compression::Gzip
            .apply(vec![7; 999], Arch::Aarch64)
            .unwrap();
        assert!(unpacked(&zboot(&cut[..cut.len() - 9])).is_err());
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_refused(offset: u32, length: u32, bytes: Vec<u8>) {
            let mut program = zboot(&bytes);
            program[8..12].copy_from_slice(&offset.to_le_bytes());
            program[12..16].copy_from_slice(&length.to_le_bytes());
            let _ = unpacked(&program);
        }
    }
}
