//! The directories that are watched, and of which changes the peer still has to be told.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use ninep::fs::{Change, Told};
use ninep::msg::{FORGET_ALL, FORGET_ATTR, FORGET_DIR, FORGET_NAME, FORGET_REMOVED};
use rustix::fs::inotify::ReadFlags;

use super::super::stat::FileId;

/// Maximum number of names of a directory that are remembered as changed. After more, all of them are.
const MAX_CHANGED: usize = 1024;

/// Maximum number of such names of all directories.
const MAX_CHANGED_IN_ALL: usize = 64 * 1024;

/// Maximum number of devices that are remembered.
const MAX_DEVICES: usize = 1024;

/// The watches of a session.
#[derive(Default)]
pub(super) struct WatchTable {
    watches: HashMap<i32, DirWatch>,
    by_id: HashMap<FileId, i32>,
    /// Whether each device has a local file system.
    devices: HashMap<u64, bool>,
    /// The number of names of all directories that are remembered as changed.
    changed: usize,
    /// The oldest first.
    order: VecDeque<i32>,
    /// Changes that no event reports: watches that were given up.
    pub(super) changes: Vec<Change>,
}

struct DirWatch {
    id: FileId,
    /// The qid path.
    dir: u64,
    place: Arc<[u8]>,
    /// Names that have changed since the peer was told of them, and how: it has nothing left of them to forget.
    changed: HashMap<Box<[u8]>, u8>,
    /// Whether the peer has nothing left of any name.
    all_changed: bool,
    /// Whether the peer has been told of the directory's own attributes since they changed.
    is_told: bool,
}

impl DirWatch {
    fn change(&self, what: u8, name: &[u8]) -> Change {
        Change {
            what,
            dir: self.dir,
            name: name.into(),
            place: self.place.clone(),
        }
    }

    /// The peer is about to be told something.
    fn tell(&mut self, told: Told<'_>) {
        match told {
            Told::Name(name) => {
                self.changed.remove(name);
                self.all_changed = false;
            }
            Told::All => {
                self.changed.clear();
                self.all_changed = false;
            }
            Told::Itself => self.is_told = true,
        }
    }

    /// What an event means for the peer. When the table `is_full`, no more names are remembered as changed.
    fn event(&mut self, events: ReadFlags, name: &[u8], is_full: bool) -> Option<Change> {
        let has = |flags: ReadFlags| events.intersects(flags);
        let names =
            ReadFlags::CREATE | ReadFlags::DELETE | ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO;
        if has(names) {
            return self.name_changed(FORGET_NAME, name, is_full);
        }
        if !name.is_empty() {
            return self.name_changed(FORGET_ATTR, name, is_full);
        }
        if has(ReadFlags::MOVE_SELF) {
            let is_told = std::mem::take(&mut self.is_told);
            return is_told.then(|| self.change(FORGET_ATTR, b""));
        }
        // Its permissions may have changed, and with them whether names in it can be looked up.
        Some(self.anything_changed())
    }

    /// A name has changed. None if the peer has nothing left of it.
    fn name_changed(&mut self, what: u8, name: &[u8], is_full: bool) -> Option<Change> {
        // A new or another name changes the directory too.
        let itself = what == FORGET_NAME && std::mem::take(&mut self.is_told);
        let is_known = self.all_changed || self.changed.get(name).is_some_and(|had| *had >= what);
        if is_known && !itself {
            return None;
        }
        if !self.all_changed && !is_known && (is_full || self.changed.len() >= MAX_CHANGED) {
            return Some(self.anything_changed());
        }
        if !is_known {
            self.changed.insert(name.into(), what);
        }
        Some(self.change(what, name))
    }

    /// Anything may have changed.
    fn anything_changed(&mut self) -> Change {
        self.changed = HashMap::new();
        self.all_changed = true;
        self.is_told = false;
        self.change(FORGET_NAME, b"")
    }
}

/// Forgets everything.
pub(super) fn everything() -> Change {
    Change {
        what: FORGET_ALL,
        dir: 0,
        name: Box::default(),
        place: Arc::default(),
    }
}

impl WatchTable {
    /// Whether a directory is watched, if the peer is told of it.
    pub(super) fn tell(&mut self, id: FileId, told: Told<'_>) -> bool {
        let watch = self.by_id.get(&id).and_then(|wd| self.watches.get_mut(wd));
        if let Some(watch) = watch {
            let before = watch.changed.len();
            watch.tell(told);
            self.changed -= before - watch.changed.len();
            return true;
        }
        false
    }

