//! The bytes between a command and its channel, and the signals for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use cpu_ssh::Stream;
use nix::sys::signal::Signal;
use tokio::sync::{mpsc, watch};

use crate::ssh::audit::Transferred;
use crate::ssh::channel::{CHUNK, ServerReceiver, ServerSender};
use crate::ssh::fd::Fd;
use crate::ssh::notice::LastOutput;
use crate::ssh::relayed::{Closes, Relayed};

/// How long to wait for more output when the command and all its descendants have gone, but another process
/// holds the pipe open.
const PIPE_GRACE: Duration = Duration::from_secs(1);

/// How often to look whether the command has its terminal, when something was typed before.
const TERMINAL_POLL: Duration = Duration::from_millis(10);

/// Copies the client's input to the command. The pipe is closed at the end of the input. What arrived before on the
/// channels of `files` is processed first: the client has sent it first. What is typed before the command has its terminal waits: until
/// then, Ctrl-C would be for no process.
pub(super) async fn pump_in(
    receiver: ServerReceiver,
    to: Arc<Fd>,
    transferred: Arc<Transferred>,
    mut files: Vec<Relayed>,
    ended: watch::Receiver<bool>,
) {
    let mut has_started = false;
    loop {
        let chunk = receiver.read(Stream::Data, CHUNK).await;
        while !has_started && to.is_terminal_of_nobody() && !*ended.borrow() {
            tokio::time::sleep(TERMINAL_POLL).await;
        }
        has_started = true;
        for files in &mut files {
            files.settle().await;
        }
        let Some(chunk) = chunk else { return };
        if to.write_all(&chunk).await.is_err() {
            receiver.discard();
            return;
        }
        transferred.add_received(chunk.len());
    }
}

/// Copies the command's output to the client, up to the last byte. The client has closed by then what the command had closed before: who
/// reads the output may use these files.
pub(super) async fn pump_out(
    from: Arc<Fd>,
    (to, stream, transferred): (ServerSender, Stream, Arc<Transferred>),
    mut closes: Vec<Closes>,
    mut ended: watch::Receiver<bool>,
    last_output: LastOutput,
) {
    let mut buffer = BytesMut::new();
    loop {
        let read = tokio::select! {
            biased;
            read = from.read(&mut buffer) => read,
            () = async {
                let _ = ended.wait_for(|ended| *ended).await;
                tokio::time::sleep(PIPE_GRACE).await;
            } => return,
        };
        let Some(bytes) = read.ok().filter(|bytes| !bytes.is_empty()) else {
            return;
        };
        for closes in &mut closes {
            closes.wait().await;
        }
        let length = bytes.len();
        if to.send(stream, bytes).await.is_err() {
            return;
        }
        transferred.add_sent(length);
        last_output.renew();
    }
}

/// Sends signals to the session process until the client goes. Then the caller closes the control socket.
pub(super) async fn deliver(
    mut signals: mpsc::UnboundedReceiver<Signal>,
    control: &Fd,
    sender: &ServerSender,
) {
    loop {
        let signal = tokio::select! {
            signal = signals.recv() => signal,
            () = sender.closed() => None,
        };
        let Some(signal) = signal else { return };
        let Ok(number) = u8::try_from(signal as i32) else {
            continue;
        };
        if control.write_all(&[number]).await.is_err() {
            return;
        }
    }
}
