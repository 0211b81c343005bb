//! The requests of [`WATCHED`](crate::msg::WATCHED): what the client may keep of what it is told.

use super::fids::{Fid, FidState};
use super::handlers::{Handlers, Outcome};
use crate::errno::Errno;
use crate::fs::{DirSink, FileSystem, ListedFile, OpenFlags, Told};
use crate::msg::{
    Attr, DirEntry, KEEP_ATTR, KEEP_NAME, Kind, LACKS_XATTRS, ListEntry, MAX_TARGET, Qid, Reply,
    Time,
};
use crate::wire::{BodyReader, Frame, HEADER, Str, Wire};

/// Maximum number of names in a listing. The client looks up those of a larger directory one by one.
const MAX_NAMES: usize = 2000;
/// Maximum number of bytes in a listing.
pub(super) const MAX_BYTES: usize = 400 * 1024;
/// Bytes of a directory that are read at a time.
const READ: usize = 32 * 1024;
/// Maximum number of subdirectories that one listing has watched, so that their attributes are in it too.
const MAX_SUBDIRECTORIES: usize = 64;

const DT_DIR: u8 = 4;

/// What is told of a name.
pub(super) struct FoundName<N> {
    /// What of it may be kept.
    pub(super) kept: u8,
    /// The file, unless there is none.
    pub(super) file: Option<(N, Attr)>,
    /// What it leads to, if it is a symbolic link.
    pub(super) target: Option<Vec<u8>>,
}

