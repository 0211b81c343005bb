//! Watches the directories of which the peer was told something, so that it may keep that (inotify(7)).
//!
//! The kernel queues an event before the system call that made the change returns. So what is read of a directory after it
//! is watched is right as long as no event is in the queue. Before each reply, and before the user's input is sent, the
//! queue is read and the peer is told ([`Watcher::changes`], [`Watching::settle`]). What follows in the stream then comes
//! after every change that was made before it.
//!
//! Mounts make no events in directories: after any, the peer forgets everything.

mod suitable;
mod table;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use ninep::fs::{Change, Told, Watcher};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::FileType;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno as Os;

use super::node::Node;
use super::{Caching, Export};
use table::WatchTable;

/// Maximum number of directories that are watched for a session. The kernel takes about a kilobyte for each.
const MAX_WATCHES: usize = 4096;
/// The size of the buffer for events.
const BUFFER: usize = 16 * 1024;
/// Events that are read at once: more than the queue holds by default, so that only a flood is longer.
const MAX_EVENTS: usize = 32 * 1024;

/// The sessions that watch.
pub(super) type Watchings = Arc<Mutex<Vec<Weak<Watching>>>>;

/// Watches for one session.
pub(super) struct Watching {
    export: Export,
    inotify: OwnedFd,
    /// Ready in poll(2) after a mount, once for each of these files: [`Watching::read`], [`Watcher::wait`] and
    /// [`Watching::settle`] have their own.
    mounts: [File; 3],
    wake: OwnedFd,
    table: Mutex<WatchTable>,
    max_watches: usize,
    /// Held while changes are read and sent.
    sending: Mutex<()>,
    /// How often that has happened.
    rounds: Mutex<u64>,
    round_done: Condvar,
    closed: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_ready(fd: &PollFd<'_>) -> bool {
    !fd.revents().is_empty()
}

impl Watching {
    fn new(export: Export, max_watches: usize) -> std::io::Result<Self> {
        let mounts = || File::open("/proc/self/mountinfo");
        Ok(Self {
            export,
            inotify: inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?,
            mounts: [mounts()?, mounts()?, mounts()?],
            wake: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            table: Mutex::default(),
            max_watches,
            sending: Mutex::default(),
            rounds: Mutex::default(),
            round_done: Condvar::new(),
            closed: AtomicBool::new(false),
        })
    }

    /// Reads the queue.
    fn read(&self) -> Vec<Change> {
        let [mounts, ..] = &self.mounts;
        let mut ready = [
            PollFd::new(&self.inotify, PollFlags::IN),
            PollFd::new(mounts, PollFlags::PRI),
        ];
        // It does not wait, and so cannot be interrupted.
        let _ = poll(&mut ready, Some(&Timespec::default()));
        let [has_events, has_mounts] = ready.map(|fd| is_ready(&fd));
        let mut table = lock(&self.table);
        let mut changes = std::mem::take(&mut table.changes);
        if has_mounts {
            changes.push(table.mounted());
        }
        if !has_events {
            return changes;
        }
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        for _ in 0..MAX_EVENTS {
            match reader.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => break,
                Ok(event) => {
                    let name = event.file_name().map_or(&b""[..], |name| name.to_bytes());
                    changes.extend(table.event(event.wd(), event.events(), name));
                }
                Err(Os::INTR) => {}
                Err(Os::AGAIN) => return changes,
                Err(_) => break,
            }
        }
        // Something is lost: what the queue had no room for, or what is still in the buffer. It may be that a directory was
        // removed, whose number another gets, which nobody would watch.
        for wd in table.clear() {
            let _ = inotify::remove_watch(&self.inotify, wd);
        }
        vec![table::everything()]
    }

