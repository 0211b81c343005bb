//! Which contents are kept, and which make room for others.

use std::collections::HashSet;

use super::super::contents::Contents;
use super::super::facts::FileFacts;
use super::super::fetch::extension;
use super::{Dir, KeptDirs, KnownName, MAX_NAMES, Moment};
use crate::msg::Qid;

impl KeptDirs {
    /// Keeps contents of a file that were read at `offset` between `sent` and `now`, if what is known of it is as old and
    /// `fits`.
    pub(in super::super) fn keep(
        &mut self,
        qid: Qid,
        (dir, name): (u64, &[u8]),
        (sent, now): (Moment, Moment),
        (offset, data): (u64, &[u8]),
        fits: impl FnOnce(&FileFacts) -> bool,
    ) {
        let cost = Contents::cost(data.len());
        self.make_room_for_contents(cost);
        let budget = self.budget.clone();
        let facts = self.facts_since(qid, Some((dir, name)), sent);
        let Some(facts) = facts.filter(|facts| fits(facts)) else {
            return;
        };
        let is_new = facts.contents_used().is_none();
        facts.add_contents(offset, data, &budget, now);
        if is_new {
            self.read.push_back((now, dir, name.into()));
            // Those of files that have changed since, and those that are in it again.
            if self.read.len() > 2 * MAX_NAMES {
                let mut read = std::mem::take(&mut self.read);
                let mut all = HashSet::new();
                read.retain(|(_, dir, name)| {
                    let facts = self.facts_of_name(*dir, name);
                    facts.is_some_and(|facts| facts.contents_used().is_some())
                        && all.insert((*dir, name.clone()))
                });
                self.read = read;
            }
        }
    }

    /// Drops what was used least recently until so many bytes fit.
    pub(in super::super) fn make_room_for_contents(&mut self, bytes: usize) {
        while !self.budget.has_room(bytes) && self.drop_oldest_contents() {}
    }

    fn facts_of_name(&mut self, dir: u64, name: &[u8]) -> Option<&mut FileFacts> {
        let qid = self.qid(dir, name)?;
        self.facts(qid, Some((dir, name)))
    }

    /// Drops the contents that were used least recently. False if there are none.
    fn drop_oldest_contents(&mut self) -> bool {
        // One that was used since it got its place gets another.
        for _ in 0..2 * self.read.len() {
            let Some((then, dir, name)) = self.read.pop_front() else {
                break;
            };
            let Some(facts) = self.facts_of_name(dir, &name) else {
                continue;
            };
            match facts.contents_used() {
                Some(used) if used > then => self.read.push_back((used, dir, name)),
                Some(_) => {
                    facts.drop_contents();
                    return true;
                }
                None => {}
            }
        }
        false
    }

    /// The small files in a directory of which nothing is known, with names that have this extension: the smallest first, up to
    /// `most` bytes each, and `all` together.
    pub(in super::super) fn small_files(
        &self,
        dir: u64,
        suffix: &[u8],
        most: usize,
        all: u64,
    ) -> Vec<Box<[u8]>> {
        let Some(known) = self.dirs.get(&dir).filter(|dir| dir.is_complete) else {
            return Vec::new();
        };
        let named = known.names.iter();
        let named = named.filter(|(name, _)| extension(name) == suffix);
        let mut files: Vec<_> = named
            .filter_map(|(name, known)| Some((small(known)?.1, name)))
            .filter(|(size, _)| *size <= most as u64)
            .collect();
        files.sort_unstable();
        let mut rest = all;
        files
            .into_iter()
            .map_while(|(size, name)| {
                rest = rest.checked_sub(size)?;
                Some(name.clone())
            })
            .collect()
    }

    /// The number and the size of such a file.
    pub(in super::super) fn small_file(&self, dir: u64, name: &[u8]) -> Option<(Qid, u64)> {
        small(self.dirs.get(&dir)?.names.get(name)?)
    }

    /// Forgets the contents of the files in a directory, or of all, and what is being read of them.
    pub(in super::super) fn forget_contents(&mut self, dir: Option<u64>, now: Moment) {
        let drop_all = |known: &mut Dir| {
            known.forgot = now;
            for known in known.names.values_mut() {
                if let KnownName::File(_, Some(facts)) = known {
                    facts.drop_contents();
                }
            }
        };
        match dir {
            Some(dir) => match self.dirs.get_mut(&dir) {
                Some(dir) => drop_all(dir),
                None => self.forget_unknown(dir, now),
            },
            None => {
                self.forgot = now;
                self.dirs.values_mut().for_each(drop_all);
            }
        }
    }
}

/// The number and size of a regular file that is not empty and of whose contents nothing is known.
fn small(known: &KnownName) -> Option<(Qid, u64)> {
    match known {
        KnownName::File(qid, Some(facts)) if facts.is_regular() && facts.attr.size > 0 => {
            let is_new = facts.contents_used().is_none();
            is_new.then_some((*qid, facts.attr.size))
        }
        _ => None,
    }
}