impl<F: FileSystem> Handlers<'_, F> {
    /// Watches a directory, if that can be done. Other files are not watched.
    pub(super) fn watch(&self, node: &F::Node, told: Told<'_>) -> bool {
        self.watcher()
            .is_some_and(|watcher| watcher.watch(node, told))
    }

    /// Walks one name. The watch comes first, so that no change is missed.
    pub(super) fn lookup(
        &self,
        fid: u32,
        newfid: u32,
        name: &[u8],
        tag: u16,
        out: &mut Frame,
    ) -> Outcome {
        let from = self.walk_start(fid, newfid)?;
        let found = self.found(&from.node, name)?;
        let target = short_target(found.target.as_deref());
        let kept = found.kept;
        let Some((node, attr)) = found.file else {
            let absent = Reply::Lookup {
                kept,
                ecode: Errno::ENOENT.raw(),
                attr: Attr::default(),
                target,
            };
            absent.encode(tag, out);
            return Ok(None);
        };
        self.walk_end(fid, &from, newfid, node)?;
        let reply = Reply::Lookup {
            kept,
            ecode: 0,
            attr,
            target,
        };
        reply.encode(tag, out);
        Ok(None)
    }

    /// What is told of a name in a directory.
    pub(super) fn found(&self, dir: &F::Node, name: &[u8]) -> Result<FoundName<F::Node>, Errno> {
        let is_watched = self.watch(dir, Told::Name(name));
        let mut kept = if is_watched { KEEP_NAME } else { 0 };
        let (node, mut attr) = match self.fs.walk_getattr(dir, name) {
            Err(Errno::ENOENT) if is_watched => {
                return Ok(FoundName {
                    kept,
                    file: None,
                    target: None,
                });
            }
            found => found?,
        };
        if attr.qid.kind == Qid::DIR {
            if self.watch(&node, Told::Itself) {
                attr = self.fs.getattr(&node, Attr::ALL)?;
                kept |= KEEP_ATTR;
            }
        } else if is_watched
            && attr.nlink == 1
            && let Some(watcher) = self.watcher()
            && watcher.covers(dir, &node)
        {
            kept |= KEEP_ATTR;
        }
        let mut target = None;
        if kept & KEEP_ATTR != 0 {
            if attr.qid.kind == Qid::SYMLINK {
                target = self.fs.readlink(&node).ok();
            }
            if self
                .fs
                .xattr(&node, None)
                .is_ok_and(|names| names.is_empty())
            {
                kept |= LACKS_XATTRS;
            }
        }
        Ok(FoundName {
            kept,
            file: Some((node, attr)),
            target,
        })
    }

    /// Walks one name to the file that the client has been told of.
    pub(super) fn bind(
        &self,
        fid: u32,
        newfid: u32,
        name: &[u8],
        (path, btime): (u64, Time),
    ) -> Result<Reply<'static>, Errno> {
        let from = self.walk_start(fid, newfid)?;
        let (node, attr) = self.fs.walk_getattr(&from.node, name)?;
        // The number may be another file's by now.
        if (attr.qid.path, attr.btime) != (path, btime) {
            return Err(Errno::ESTALE);
        }
        self.walk_end(fid, &from, newfid, node)?;
        Ok(Reply::Bind {})
    }

    /// Lists a directory; with `open`, opens the fid too.
    pub(super) fn list(
        &self,
        fid: u32,
        open: bool,
        tag: u16,
        msize: u32,
        out: &mut Frame,
    ) -> Outcome {
        let old = if open {
            self.unopened(fid)?
        } else {
            self.fids.get(fid)?
        };
        let is_watched = self.watch(&old.node, Told::All);
        if !is_watched && !open {
            return Err(Errno::EOPNOTSUPP);
        }
        let flags = OpenFlags(OpenFlags::RDONLY | OpenFlags::DIRECTORY);
        let (file, qid) = self.fs.open(&old.node, flags)?;
        let number = Kind::List.number() + 1;
        let start = |out: &mut Frame, kept: u8| {
            out.start(number, tag);
            kept.put(out);
            qid.put(out);
            0_u32.put(out);
            out.len()
        };
        let data = start(out, KEEP_NAME);
        let most = usize::try_from(msize).map_or(MAX_BYTES, |msize| msize.min(MAX_BYTES));
        let is_whole = is_watched
            && self
                .entries(&old.node, &file, (most, open), out)
                .unwrap_or(false);
        if is_whole {
            let count = u32::try_from(out.len() - data).map_err(|_| Errno::EIO)?;
            out.patch(data - 4, count);
        } else {
            start(out, 0);
        }
        if open {
            let node = old.node.clone();
            let state = FidState::Open(file);
            self.fids.replace(fid, &old, Fid { node, state })?;
        }
        Ok(u32::try_from(out.len() - data).ok())
    }

    /// Appends all entries of a directory, with more than attributes if `detailed`, up to `most` bytes in the message. False if
    /// there are more.
    pub(super) fn entries(
        &self,
        node: &F::Node,
        file: &F::File,
        (most, detailed): (usize, bool),
        out: &mut Frame,
    ) -> Result<bool, Errno> {
        let (mut offset, mut names, mut subdirectories) = (0, 0, 0);
        let mut batch = Frame::default();
        loop {
            batch.start(0, 0);
            self.fs
                .readdir(node, file, offset, &mut DirSink::new(&mut batch, READ))?;
            let bytes = batch.finish().get(HEADER..).unwrap_or_default();
            if bytes.is_empty() {
                return Ok(true);
            }
            let mut rest = BodyReader::new(bytes);
            while !rest.is_empty() {
                let entry = DirEntry::get(&mut rest).map_err(|_| Errno::EIO)?;
                offset = entry.offset;
                names += 1;
                let listed = self.entry(node, &entry, detailed, &mut subdirectories);
                let attr = listed.as_ref().map(|listed| listed.attr);
                let target = listed.as_ref().and_then(|listed| listed.target.as_deref());
                let entry = ListEntry {
                    kind: entry.kind,
                    name: entry.name,
                    qid: attr.map_or(entry.qid, |attr| attr.qid),
                    attr,
                    lacks_xattrs: listed.as_ref().is_some_and(|listed| listed.lacks_xattrs),
                    target: short_target(target),
                };
                entry.put(out);
                if names > MAX_NAMES || out.len() > most {
                    return Ok(false);
                }
            }
        }
    }

    /// What is told of an entry, if that may be kept.
    fn entry(
        &self,
        dir: &F::Node,
        entry: &DirEntry<'_>,
        detailed: bool,
        subdirectories: &mut usize,
    ) -> Option<ListedFile> {
        let name = entry.name.bytes();
        if matches!(name, b"." | b"..")
            || (entry.kind == DT_DIR && *subdirectories >= MAX_SUBDIRECTORIES)
        {
            return None;
        }
        let listed = self.fs.listed(dir, name, detailed).ok();
        // Else something is mounted there, or would be by a walk.
        let listed = listed.filter(|listed| listed.is_in_place)?;
        if listed.attr.qid.kind != Qid::DIR {
            return (listed.attr.nlink == 1).then_some(listed);
        }
        *subdirectories += 1;
        let (node, _) = self.fs.walk(dir, name).ok()?;
        if !self.watch(&node, Told::Itself) {
            return None;
        }
        let attr = self.fs.getattr(&node, Attr::ALL).ok()?;
        let names = detailed.then(|| self.fs.xattr(&node, None));
        (attr.qid.path == entry.qid.path).then_some(ListedFile {
            attr,
            lacks_xattrs: names.is_some_and(|names| names.is_ok_and(|names| names.is_empty())),
            ..listed
        })
    }
}

/// The target of a symbolic link, if it is not too long.
pub(super) fn short_target(target: Option<&[u8]>) -> Str<'_> {
    let short = target.filter(|target| target.len() <= MAX_TARGET);
    short.and_then(Str::new).unwrap_or_default()
}
