//! What is kept of the server's directories: names, attributes, links and listings, each as long as the server watches the
//! directory. Bounded, whatever the server sends.

mod forget;
mod kept;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::contents::ContentBudget;
use super::facts::{FileFacts, Moment};
use super::listing::Listing;
use crate::msg::{Attr, ListEntry, Qid, Time};

/// Maximum number of names that are kept. They take some 300 bytes each, and at most 800.
const MAX_NAMES: usize = 24 * 1024;
/// Maximum number of names of one directory.
const MAX_PER_DIRECTORY: usize = 4096;
/// Maximum number of directories.
const MAX_DIRECTORIES: usize = 4096;

#[derive(Debug)]
enum KnownName {
    /// Nothing has this name.
    Absent,
    /// It has changed: the server must be asked.
    Changed,
    /// The file, and what is known of it unless it is a directory.
    File(Qid, Option<Box<FileFacts>>),
}

impl KnownName {
    /// The same, with what was known `before` if that is of the same file and version: its contents, perhaps.
    fn or_before(self, before: Option<Self>) -> Self {
        match (self, before) {
            (Self::File(qid, Some(new)), Some(Self::File(_, Some(mut old))))
                if (old.attr.qid, old.attr.size) == (new.attr.qid, new.attr.size) =>
            {
                old.told_again(*new);
                Self::File(qid, Some(old))
            }
            (new, _) => new,
        }
    }
}

#[derive(Debug, Default)]
struct Dir {
    /// When the server began to watch it, as far as is known here.
    since: Moment,
    /// When something of it was forgotten last.
    forgot: Moment,
    /// When it was used last.
    used: Moment,
    itself: Option<FileFacts>,
    names: HashMap<Box<[u8]>, KnownName>,
    /// Whether other names do not exist.
    is_complete: bool,
    listing: Option<Arc<Listing>>,
    /// Whether a listing has told more of its files than their attributes.
    is_detailed: bool,
}

/// The answer to a walk.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Absent,
    /// With its time of birth.
    File(Qid, Time),
}

/// The directories of one server.
#[derive(Debug, Default)]
pub(super) struct KeptDirs {
    dirs: HashMap<u64, Dir>,
    /// The number of names in all of them.
    names: usize,
    /// When something was forgotten last that is not recorded for a directory.
    forgot: Moment,
    /// When something was forgotten last of directories that were not known then. A program may write all the time into one that is
    /// not watched.
    forgot_unknown: Vec<(u64, Moment)>,
    /// What contents may take.
    pub(super) budget: Arc<ContentBudget>,
    /// The files whose contents are kept, those first that were not used for long, as of the moment beside them.
    read: VecDeque<(Moment, u64, Box<[u8]>)>,
}

impl KeptDirs {
    pub(super) fn new(budget: Arc<ContentBudget>) -> Self {
        Self {
            budget,
            ..Self::default()
        }
    }

    /// Whether a reply to a request that was sent at `sent` is still right in what it says of `dir`.
    pub(super) fn is_fresh(&self, dir: u64, sent: Moment) -> bool {
        let forgot = self.dirs.get(&dir).map(|dir| dir.forgot);
        let mut unknown = self.forgot_unknown.iter().filter(|(of, _)| *of == dir);
        self.forgot < sent
            && forgot.is_none_or(|forgot| forgot < sent)
            && unknown.all(|(_, forgot)| *forgot < sent)
    }

    /// A directory that the server has said to watch.
    fn watched(&mut self, dir: u64, now: Moment) -> &mut Dir {
        if self.dirs.len() >= MAX_DIRECTORIES && !self.dirs.contains_key(&dir) {
            self.drop_oldest(dir);
        }
        let dir = self.dirs.entry(dir).or_insert_with(|| Dir {
            since: now,
            ..Dir::default()
        });
        dir.used = now;
        dir
    }

    /// Makes room for `more` names in `dir`.
    fn make_room(&mut self, dir: u64, more: usize) {
        while self.names + more > MAX_NAMES && self.drop_oldest(dir) {}
    }

