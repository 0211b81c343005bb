//! Flow control: no channel waits for another, nothing grows without bound, and nothing waits for a peer that has gone.
#![allow(clippy::unwrap_used)] // helpers of tests

mod foreign;
mod pair;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use cpu_ssh::mux::{CREDIT, CREDIT_TYPE, FOREIGN_SOFT_LIMIT, FOREIGN_WINDOW, MAX_CREDIT};
use cpu_ssh::{Receiver, Sender, Stream};
use pair::Pair;
use russh::{ChannelId, ChannelMsg};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;

const MIB: usize = 1 << 20;
/// Timeout for what must happen; generous, because the machine may be busy.
const SOON: Duration = Duration::from_mins(1);
/// After so many rounds of the runtime without progress, nothing more will happen. Both ends of a pair run on this
/// thread: what one has written the other can read in the next round, and a delayed window adjustment takes 50 ms.
const ROUNDS: usize = 30;
const ROUND: Duration = Duration::from_millis(5);

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(tokio::task::LocalSet::new().run_until(test));
}

/// 64 KiB whose first byte depends on `i`.
fn pattern(i: usize) -> Bytes {
    static BYTES: LazyLock<Bytes> = LazyLock::new(|| {
        let bytes = (0..64 * 1024 + 251).map(|j| u8::try_from(j * 7 % 251).unwrap());
        bytes.collect::<Vec<_>>().into()
    });
    let from = i * 31 % 251;
    BYTES.slice(from..from + 64 * 1024)
}

/// A running sender.
struct Sending {
    task: JoinHandle<usize>,
    sent: Rc<Cell<usize>>,
}

/// Sends `pieces` times 64 KiB and EOF; the task returns how many were sent.
fn send<M>(sender: Sender<M>, pieces: usize) -> Sending
where
    M: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static,
{
    let sent = Rc::new(Cell::new(0));
    let counter = sent.clone();
    let task = spawn_local(async move {
        for i in 0..pieces {
            if sender.send(Stream::Data, pattern(i)).await.is_err() {
                return i;
            }
            counter.set(i + 1);
        }
        let _ = sender.request(russh::ChannelWriteHalf::eof).await;
        pieces
    });
    Sending { task, sent }
}

impl Sending {
    /// Waits until no more pieces are sent; returns how many have been.
    async fn settled(&self) -> usize {
        let (mut sent, mut quiet) = (self.sent.get(), 0);
        while quiet < ROUNDS {
            tokio::time::sleep(ROUND).await;
            quiet += 1;
            if self.sent.get() != sent {
                (sent, quiet) = (self.sent.get(), 0);
            }
        }
        sent
    }

    /// The same, and not all of them may have been sent.
    async fn stalled(&self) -> usize {
        let sent = self.settled().await;
        assert!(
            !self.task.is_finished(),
            "{sent} pieces were sent to a reader that has stalled"
        );
        sent
    }

    async fn ended(self) -> usize {
        timeout(SOON, self.task).await.unwrap().unwrap()
    }
}

/// Reads to the end and checks every byte; the task returns the number of bytes.
fn check<M>(receiver: Receiver<M>) -> JoinHandle<usize>
where
    M: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static,
{
    spawn_local(async move {
        let mut total = 0;
        let mut want = Bytes::new();
        while let Some(mut got) = receiver.read(Stream::Data, MIB).await {
            total += got.len();
            while !got.is_empty() {
                if want.is_empty() {
                    want = pattern((total - got.len()) / (64 * 1024));
                }
                let n = want.len().min(got.len());
                assert_eq!(got.split_to(n), want.split_to(n), "at byte {total}");
            }
        }
        total
    })
}

#[test]
fn bulk_in_both_directions_of_two_channels_at_once() {
    for ours in [true, false] {
        run(async move {
            let mut pair = Pair::new(ours).await;
            let mut checks = Vec::new();
            for _ in 0..2 {
                let ((here_rx, here_tx), (there_rx, there_tx)) = pair.channel().await;
                send(here_tx, 32 * 16);
                send(there_tx, 32 * 16);
                checks.extend([check(here_rx), check(there_rx)]);
            }
            for check in checks {
                assert_eq!(timeout(SOON, check).await.unwrap().unwrap(), 32 * MIB);
            }
        });
    }
}

