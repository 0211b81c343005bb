//! Locks. In 9P they belong to a process; the kernel names it when it locks, and only the owner of the lock when it unlocks. Open
//! files of one process may be several owners (`flock(2)`, `F_OFD_SETLK`), which exclude each other.

use super::abi::Fields;
use super::request::handle;
use super::{FuseFront, FuseStep, LockHolder, LockRequest, Op};
use crate::errno::Errno;
use crate::fs::LockStatus;
use crate::msg::{Flock, Request};
use crate::wire::Str;

/// `P9_LOCK_FLAGS_BLOCK`.
const LOCK_WAITS: u32 = 1;
/// In the number of an owner whose process is another owner already. Linux numbers no process so high.
const NO_PROCESS: u32 = 1 << 31;
/// The end of a lock that goes on however far the file grows (`OFFSET_MAX`).
const TO_THE_END: u64 = i64::MAX as u64;

impl FuseFront {
    pub(super) fn getlk(
        &mut self,
        unique: u64,
        node: u64,
        fields: Fields<'_>,
    ) -> Result<(), Errno> {
        let lock = lock_request(fields)?;
        let (_, holder) = self.holder(node, lock.holder);
        let request = Request::Getlock {
            fid: lock.fid,
            lock: Flock {
                kind: lock.kind,
                start: lock.start,
                length: lock.length,
                proc_id: holder.proc_id,
            },
            client_id: Str::default(),
        };
        self.send(unique, FuseStep::Getlock, &request);
        Ok(())
    }

    pub(super) fn setlk(
        &mut self,
        unique: u64,
        node: u64,
        fields: Fields<'_>,
        waits: bool,
    ) -> Result<(), Errno> {
        let mut lock = lock_request(fields)?;
        let (is_known, holder) = self.holder(node, lock.holder);
        lock.holder = holder;
        if !is_known {
            if lock.kind == Flock::UNLOCK {
                self.answer(unique, |_| {});
                return Ok(());
            }
            self.lock_holders.entry(node).or_default().push(holder);
        }
        if self.is_unlocking(node) {
            // The kernel does not wait for the end of an open file, and the server may do either first.
            let step = FuseStep::Lock { lock, waits };
            self.blocked.push(Op { unique, step });
        } else {
            self.send_lock(unique, lock, waits);
        }
        Ok(())
    }

    /// Ends an open file, and with it the locks that are its own.
    pub(super) fn release(&mut self, unique: u64, node: u64, fid: u32) {
        let mut unlocks = None;
        if let Some(holders) = self.lock_holders.get_mut(&node) {
            holders.retain(|held| {
                let is_its = held.fid == fid;
                unlocks = unlocks.or(is_its.then_some(node));
                !is_its
            });
        }
        let step = FuseStep::Clunk { fid, unlocks };
        self.send(unique, step, &Request::Clunk { fid });
    }

    fn is_unlocking(&self, node: u64) -> bool {
        let mut steps = self
            .pending
            .iter()
            .flatten()
            .map(|pending| &pending.op.step);
        steps.any(|step| matches!(step, FuseStep::Clunk { unlocks, .. } if *unlocks == Some(node)))
    }

    /// A fid has ended, or the server says that there is none.
    pub(super) fn clunked(&mut self, fid: u32, unlocks: Option<u64>) {
        self.fids.free(fid);
        if unlocks.is_some_and(|node| !self.is_unlocking(node)) {
            self.retry_locks();
        }
    }

    /// Whether an owner has locked a file, and under which number it does.
    fn holder(&self, node: u64, mut asks: LockHolder) -> (bool, LockHolder) {
        let holders = self.lock_holders.get(&node).map_or(&[][..], Vec::as_slice);
        if let Some(known) = holders.iter().find(|held| held.owner == asks.owner) {
            return (true, *known);
        }
        if holders.iter().any(|held| held.proc_id == asks.proc_id) {
            // The kernel's number of an owner is a hash.
            let low = asks.owner & u64::from(NO_PROCESS - 1);
            asks.proc_id = NO_PROCESS | u32::try_from(low).unwrap_or_default();
        }
        (false, asks)
    }

    /// Removes an owner of locks of a file.
    pub(super) fn take_holder(&mut self, node: u64, owner: u64) -> Option<LockHolder> {
        let holders = self.lock_holders.get_mut(&node)?;
        let at = holders.iter().position(|held| held.owner == owner)?;
        let holder = holders.swap_remove(at);
        if holders.is_empty() {
            self.lock_holders.remove(&node);
        }
        Some(holder)
    }

    /// Removes the locks of who has closed a descriptor of the file, perhaps one of several.
    pub(super) fn unlock_all(&mut self, unique: u64, fid: u32, holder: LockHolder) {
        let (kind, start, length) = (Flock::UNLOCK, 0, 0);
        let lock = LockRequest {
            fid,
            kind,
            start,
            length,
            holder,
        };
        self.send_lock(unique, lock, false);
    }

    pub(super) fn send_lock(&mut self, unique: u64, lock: LockRequest, waits: bool) {
        let request = Request::Lock {
            fid: lock.fid,
            kind: lock.kind,
            flags: if waits { LOCK_WAITS } else { 0 },
            start: lock.start,
            length: lock.length,
            proc_id: lock.holder.proc_id,
            client_id: Str::default(),
        };
        self.send(unique, FuseStep::Lock { lock, waits }, &request);
    }

    /// The lock in the way of another, or none.
    pub(super) fn lock_found(&mut self, unique: u64, lock: &Flock) {
        let end = match lock.length {
            0 => TO_THE_END,
            length => lock.start.saturating_add(length - 1),
        };
        self.answer(unique, |out| {
            out.u64(lock.start);
            out.u64(end);
            out.u32(lock.kind.into());
            out.u32(lock.proc_id);
        });
    }

    pub(super) fn locked(&mut self, unique: u64, lock: LockRequest, waits: bool, status: u8) {
        const BLOCKED: u8 = LockStatus::Blocked as u8;
        match status {
            0 => self.answer(unique, |_| {}),
            BLOCKED if waits => {
                let step = FuseStep::Lock { lock, waits };
                self.blocked.push(Op { unique, step });
            }
            BLOCKED => self.fail(unique, Errno::EAGAIN),
            _ if lock.kind == Flock::UNLOCK => self.fail(unique, Errno::EIO),
            _ => self.fail(unique, Errno::ENOLCK),
        }
    }
}

/// The lock that a request is about.
fn lock_request(mut fields: Fields<'_>) -> Result<LockRequest, Errno> {
    let (fid, owner) = (handle(fields.u64())?, fields.u64());
    let (start, end) = (fields.u64(), fields.u64());
    let (kind, proc_id) = (fields.u32(), fields.u32());
    Ok(LockRequest {
        fid,
        // F_RDLCK, F_WRLCK and F_UNLCK are 0, 1 and 2 in 9P too.
        kind: u8::try_from(kind).map_err(|_| Errno::EINVAL)?,
        start,
        length: match end {
            TO_THE_END.. => 0,
            end => end.saturating_sub(start).saturating_add(1),
        },
        holder: LockHolder {
            owner,
            proc_id,
            fid,
        },
    })
}
