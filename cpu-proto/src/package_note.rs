//! An ELF note in the program's file with its name and version: owner `FDO`, section `.note.package` (systemd's
//! "Package Metadata for ELF Files"). readelf -n and file(1) show it, and `mkimage inspect` reads that of cpud.

/// Owner of the note.
pub const OWNER: &[u8] = b"FDO";
/// Type of the note.
pub const TYPE: u32 = 0xcafe_1a7e;

/// The note as it is in the file: header (`Elf64_Nhdr` of elf(5)), owner and description.
#[derive(Clone, Copy)]
#[repr(C, align(4))]
pub struct PackageNote<const N: usize> {
    owner_size: u32,
    description_size: u32,
    kind: u32,
    owner: [u8; 4],
    description: [u8; N],
}

/// The size of the description for this JSON text: with a NUL at the end, rounded up to a multiple of four.
pub const fn description_size(json: &str) -> usize {
    (json.len() + 1).next_multiple_of(4)
}

impl<const N: usize> PackageNote<N> {
    /// The note for a JSON text. `N` must be its [`description_size`].
    pub const fn new(json: &str) -> Self {
        assert!(N == description_size(json) && N <= 4096);
        let mut description = [0; N];
        let mut index = 0;
        while index < json.len() {
            description[index] = json.as_bytes()[index];
            index += 1;
        }
        #[expect(clippy::cast_possible_truncation, reason = "checked above")]
        let description_size = N as u32;
        Self {
            owner_size: 4,
            description_size,
            kind: TYPE,
            owner: *b"FDO\0",
            description,
        }
    }

    /// The JSON text with its padding.
    pub const fn description(&self) -> &[u8; N] {
        &self.description
    }
}

/// The version in the description of a note, if it is that of the program `name`. The bytes may be hostile.
pub fn version<'a>(description: &'a [u8], name: &str) -> Option<&'a str> {
    let json = str::from_utf8(description).ok()?.trim_end_matches('\0');
    let value = |key: &str| {
        let (_, rest) = json.split_once(&format!("\"{key}\":\""))?;
        Some(rest.split_once('"')?.0)
    };
    value("version").filter(|_| value("name") == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"type":"cpu","name":"cpud","version":"1.2.3"}"#;
    const NOTE: PackageNote<{ description_size(JSON) }> = PackageNote::new(JSON);

    #[test]
    fn the_version_is_that_of_the_named_program() {
        assert_eq!(version(NOTE.description(), "cpud"), Some("1.2.3"));
        assert_eq!(version(NOTE.description(), "cpu"), None);
    }

    #[test]
    fn a_truncated_or_invalid_description_has_no_version() {
        for length in 0..JSON.len() - 2 {
            assert_eq!(
                version(&JSON.as_bytes()[..length], "cpud"),
                None,
                "{length}"
            );
        }
        assert_eq!(version(b"\xff\"name\":\"cpud\"", "cpud"), None);
    }

    #[test]
    fn the_note_is_a_multiple_of_four_bytes() {
        assert_eq!(size_of_val(&NOTE) % 4, 0);
        assert_eq!(size_of_val(&NOTE), 16 + description_size(JSON));
    }
}