#[test]
fn a_stalled_reader_holds_up_no_other_channel_and_no_signal() {
    run(async {
        let mut pair = Pair::new(true).await;
        let ((_here_rx, stalled), (unread, _there_tx)) = pair.channel().await;
        let sending = send(stalled.clone(), 1000);
        let ((here_rx, here_tx), (there_rx, there_tx)) = pair.channel().await;
        send(here_tx, 16 * 16);
        send(there_tx, 16 * 16);
        assert_eq!(
            timeout(SOON, check(there_rx)).await.unwrap().unwrap(),
            16 * MIB
        );
        assert_eq!(
            timeout(SOON, check(here_rx)).await.unwrap().unwrap(),
            16 * MIB
        );
        stalled
            .request(|w| w.signal(russh::Sig::INT))
            .await
            .unwrap();
        let signal = timeout(SOON, pair.signals.recv()).await.unwrap().unwrap();
        assert!(matches!(signal, russh::Sig::INT));
        sending.stalled().await;
        // When the stall ends, nothing has been lost.
        assert_eq!(
            timeout(SOON, check(unread)).await.unwrap().unwrap(),
            1000 * 64 * 1024
        );
    });
}

#[test]
fn a_stalled_stderr_does_not_hide_stdout() {
    run(async {
        let mut pair = Pair::new(true).await;
        let ((_rx, here_tx), (there_rx, _tx)) = pair.channel().await;
        here_tx
            .send(Stream::Stderr, Bytes::from_static(b"unread"))
            .await
            .unwrap();
        here_tx
            .send(Stream::Data, Bytes::from_static(b"read"))
            .await
            .unwrap();
        let got = timeout(SOON, there_rx.read(Stream::Data, 100))
            .await
            .unwrap();
        assert_eq!(got.unwrap(), "read");
        let got = timeout(SOON, there_rx.read(Stream::Stderr, 100))
            .await
            .unwrap();
        assert_eq!(got.unwrap(), "unread");
    });
}

#[test]
fn the_stalled_side_holds_no_more_than_the_credit() {
    run(async {
        let mut pair = Pair::new(true).await;
        let ((_rx, here_tx), (there_rx, _tx)) = pair.channel().await;
        let sending = send(here_tx, 1000);
        sending.stalled().await;
        // Consume less than what makes the receiver report, so that nothing more is sent.
        let mut held = 0;
        while held < 256 * 1024 {
            let read = timeout(SOON, there_rx.read(Stream::Data, 64 * 1024)).await;
            held += read.unwrap().unwrap().len();
        }
        assert_eq!(held, 256 * 1024);
        assert_eq!(held + there_rx.waiting(), CREDIT);
    });
}

#[test]
fn a_long_path_has_the_credit_that_fills_it_and_no_more() {
    for (path, credit) in [
        (Duration::from_micros(200), CREDIT),
        (Duration::from_millis(50), 8_000_000),
        (Duration::from_secs(10), MAX_CREDIT),
    ] {
        run(async move {
            let mut pair = Pair::new(true).await;
            let ((_rx, here_tx), (there_rx, _tx)) = pair.channel().await;
            here_tx.report_round_trip(path).await;
            let sending = send(here_tx, 100_000);
            // The receiver reports a quarter of the credit at a time, and only whole pieces are sent.
            let least = credit / 4 * 3 - 64 * 1024;
            let filled = timeout(SOON, async {
                loop {
                    sending.stalled().await;
                    let held = there_rx.waiting();
                    assert!(held <= credit, "{held}");
                    if held > least {
                        break;
                    }
                    for _ in 0..64 {
                        there_rx.read(Stream::Data, 1 << 30).await.unwrap();
                    }
                }
            });
            filled.await.unwrap();
        });
    }
}

#[test]
fn a_clock_is_told_to_our_own_peer_only() {
    for ours in [true, false] {
        run(async move {
            let mut pair = Pair::new(ours).await;
            let ((here_rx, _here_tx), (_rx, there_tx)) = pair.channel().await;
            there_tx.report_clock(1_234_567_890_123).await;
            // Data that is sent after the report arrives after it.
            there_tx
                .send(Stream::Data, Bytes::from_static(b"x"))
                .await
                .unwrap();
            assert_eq!(here_rx.read(Stream::Data, 9).await.unwrap(), "x");
            let clock = timeout(Duration::ZERO, pair.client_mux.clock()).await;
            assert_eq!(clock.ok(), ours.then_some(1_234_567_890_123));
        });
    }
}

