//! Copies between a channel that the server has opened and the agent here, which it is forwarded to.
//!
//! The agent takes this connection for one of a local program: only who has exchanged keys can say otherwise
//! (`session-bind@openssh.com` in OpenSSH's PROTOCOL.agent), and russh keeps what that needs to itself. So the machine can only
//! list the keys and use them. It can neither have the agent load a library of this machine (`SSH_AGENTC_ADD_SMARTCARD_KEY`,
//! CVE-2023-38408), nor add, remove or lock keys.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use cpu_ssh::Stream;
use rustix::fs::{Mode, OFlags};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::{ChannelReceiver, ChannelSender};

/// The agent that is forwarded. It is the one whose socket has this path when cpu starts: while files are served, the machine
/// could put a link to any other socket of the user there.
pub(super) struct ForwardedAgent {
    path: PathBuf,
    socket: rustix::io::Result<OwnedFd>,
}

impl ForwardedAgent {
    pub(super) fn new(path: PathBuf) -> Self {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let socket = rustix::fs::open(&path, flags, Mode::empty());
        Self { path, socket }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) async fn connect(&self) -> io::Result<UnixStream> {
        let socket = self
            .socket
            .as_ref()
            .map_err(|errno| io::Error::from(*errno))?;
        UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
    }
}

/// The most bytes that are copied at once. Messages of agents are short.
const CHUNK: usize = 16 * 1024;

/// The longest request, as in OpenSSH's agent.
const MAX_REQUEST: usize = 256 * 1024;

/// The numbers of the requests that are passed on (draft-miller-ssh-agent): to list the keys, to sign, and extensions.
const PASSED: [u8; 3] = [11, 13, 27];

/// A request that every agent answers with a failure, since it has no known number.
const REFUSED: [u8; 5] = [0, 0, 0, 1, 0];

/// Takes the first request off `bytes`, if it is complete: what is passed on. `Err` if it is too long.
fn next_request(bytes: &mut Vec<u8>) -> Result<Option<Vec<u8>>, ()> {
    let Some((&length, rest)) = bytes.split_first_chunk() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_REQUEST {
        return Err(());
    }
    let Some(request) = rest.get(..length) else {
        return Ok(None);
    };
    let is_passed = request.first().is_some_and(|kind| PASSED.contains(kind));
    let whole: Vec<u8> = bytes.drain(..length + 4).collect();
    Ok(Some(if is_passed { whole } else { REFUSED.to_vec() }))
}

/// Copies in both directions until both have ended.
pub(super) async fn copy_both(
    receiver: ChannelReceiver,
    sender: ChannelSender,
    mut stream: UnixStream,
) {
    let (mut from_agent, mut to_agent) = stream.split();
    let requests = async {
        let mut bytes = Vec::new();
        while let Some(chunk) = receiver.read(Stream::Data, CHUNK).await {
            bytes.extend_from_slice(&chunk);
            loop {
                let written = match next_request(&mut bytes) {
                    Ok(None) => break,
                    Ok(Some(request)) => to_agent.write_all(&request).await.is_ok(),
                    Err(()) => false,
                };
                if !written {
                    receiver.discard();
                    let _ = to_agent.shutdown().await;
                    return;
                }
            }
        }
        let _ = to_agent.shutdown().await;
    };
    let replies = async {
        let mut chunk = vec![0; CHUNK];
        while let Ok(count @ 1..) = from_agent.read(&mut chunk).await {
            let bytes = chunk.get(..count).unwrap_or_default().to_vec();
            if sender.send(Stream::Data, bytes.into()).await.is_err() {
                return;
            }
        }
        let _ = sender.request(russh::ChannelWriteHalf::eof).await;
    };
    tokio::join!(requests, replies);
    sender.close().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_is_the_one_that_was_there_at_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent");
        let listen = |name: &str| {
            let listener = std::os::unix::net::UnixListener::bind(directory.path().join(name));
            let listener = listener.unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        };
        let (agent, other) = (listen("agent"), listen("other"));
        let forwarded = ForwardedAgent::new(path.clone());
        std::fs::rename(&path, directory.path().join("away")).unwrap();
        std::os::unix::fs::symlink("other", &path).unwrap();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        runtime.block_on(forwarded.connect()).unwrap();
        agent.accept().unwrap();
        assert!(other.accept().is_err());
        let missing = ForwardedAgent::new(directory.path().join("none"));
        assert!(runtime.block_on(missing.connect()).is_err());
    }

    #[test]
    fn only_requests_that_use_keys_are_passed_on() {
        let request = |kind: u8, body: &[u8]| {
            let length = u32::try_from(body.len() + 1).unwrap().to_be_bytes();
            [&length[..], &[kind], body].concat()
        };
        let (list, sign) = (request(11, b""), request(13, b"key and data"));
        let load = request(20, b"\0\0\0\x08/lib/x.so\0\0\0\0");
        let mut bytes = [&list[..], &load, &sign, &[0; 4], &sign[..7]].concat();
        for wanted in [&list[..], &REFUSED, &sign, &REFUSED] {
            assert_eq!(next_request(&mut bytes), Ok(Some(wanted.to_vec())));
        }
        assert_eq!(next_request(&mut bytes), Ok(None));
        assert_eq!(bytes, &sign[..7]);
        assert_eq!(next_request(&mut vec![0xff; 4]), Err(()));
        assert_eq!(next_request(&mut vec![0; 3]), Ok(None));
    }
}
