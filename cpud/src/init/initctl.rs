//! `/run/initctl`, the FIFO through which the client's `poweroff`, `reboot`, `halt` and `shutdown` reach an init: sysvinit's
//! always, and systemd's where no systemd runs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{mkfifo, read};

const PATH: &str = "/run/initctl";

/// The size of `struct init_request` of sysvinit's initreq.h: four ints, of which the first three are used here, and 368 bytes.
const REQUEST: usize = 384;
const MAGIC: u32 = 0x0309_1969;
/// `INIT_CMD_RUNLVL`, the command to change to a runlevel.
const CHANGE_RUNLEVEL: u32 = 1;

/// The FIFO, open for reading.
pub(super) struct Initctl(OwnedFd);

impl Initctl {
    /// Makes the FIFO, which only root may write to.
    pub(super) fn new() -> nix::Result<Self> {
        match mkfifo(PATH, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        // For writing too, so that it has no end when a writer closes it.
        let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        open(PATH, flags, Mode::empty()).map(Self)
    }

    /// Reads a request, without waiting. The result is the runlevel that it asks for, a character.
    pub(super) fn read(&self) -> Option<u8> {
        let mut request = [0; REQUEST];
        // One write(2) of this size is never divided (pipe(7)).
        let length = read(&self.0, &mut request).ok()?;
        runlevel(request.get(..length)?)
    }
}

impl AsFd for Initctl {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The runlevel that a request asks for.
fn runlevel(request: &[u8]) -> Option<u8> {
    let mut numbers = request.chunks_exact(4).map(|bytes| {
        let bytes = bytes.try_into().unwrap_or_default();
        u32::from_ne_bytes(bytes)
    });
    let is_change = request.len() == REQUEST
        && numbers.next() == Some(MAGIC)
        && numbers.next() == Some(CHANGE_RUNLEVEL);
    numbers.next().filter(|_| is_change)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As `struct init_request` lies in memory.
    fn request(numbers: [u32; 4], size: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_ne_bytes()).collect();
        bytes.resize(size, 0);
        bytes
    }

    #[test]
    fn only_a_request_for_a_runlevel_is_one() {
        let zero = u32::from(b'0');
        let asked = |numbers, size| runlevel(&request(numbers, size));
        assert_eq!(asked([MAGIC, 1, zero, 0], REQUEST), Some(b'0'));
        assert_eq!(asked([MAGIC + 1, 1, zero, 0], REQUEST), None);
        assert_eq!(asked([MAGIC, 2, zero, 0], REQUEST), None);
        assert_eq!(asked([MAGIC, 1, 256, 0], REQUEST), None);
        assert_eq!(asked([MAGIC, 1, zero, 0], REQUEST - 1), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..=REQUEST)) {
            runlevel(&bytes);
        }
    }
}