    /// Returns when the session has been told of all changes that were made before the call.
    fn settle(&self) {
        let sending = lock(&self.sending);
        let [.., mounts] = &self.mounts;
        let mut ready = [
            PollFd::new(&self.inotify, PollFlags::IN),
            PollFd::new(mounts, PollFlags::PRI),
        ];
        let _ = poll(&mut ready, Some(&Timespec::default()));
        // The end of a watch that was given up is an event, too.
        if !ready.iter().any(is_ready) {
            return;
        }
        let before = *lock(&self.rounds);
        drop(sending);
        self.wake();
        let mut rounds = lock(&self.rounds);
        while *rounds == before && !self.closed.load(Ordering::Acquire) {
            rounds = self
                .round_done
                .wait(rounds)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wake(&self) {
        // If the counter is full, it is readable anyway.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Adds a watch. Watches that are too many or that the system refuses replace the oldest.
    fn add(&self, table: &mut WatchTable, dir: &Node) -> Option<i32> {
        let flags = WatchFlags::ATTRIB
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        // The descriptor, not a path, says which directory it is.
        let place = format!("/proc/self/fd/{}", dir.number().as_str());
        if table.len() >= self.max_watches {
            self.remove_oldest(table);
        }
        match inotify::add_watch(&self.inotify, &place, flags) {
            Err(Os::NOSPC) if self.remove_oldest(table) => {
                inotify::add_watch(&self.inotify, &place, flags).ok()
            }
            added => added.ok(),
        }
    }

    fn remove_oldest(&self, table: &mut WatchTable) -> bool {
        let oldest = table.oldest();
        if let Some(wd) = oldest {
            // It fails if the directory has been removed.
            let _ = inotify::remove_watch(&self.inotify, wd);
        }
        oldest.is_some()
    }
}

impl Watcher<Node> for Watching {
    fn watch(&self, dir: &Node, told: Told<'_>) -> bool {
        if dir.kind() != FileType::Directory {
            return false;
        }
        let device = dir.id().device;
        let is_local = {
            let mut table = lock(&self.table);
            if table.tell(dir.id(), told) {
                return true;
            }
            table.is_local(device)
        };
        let is_local = is_local.unwrap_or_else(|| {
            let is_local = suitable::is_local(dir);
            lock(&self.table).set_local(device, is_local);
            is_local
        });
        if self.max_watches == 0 || !is_local || !self.export.is_watchable(dir) {
            return false;
        }
        let Ok(stat) = super::stat::stat(dir.fd()) else {
            return false;
        };
        let qid = self.export.qid(dir, &stat);
        let mut table = lock(&self.table);
        let Some(wd) = self.add(&mut table, dir) else {
            return false;
        };
        table.add(wd, dir.id(), qid.path, dir.path().into(), told);
        true
    }

    fn covers(&self, dir: &Node, node: &Node) -> bool {
        node.id().device == dir.id().device && node.is_in_place()
    }

    fn may_fetch(&self, dir: &Node, node: &Node) -> bool {
        // To open what is hidden would be reported to the user.
        node.kind() == FileType::RegularFile
            && self.covers(dir, node)
            && !node.access().is_hidden()
            && lock(&self.table).has(dir.id())
    }

    fn changes(&self, send: &mut dyn FnMut(&[Change])) {
        let sending = lock(&self.sending);
        let changes = self.read();
        if !changes.is_empty() {
            send(&changes);
        }
        // Who holds the lock next waits for another round.
        *lock(&self.rounds) += 1;
        drop(sending);
        self.round_done.notify_all();
    }

    fn wait(&self) -> bool {
        let [_, mounts, _] = &self.mounts;
        let mut ready = [
            PollFd::new(&self.inotify, PollFlags::IN),
            PollFd::new(mounts, PollFlags::PRI),
            PollFd::new(&self.wake, PollFlags::IN),
        ];
        // If it is interrupted, there is nothing to report.
        let _ = poll(&mut ready, None);
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.wake, &mut count);
        !self.closed.load(Ordering::Acquire)
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake();
        drop(lock(&self.rounds));
        self.round_done.notify_all();
    }
}

impl Export {
    /// Watches for a new session, unless the peer caches nothing.
    pub(super) fn new_watcher(&self) -> Option<Arc<dyn Watcher<Node>>> {
        if self.caching == Caching::Never || self.proc.is_none() {
            return None;
        }
        let watching = Watching::new(self.with_caching(self.caching), MAX_WATCHES).ok()?;
        let watching = Arc::new(watching);
        let mut all = lock(&self.watchings);
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&watching));
        Some(watching)
    }

    /// Returns when all sessions have been told of the changes that were made before the call.
    pub fn settle(&self) {
        let all: Vec<_> = lock(&self.watchings)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        for watching in all {
            watching.settle();
        }
    }
}
