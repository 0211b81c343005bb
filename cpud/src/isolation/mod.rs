//! The isolation of a key: a user, a PID and an IPC namespace that all sessions of this key share, and no other session is
//! in. A process of its own, [`holder`], is the first of the PID namespace; the server starts it when a connection logs in with the
//! key, and it ends with the last session.

mod holder;

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use ninep::relay::IdRange;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;

use crate::sys;

pub(crate) use holder::hold;

/// The namespaces of an isolation.
pub(crate) const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWUSER
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWIPC);

/// How many users and groups an isolation has: more than the `nobody` of any system, and room for subordinate ones.
const IDS: u32 = 1 << 20;

/// The first user and group of the first isolation, and how many isolations there may be at once. From 1879048192 on up to 2147352575 no
/// system gives numbers to users (systemd's UIDS-GIDS).
const FIRST_ID: u32 = 0x7000_0000;
pub(crate) const MAX_ISOLATIONS: u32 = 255;

/// What a session needs to be in an isolation.
pub(crate) struct Isolation {
    /// The isolation's root, as the rest of the machine sees it.
    pub(crate) root: u32,
    /// A pidfd of the holder, for setns(2).
    pub(crate) holder: OwnedFd,
    /// The holder ends when this and all copies of it are closed.
    pub(crate) life: OwnedFd,
}

impl Isolation {
    /// The users and groups of the isolation with this root.
    pub(crate) fn ids(root: u32) -> IdRange {
        IdRange {
            base: root,
            count: IDS,
        }
    }

    /// The root of one of the isolations; they come round again.
    pub(crate) fn nth_root(n: u32) -> u32 {
        FIRST_ID + n % MAX_ISOLATIONS * IDS
    }

    /// Sends copies through a socket.
    pub(crate) fn send(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let fds = [self.holder.as_fd(), self.life.as_fd()];
        sys::send_descriptors(socket, self.root, &fds)
    }

    /// Waits for what [`Self::send`] sends.
    pub(crate) fn receive(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let (root, [holder, life]) = sys::receive_descriptors(socket)?;
        Ok(Self { root, holder, life })
    }

    /// Whether the holder is still there.
    pub(crate) fn is_alive(&self) -> bool {
        // A pidfd is readable when its process has ended.
        let mut fds = [PollFd::new(self.holder.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn isolations_have_no_user_in_common_and_none_of_anybody_elses() {
        let roots: Vec<u32> = (0..MAX_ISOLATIONS).map(Isolation::nth_root).collect();
        assert!(roots.windows(2).all(|pair| pair[0] + IDS == pair[1]));
        assert!(roots[0] >= 1_879_048_192 && roots[254] + IDS - 1 <= 2_147_352_575);
        assert_eq!(Isolation::nth_root(MAX_ISOLATIONS), roots[0]);
    }
}
