//! The regular files of a tar archive (tar(5)), with the long names of GNU tar and of pax.

use std::io::Read;

use tar::{Archive, EntryType, PaxExtensions};

use super::{Error, MAX_NAME, unread};

/// A few records of pax; apk has the sums of files among them.
const MAX_PAX: u64 = 1 << 16;

/// Give each of them to `each`, with its name as it is written.
pub(super) fn read(
    from: impl Read,
    mut each: impl FnMut(&str, &mut dyn Read) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut archive = Archive::new(from);
    // The parts of apk's packages are one archive, however each of them ends.
    archive.set_ignore_zeros(true);
    // A name that did not fit into its own header. The crate would read one of any length into memory.
    let mut long = None;
    let entries = archive.entries().map_err(unread)?;
    for entry in entries.raw(true) {
        let mut entry = entry.map_err(unread)?;
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::GNULongName | EntryType::XHeader) {
            let is_pax = kind == EntryType::XHeader;
            let length = entry.size();
            if length > if is_pax { MAX_PAX } else { MAX_NAME } {
                return Err(Error::LongName(length));
            }
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(unread)?;
            long = if is_pax {
                pax_path(&bytes)
            } else {
                Some(bytes)
            }
            .or(long);
            continue;
        }
        let name = long.take().unwrap_or_else(|| entry.path_bytes().into());
        if kind.is_file() {
            let name = String::from_utf8_lossy(&name).into_owned();
            each(name.trim_end_matches('\0'), &mut entry)?;
        }
    }
    Ok(())
}

fn pax_path(records: &[u8]) -> Option<Vec<u8>> {
    let mut records = PaxExtensions::new(records).flatten();
    let path = records.find(|record| record.key_bytes() == b"path")?;
    Some(path.value_bytes().to_vec())
}
