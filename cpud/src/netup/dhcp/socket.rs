//! The sockets for DHCP messages: packet(7), as long as the machine has no address that answers could be sent to, else
//! UDP. One is open only while an answer is expected, so that a machine with a lease is never woken up.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use super::client::Listen;
use super::packet::MAX_MESSAGE;
use crate::sys;

const CLIENT: u16 = 68;
const SERVER: u16 = 67;
const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const UDP: u8 = 17;

/// An open socket.
pub(in super::super) enum DhcpSocket {
    Frames { socket: File, link: u32 },
    Socket { socket: UdpSocket, at: Ipv4Addr },
}

impl DhcpSocket {
    /// Opens the socket that `listen` needs, on the link with this index.
    pub(in super::super) fn open(listen: Listen, link: u32) -> io::Result<Option<Self>> {
        Ok(match listen {
            Listen::No => None,
            Listen::Frames => Some(Self::Frames {
                socket: File::from(sys::packet_socket(link, CLIENT)?),
                link,
            }),
            Listen::Socket(at) => {
                let socket = UdpSocket::bind((at, CLIENT))?;
                socket.set_nonblocking(true)?;
                Some(Self::Socket { socket, at })
            }
        })
    }

    /// Whether this is the socket that `listen` needs.
    pub(in super::super) fn serves(&self, listen: Listen) -> bool {
        match (self, listen) {
            (Self::Frames { .. }, Listen::Frames) => true,
            (Self::Socket { at, .. }, Listen::Socket(wanted)) => *at == wanted,
            _ => false,
        }
    }

    /// Sends to all servers on the link, from 0.0.0.0.
    pub(in super::super) fn broadcast(&self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::Frames { socket, link } => {
                sys::broadcast_frame(socket.as_fd(), *link, &wrap(message))
            }
            Self::Socket { .. } => Err(ErrorKind::Unsupported.into()),
        }
    }

    /// Sends to one server.
    pub(in super::super) fn unicast(&self, message: &[u8], to: Ipv4Addr) -> io::Result<()> {
        match self {
            Self::Frames { .. } => Err(ErrorKind::Unsupported.into()),
            Self::Socket { socket, .. } => socket.send_to(message, (to, SERVER)).map(drop),
        }
    }

    /// The next message that has arrived, if any.
    pub(in super::super) fn receive(&self) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; IP_HEADER + 40 + UDP_HEADER + MAX_MESSAGE];
        let read = match self {
            Self::Frames { socket, .. } => (&*socket).read(&mut buffer),
            Self::Socket { socket, .. } => socket.recv(&mut buffer),
        };
        match read {
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                let message = match self {
                    // What isn't DHCP becomes an empty message, which is ignored.
                    Self::Frames { .. } => unwrap(bytes).unwrap_or_default(),
                    Self::Socket { .. } => bytes,
                };
                Ok(Some(message.to_vec()))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for DhcpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Frames { socket, .. } => socket.as_fd(),
            Self::Socket { socket, .. } => socket.as_fd(),
        }
    }
}

/// Puts IPv4 and UDP headers (RFC 791, 768), from 0.0.0.0:68 to 255.255.255.255:67, before a message of less than
/// 64 KiB.
fn wrap(message: &[u8]) -> Vec<u8> {
    let length = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
    let udp_length = length(UDP_HEADER + message.len());
    let mut udp = [
        CLIENT.to_be_bytes(),
        SERVER.to_be_bytes(),
        udp_length,
        [0, 0],
    ]
    .concat();
    udp.extend_from_slice(message);
    let pseudo = [&[0; 4][..], &[255; 4], &[0, UDP], &udp_length].concat();
    // Zero means that there is no checksum.
    let sum = match checksum(pseudo.iter().chain(&udp)) {
        0 => u16::MAX,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());

    let mut frame = vec![0x45, 0];
    frame.extend(length(IP_HEADER + udp.len()));
    // Identification 0, not a fragment, a time to live of 64.
    frame.extend([0, 0, 0, 0, 64, UDP, 0, 0]);
    frame.extend([0; 4]);
    frame.extend([255; 4]);
    let sum = checksum(frame.iter());
    frame[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(udp);
    frame
}

/// The message in a packet from a server's port to the client's; none if it is anything else. UDP's checksum is not
/// verified: that of a packet from the same host may not be filled in yet.
fn unwrap(frame: &[u8]) -> Option<&[u8]> {
    let number = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
    let first = *frame.first()?;
    let header = usize::from(first & 15) * 4;
    let is_fragment = number(6)? & 0x3fff != 0;
    if first >> 4 != 4 || header < IP_HEADER || *frame.get(9)? != UDP || is_fragment {
        return None;
    }
    // Bytes after the packet's length are padding of the link.
    let udp = frame.get(header..usize::from(number(2)?))?;
    if number(header)? != SERVER || number(header + 2)? != CLIENT {
        return None;
    }
    udp.get(UDP_HEADER..usize::from(number(header + 4)?))
}

/// The ones' complement sum of RFC 1071.
fn checksum<'a>(bytes: impl Iterator<Item = &'a u8>) -> u16 {
    let mut sum: u32 = 0;
    for (index, &byte) in bytes.enumerate() {
        sum += if index % 2 == 0 {
            u32::from(byte) << 8
        } else {
            u32::from(byte)
        };
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same packet from the server's port to the client's.
    fn from_server(message: &[u8]) -> Vec<u8> {
        let mut frame = wrap(message);
        (frame[21], frame[23]) = (67, 68);
        frame
    }

    #[test]
    fn headers_are_as_the_kernel_wants_them() {
        let frame = wrap(b"hello");
        assert_eq!(frame.len(), 33);
        assert_eq!(checksum(frame[..20].iter()), 0);
        let pseudo = [&[0; 4][..], &[255; 4], &[0, 17, 0, 13]].concat();
        assert_eq!(checksum(pseudo.iter().chain(&frame[20..])), 0);
        assert_eq!(frame[20..26], [0, 68, 0, 67, 0, 13]);
    }

    #[test]
    fn only_whole_answers_of_servers_are_taken() {
        let mut frame = from_server(b"hello");
        frame.extend([0; 9]);
        assert_eq!(
            unwrap(&frame),
            Some(&b"hello"[..]),
            "padded to Ethernet's least"
        );
        assert_eq!(unwrap(&wrap(b"hello")), None);
        for (at, value) in [
            (0, 0x65),
            (0, 0x44),
            (0, 0x4f),
            (3, 30),
            (6, 0x20),
            (7, 1),
            (9, 6),
            (25, 200),
        ] {
            let mut bad = from_server(b"hello");
            bad[at] = value;
            assert_eq!(unwrap(&bad), None, "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn any_frame_is_survived(frame in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = unwrap(&frame);
        }

        #[test]
        fn messages_survive(message in prop::collection::vec(any::<u8>(), 0..600)) {
            let frame = from_server(&message);
            prop_assert_eq!(unwrap(&frame), Some(&message[..]));
        }
    }
}
