//! Descriptors that are passed to other processes through unix sockets.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// The most descriptors of one message.
const MAX_DESCRIPTORS: usize = 2;

/// Sends a number and descriptors, at most [`MAX_DESCRIPTORS`], through a unix socket (unix(7), `SCM_RIGHTS`).
pub(crate) fn send_descriptors(
    socket: BorrowedFd<'_>,
    number: u32,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let number = number.to_ne_bytes();
    let rights = [ControlMessage::ScmRights(&fds)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(&number)],
        &rights,
        flags,
        None,
    )?;
    Ok(())
}

/// Receives what one [`send_descriptors`] has sent: the number, and as many descriptors as are wanted.
pub(crate) fn receive_descriptors<const N: usize>(
    socket: BorrowedFd<'_>,
) -> io::Result<(u32, [OwnedFd; N])> {
    let mut number = [0; 4];
    let mut buffer = [IoSliceMut::new(&mut number)];
    let mut space = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut buffer, Some(&mut space), flags)?;
    let received = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let received = received.unwrap_or_default().into_iter();
    // SAFETY: the kernel has just made these descriptors, so nobody else owns them.
    let received = received.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let received: Vec<OwnedFd> = received.collect();
    let received = received
        .try_into()
        .map_err(|_| io::ErrorKind::UnexpectedEof)?;
    Ok((u32::from_ne_bytes(number), received))
}
