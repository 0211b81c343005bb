//! Standard input, output and error. Each has a thread, since they block.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use cpu_ssh::Stream;
use cpu_ssh::blocking::{BlockingReader, BlockingWriter};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use russh::ChannelWriteHalf;
use russh::client::Msg;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::files::FileServer;
use crate::ssh::{ChannelReceiver, ChannelSender};
use crate::terminal::{Escape, EscapeFilter, TerminalRead, read_of};

/// The most bytes that are read at once from standard input.
const CHUNK: usize = 64 * 1024;

/// What the threads report to the main thread.
pub(super) enum LocalEvent {
    Typed(Escape),
    /// Writing to standard output or error failed.
    OutputLost(io::Error),
}

/// Starts a thread that writes what the command prints. The receiver returns when all of it is written.
pub(super) fn spawn_output(
    receiver: &ChannelReceiver,
    stream: Stream,
    to: std::os::fd::BorrowedFd<'_>,
    local: &mpsc::UnboundedSender<LocalEvent>,
) -> Result<oneshot::Receiver<()>> {
    let to = to
        .try_clone_to_owned()
        .context("cannot use an output of this process")?;
    let mut from = BlockingReader::new(receiver.clone(), stream, Handle::current());
    let local = local.clone();
    let (done, finished) = oneshot::channel();
    std::thread::Builder::new()
        .name("output".into())
        .spawn(move || {
            while let Some(chunk) = from.chunk() {
                if let Err(error) = write_all(&to, &chunk) {
                    let _ = local.send(LocalEvent::OutputLost(error));
                    return;
                }
            }
            let _ = done.send(());
        })
        .context("cannot start a thread")?;
    Ok(finished)
}

/// Writes all bytes, even if another process has made the descriptor non-blocking.
fn write_all(to: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(to, bytes) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::EAGAIN) => wait_for(to, PollFlags::POLLOUT)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn wait_for(fd: &impl AsFd, what: PollFlags) -> io::Result<()> {
    match nix::poll::poll(&mut [PollFd::new(fd.as_fd(), what)], PollTimeout::NONE) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The command's standard input. After the first call of `end`, sending fails.
#[derive(Clone)]
pub(super) struct Stdin {
    to: Arc<Mutex<Option<BlockingWriter<Msg>>>>,
    sender: ChannelSender,
    runtime: Handle,
    /// The files of this machine that are served to the command.
    files: Option<FileServer>,
}

impl Stdin {
    pub(super) fn new(sender: ChannelSender, files: Option<FileServer>) -> Self {
        let runtime = Handle::current();
        let to = BlockingWriter::new(sender.clone(), Stream::Data, runtime.clone());
        Self {
            to: Arc::new(Mutex::new(Some(to))),
            sender,
            runtime,
            files,
        }
    }

    /// Sends what has changed in the files, so that the command sees it when it reads what is sent next.
    fn settle(&self) {
        if let Some(files) = &self.files {
            files.settle();
        }
    }

    /// Blocks until the other side takes it.
    fn send(&self, bytes: Bytes) -> io::Result<()> {
        self.settle();
        match &mut *self.to.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(to) => to.send(bytes),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Blocks until the other side has taken what is being sent.
    pub(super) fn end(&self) {
        self.settle();
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        if to.take().is_some() {
            // A channel that has gone is reported by its receiver.
            let _ = self
                .runtime
                .block_on(self.sender.request(ChannelWriteHalf::eof));
        }
    }
}

/// How often a job in the background looks whether it is in the foreground.
const FOREGROUND_POLL: Duration = Duration::from_millis(200);

/// Starts a thread that sends standard input until its end, or until the channel is closed. As long as this is a job in the background,
/// what is typed is for others, and to read it would stop cpu.
pub(super) fn spawn_input(
    to: Stdin,
    escapes: bool,
    local: mpsc::UnboundedSender<LocalEvent>,
) -> Result<()> {
    let from = io::stdin().as_fd().try_clone_to_owned();
    let run = move || {
        let Ok(from) = from else {
            // Closed standard input counts as empty.
            return to.end();
        };
        let mut file = File::from(from);
        let mut filter = escapes.then(EscapeFilter::new);
        let mut buffer = vec![0; CHUNK];
        let is_terminal = file.is_terminal();
        loop {
            if is_terminal && !wait_for_terminal(&file) {
                continue;
            }
            let read = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => buffer.get(..n).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if wait_for(&file, PollFlags::POLLIN).is_err() {
                        break;
                    }
                    continue;
                }
                Err(_) => break,
            };
            let sent = match &mut filter {
                None => to.send(Bytes::copy_from_slice(read)),
                Some(filter) => send_typed(filter, read, &to, &local),
            };
            if sent.is_err() {
                return;
            }
        }
        to.end();
    };
    std::thread::Builder::new()
        .name("input".into())
        .spawn(run)
        .context("cannot start a thread")?;
    Ok(())
}

/// Waits until a read does not stop this process. False if that has to be looked at again: a shell may have put it into the background
/// while it waited.
fn wait_for_terminal(terminal: &File) -> bool {
    let wait = match read_of(terminal) {
        TerminalRead::Tries => return true,
        TerminalRead::Stops => {
            std::thread::sleep(FOREGROUND_POLL);
            return false;
        }
        TerminalRead::Returns => wait_for(terminal, PollFlags::POLLIN),
    };
    wait.is_err() || read_of(terminal) != TerminalRead::Stops
}

fn send_typed(
    filter: &mut EscapeFilter,
    mut typed: &[u8],
    to: &Stdin,
    local: &mpsc::UnboundedSender<LocalEvent>,
) -> io::Result<()> {
    while !typed.is_empty() {
        let (bytes, escape, used) = filter.filter(typed);
        typed = typed.get(used..).unwrap_or_default();
        if let Some(escape) = escape {
            // Before the bytes are sent, so that a stalled remote side cannot keep a person from leaving.
            let _ = local.send(LocalEvent::Typed(escape));
        }
        to.send(bytes.into())?;
    }
    Ok(())
}
