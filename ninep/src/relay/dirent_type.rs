//! The types in directory listings of u-root's file server. Where an Rreaddir must have a `DT_*` value it has the type
//! of the qid, which Linux passes on: `find -type f`, os.scandir and everything else that relies on `d_type` then
//! find nothing.

use bytes::{Bytes, BytesMut};

use crate::msg::{DirEntry, Qid};
use crate::wire::HEADER;

/// `DT_*` of readdir(3).
const DT_UNKNOWN: u8 = 0;
const DT_DIR: u8 = 4;
const DT_LNK: u8 = 10;

/// Corrects the types in a whole Rreaddir: directory, symbolic link, or unknown, in which case programs call stat(2).
/// A type that differs from the qid's is left alone.
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
