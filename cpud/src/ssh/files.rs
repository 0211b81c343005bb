//! 9P both ways between the client and the kernel, by way of [`ninep::relay`]. When either side ends, so
//! does the other: the mount then answers every request with an error instead of hanging.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use cpu_ssh::Stream;
use ninep::relay::{Broken, COMPANY, Out, Relay};
use tokio::sync::mpsc;

use super::exec::{CHUNK, Receiver, Sender};
use super::fd::Fd;

/// Small pieces are sent as one of up to this many bytes.
const SMALL: usize = 64 * 1024;

/// Starts to relay between the client's channel and the kernel's end of the socket pair. `asks`: the client
/// may be asked for more than 9P2000.L.
pub(super) fn relay(receiver: Receiver, sender: Sender, socket: Arc<Fd>, asks: bool) {
    let relay = Arc::new(Mutex::new(Relay::new(asks)));
    let (answers, answered) = mpsc::unbounded_channel();
    let from_kernel = tokio::spawn({
        let (relay, socket) = (relay.clone(), socket.clone());
        async move {
            from_kernel(&relay, &socket, &sender, &answers).await;
            let _ = sender.request(russh::ChannelWriteHalf::close).await;
        }
    });
    tokio::spawn(async move {
        to_kernel(&relay, &receiver, answered, &socket).await;
        from_kernel.abort();
    });
}

/// Until the kernel lets go of its end.
async fn from_kernel(
    relay: &Mutex<Relay>,
    socket: &Fd,
    sender: &Sender,
    answers: &mpsc::UnboundedSender<Bytes>,
) {
    let mut buffer = BytesMut::new();
    // One for all that is held back until it ends: each time it is set costs as much as a request.
    let mut company = std::pin::pin!(tokio::time::sleep(COMPANY));
    let mut counts = false;
    loop {
        if !counts && with(relay, |relay| relay.holds()) {
            company
                .as_mut()
                .reset(tokio::time::Instant::now() + COMPANY);
            counts = true;
        }
        let arrived = tokio::select! {
            biased;
            read = socket.read(&mut buffer) => match read {
                Ok(bytes) if !bytes.is_empty() => Some(bytes),
                _ => return,
            },
            () = &mut company, if counts => {
                counts = false;
                None
            }
        };
        let mut out = Out::default();
        let relayed = with(relay, |relay| match arrived {
            Some(bytes) => relay.from_kernel(bytes, Instant::now(), &mut out),
            None => {
                relay.release(&mut out);
                Ok(())
            }
        });
        for answer in out.kernel {
            // Without the other task there is nobody to answer.
            let _ = answers.send(answer);
        }
        for bytes in joined(out.server) {
            if sender.send(Stream::Data, bytes).await.is_err() {
                return;
            }
        }
        if !told(&relayed) {
            return;
        }
    }
}

/// Until the client ends or the kernel lets go.
async fn to_kernel(
    relay: &Mutex<Relay>,
    receiver: &Receiver,
    mut answers: mpsc::UnboundedReceiver<Bytes>,
    socket: &Fd,
) {
    loop {
        // Kept while answers are written: what it has taken off the queue must not be dropped.
        let mut read = std::pin::pin!(receiver.read(Stream::Data, CHUNK));
        let chunk = loop {
            let is_between = with(relay, |relay| relay.is_between());
            tokio::select! {
                biased;
                Some(answer) = answers.recv(), if is_between => {
                    let mut all = vec![answer];
                    while let Ok(answer) = answers.try_recv() {
                        all.push(answer);
                    }
                    if write(socket, all).await.is_err() {
                        return;
                    }
                }
                chunk = &mut read => break chunk,
            }
        };
        let Some(chunk) = chunk else { return };
        let mut out = Out::default();
        let relayed = with(relay, |relay| {
            relay.from_server(chunk, Instant::now(), &mut out)
        });
        if write(socket, out.kernel).await.is_err() || !told(&relayed) {
            return;
        }
    }
}

fn with<T>(relay: &Mutex<Relay>, work: impl FnOnce(&mut Relay) -> T) -> T {
    work(&mut relay.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Whether it went on; if not, says why.
fn told(relayed: &Result<(), Broken>) -> bool {
    if let Err(broken) = relayed {
        eprintln!("cpud: the client's files are lost: {broken}");
    }
    relayed.is_ok()
}

async fn write(socket: &Fd, pieces: Vec<Bytes>) -> std::io::Result<()> {
    for bytes in joined(pieces) {
        socket.write_all(&bytes).await?;
    }
    Ok(())
}

/// Few pieces instead of many small ones.
fn joined(mut pieces: Vec<Bytes>) -> Vec<Bytes> {
    if pieces.len() < 2 {
        return pieces;
    }
    let mut all = Vec::new();
    let mut small = BytesMut::new();
    for piece in pieces.drain(..) {
        if small.len() + piece.len() <= SMALL {
            small.extend_from_slice(&piece);
            continue;
        }
        if !small.is_empty() {
            all.push(small.split().freeze());
        }
        if piece.len() < SMALL {
            small.extend_from_slice(&piece);
        } else {
            all.push(piece);
        }
    }
    if !small.is_empty() {
        all.push(small.freeze());
    }
    all
}