    /// Whether a directory is watched.
    pub(super) fn has(&self, id: FileId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Whether a device has a local file system, if that was found out.
    pub(super) fn is_local(&self, device: u64) -> Option<bool> {
        self.devices.get(&device).copied()
    }

    pub(super) fn set_local(&mut self, device: u64, is_local: bool) {
        if self.devices.len() >= MAX_DEVICES {
            self.devices.clear();
        }
        self.devices.insert(device, is_local);
    }

    /// Something was mounted or unmounted.
    pub(super) fn mounted(&mut self) -> Change {
        // Numbers of devices are used again.
        self.devices.clear();
        everything()
    }

    pub(super) fn len(&self) -> usize {
        self.watches.len()
    }

    /// A watch was added.
    pub(super) fn add(&mut self, wd: i32, id: FileId, dir: u64, place: Arc<[u8]>, told: Told<'_>) {
        // The number of a directory that was removed, and whose removal has not been read yet.
        if let Some(old) = self.by_id.insert(id, wd)
            && old != wd
        {
            self.give_up(old);
            self.by_id.insert(id, wd);
        }
        let watch = self.watches.entry(wd).or_insert_with(|| {
            self.order.push_back(wd);
            DirWatch {
                id,
                dir,
                place,
                changed: HashMap::new(),
                all_changed: true,
                is_told: false,
            }
        });
        let before = watch.changed.len();
        watch.tell(told);
        self.changed -= before - watch.changed.len();
    }

    /// The oldest watch, which the caller is to remove.
    pub(super) fn oldest(&mut self) -> Option<i32> {
        while let Some(wd) = self.order.pop_front() {
            if self.watches.contains_key(&wd) {
                self.give_up(wd);
                return Some(wd);
            }
        }
        None
    }

    /// Forgets all watches, which the caller is to remove.
    pub(super) fn clear(&mut self) -> Vec<i32> {
        self.by_id.clear();
        self.order.clear();
        self.changes.clear();
        self.changed = 0;
        self.watches.drain().map(|(wd, _)| wd).collect()
    }

    fn give_up(&mut self, wd: i32) {
        if let Some(watch) = self.remove(wd) {
            self.changes.push(watch.change(FORGET_DIR, b""));
        }
    }

    fn remove(&mut self, wd: i32) -> Option<DirWatch> {
        let watch = self.watches.remove(&wd)?;
        self.changed -= watch.changed.len();
        if self.by_id.get(&watch.id) == Some(&wd) {
            self.by_id.remove(&watch.id);
        }
        // Now and then, the numbers of watches that are gone.
        if self.order.len() > 2 * self.watches.len() + 64 {
            let watches = &self.watches;
            self.order.retain(|wd| watches.contains_key(wd));
        }
        Some(watch)
    }

    /// What an event means for the peer.
    pub(super) fn event(&mut self, wd: i32, events: ReadFlags, name: &[u8]) -> Option<Change> {
        let has = |flags: ReadFlags| events.intersects(flags);
        if has(ReadFlags::UNMOUNT) {
            return Some(everything());
        }
        if has(ReadFlags::DELETE_SELF | ReadFlags::IGNORED) {
            return Some(self.remove(wd)?.change(FORGET_REMOVED, b""));
        }
        let is_full = self.changed >= MAX_CHANGED_IN_ALL;
        let watch = self.watches.get_mut(&wd)?;
        let before = watch.changed.len();
        let change = watch.event(events, name, is_full);
        self.changed = self.changed - before + watch.changed.len();
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_have_changed_are_bounded_in_all_directories_together() {
        let mut table = WatchTable::default();
        let id = |inode| FileId { device: 1, inode };
        let directories = 100_i32;
        for wd in 0..directories {
            let inode = wd.unsigned_abs().into();
            table.add(wd, id(inode), inode, Arc::default(), Told::All);
        }
        let mut most = 0;
        for wd in 0..directories {
            for n in 0..1000 {
                table.event(wd, ReadFlags::CREATE, format!("{n}").as_bytes());
                most = most.max(table.changed);
            }
            let count = table.watches.values().map(|watch| watch.changed.len());
            assert_eq!(count.sum::<usize>(), table.changed);
        }
        assert_eq!(most, MAX_CHANGED_IN_ALL);
        for wd in 0..directories {
            table.event(wd, ReadFlags::DELETE_SELF, b"");
        }
        assert_eq!((table.changed, table.len()), (0, 0));
    }
}
