//! The checksums of volumes (16 bits) and files (8 bits): all bytes of what they cover add up to zero.

/// What makes the sum of the bytes zero.
pub(super) fn checksum8(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0_u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg()
}

/// What makes the sum of the little-endian words zero.
pub(super) fn checksum16(bytes: &[u8]) -> u16 {
    bytes
        .chunks(2)
        .map(|word| u16::from_le_bytes([word[0], word.get(1).copied().unwrap_or(0)]))
        .fold(0_u16, u16::wrapping_add)
        .wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_covered_adds_up_to_zero() {
        assert_eq!(checksum8(&[]), 0);
        assert_eq!(checksum8(&[1, 2, 0xff]), 0xfe);
        assert_eq!(checksum8(&[1, 2, 0xff, 0xfe]), 0);
        assert_eq!(checksum16(&[0x01, 0x02]), 0xfdff);
        assert_eq!(checksum16(&[0x01, 0x02, 0xff, 0xfd]), 0);
    }
}
