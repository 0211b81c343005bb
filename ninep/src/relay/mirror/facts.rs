//! What is known of one file, as long as nothing of it changes.

use std::sync::Arc;

use bytes::Bytes;

use super::contents::{ContentBudget, Contents};
use crate::msg::{Attr, FetchTotals, MAX_TARGET, Qid};

/// Maximum number of extended attributes that a file is known not to have.
const MAX_XATTRS: usize = 4;
/// The type of a file in its mode, and that of a regular file.
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;

/// A point in the order of messages.
pub(super) type Moment = u64;

/// What is known of a file that is not a directory, or of a directory itself, while its attributes are.
#[derive(Debug)]
pub(super) struct FileFacts {
    pub(super) attr: Attr,
    /// When the server told of it. What was asked before that may be older.
    pub(super) since: Moment,
    /// Whether it has no extended attributes.
    lacks_all: bool,
    /// Those that it does not have; the empty name stands for their list.
    lacks: Vec<Box<[u8]>>,
    /// What it leads to, if it is a symbolic link.
    target: Option<Box<[u8]>>,
    contents: Option<Arc<Contents>>,
    /// When the contents were used last.
    used: Moment,
    /// Whether they were fetched, and not used since.
    is_fetched: bool,
}

impl FileFacts {
    pub(super) fn new(attr: Attr, since: Moment) -> Self {
        Self {
            attr,
            since,
            lacks_all: false,
            lacks: Vec::new(),
            target: None,
            contents: None,
            used: 0,
            is_fetched: false,
        }
    }

    /// With what the server tells besides: whether the file has no extended attributes, and what it leads to, if that is not
    /// empty.
    pub(super) fn told(attr: Attr, since: Moment, lacks_xattrs: bool, target: &[u8]) -> Self {
        let mut facts = Self::new(attr, since);
        facts.lacks_all = lacks_xattrs;
        if attr.qid.kind == Qid::SYMLINK && !target.is_empty() {
            facts.set_target(target);
        }
        facts
    }

    /// With what the server tells of the same file later.
    pub(super) fn told_again(&mut self, new: Self) {
        self.attr = new.attr;
        self.lacks_all |= new.lacks_all;
        self.target = new.target.or(self.target.take());
    }

    /// Whether it does not have this attribute, or for an empty name, any.
    pub(super) fn lacks(&self, xattr: &[u8]) -> bool {
        self.lacks_all || self.lacks.iter().any(|name| **name == *xattr)
    }

    pub(super) fn add_lacking(&mut self, xattr: &[u8]) {
        if self.lacks.len() < MAX_XATTRS && xattr.len() < 256 && !self.lacks(xattr) {
            self.lacks.push(xattr.into());
        }
    }

    pub(super) fn target(&self) -> Option<&[u8]> {
        self.target.as_deref()
    }

    pub(super) fn set_target(&mut self, target: &[u8]) {
        if target.len() <= MAX_TARGET {
            self.target = Some(target.into());
        }
    }

    pub(super) fn is_regular(&self) -> bool {
        self.attr.mode & S_IFMT == S_IFREG
    }

    /// When its contents were used last, if there are any.
    pub(super) fn contents_used(&self) -> Option<Moment> {
        self.contents.as_ref().map(|_| self.used)
    }

    /// All of its contents, if they are known.
    pub(super) fn whole(&mut self, now: Moment) -> Option<Arc<Contents>> {
        self.used = now;
        self.contents.clone().filter(|contents| contents.is_whole())
    }

    pub(super) fn has_beginning(&self) -> bool {
        let contents = self.contents.as_ref();
        contents.is_some_and(|contents| contents.has_beginning())
    }

    /// What a read(2) returns, if it is known.
    pub(super) fn read(&mut self, offset: u64, count: u32, now: Moment) -> Option<Vec<Bytes>> {
        self.used = now;
        self.contents.as_ref()?.read(offset, count)
    }

    /// Where the bytes end that are known from `offset` on.
    pub(super) fn known_end(&self, offset: u64) -> u64 {
        let contents = self.contents.as_ref();
        contents.map_or(offset, |contents| contents.known_end(offset))
    }

    /// Drops the contents before `offset`, unless somebody may be reading them.
    pub(super) fn drop_contents_before(&mut self, offset: u64) {
        if let Some(contents) = self.contents.as_mut().and_then(Arc::get_mut) {
            contents.drop_before(offset);
        }
    }

    /// Adds what was read. What belongs to a whole file, which somebody may be reading, is there already.
    pub(super) fn add_contents(
        &mut self,
        offset: u64,
        data: &[u8],
        budget: &Arc<ContentBudget>,
        now: Moment,
    ) {
        self.used = now;
        let size = self.attr.size;
        let new = || Arc::new(Contents::new(size, budget.clone()));
        if let Some(contents) = Arc::get_mut(self.contents.get_or_insert_with(new)) {
            contents.add(offset, data);
        }
    }

    pub(super) fn drop_contents(&mut self) {
        self.contents = None;
        self.is_fetched = false;
    }

    /// Its contents, if there are any now, were fetched.
    pub(super) fn set_fetched(&mut self) {
        self.is_fetched = self.contents.is_some();
    }

    /// Whether its contents, if there are any, have been used.
    pub(super) fn contents_are_used(&self) -> Option<bool> {
        self.contents.as_ref().map(|_| !self.is_fetched)
    }

    /// Counts its contents if they were fetched and are used for the first time.
    pub(super) fn count_use(&mut self, totals: &mut FetchTotals) -> bool {
        let is_first = std::mem::take(&mut self.is_fetched);
        if is_first {
            let known = self.contents.as_ref().map_or(0, |contents| contents.len());
            totals.used_files = totals.used_files.wrapping_add(1);
            totals.used_bytes = totals.used_bytes.wrapping_add(known);
        }
        is_first
    }
}
