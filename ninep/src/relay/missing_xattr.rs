//! Before each write(2) Linux asks whether the file has the attribute `security.capability`, because the write must
//! remove it (`file_remove_privs` in `fs/inode.c`). A write at the server removes it as well, and so does a truncation;
//! a new file does not have it. So right after one of these the answer is known.

use std::collections::HashMap;
use std::time::Instant;

use super::{ATTR_TTL, LOOKUP_TTL};
use crate::fs::OpenFlags;
use crate::msg::Header;
use crate::wire::HEADER;

/// The attribute that Linux asks for.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

/// Size of a Twrite of no bytes.
const EMPTY_TWRITE: u32 = 7 + 4 + 8 + 4;

/// Maximum number of fids whose file is remembered. For others, the server is asked.
const MAX_FIDS: usize = 64 * 1024;

/// The file of each fid, and the file that is known not to have the attribute.
#[derive(Debug, Default)]
pub(super) struct MissingXattr {
    /// By fid: `qid.path`.
    files: HashMap<u32, u64>,
    /// By tag: the file that is being written.
    writes: HashMap<u16, u64>,
    /// By tag: the fid that will refer to the file, and whether the file will be new or truncated.
    creates: HashMap<u16, (u32, bool)>,
    /// The file that was written or created last, and until when this counts.
    last: Option<(u64, Instant)>,
}

impl MissingXattr {
    /// `fid` refers to the file `path`.
    pub(super) fn set_file(&mut self, fid: u32, path: u64) {
        if self.files.len() < MAX_FIDS {
            self.files.insert(fid, path);
        }
    }

    /// `newfid` refers to the file of `fid`.
    pub(super) fn clone_fid(&mut self, fid: u32, newfid: u32) {
        match self.files.get(&fid) {
            Some(&path) => self.set_file(newfid, path),
            None => self.remove_fid(newfid),
        }
    }

    /// `fid` does not exist any more, or refers to another file.
    pub(super) fn remove_fid(&mut self, fid: u32) {
        self.files.remove(&fid);
    }

    pub(super) fn create_sent(&mut self, tag: u16, fid: u32, flags: u32) {
        let flags = OpenFlags(flags);
        let is_new = flags.has(OpenFlags::EXCL) || flags.has(OpenFlags::TRUNC);
        self.remove_fid(fid);
        self.creates.insert(tag, (fid, is_new));
    }

    pub(super) fn create_done(&mut self, tag: u16, path: u64, now: Instant) {
        if let Some((fid, is_new)) = self.creates.remove(&tag) {
            self.set_file(fid, path);
            if is_new {
                // If it is given the attribute meanwhile, by a program at the server, the write there removes it.
                self.last = Some((path, now + LOOKUP_TTL));
            }
        }
    }

    /// A Twrite was sent, of which this is the beginning. One without data changes nothing.
    pub(super) fn write_sent(&mut self, header: Header, begin: &[u8]) {
        self.request_failed(header.tag);
        let fid = begin.get(HEADER..).and_then(<[u8]>::first_chunk);
        if let Some(path) = fid.and_then(|fid| self.files.get(&u32::from_le_bytes(*fid)))
            && header.size > EMPTY_TWRITE
        {
            self.writes.insert(header.tag, *path);
        }
    }

    pub(super) fn write_done(&mut self, tag: u16, now: Instant) {
        if let Some(path) = self.writes.remove(&tag) {
            self.last = Some((path, now + ATTR_TTL));
        }
    }

    /// The reply was not the one to a write or a create.
    pub(super) fn request_failed(&mut self, tag: u16) {
        self.writes.remove(&tag);
        self.creates.remove(&tag);
    }

    /// A file may have got the attribute.
    pub(super) fn invalidate(&mut self) {
        self.last = None;
    }

    /// Something other than a write was performed, perhaps after writes that are not answered yet.
    pub(super) fn invalidate_pending(&mut self) {
        self.writes.clear();
    }

    pub(super) fn is_missing(&self, fid: u32, now: Instant) -> bool {
        let last = self.last.filter(|(_, until)| now < *until);
        last.is_some_and(|(path, _)| self.files.get(&fid) == Some(&path))
    }
}