    /// Drops the directory that was used least recently, other than `but`.
    fn drop_oldest(&mut self, but: u64) -> bool {
        let others = self.dirs.iter().filter(|(dir, _)| **dir != but);
        let oldest = others.min_by_key(|(_, dir)| dir.used).map(|(dir, _)| *dir);
        oldest.is_some_and(|dir| self.remove(dir))
    }

    fn remove(&mut self, dir: u64) -> bool {
        let Some(removed) = self.dirs.remove(&dir) else {
            return false;
        };
        self.names -= removed.names.len();
        // Replies on their way may still say what was forgotten.
        self.forgot = self.forgot.max(removed.forgot);
        true
    }

    /// Sets what is known of a name; there is nothing to set where the limit is reached.
    fn set(&mut self, dir: u64, name: &[u8], known: KnownName) {
        self.make_room(dir, 1);
        if let Some(dir) = self.dirs.get_mut(&dir)
            && (dir.names.len() < MAX_PER_DIRECTORY || dir.names.contains_key(name))
        {
            let before = dir.names.remove(name);
            self.names += usize::from(before.is_none());
            dir.names.insert(name.into(), known.or_before(before));
        }
    }

    /// What is known of a name: nothing, that it is absent, or the file with its attributes.
    pub(super) fn find(&mut self, dir: u64, name: &[u8], now: Moment) -> Option<Found> {
        let dir = self.dirs.get_mut(&dir)?;
        dir.used = now;
        let qid = match dir.names.get(name) {
            None if dir.is_complete => return Some(Found::Absent),
            Some(KnownName::Absent) => return Some(Found::Absent),
            Some(KnownName::File(qid, Some(facts))) => {
                return Some(Found::File(*qid, facts.attr.btime));
            }
            Some(KnownName::File(qid, None)) if qid.kind == Qid::DIR => *qid,
            None | Some(KnownName::Changed | KnownName::File(..)) => return None,
        };
        let facts = self.facts(qid, None)?;
        Some(Found::File(qid, facts.attr.btime))
    }

    /// What is known of the file `qid` that was found at `place`.
    pub(super) fn facts(
        &mut self,
        qid: Qid,
        place: Option<(u64, &[u8])>,
    ) -> Option<&mut FileFacts> {
        if qid.kind == Qid::DIR {
            return self.dirs.get_mut(&qid.path)?.itself.as_mut();
        }
        let (dir, name) = place?;
        match self.dirs.get_mut(&dir)?.names.get_mut(name)? {
            KnownName::File(found, Some(facts)) if found.path == qid.path => Some(facts),
            _ => None,
        }
    }

    /// The same, if it was known before `sent` and has not changed since.
    pub(super) fn facts_since(
        &mut self,
        qid: Qid,
        place: Option<(u64, &[u8])>,
        sent: Moment,
    ) -> Option<&mut FileFacts> {
        let dir = match place {
            _ if qid.kind == Qid::DIR => qid.path,
            place => place?.0,
        };
        if !self.is_fresh(dir, sent) {
            return None;
        }
        self.facts(qid, place).filter(|facts| facts.since < sent)
    }

    /// The complete listing of a directory.
    pub(super) fn listing(&self, dir: u64) -> Option<Arc<Listing>> {
        self.dirs.get(&dir)?.listing.clone()
    }

    /// Whether a listing has told more of the files in a directory than their attributes.
    pub(super) fn is_detailed(&self, dir: u64) -> bool {
        self.dirs.get(&dir).is_some_and(|dir| dir.is_detailed)
    }

    /// Whether the server has listed a directory, though names may have changed since.
    pub(super) fn is_listed(&self, dir: u64) -> bool {
        self.dirs.get(&dir).is_some_and(|dir| dir.is_complete)
    }

    /// The server has found a file, or none, under a name in a directory that it watches.
    pub(super) fn found(
        &mut self,
        (dir, name): (u64, &[u8]),
        file: Option<(Qid, Option<FileFacts>)>,
        sent: Moment,
        now: Moment,
    ) {
        if !self.is_fresh(dir, sent) {
            return;
        }
        self.watched(dir, now);
        let known = match file {
            None => KnownName::Absent,
            Some((qid, _)) if qid.kind == Qid::DIR => KnownName::File(qid, None),
            Some((qid, facts)) => KnownName::File(qid, facts.map(Box::new)),
        };
        self.set(dir, name, known);
    }

