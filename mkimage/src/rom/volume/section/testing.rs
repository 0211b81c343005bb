//! Sections made by hand, for tests.

use super::*;
use crate::rom::brotli;
use crate::rom::tiano::tests::pack;
use crate::rom::tiano::{SlidingWindow, TIANO};

/// A leaf.
pub(crate) fn leaf(kind: u8, bytes: &[u8]) -> Section {
    Section {
        kind,
        extended: false,
        header: Vec::new(),
        content: Content::Bytes(bytes.to_vec()),
    }
}

/// The section with a file's name.
pub(crate) fn name(text: &str) -> Section {
    let units = text.encode_utf16().chain([0]);
    let bytes: Vec<u8> = units.flat_map(u16::to_le_bytes).collect();
    leaf(USER_INTERFACE, &bytes)
}

/// A section that contains a volume.
pub(crate) fn volume(volume: FirmwareVolume) -> Section {
    Section {
        content: Content::Volume(Box::new(volume)),
        ..leaf(VOLUME_IMAGE, &[])
    }
}

/// A compressed section.
pub(crate) fn packed(codec: Codec, guid: Uuid, sections: Sections) -> Section {
    let header = [&guid.to_bytes_le()[..], &[24, 0, 1, 0]].concat();
    let bytes = match codec {
        Codec::Tiano => pack(&sections.to_bytes(), TIANO),
        Codec::Brotli => brotli::tests::pack(&sections.to_bytes()),
        _ => codec.pack(&sections.to_bytes(), &[]).unwrap(),
    };
    Section {
        header,
        content: Content::Packed(Box::new(Packed {
            codec,
            bytes,
            sections,
        })),
        ..leaf(GUID_DEFINED, &[])
    }
}

/// A section of the type COMPRESSION.
pub(crate) fn standard(window: SlidingWindow, sections: Sections) -> Section {
    let bytes = sections.to_bytes();
    let size = u32::try_from(bytes.len()).unwrap();
    Section {
        header: [&size.to_le_bytes()[..], &[STANDARD]].concat(),
        content: Content::Packed(Box::new(Packed {
            codec: Codec::Standard,
            bytes: pack(&bytes, window),
            sections,
        })),
        ..leaf(COMPRESSION, &[])
    }
}

/// Sections after their CRC32.
pub(crate) fn crc32(sections: Sections) -> Section {
    let header = [&CRC32.to_bytes_le()[..], &[28, 0, 1, 0, 0, 0, 0, 0]].concat();
    Section {
        header,
        content: Content::Sections(sections),
        ..leaf(GUID_DEFINED, &[])
    }
}

pub(crate) fn sections(list: Vec<Section>) -> Sections {
    Sections {
        list,
        fill: 0,
        tail: Vec::new(),
    }
}
