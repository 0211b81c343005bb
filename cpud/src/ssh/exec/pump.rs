//! The bytes between a command and its channel, and the signals for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use cpu_ssh::Stream;
use nix::sys::signal::Signal;
use tokio::sync::{mpsc, watch};

use crate::ssh::channel::{CHUNK, Receiver, Sender};
use crate::ssh::fd::Fd;
use crate::ssh::notice::LastOutput;

/// How long output is still awaited from a pipe that a stranger holds open after the command
/// and all its descendants have gone.
const PIPE_GRACE: Duration = Duration::from_secs(1);

/// The client's input to the command; the pipe closes at its end, or when nobody reads it.
pub(super) async fn pump_in(receiver: Receiver, to: Arc<Fd>) {
    while let Some(chunk) = receiver.read(Stream::Data, CHUNK).await {
        if to.write_all(&chunk).await.is_err() {
            receiver.discard();
            return;
        }
    }
}

/// The command's output to the client, to the last byte.
pub(super) async fn pump_out(
    from: Arc<Fd>,
    (to, stream): (Sender, Stream),
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
        if to.send(stream, bytes).await.is_err() {
            return;
        }
        last_output.renew();
    }
}

/// Signals to the session process, until the client goes; then its end of the pipe is closed.
pub(super) async fn deliver(
    mut signals: mpsc::UnboundedReceiver<Signal>,
    control: &Fd,
    sender: &Sender,
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
