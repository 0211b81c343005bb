//! Before each write(2) Linux asks whether the file has the attribute `security.capability`, which it would have to
//! take away (`file_remove_privs` in `fs/inode.c`). A write here takes it away just so, and so do a truncation and
//! whatever makes a file: right after one of them the answer is known.

use std::collections::HashMap;
use std::time::Instant;

use super::ATTR_TTL;
use crate::fs::OpenFlags;
use crate::msg::Header;
use crate::wire::HEADER;

/// What Linux asks for.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

/// Size of a Twrite of no bytes.
const EMPTY_TWRITE: u32 = 7 + 4 + 8 + 4;

/// Fids of which it is known what file they are of. Of those beyond, the server is asked.
const MAX_FIDS: usize = 64 * 1024;

/// What each fid is of, and which file has just lost the attribute.
#[derive(Debug, Default)]
pub(super) struct MissingXattr {
    /// By fid: `qid.path`.
    files: HashMap<u32, u64>,
    /// By tag: the file that is being written.
    writes: HashMap<u16, u64>,
    /// By tag: the fid that will be of a new file, and whether that can be none that was there before.
    creates: HashMap<u16, (u32, bool)>,
    last: Option<(u64, Instant)>,
}

impl MissingXattr {
    /// The fid is of this file.
    pub(super) fn set_file(&mut self, fid: u32, path: u64) {
        if self.files.len() < MAX_FIDS {
            self.files.insert(fid, path);
        }
    }

    /// Another fid of the same.
    pub(super) fn clone_fid(&mut self, fid: u32, newfid: u32) {
        match self.files.get(&fid) {
            Some(&path) => self.set_file(newfid, path),
            None => self.remove_fid(newfid),
        }
    }

    /// The fid is of nothing, or of something else.
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
                self.last = Some((path, now + ATTR_TTL));
            }
        }
    }

    /// The beginning of a Twrite. One of no bytes changes nothing.
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

    /// Something else was the answer.
    pub(super) fn request_failed(&mut self, tag: u16) {
        self.writes.remove(&tag);
        self.creates.remove(&tag);
    }

    /// Somebody may have given an attribute to a file.
    pub(super) fn invalidate(&mut self) {
        self.last = None;
    }

    /// Something else than a write was done, perhaps after writes whose answers are still to come.
    pub(super) fn invalidate_pending(&mut self) {
        self.writes.clear();
    }

    pub(super) fn is_missing(&self, fid: u32, now: Instant) -> bool {
        let last = self.last.filter(|(_, until)| now < *until);
        last.is_some_and(|(path, _)| self.files.get(&fid) == Some(&path))
    }
}
