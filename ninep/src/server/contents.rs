//! The requests of [`WATCHED`](crate::msg::WATCHED) that read more than was asked for: the beginning of a file that is
//! opened, and small files that may be opened next.

use super::fids::{Fid, FidState};
use super::handlers::{Handlers, Outcome};
use crate::errno::Errno;
use crate::fs::{FileSystem, OpenFlags};
use crate::msg::{Attr, FetchedFile, Kind, MAX_FETCHED, Qid};
use crate::wire::{Data, Frame, HEADER, Name, WalkVec, Wire};

/// What is known of a file that was read: the version of its qid, and its size.
type Version = (u32, u64);

impl<F: FileSystem> Handlers<'_, F> {
    /// Opens a fid for reading, and reads up to `count` bytes from the beginning of the file.
    pub(super) fn open_read(
        &self,
        fid: u32,
        flags: OpenFlags,
        count: usize,
        tag: u16,
        out: &mut Frame,
    ) -> Outcome {
        let old = self.unopened(fid)?;
        if flags.access() != OpenFlags::RDONLY || flags.has(OpenFlags::TRUNC) {
            return Err(Errno::EINVAL);
        }
        let (file, qid) = self.fs.open(&old.node, flags)?;
        let start = |out: &mut Frame, (version, size): Version| {
            out.start(Kind::Lopenread.number() + 1, tag);
            qid.put(out);
            0_u32.put(out);
            version.put(out);
            size.put(out);
            0_u32.put(out);
            out.len()
        };
        let mut version = self.version(&old.node, qid);
        let data = start(out, version.unwrap_or_default());
        if let Some(read) = version {
            let size = usize::try_from(read.1).unwrap_or(usize::MAX);
            let is_read = self.read_all(&file, 0, count.min(size), out);
            version = version.filter(|_| is_read && self.version(&old.node, qid) == Some(read));
        }
        if version.is_none() {
            start(out, Version::default());
        }
        let read = u32::try_from(out.len() - data).map_err(|_| Errno::EIO)?;
        out.patch(data - 4, read);
        let node = old.node.clone();
        let state = FidState::Open(file);
        self.fids.replace(fid, &old, Fid { node, state })?;
        Ok(Some(read))
    }

    /// The version of a regular file.
    fn version(&self, node: &F::Node, qid: Qid) -> Option<Version> {
        let is_file = qid.kind == Qid::FILE;
        let attr = is_file.then(|| self.fs.getattr(node, Attr::ALL).ok());
        attr.flatten().map(|attr| (attr.qid.version, attr.size))
    }

    /// Appends `count` bytes of a file. False if it has fewer.
    fn read_all(&self, file: &F::File, offset: u64, count: usize, out: &mut Frame) -> bool {
        let start = out.len();
        while out.len() - start < count {
            let at = out.len() - start;
            let from = offset.saturating_add(at as u64);
            match self.fs.read(file, from, out.space(count - at)) {
                Ok(n) if n > 0 => out.grow(n),
                _ => return false,
            }
        }
        true
    }

    /// Reads small files in a directory, as many as fit.
    pub(super) fn fetch(
        &self,
        fid: u32,
        names: &WalkVec<Name<'_>>,
        tag: u16,
        msize: u32,
        out: &mut Frame,
    ) -> Outcome {
        let dir = self.fids.get(fid)?;
        let msize = usize::try_from(msize).unwrap_or(usize::MAX);
        // Each file has a version and a size, too.
        let mut room = MAX_FETCHED.min(msize.saturating_sub(HEADER + 4 + 8 * names.len()));
        out.start(Kind::Fetch.number() + 1, tag);
        0_u32.put(out);
        let start = out.len();
        let mut bytes = Frame::default();
        for name in names.iter() {
            bytes.start(0, 0);
            let version = self.fetch_one(&dir.node, name, room, &mut bytes);
            let data = bytes.finish().get(HEADER..);
            let data = data.filter(|_| version.is_some()).unwrap_or_default();
            room -= data.len().min(room);
            let version = version.unwrap_or(0);
            let data = Data(data);
            FetchedFile { version, data }.put(out);
        }
        let count = u32::try_from(out.len() - start).map_err(|_| Errno::EIO)?;
        out.patch(HEADER, count);
        Ok(Some(count))
    }

    /// Appends a file of up to `most` bytes, and returns the version of its qid. None if it is not there, larger, or not to
    /// be read unasked.
    fn fetch_one(
        &self,
        dir: &F::Node,
        name: Name<'_>,
        most: usize,
        out: &mut Frame,
    ) -> Option<u32> {
        if matches!(name.bytes(), b"." | b"..") {
            return None;
        }
        let (node, qid) = self.fs.walk(dir, name.bytes()).ok()?;
        let (version, size) = self.version(&node, qid)?;
        let size_here = usize::try_from(size).ok().filter(|size| *size <= most)?;
        let range = (0, size_here);
        self.read_unasked(dir, &node, (version, size), range, out)
            .then_some(version)
    }

    /// Appends contents of a file of this version that nobody has opened yet. False if it may not be read unasked, or has
    /// changed.
    pub(super) fn read_unasked(
        &self,
        dir: &F::Node,
        node: &F::Node,
        version: Version,
        (offset, count): (u64, usize),
        out: &mut Frame,
    ) -> bool {
        if !self.watcher().is_some_and(|it| it.may_fetch(dir, node)) {
            return false;
        }
        let open = |flags| self.fs.open(node, OpenFlags(flags));
        let opened = open(OpenFlags::NOATIME).or_else(|_| open(OpenFlags::RDONLY));
        opened.is_ok_and(|(file, qid)| {
            self.read_all(&file, offset, count, out) && self.version(node, qid) == Some(version)
        })
    }
}
