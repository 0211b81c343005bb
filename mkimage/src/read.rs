//! Reads files whole, but none that is too long: a name from outside may lead to `/dev/zero`.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// For lists of keys.
pub(crate) const MAX_KEYS: u64 = 1 << 20;
/// For a kernel's configuration, of 300 kB, and lists of its modules.
pub(crate) const MAX_TEXT: u64 = 1 << 20;
/// For a program, a kernel, a module or a firmware file.
pub(crate) const MAX_FILE: u64 = 192 << 20;

/// The bytes of a file that has `max` or less.
pub(crate) fn whole(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    to_end(File::open(path)?, max)
}

/// The rest of a file that has `max` bytes or less.
pub(crate) fn to_end(from: impl io::Read, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(max + 1).read_to_end(&mut bytes)?;
    within(bytes.len() as u64, max)?;
    Ok(bytes)
}

/// The error of a file that is too long.
pub(crate) fn within(length: u64, max: u64) -> io::Result<()> {
    if length <= max {
        return Ok(());
    }
    let message = format!("it has more than {max} bytes: is it the right file?");
    Err(io::Error::new(io::ErrorKind::FileTooLarge, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_to_its_end_or_not_at_all() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "four").unwrap();
        assert_eq!(whole(file.path(), 4).unwrap(), b"four");
        for (path, max) in [(file.path(), 3), (Path::new("/dev/zero"), 1 << 20)] {
            let error = whole(path, max).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
            assert!(
                error
                    .to_string()
                    .contains(&format!("more than {max} bytes"))
            );
        }
    }
}
