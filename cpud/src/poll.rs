//! poll(2) with a deadline, for the roles that sleep in it.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The timeout that ends at a deadline. Without one there is none.
pub(crate) fn timeout(deadline: Option<Instant>) -> PollTimeout {
    deadline.map_or(PollTimeout::NONE, |at| {
        // One millisecond more, since poll(2) counts whole ones: the loop would spin.
        let left = at.saturating_duration_since(Instant::now()).as_millis() + 1;
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    })
}

/// Sleeps until one of the descriptors can be read, the deadline has come, or a signal interrupts.
pub(crate) fn sleep<'f>(
    fds: impl IntoIterator<Item = BorrowedFd<'f>>,
    deadline: Option<Instant>,
) -> Result<()> {
    let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
    let mut fds: Vec<_> = fds.into_iter().map(readable).collect();
    match poll(&mut fds, timeout(deadline)) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno).context("cannot poll"),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::fd::AsFd as _;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_sleep_ends_at_the_deadline_and_not_before() {
        let (silent, _writer) = io::pipe().unwrap();
        for length in [Duration::ZERO, Duration::from_micros(20_500)] {
            let deadline = Instant::now() + length;
            sleep([silent.as_fd()], Some(deadline)).unwrap();
            assert!(Instant::now() >= deadline);
        }
        assert_eq!(timeout(None), PollTimeout::NONE);
        let year = Instant::now() + Duration::from_hours(365 * 24);
        assert_eq!(timeout(Some(year)), PollTimeout::MAX);
    }

    #[test]
    fn a_sleep_ends_when_there_is_something_to_read() {
        let (ready, writer) = io::pipe().unwrap();
        drop(writer);
        sleep([ready.as_fd()], None).unwrap();
    }
}
