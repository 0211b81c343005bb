//! What the machine's own requests change. It is forgotten when they are sent, and again when they are answered.

use std::sync::Arc;

use super::{Mirror, MirrorFid};
use crate::fs::OpenFlags;
use crate::msg::{FORGET_ALL, FORGET_ATTR, FORGET_NAME, Qid, Request, SetAttr};
use crate::wire::Name;

/// Something that a request changes.
#[derive(Debug, Clone)]
pub(super) enum Changed {
    Attr(Qid, Option<(u64, Arc<[u8]>)>),
    /// A name in a directory.
    Name(u64, Box<[u8]>),
    Contents(u64),
    Anything,
}

impl Mirror {
    /// The attributes of a file.
    pub(super) fn attr_of(&self, fid: u32) -> Option<Changed> {
        let fid = self.fids.get(&fid)?;
        Some(Changed::Attr(fid.qid, fid.place.clone()))
    }

    fn in_dir_of(&self, fid: u32, name: Name<'_>) -> Changed {
        in_dir(self.fids.get(&fid).and_then(MirrorFid::dir), name)
    }

    /// The name by which a fid was found.
    fn name_of(&self, fid: u32) -> Changed {
        match self.fids.get(&fid).and_then(|fid| fid.place.clone()) {
            Some((dir, name)) => Changed::Name(dir, (*name).into()),
            None => Changed::Anything,
        }
    }

    /// The attributes of a directory that is removed or renamed. Those of a file are kept with its name.
    fn named_dir(&self, dfid: u32, name: Name<'_>) -> Option<Changed> {
        let dir = self.fids.get(&dfid).and_then(MirrorFid::dir)?;
        let qid = self.store.qid(dir, name.bytes())?;
        (qid.kind == Qid::DIR).then_some(Changed::Attr(qid, None))
    }

    /// What a request may change.
    pub(super) fn changes(&self, request: &Request<'_>) -> Vec<Changed> {
        use Request as R;
        match *request {
            R::Lopen { fid, flags } if OpenFlags(flags).has(OpenFlags::TRUNC) => {
                self.attr_of(fid).into_iter().collect()
            }
            R::Symlink { dfid, name, .. }
            | R::Mknod { dfid, name, .. }
            | R::Mkdir { dfid, name, .. } => vec![self.in_dir_of(dfid, name)],
            R::Unlinkat { dfid, name, .. } => {
                let removed = self.named_dir(dfid, name);
                [Some(self.in_dir_of(dfid, name)), removed]
                    .into_iter()
                    .flatten()
                    .collect()
            }
            R::Rename { fid, dfid, name } => vec![
                self.name_of(fid),
                self.attr_of(fid).unwrap_or(Changed::Anything),
                self.in_dir_of(dfid, name),
            ],
            R::Renameat {
                olddirfid,
                oldname,
                newdirfid,
                newname,
            } => {
                let mut changed = vec![
                    self.in_dir_of(olddirfid, oldname),
                    self.in_dir_of(newdirfid, newname),
                ];
                changed.extend(self.named_dir(olddirfid, oldname));
                changed
            }
            // Its directory shows no change of the number of links.
            R::Link { dfid, fid, name } => vec![
                self.attr_of(fid).unwrap_or(Changed::Anything),
                self.in_dir_of(dfid, name),
            ],
            // Its mode may decide whether what is in it can be reached.
            R::Setattr { fid, attr } => {
                let dir = self.fids.get(&fid).and_then(MirrorFid::dir);
                let rights = SetAttr::MODE | SetAttr::UID | SetAttr::GID;
                match dir {
                    Some(dir) if attr.valid & rights != 0 => vec![Changed::Contents(dir)],
                    _ => self.attr_of(fid).into_iter().collect(),
                }
            }
            R::Xattrcreate { fid, .. } | R::Write { fid, .. } => {
                self.attr_of(fid).into_iter().collect()
            }
            R::Clunk { fid } if self.fids.get(&fid).is_some_and(|fid| fid.sets_xattr) => {
                self.attr_of(fid).into_iter().collect()
            }
            R::Remove { fid } => vec![self.name_of(fid)],
            _ => Vec::new(),
        }
    }

    /// Forgets what a request changes, now and when it is answered.
    pub(super) fn change(&mut self, tag: u16, changed: Vec<Changed>) {
        self.forget_changed(&changed);
        self.changing.insert(tag, changed);
    }

    /// Drops contents until the rest fits into the budget.
    pub(in super::super) fn give_back(&mut self) {
        let budget = self.store.budget.clone();
        budget.release_during(|| self.store.make_room_for_contents(0));
    }

    pub(super) fn forget_changed(&mut self, changed: &[Changed]) {
        let now = self.moment();
        for changed in changed {
            let (what, dir, name) = match changed {
                Changed::Attr(qid, _) if qid.kind == Qid::DIR => (FORGET_ATTR, qid.path, &b""[..]),
                Changed::Attr(qid, Some((dir, name)))
                    if !self.store.is_renamed(*qid, *dir, name) =>
                {
                    (FORGET_ATTR, *dir, &**name)
                }
                // Events have the name by which it was opened, so the server may not say it of the others.
                Changed::Attr(qid, _) => {
                    self.store.forget_file(qid.path, now);
                    continue;
                }
                Changed::Name(dir, name) => (FORGET_NAME, *dir, &**name),
                Changed::Contents(dir) => (FORGET_NAME, *dir, &b""[..]),
                Changed::Anything => (FORGET_ALL, 0, &b""[..]),
            };
            self.store.forget(what, dir, name, now);
        }
    }
}

/// A name in a directory, if that is known.
pub(super) fn in_dir(dir: Option<u64>, name: Name<'_>) -> Changed {
    match dir {
        Some(dir) => Changed::Name(dir, name.bytes().into()),
        None => Changed::Anything,
    }
}
