//! What u-root's file server says of the names in a directory. Where readdir wants a dirent's type it puts the qid's,
//! and Linux hands that on: `find -type f`, os.scandir and all who trust `d_type` then find nothing.

use bytes::{Bytes, BytesMut};

use crate::msg::{DirEntry, Qid};
use crate::wire::HEADER;

/// `DT_*` of readdir(3).
const DT_UNKNOWN: u8 = 0;
const DT_DIR: u8 = 4;
const DT_LNK: u8 = 10;

/// A whole Rreaddir with the types that the qids tell: directory, link, or that it is not known, for which programs
/// ask by themselves. A type that is not the qid's is left as it is.
pub(super) fn correct(message: Bytes) -> Bytes {
    let mut message = BytesMut::from(message);
    // count[4]
    let mut rest = message.get_mut(HEADER + 4..).unwrap_or_default();
    while let Some((entry, more)) = rest.split_first_chunk_mut::<{ DirEntry::FIXED }>() {
        let [qid, .., kind, n0, n1] = entry;
        if kind == qid {
            *kind = match *qid {
                Qid::DIR => DT_DIR,
                Qid::SYMLINK => DT_LNK,
                _ => DT_UNKNOWN,
            };
        }
        let name = u16::from_le_bytes([*n0, *n1]);
        rest = more.get_mut(name.into()..).unwrap_or_default();
    }
    message.freeze()
}
