//! What of a request for a lock has to be checked or put together.

use crate::errno::Errno;
use crate::fs::LockOwner;
use crate::msg::Flock;
use crate::wire::Str;

/// A lock of a known kind whose range fits into file offsets.
pub(super) fn checked_flock(lock: Flock) -> Result<Flock, Errno> {
    let end = lock.start.checked_add(lock.length);
    let known = lock.kind <= Flock::UNLOCK && end.is_some_and(|end| i64::try_from(end).is_ok());
    known.then_some(lock).ok_or(Errno::EINVAL)
}

pub(super) fn owner(client_id: Str<'_>, proc_id: u32) -> LockOwner<'_> {
    LockOwner {
        client_id: client_id.bytes(),
        proc_id,
    }
}