    /// The attributes of a directory that the server watches.
    pub(super) fn found_dir(&mut self, facts: FileFacts, sent: Moment, now: Moment) {
        let dir = facts.attr.qid.path;
        if self.is_fresh(dir, sent) {
            self.watched(dir, now).itself = Some(facts);
        }
    }

    /// The attributes of a directory that was watched before they were asked for.
    pub(super) fn found_dir_again(&mut self, attr: Attr, sent: Moment, now: Moment) {
        let path = attr.qid.path;
        if self.is_fresh(path, sent)
            && let Some(dir) = self.dirs.get_mut(&path)
            && dir.since < sent
        {
            dir.itself = Some(FileFacts::new(attr, now));
        }
    }

    /// The server has listed a directory that it watches.
    pub(super) fn listed(
        &mut self,
        dir: u64,
        entries: &[ListEntry<'_>],
        detailed: bool,
        sent: Moment,
        now: Moment,
    ) -> Option<Arc<Listing>> {
        if entries.len() > MAX_PER_DIRECTORY / 2 || !self.is_fresh(dir, sent) {
            return None;
        }
        let mut names = HashMap::with_capacity(entries.len());
        let mut dots = 0;
        for entry in entries {
            let name = entry.name.bytes();
            if matches!(name, b"." | b"..") {
                dots += 1;
            } else {
                let known = match (entry.attr, entry.qid.kind) {
                    (_, Qid::DIR) => KnownName::File(entry.qid, None),
                    (None, _) => KnownName::Changed,
                    (Some(attr), _) => KnownName::File(attr.qid, told(entry, now).map(Box::new)),
                };
                names.insert(name.into(), known);
            }
        }
        // A listing takes memory for each entry, of which there are to be no more than names.
        if dots > 2 || names.len() + dots != entries.len() {
            return None;
        }
        self.make_room(dir, entries.len());
        let known = self.watched(dir, now);
        let listing = Arc::new(Listing::new(entries));
        known.is_complete = true;
        known.listing = Some(listing.clone());
        known.is_detailed |= detailed;
        let mut before = std::mem::take(&mut known.names);
        let (gone, added) = (before.len(), names.len());
        for (name, told) in &mut names {
            let new = std::mem::replace(told, KnownName::Changed);
            *told = new.or_before(before.remove(name));
        }
        known.names = names;
        self.names = self.names - gone + added;
        for facts in entries.iter().filter_map(|entry| told(entry, now)) {
            let qid = facts.attr.qid;
            if qid.kind == Qid::DIR && qid.path != dir {
                self.found_dir(facts, sent, now);
            }
        }
        Some(listing)
    }

    /// Whether a directory is kept in which a file may not have this name any more.
    pub(super) fn is_renamed(&self, file: Qid, dir: u64, name: &[u8]) -> bool {
        let is_same = |qid: Qid| qid.path == file.path;
        self.dirs.contains_key(&dir) && !self.qid(dir, name).is_some_and(is_same)
    }

    /// The file that has a name, if it is known.
    pub(super) fn qid(&self, dir: u64, name: &[u8]) -> Option<Qid> {
        match self.dirs.get(&dir)?.names.get(name)? {
            KnownName::File(qid, _) => Some(*qid),
            _ => None,
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        (self.dirs.len(), self.names)
    }

    /// How many files are remembered to have contents.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.read.len()
    }

    #[cfg(test)]
    pub(super) fn count_is_right(&self) -> bool {
        self.dirs.values().map(|dir| dir.names.len()).sum::<usize>() == self.names
    }
}

/// What is told of an entry, if it may be kept.
fn told(entry: &ListEntry<'_>, now: Moment) -> Option<FileFacts> {
    let target = entry.target.bytes();
    let attr = entry.attr?;
    Some(FileFacts::told(attr, now, entry.lacks_xattrs, target))
}
