//! Walks: from one fid to another.

use std::sync::Arc;

use super::fids::{Fid, FidState};
use super::handlers::Handlers;
use crate::errno::Errno;
use crate::fs::FileSystem;
use crate::msg::Qid;
use crate::wire::{Name, WalkVec};

impl<F: FileSystem> Handlers<'_, F> {
    /// Where a walk from `fid` to `newfid` begins.
    pub(super) fn walk_start(&self, fid: u32, newfid: u32) -> Result<Arc<Fid<F>>, Errno> {
        let from = self.fids.get(fid)?;
        // An open fid may be cloned, since Linux walks from any fid that it has when a file has lost its name. But
        // it cannot become the fid of another file.
        match from.state {
            FidState::Path => {}
            FidState::Open(_) if newfid != fid => {}
            _ => return Err(Errno::EBADF),
        }
        if newfid != fid {
            self.fids.free(newfid)?;
        }
        Ok(from)
    }

    /// Makes `newfid` the end of a walk from `fid`.
    pub(super) fn walk_end(
        &self,
        fid: u32,
        from: &Arc<Fid<F>>,
        newfid: u32,
        node: F::Node,
    ) -> Result<(), Errno> {
        if newfid == fid {
            self.fids.replace(fid, from, Fid::path(node))
        } else {
            self.fids.insert(newfid, Fid::path(node))
        }
    }

    pub(super) fn walk(
        &self,
        fid: u32,
        newfid: u32,
        names: &WalkVec<Name<'_>>,
    ) -> Result<WalkVec<Qid>, Errno> {
        let from = self.walk_start(fid, newfid)?;
        let mut node = from.node.clone();
        let mut qids = WalkVec::default();
        for name in names.iter() {
            let step = match name.bytes() {
                b"." => Err(Errno::EINVAL),
                b".." => self.fs.parent(&node),
                name => self.fs.walk(&node, name),
            };
            match step {
                Ok((next, qid)) => {
                    node = next;
                    qids.push(qid);
                }
                // walk(5): failing at the first name is an error; failing later makes the reply shorter.
                Err(errno) if qids.is_empty() => return Err(errno),
                Err(_) => return Ok(qids),
            }
        }
        self.walk_end(fid, &from, newfid, node)?;
        Ok(qids)
    }
}
