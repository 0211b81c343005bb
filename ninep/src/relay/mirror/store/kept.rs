//! Which contents are kept, and which make room for others.

use super::super::contents::Contents;
use super::super::facts::FileFacts;
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
        while !self.budget.has_room(cost) && self.drop_oldest_contents() {}
        let budget = self.budget.clone();
        let facts = self.facts_since(qid, Some((dir, name)), sent);
        let Some(facts) = facts.filter(|facts| fits(facts)) else {
            return;
        };
        let is_new = facts.contents_used().is_none();
        facts.add_contents(offset, data, &budget, now);
        if is_new {
            self.read.push_back((now, dir, name.into()));
            // Those of files that have changed since.
            if self.read.len() > 2 * MAX_NAMES {
                let mut read = std::mem::take(&mut self.read);
                read.retain(|(_, dir, name)| {
                    let facts = self.facts_of_name(*dir, name);
                    facts.is_some_and(|facts| facts.contents_used().is_some())
                });
                self.read = read;
            }
        }
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
            Some(dir) => self.dirs.get_mut(&dir).into_iter().for_each(drop_all),
            None => self.dirs.values_mut().for_each(drop_all),
        }
    }
}
