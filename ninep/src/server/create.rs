//! Creates files, and tells the attributes after a change.

use super::fids::{Fid, FidState};
use super::handlers::{Handlers, plain};
use crate::errno::Errno;
use crate::fs::{FileSystem, OpenFlags};
use crate::msg::{Attr, Qid};
use crate::wire::Name;

impl<F: FileSystem> Handlers<'_, F> {
    /// Creates a file, and opens the fid for it.
    pub(super) fn create(
        &self,
        fid: u32,
        name: Name<'_>,
        flags: u32,
        mode: u32,
        gid: u32,
    ) -> Result<Qid, Errno> {
        let old = self.unopened(fid)?;
        let flags = OpenFlags(flags);
        let (node, file, qid) = self.fs.create(&old.node, plain(name)?, flags, mode, gid)?;
        let state = FidState::Open(file);
        self.fids.replace(fid, &old, Fid { node, state })?;
        Ok(qid)
    }

    /// The attributes after a change that has been made. None is valid if they cannot be read: that does not undo the change.
    pub(super) fn attr_after(&self, fid: u32) -> Attr {
        let fid = self.fids.get(fid);
        let attr = fid.and_then(|fid| self.fs.getattr(&fid.node, Attr::ALL));
        attr.unwrap_or_default()
    }
}