#[test]
fn a_sender_that_waits_learns_of_the_close_and_of_the_end() {
    for (ours, whole_connection) in [(true, false), (true, true), (false, false), (false, true)] {
        run(async move {
            let mut pair = Pair::new(ours).await;
            let ((_rx, here_tx), (_unread, there_tx)) = pair.channel().await;
            let sending = send(here_tx, 1000);
            sending.settled().await;
            if whole_connection {
                // The socket of a foreign server that sends too much is not read, so only its end can be noticed.
                pair.server
                    .handle()
                    .disconnect(
                        russh::Disconnect::ByApplication,
                        String::new(),
                        String::new(),
                    )
                    .await
                    .unwrap();
            } else {
                there_tx
                    .request(russh::ChannelWriteHalf::close)
                    .await
                    .unwrap();
            }
            let sent = sending.ended().await;
            // A foreign peer may have received everything; then it only matters that the wait has ended.
            assert!(!ours || sent < 1000, "sent {sent} of 1000 into a stall");
        });
    }
}

#[test]
fn closing_a_channel_ends_both_directions_at_once() {
    for ours in [true, false] {
        run(async move {
            let mut pair = Pair::new(ours).await;
            let ((here_rx, here_tx), (there_rx, there_tx)) = pair.channel().await;
            assert!(!there_tx.is_closed());
            there_tx.close().await;
            assert!(there_tx.is_closed());
            let ended = async {
                assert!(there_rx.read(Stream::Data, 1).await.is_none());
                assert!(here_rx.read(Stream::Data, 1).await.is_none());
                here_tx.closed().await;
            };
            timeout(SOON, ended).await.unwrap();
            // The connection still works.
            let ((_rx, here_tx), (there_rx, _tx)) = pair.channel().await;
            send(here_tx, 1);
            assert!(
                timeout(SOON, there_rx.read(Stream::Data, 1))
                    .await
                    .unwrap()
                    .is_some()
            );
        });
    }
}

#[test]
fn a_peer_that_exceeds_its_credit_is_disconnected() {
    run(async {
        let mut pair = Pair::new(true).await;
        let ((_rx, here_tx), (_unread, there_tx)) = pair.channel().await;
        // Calls russh's write half directly: the SSH window is opened again on receipt.
        let flood = spawn_local(async move {
            for i in 0..100 {
                if here_tx.request(|w| w.data_bytes(pattern(i))).await.is_err() {
                    break;
                }
            }
        });
        timeout(SOON, there_tx.closed()).await.unwrap();
        timeout(SOON, flood).await.unwrap().unwrap();
    });
}

#[test]
fn a_peer_that_gives_back_more_credit_than_it_used_is_disconnected() {
    for message in [&b"\xff\xff\xff\xff"[..], b"\x01\0\0\0", b"no"] {
        run(async move {
            let mut pair = Pair::new(true).await;
            let ((_rx, here_tx), (_unread, there_tx)) = pair.channel().await;
            here_tx
                .request(|w| w.extended_data_bytes(CREDIT_TYPE, Bytes::from_static(message)))
                .await
                .unwrap();
            timeout(SOON, there_tx.closed()).await.unwrap();
        });
    }
}

#[test]
fn a_peer_that_does_not_close_its_end_is_not_waited_for() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    run(async {
        let (here, mut there) = tokio::net::UnixStream::pair().unwrap();
        let mut socket = cpu_ssh::Socket::new(here, cpu_ssh::Throttle::default());
        there.write_all(b"last bytes").await.unwrap();
        socket.shutdown().await.unwrap();
        let mut heard = Vec::new();
        let read = timeout(SOON, socket.read_to_end(&mut heard)).await;
        assert_eq!(
            (read.unwrap().unwrap(), &heard[..]),
            (10, &b"last bytes"[..])
        );
        assert_eq!(there.read(&mut [0]).await.unwrap(), 0);
    });
}
