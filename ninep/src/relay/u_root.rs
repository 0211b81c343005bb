//! What u-root's file server replies otherwise than Linux's client expects.
//!
//! * **Inode numbers.** It puts them into qid paths as they are. Linux shows a path plus 2 (`v9fs_qid2ino`), and git, for
//!   one, takes every file for changed whose number is not the one in the index, and reads it.
//! * **Types in directory listings.** Where an Rreaddir must have a `DT_*` value it has the type of the qid, which Linux
//!   passes on: `find -type f`, os.scandir and everything else that relies on `d_type` then find nothing.

use bytes::{Bytes, BytesMut};

use crate::msg::{DirEntry, Kind, Qid};
use crate::wire::HEADER;

/// `DT_*` of readdir(3).
const DT_UNKNOWN: u8 = 0;
const DT_DIR: u8 = 4;
const DT_LNK: u8 = 10;

/// Bytes of a qid: type[1] version[4] path[8].
const QID: usize = 13;

/// The kinds whose replies are corrected. Linux ignores the qids of others, which that server leaves empty.
pub(super) const CORRECTED: &[Kind] = &[
    Kind::Attach,
    Kind::Walk,
    Kind::Lopen,
    Kind::Lcreate,
    Kind::Getattr,
    Kind::Readdir,
];

/// Corrects a whole reply; `number` is the byte with its type.
pub(super) fn correct(number: u8, message: Bytes) -> Bytes {
    let mut message = BytesMut::from(message);
    let body = message.get_mut(HEADER..).unwrap_or_default();
    match number.checked_sub(1).map(Kind::new) {
        Some(Ok(Kind::Attach | Kind::Lopen | Kind::Lcreate)) => {
            correct_paths(body.chunks_mut(QID).take(1));
        }
        // nwqid[2] nwqid*(qid[13])
        Some(Ok(Kind::Walk)) => correct_paths(after(body, 2).chunks_mut(QID)),
        // valid[8] qid[13]
        Some(Ok(Kind::Getattr)) => correct_paths(after(body, 8).chunks_mut(QID).take(1)),
        // count[4]
        Some(Ok(Kind::Readdir)) => correct_entries(after(body, 4)),
        _ => {}
    }
    message.freeze()
}

fn after(body: &mut [u8], n: usize) -> &mut [u8] {
    body.get_mut(n..).unwrap_or_default()
}

/// Subtracts what Linux adds.
fn correct_paths<'a>(qids: impl Iterator<Item = &'a mut [u8]>) {
    for qid in qids {
        if let Some(path) = qid.get_mut(5..).and_then(<[u8]>::first_chunk_mut) {
            *path = u64::from_le_bytes(*path).wrapping_sub(2).to_le_bytes();
        }
    }
}

/// Besides, the type becomes that of a directory, of a symbolic link, or unknown, in which case programs call stat(2). A
/// type that differs from the qid's is left alone.
fn correct_entries(mut rest: &mut [u8]) {
    while let Some((entry, more)) = rest.split_first_chunk_mut::<{ DirEntry::FIXED }>() {
        correct_paths(entry.chunks_mut(QID).take(1));
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
}
