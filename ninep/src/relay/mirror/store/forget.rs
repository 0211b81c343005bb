//! What is known no longer.

use super::{KeptDirs, KnownName, MAX_NAMES, MAX_PER_DIRECTORY, Moment};
use crate::msg::{FORGET_ALL, FORGET_ATTR, FORGET_NAME};

/// Maximum number of unknown directories of which it is remembered when something was forgotten of them.
const MAX_UNKNOWN: usize = 64;

impl KeptDirs {
    /// The server takes back what it allowed to keep, or a request is about to change it.
    pub(in super::super) fn forget(&mut self, what: u8, dir: u64, name: &[u8], now: Moment) {
        let Some(known) = self.dirs.get_mut(&dir).filter(|_| what != FORGET_ALL) else {
            if what == FORGET_ALL {
                self.forgot = now;
                self.dirs.clear();
                self.names = 0;
            } else {
                self.forget_unknown(dir, now);
            }
            return;
        };
        known.forgot = now;
        match what {
            FORGET_ATTR if name.is_empty() => known.itself = None,
            FORGET_ATTR => {
                if let Some(KnownName::File(_, facts)) = known.names.get_mut(name) {
                    *facts = None;
                }
            }
            FORGET_NAME if !name.is_empty() => {
                known.itself = None;
                known.listing = None;
                if let Some(known) = known.names.get_mut(name) {
                    *known = KnownName::Changed;
                } else if known.is_complete {
                    if known.names.len() < MAX_PER_DIRECTORY {
                        known.names.insert(name.into(), KnownName::Changed);
                        self.names += 1;
                    } else {
                        known.is_complete = false;
                    }
                }
                if self.names > MAX_NAMES {
                    self.drop_oldest(dir);
                }
            }
            FORGET_NAME => {
                known.itself = None;
                known.listing = None;
                known.is_complete = false;
                known.is_detailed = false;
                self.names -= std::mem::take(&mut known.names).len();
            }
            // FORGET_DIR, FORGET_REMOVED, and whatever else a server may send.
            _ => {
                self.remove(dir);
            }
        }
    }

    /// A reply that is on its way may say something of a directory that is not known.
    pub(super) fn forget_unknown(&mut self, dir: u64, now: Moment) {
        self.forgot_unknown.retain(|(of, _)| *of != dir);
        if self.forgot_unknown.len() >= MAX_UNKNOWN {
            self.forgot_unknown.clear();
            self.forgot = now;
        }
        self.forgot_unknown.push((dir, now));
    }

    /// A request is about to change a file, whose name is not known or has become that of another: it may have more.
    pub(in super::super) fn forget_file(&mut self, path: u64, now: Moment) {
        self.forgot = now;
        let dirs = self.dirs.values_mut();
        for known in dirs.flat_map(|dir| dir.names.values_mut()) {
            if let KnownName::File(qid, facts) = known
                && qid.path == path
            {
                *facts = None;
            }
        }
    }
}
